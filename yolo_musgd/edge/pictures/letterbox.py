"""From an image to the network's input and back: resize, pad, scale to [0, 1]; the pixels of Ultralytics' LetterBox.

The resize is OpenCV's bilinear one, by OpenCV where it is installed, else by the same 11-bit fixed-point arithmetic in
numpy (two weights of 1/2048 steps per axis, pixel centres at half integers), so a board without OpenCV sees the same
input to the last bit.
"""

import math
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

cv2: Any = None
try:
    cv2 = __import__("cv2")
except Exception:  # absent, or its native libraries are: numpy does the work
    pass

PAD_VALUE = 114
_SCALE = 2048  # OpenCV's INTER_RESIZE_COEF_SCALE


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


def _centred(height: int, width: int, shape: Tuple[int, int], size: Tuple[int, int]) -> Placement:
    top = round((size[0] - height) / 2 - 0.1)  # the 0.1 sends an odd pixel to the bottom and the right
    left = round((size[1] - width) / 2 - 0.1)
    return Placement(height, width, top, left, height / shape[0], width / shape[1])


def _axis(source: int, target: int, vertical: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two source indices and the second one's weight (0..2048) of each target position.

    OpenCV rounds the position to float32 before it takes the fraction off; so must this, to agree in the last bit.
    """
    scale = 1.0 / (target / source)
    centre = ((np.arange(target, dtype=np.float64) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(centre).astype(np.int64)
    fraction = centre - low.astype(np.float32)
    weight = np.rint(fraction * np.float32(_SCALE)).astype(np.int32)
    if not vertical:  # at the rim OpenCV drops the weight across, but splits it between one row and itself down
        weight[(low < 0) | (low >= source - 1)] = 0
        low = np.clip(low, 0, source - 1)
    return np.clip(low, 0, source - 1), np.clip(low + 1, 0, source - 1), weight


def _halve(image: np.ndarray) -> np.ndarray:
    """Average 2 x 2 blocks, rounding half up; OpenCV does this for an exact factor of two."""
    wide = image.astype(np.uint16)
    total = wide[0::2, 0::2] + wide[1::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def resize_numpy(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, 3) bilinearly to (height, width, 3) as cv2.resize(INTER_LINEAR) does."""
    if image.shape[0] == 2 * height and image.shape[1] == 2 * width:
        return _halve(image)
    x0, x1, wx = _axis(image.shape[1], width, False)
    y0, y1, wy = _axis(image.shape[0], height, True)
    rows, inverse = np.unique(np.concatenate((y0, y1)), return_inverse=True)  # only the rows that are needed
    source = image[rows].astype(np.int32)
    weight = wx[None, :, None]
    across = source[:, x0] * (_SCALE - weight) + source[:, x1] * weight
    inverse = inverse.reshape(2, -1)
    top, bottom = across[inverse[0]] >> 4, across[inverse[1]] >> 4
    down = wy[:, None, None]
    total = ((top * (_SCALE - down)) >> 16) + ((bottom * down) >> 16)
    resized: np.ndarray = np.clip((total + 2) >> 2, 0, 255).astype(np.uint8)
    return resized


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, 3) bilinearly; returns the image itself when its size is right already."""
    if image.shape[:2] == (height, width):
        return image
    if cv2 is not None:
        resized: np.ndarray = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized
    return resize_numpy(image, height, width)


class Letterbox:
    """Turns BGR images into the network's input, reusing two buffers.

    Args:
        size: (height, width) of the network's input in pixels.
    """

    def __init__(self, size: Tuple[int, int]) -> None:
        self.size = size
        self._canvas = np.full((size[0], size[1], 3), PAD_VALUE, np.uint8)
        self._blob = np.empty((1, 3, size[0], size[1]), np.float32)
        self._last: Optional[Placement] = None

    def __call__(self, image: np.ndarray, where: Optional[Placement] = None) -> Tuple[np.ndarray, Placement]:
        """Place ``image``, uint8 BGR (h, w, 3), into the network's input.

        Returns the blob, float32 (1, 3, H, W), RGB in [0, 1], and the placement. The blob is a buffer
        that the next call overwrites. ``where`` replaces the usual placement.
        """
        where = where or place((image.shape[0], image.shape[1]), self.size)
        if self._last is None or where[:4] != self._last[:4]:
            self._canvas[:] = PAD_VALUE
            self._last = where
        inner = self._canvas[where.top : where.top + where.height, where.left : where.left + where.width]
        if cv2 is not None and image.shape[:2] != inner.shape[:2]:
            cv2.resize(image, (where.width, where.height), dst=inner, interpolation=cv2.INTER_LINEAR)
        else:
            inner[:] = resize(image, where.height, where.width)
        return self._to_blob(), where

    def _to_blob(self) -> np.ndarray:
        # OpenCV separates the channels faster than numpy reads them in steps of three
        planes = cv2.split(self._canvas) if cv2 is not None else [self._canvas[:, :, channel] for channel in range(3)]
        for channel, plane in enumerate(planes):
            np.divide(plane, np.float32(255), out=self._blob[0, 2 - channel], dtype=np.float32)
        return self._blob


def to_image(boxes: np.ndarray, where: Placement, shape: Tuple[int, int]) -> np.ndarray:
    """Move boxes xyxy (n, 4) from the network's input to the image of ``shape`` (height, width), clipped to it."""
    out = boxes.astype(np.float32, copy=True)
    out[:, 0::2] = np.clip((out[:, 0::2] - where.left) / np.float32(where.gain_x), 0, shape[1])
    out[:, 1::2] = np.clip((out[:, 1::2] - where.top) / np.float32(where.gain_y), 0, shape[0])
    return out
