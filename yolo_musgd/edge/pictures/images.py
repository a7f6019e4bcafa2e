"""Where frames come from and where pictures go: folders, lists, videos, cameras.

Frames are uint8 BGR of shape (height, width, 3), or grey of shape (height, width).
"""

import io
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from ..errors import UserError, first_line
from ..files import read_bytes, read_text, write_whole
from . import library

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
Frame = Tuple[str, np.ndarray]


def read_image(path: str, channels: int = 3) -> np.ndarray:
    """Read an image file, upright by its EXIF orientation.

    Args:
        path: The file.
        channels: 3 for BGR; 1 for grey, as the decoder makes it.

    Raises:
        UserError: Missing, unreadable, damaged, of an unknown format or too large; or no image library is here.
    """
    library.require()
    data = read_bytes(path)
    try:
        image = _decode(data, channels)
    except Exception as error:  # both raise many kinds on damaged files and on headers that announce too many pixels
        raise UserError("{} cannot be decoded: {}".format(path, first_line(error)))
    if image is None:
        raise UserError("{} cannot be decoded: damaged or not an image".format(path))
    return image


def _decode(data: bytes, channels: int) -> Optional[np.ndarray]:
    if not data:
        return None
    if library.cv2 is not None:
        how = library.cv2.IMREAD_GRAYSCALE if channels == 1 else library.cv2.IMREAD_COLOR
        decoded: Optional[np.ndarray] = library.cv2.imdecode(np.frombuffer(data, np.uint8), how)
        return decoded
    with library.pillow.Image.open(io.BytesIO(data)) as opened:
        upright = library.pillow.ImageOps.exif_transpose(opened)
        if channels == 1:
            return np.asarray(upright.convert("L"))
        return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[:, :, ::-1])


def to_grey(image: np.ndarray) -> np.ndarray:
    """Turn BGR (h, w, 3) into grey (h, w) by the weights of ITU-R BT.601, rounded as OpenCV rounds them."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image.reshape(image.shape[:2])
    if library.cv2 is not None:
        grey: np.ndarray = library.cv2.cvtColor(image, library.cv2.COLOR_BGR2GRAY)
        return grey
    blue, green, red = (image[:, :, k].astype(np.int32) for k in range(3))
    return ((blue * 1868 + green * 9617 + red * 4899 + 8192) >> 14).astype(np.uint8)


def to_colour(image: np.ndarray) -> np.ndarray:
    """Turn grey (h, w) into BGR (h, w, 3); the image itself when it is BGR."""
    grey = image.ndim == 2 or image.shape[2] == 1
    return np.repeat(image.reshape(image.shape[:2] + (1,)), 3, axis=2) if grey else image


def write_image(path: str, image: np.ndarray) -> str:
    """Write a picture, whole or not at all, in the format of its suffix; returns the path.

    Raises:
        UserError: The format is not known, or the place cannot be written to.
    """
    library.require()
    suffix, data = os.path.splitext(path)[1].lower(), b""
    try:
        if library.cv2 is not None:
            data = library.cv2.imencode(suffix, image)[1].tobytes()
        else:
            encoded = io.BytesIO()
            picture = library.pillow.Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
            picture.save(encoded, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), quality=95)
            data = encoded.getvalue()
    except Exception as error:  # an unknown suffix has another name in every library
        raise UserError("cannot encode {}: {}".format(path, first_line(error)))
    return write_whole(path, data)


def list_images(source: str) -> List[str]:
    """Return the image files of a folder (sorted by name), of a .txt list of paths, or the one file itself.

    Raises:
        UserError: No such file or folder, or no images in it.
    """
    if os.path.isdir(source):
        try:
            names = sorted(os.listdir(source))
        except OSError as error:
            raise UserError("source={}: {}".format(source, error.strerror))
        # "._x.jpg" is what macOS notes about x.jpg
        names = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        paths = [os.path.join(source, name) for name in names]
    elif source.lower().endswith(".txt") and os.path.isfile(source):
        base = os.path.dirname(source)
        lines = [line.strip() for line in read_text(source).splitlines()]
        paths = [os.path.join(base, line) for line in lines if line]
    elif os.path.isfile(source):
        paths = [source]
    else:
        there = "neither a file nor a folder" if os.path.exists(source) else "no such file or folder"
        raise UserError("source={}: {}".format(source, there))
    if not paths:
        raise UserError("source={}: no images in it ({})".format(source, ", ".join(IMAGE_SUFFIXES)))
    return paths


def readable(paths: List[str], left_out: List[str], channels: int = 3) -> Iterator[Frame]:
    """Yield (path, image) of what can be read; one damaged image must not cost the others.

    Args:
        paths: Of image files.
        left_out: Gets a line for each of the others, which goes to stderr too.
        channels: See read_image.

    Raises:
        UserError: Not one can be read.
    """
    for path in paths:
        try:
            image = read_image(path, channels)
        except UserError as error:
            left_out.append(first_line(error))
            if len(paths) > 1:
                print("left out: {}".format(left_out[-1]), file=sys.stderr)
        else:
            yield path, image
    if paths and len(left_out) == len(paths):
        raise UserError("none of {} images can be read: {}".format(len(paths), left_out[0]))


class Source:
    """Frames on demand. ``live`` sources are read frame by frame; a folder's images are decoded once and repeated."""

    live = False
    kind = "images"

    def __init__(self, description: str) -> None:
        self.description = description

    def read(self) -> Optional[Frame]:
        """Return the next frame with its name, or None at the end."""
        raise NotImplementedError

    def info(self) -> Dict[str, Any]:
        """Return what the report says about the source."""
        return {"kind": self.kind, "source": self.description}

    def close(self) -> None:
        """Release a camera or a file."""


