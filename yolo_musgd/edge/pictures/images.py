"""Reads and writes pictures, and lists those of a folder.

Frames are uint8 BGR of shape (height, width, 3), or grey of shape (height, width).
"""

import io
import os
import sys
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import UserError, first_line
from ..files import read_bytes, read_text, write_whole
from . import library

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
PILLOWS = (".avif", ".heic", ".heif")
MOST_BAD = 0.1
"""Share of the images that may be unusable; more is a broken data set and not a few broken files."""
Frame = Tuple[str, np.ndarray]


def read_image(path: str, channels: int = 3) -> np.ndarray:
    """Read an image file, upright by its EXIF orientation.

    Args:
        path: The file.
        channels: 3 for BGR; 1 for grey, as the decoder makes it.

    Returns:
        uint8 (height, width, 3) BGR, or (height, width).

    Raises:
        UserError: Missing, unreadable, damaged, of an unknown format or too large; or no image library is here.
    """
    library.require()
    data = read_bytes(path)
    try:
        image = _by_pillow_first(data, channels) if path.lower().endswith(PILLOWS) else decode_image(data, channels)
    except Exception as error:  # both raise many kinds on damaged files and on headers that announce too many pixels
        raise UserError("{} cannot be decoded: {}".format(path, first_line(error)))
    if image is None:
        raise UserError("{} cannot be decoded: damaged or not an image".format(path))
    return image


def decode_image(data: bytes, channels: int) -> Optional[np.ndarray]:
    """Decode a picture, as read_image returns it; None, or an error of the library's, where it is none."""
    if not data:
        return None
    if library.cv2 is not None:
        how = library.cv2.IMREAD_GRAYSCALE if channels == 1 else library.cv2.IMREAD_COLOR
        decoded: Optional[np.ndarray] = library.cv2.imdecode(np.frombuffer(data, np.uint8), how)
        return decoded
    return _by_pillow(data, channels)


def _by_pillow(data: bytes, channels: int) -> np.ndarray:
    with library.pillow.Image.open(io.BytesIO(data)) as opened:
        upright = library.pillow.ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):  # 16 bits: Pillow would take all above 255 for white, OpenCV the upper eight
            upright = library.pillow.Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if channels == 1:
            return np.asarray(upright.convert("L"))
        return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[:, :, ::-1])


def _by_pillow_first(data: bytes, channels: int) -> Optional[np.ndarray]:
    """Decode what Ultralytics leaves to Pillow: OpenCV turns no AVIF upright, and few builds of it read any."""
    try:
        return _by_pillow(data, channels)
    except Exception:  # no Pillow here, or one without the format
        return decode_image(data, channels)


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


def encode_image(suffix: str, image: np.ndarray, quality: int = 95) -> bytes:
    """Return a picture as a file of the format that ``suffix`` (.jpg, .png, ...) names.

    Raises:
        UserError: The format is not known, or no image library is here.
    """
    library.require()
    try:
        if library.cv2 is not None:
            words = [library.cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in (".jpg", ".jpeg") else []
            data: bytes = library.cv2.imencode(suffix, image, words)[1].tobytes()
            return data
        encoded = io.BytesIO()
        picture = library.pillow.Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        picture.save(encoded, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), quality=quality)
        return encoded.getvalue()
    except Exception as error:  # an unknown suffix has another name in every library
        raise UserError("cannot encode {}: {}".format(suffix, first_line(error)))


def write_image(path: str, image: np.ndarray) -> str:
    """Write a picture, whole or not at all, in the format of its suffix; returns the path.

    Raises:
        UserError: The format is not known, or the place cannot be written to.
    """
    return write_whole(path, encode_image(os.path.splitext(path)[1].lower(), image))


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
    elif source.lower().endswith((".yaml", ".yml")):
        raise UserError("source={}: a data set's YAML; give its folder of images, such as images/val".format(source))
    elif os.path.isfile(source):
        paths = [source]
    else:
        there = "neither a file nor a folder" if os.path.exists(source) else "no such file or folder"
        raise UserError("source={}: {}".format(source, there))
    if not paths:
        raise UserError("source={}: no images in it ({})".format(source, ", ".join(IMAGE_SUFFIXES)))
    return paths


def tolerate(left_out: Sequence[str], total: int, what: str = "images") -> str:
    """One policy for bad images, wherever they are met: a few are left out and named once, many are an error.

    Args:
        left_out: A line for each that could not be used.
        total: How many there were.
        what: They are, for the message.

    Returns:
        How many there are and the first of them; empty where there are none.

    Raises:
        UserError: More than a tenth are bad.
    """
    if not left_out:
        return ""
    more = ", ..." if len(left_out) > 1 else ""
    told = "{} of {} {} cannot be used: {}{}".format(len(left_out), total, what, left_out[0], more)
    if len(left_out) > MOST_BAD * total:
        raise UserError(told + "; more than a tenth: mend the data set first")
    return told


def readable(paths: List[str], left_out: List[str], channels: int = 3) -> Iterator[Frame]:
    """Yield (path, image) of what can be read; one damaged image must not cost the others.

    Args:
        paths: Of image files.
        left_out: Gets a line for each of the others, which goes to stderr too.
        channels: See read_image.

    Raises:
        UserError: Not one can be read; or, after the last of the others, more than a tenth cannot.
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
    tolerate(left_out, len(paths))


def synthetic_frame(height: int = 480, width: int = 640) -> np.ndarray:
    """Return one fixed picture, uint8 (height, width, 3): a gradient, boxes and noise; for timing without an image."""
    random = np.random.RandomState(0)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack((rows * 255 // height, columns * 255 // width, (rows + columns) % 256), axis=2).astype(np.int32)
    for _ in range(12):
        y, x = random.randint(0, max(1, height - 40)), random.randint(0, max(1, width - 40))
        image[y : y + random.randint(20, 160), x : x + random.randint(20, 160)] = random.randint(0, 256, 3)
    image += random.randint(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)
