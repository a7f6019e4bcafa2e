"""Where frames come from and where pictures go: folders, videos, cameras; OpenCV, then Pillow, then plain numpy.

Frames are uint8 BGR of shape (height, width, 3).
"""

import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .. import rasters
from ..errors import UserError
from .letterbox import cv2

Image: Any = None
ImageOps: Any = None
try:
    Image, ImageOps = __import__("PIL.Image").Image, __import__("PIL.ImageOps").ImageOps
except Exception:  # absent or broken: the next way is tried
    pass

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
Frame = Tuple[str, np.ndarray]


def backend() -> str:
    """Return what decodes images here: ``opencv``, ``pillow`` or ``numpy``."""
    if cv2 is not None:
        return "opencv"
    return "pillow" if Image is not None else "numpy"


def read_image(path: str) -> np.ndarray:
    """Read an image file, upright by its EXIF orientation.

    Raises:
        UserError: Missing, unreadable, damaged, or a format that needs a library that is not here.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserError("cannot read {}: {}".format(path, error.strerror))
    image = None
    if cv2 is not None:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    elif Image is not None:
        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened)
                image = np.ascontiguousarray(np.asarray(upright.convert("RGB"))[:, :, ::-1])
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise UserError("{} cannot be decoded: {}".format(path, error))
    else:
        try:
            image = rasters.decode(data)
        except UserError as error:
            raise UserError("{}: {}".format(path, error))
    if image is None:
        raise UserError("{} cannot be decoded: damaged or not an image".format(path))
    return image


def write_image(path: str, image: np.ndarray) -> str:
    """Write a picture; without OpenCV and Pillow a PNG is written instead of a JPEG. Returns the path written."""
    suffix = os.path.splitext(path)[1].lower()
    if cv2 is not None:
        encoded, data = cv2.imencode(suffix, image)
        if not encoded:
            raise UserError("cannot encode {}".format(path))
        content = data.tobytes()
    elif Image is not None and suffix != ".png":
        Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])).save(path, quality=95)
        return path
    else:
        path = os.path.splitext(path)[0] + ".png"
        content = rasters.encode_png(image)
    with open(path, "wb") as file:
        file.write(content)
    return path


def list_images(source: str) -> List[str]:
    """Return the image files of a folder (sorted by name), of a .txt list of paths, or the one file itself.

    Raises:
        UserError: No such file or folder, or no images in it.
    """
    if os.path.isdir(source):
        paths = sorted(os.path.join(source, name) for name in os.listdir(source))
        paths = [path for path in paths if path.lower().endswith(IMAGE_SUFFIXES)]
    elif source.lower().endswith(".txt") and os.path.isfile(source):
        base = os.path.dirname(source)
        with open(source, encoding="utf-8") as file:
            paths = [os.path.join(base, line.strip()) for line in file if line.strip()]
    elif os.path.isfile(source):
        paths = [source]
    else:
        raise UserError("source={}: no such file or folder".format(source))
    if not paths:
        raise UserError("source={}: no images in it ({})".format(source, ", ".join(IMAGE_SUFFIXES)))
    return paths


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

    def __init__(self, description: str, frames: List[Frame], kind: str = "images") -> None:
        Source.__init__(self, description)
        self.frames, self.kind = frames, kind
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
        return {"kind": self.kind, "source": self.description, "images": len(self.frames), "sizes": shown}


class CaptureSource(Source):
    """A video file, a camera or a GStreamer pipeline, through OpenCV; a video starts again at its end."""

    live = True

    def __init__(self, description: str, kind: str) -> None:
        Source.__init__(self, description)
        self.kind = kind
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
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            done, image = self._capture.read()
        if not done:
            return None
        self._count += 1
        return "frame {}".format(self._count), image

    def info(self) -> Dict[str, Any]:
        """See Source.info; the rate is what the device announces."""
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


def open_source(source: Optional[str], limit: int = 64) -> Source:
    """Open a folder, list, image, video, camera (``0`` or ``/dev/video0``) or GStreamer pipeline (has ``!`` in it).

    Args:
        source: What to open; None gives one synthetic picture.
        limit: Most images that are held in memory.
    """
    if source is None:
        return ImageSource("synthetic 640x480", [("synthetic", synthetic_frame())], "synthetic")
    if source.isdigit() or source.startswith("/dev/video"):
        return CaptureSource(source, "camera")
    if " ! " in source:
        return CaptureSource(source, "pipeline")
    if source.lower().endswith(VIDEO_SUFFIXES):
        if not os.path.isfile(source):
            raise UserError("source={}: no such file".format(source))
        return CaptureSource(source, "video")
    paths = list_images(source)[:limit]
    return ImageSource(source, [(os.path.basename(path), read_image(path)) for path in paths])
