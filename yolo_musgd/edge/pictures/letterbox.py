"""From an image to the network's input and back: resize, pad, scale to [0, 1].

With OpenCV the pixels are those of Ultralytics' LetterBox; with Pillow a pixel differs by one grey level at most.
"""

import math
from typing import NamedTuple, Optional, Tuple

import numpy as np

from . import library
from .images import to_colour, to_grey

PAD_VALUE = 114
_AFFINE, _BILINEAR = 0, 2  # Pillow's numbers; the names moved between its releases


class Placement(NamedTuple):
    """Where an image lies inside the network's input, in pixels, and by how much it was scaled."""

    height: int  # of the scaled image
    width: int
    top: int
    left: int
    gain_y: float
    gain_x: float


def place(shape: Tuple[int, int], size: Tuple[int, int]) -> Placement:
    """Fit an image of ``shape`` (height, width) centred into ``size`` (height, width), aspect ratio kept.

    The sides are rounded to pixels, so the two gains differ a little; boxes go back with these exact gains.
    """
    ratio = min(size[0] / shape[0], size[1] / shape[1])
    return _centred(max(round(shape[0] * ratio), 1), max(round(shape[1] * ratio), 1), shape, size)


def place_for_val(shape: Tuple[int, int], size: Tuple[int, int]) -> Placement:
    """Fit an image as Ultralytics' validation does: it rounds the scaled sides up, its predictor to the nearest."""
    if size[0] != size[1]:
        return place(shape, size)
    ratio = size[0] / max(shape)
    height, width = (min(math.ceil(side * ratio), size[0]) for side in shape)
    return _centred(height, width, shape, size)


def stretch(shape: Tuple[int, int], size: Tuple[int, int]) -> Placement:
    """Fill ``size`` (height, width) with an image of ``shape``, aspect ratio lost, as an RT-DETR is trained."""
    return Placement(size[0], size[1], 0, 0, size[0] / shape[0], size[1] / shape[1])


def _centred(height: int, width: int, shape: Tuple[int, int], size: Tuple[int, int]) -> Placement:
    top = round((size[0] - height) / 2 - 0.1)  # the 0.1 sends an odd pixel to the bottom and the right
    left = round((size[1] - width) / 2 - 0.1)
    return Placement(height, width, top, left, height / shape[0], width / shape[1])


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, 3) or (h, w) bilinearly between four pixels; the image itself when its size is right.

    Raises:
        UserError: Neither OpenCV nor Pillow is here.
    """
    if image.shape[:2] == (height, width):
        return image
    library.require()
    if library.cv2 is not None:
        resized: np.ndarray = library.cv2.resize(image, (width, height), interpolation=library.cv2.INTER_LINEAR)
        return resized
    # Pillow's own resize smooths where it shrinks; an affine transform takes the four nearest pixels, as OpenCV does
    matrix = (image.shape[1] / width, 0, 0, 0, image.shape[0] / height, 0)
    picture = library.pillow.Image.fromarray(image)
    return np.asarray(picture.transform((width, height), _AFFINE, matrix, resample=_BILINEAR))


class Letterbox:
    """Turns images into the network's input, reusing two buffers.

    Args:
        size: (height, width) of the network's input in pixels.
        channels: Of the network's input: 3 for RGB, 1 for grey.
        head: Of the network: an ``rtdetr`` wants its images stretched.
    """

    def __init__(self, size: Tuple[int, int], channels: int = 3, head: Optional[str] = None) -> None:
        self.size, self.channels = size, channels
        self._stretches = head == "rtdetr"
        self._canvas = np.full(tuple(size) + ((3,) if channels == 3 else ()), PAD_VALUE, np.uint8)
        self._blob = np.empty((1, channels, size[0], size[1]), np.float32)
        self._last: Optional[Placement] = None

    def __call__(self, image: np.ndarray, where: Optional[Placement] = None) -> Tuple[np.ndarray, Placement]:
        """Place ``image``, uint8 BGR (h, w, 3) or grey (h, w), into the network's input.

        Returns the blob, float32 (1, channels, H, W), RGB or grey in [0, 1], and the placement. The blob is a buffer
        that the next call overwrites. ``where`` replaces the usual placement, unless images are stretched.
        """
        image = to_grey(image) if self.channels == 1 else to_colour(image)
        if where is None or self._stretches:
            where = (stretch if self._stretches else place)((image.shape[0], image.shape[1]), self.size)
        if self._last is None or where[:4] != self._last[:4]:
            self._canvas[:] = PAD_VALUE
            self._last = where
        inner = self._canvas[where.top : where.top + where.height, where.left : where.left + where.width]
        cv2 = library.cv2
        if cv2 is not None and image.shape[:2] != inner.shape[:2]:
            cv2.resize(image, (where.width, where.height), dst=inner, interpolation=cv2.INTER_LINEAR)
        else:
            inner[:] = resize(image, where.height, where.width)
        return self._to_blob(), where

    def _to_blob(self) -> np.ndarray:
        if self.channels == 1:
            np.divide(self._canvas, np.float32(255), out=self._blob[0, 0], dtype=np.float32)
            return self._blob
        # OpenCV separates the channels faster than numpy reads them in steps of three
        planes = library.cv2.split(self._canvas) if library.cv2 is not None else np.moveaxis(self._canvas, 2, 0)
        for channel, plane in enumerate(planes):
            np.divide(plane, np.float32(255), out=self._blob[0, 2 - channel], dtype=np.float32)
        return self._blob


def to_image(boxes: np.ndarray, where: Placement, shape: Tuple[int, int]) -> np.ndarray:
    """Move boxes xyxy (n, 4) from the network's input to the image of ``shape`` (height, width), clipped to it."""
    out = boxes.astype(np.float32, copy=True)
    out[:, 0::2] = np.clip((out[:, 0::2] - where.left) / np.float32(where.gain_x), 0, shape[1])
    out[:, 1::2] = np.clip((out[:, 1::2] - where.top) / np.float32(where.gain_y), 0, shape[0])
    return out