class ImageSource(Source):
    """Images held in memory and repeated for as long as frames are asked for."""

    def __init__(self, description: str, frames: List[Frame], kind: str = "images", left_out: int = 0) -> None:
        Source.__init__(self, description)
        self.frames, self.kind, self.left_out = frames, kind, left_out
        self._next = 0

    def read(self) -> Optional[Frame]:
        """See Source.read; never ends."""
        frame = self.frames[self._next % len(self.frames)]
        self._next += 1
        return frame

    def info(self) -> Dict[str, Any]:
        """See Source.info."""
        sizes = sorted({image.shape[1::-1] for _, image in self.frames}, key=lambda size: size[0] * size[1])
        shown = ["{}x{}".format(*size) for size in sizes]
        if len(shown) > 4:
            shown = [shown[0], "to", shown[-1]]
        counts = {"images": len(self.frames), "left_out": self.left_out}
        return dict(counts, kind=self.kind, source=self.description, sizes=shown)


class CaptureSource(Source):
    """A video file, a camera or a GStreamer pipeline, through OpenCV; a video starts again at its end."""

    live = True

    def __init__(self, description: str, kind: str) -> None:
        Source.__init__(self, description)
        self.kind = kind
        cv2 = library.cv2
        if cv2 is None:
            raise UserError("source={}: a {} needs OpenCV: sudo apt install python3-opencv".format(description, kind))
        if kind == "pipeline":
            self._capture = cv2.VideoCapture(description, cv2.CAP_GSTREAMER)
        else:
            number = description[10:] if description.startswith("/dev/video") else description
            self._capture = cv2.VideoCapture(int(number) if kind == "camera" else description)
        if not self._capture.isOpened():
            raise UserError("source={}: the {} cannot be opened".format(description, kind))
        self._count = 0

    def read(self) -> Optional[Frame]:
        """See Source.read; None when a camera stops delivering."""
        done, image = self._capture.read()
        if not done and self.kind == "video" and self._count:
            self._capture.set(library.cv2.CAP_PROP_POS_FRAMES, 0)
            done, image = self._capture.read()
        if not done:
            return None
        self._count += 1
        return "frame {}".format(self._count), image

    def info(self) -> Dict[str, Any]:
        """See Source.info; the rate is what the device announces."""
        cv2 = library.cv2
        size = [int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or None
        shown = ["{}x{}".format(size[0], size[1])]
        return {"kind": self.kind, "source": self.description, "sizes": shown, "announced_fps": rate}

    def close(self) -> None:
        """See Source.close."""
        self._capture.release()


def synthetic_frame(height: int = 480, width: int = 640) -> np.ndarray:
    """Return one fixed picture: a gradient, boxes and noise; for timing when there is no image at hand."""
    random = np.random.RandomState(0)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack((rows * 255 // height, columns * 255 // width, (rows + columns) % 256), axis=2).astype(np.int32)
    for _ in range(12):
        y, x = random.randint(0, max(1, height - 40)), random.randint(0, max(1, width - 40))
        image[y : y + random.randint(20, 160), x : x + random.randint(20, 160)] = random.randint(0, 256, 3)
    image += random.randint(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def open_source(source: Optional[str], size: Tuple[int, int] = (480, 640), limit: int = 64) -> Source:
    """Open a folder, list, image, video, camera (``0`` or ``/dev/video0``) or GStreamer pipeline (has ``!`` in it).

    Args:
        source: What to open; None or ``synthetic`` gives one drawn picture.
        size: (height, width) of the network's input; where no image library can resize, the drawn picture has it.
        limit: Most images that are held in memory.
    """
    if source is None or source == "synthetic":
        height, width = (480, 640) if library.backend() else size
        frame = synthetic_frame(height, width)
        return ImageSource("synthetic {}x{}".format(width, height), [("synthetic", frame)], "synthetic")
    if source.isdigit() or source.startswith("/dev/video"):
        return CaptureSource(source, "camera")
    if " ! " in source:
        return CaptureSource(source, "pipeline")
    if source.lower().endswith(VIDEO_SUFFIXES):
        if not os.path.isfile(source):
            raise UserError("source={}: no such file".format(source))
        return CaptureSource(source, "video")
    left_out: List[str] = []
    frames = readable(list_images(source)[:limit], left_out)
    return ImageSource(source, [(os.path.basename(path), image) for path, image in frames], left_out=len(left_out))
