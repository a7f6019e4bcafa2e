"""Draws detections on a picture: a box, the class and the score."""

import colorsys
from typing import Dict, List, Tuple

import numpy as np

from . import library


def colour(index: int) -> Tuple[int, int, int]:
    """Return the BGR colour of a class: hues apart by the golden ratio, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1.0, 0.85, 0.95)
    return int(blue * 255), int(green * 255), int(red * 255)


def _rectangle(image: np.ndarray, box: List[int], bgr: Tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = box
    for rows, columns in (
        (slice(y1, y1 + width), slice(x1, x2)),
        (slice(max(y2 - width, 0), y2), slice(x1, x2)),
        (slice(y1, y2), slice(x1, x1 + width)),
        (slice(y1, y2), slice(max(x2 - width, 0), x2)),
    ):
        image[rows, columns] = bgr


def _rendered(text: str, size: int) -> np.ndarray:
    """Render ASCII text; returns how much ink each pixel has, in [0, 1], shape (height, width, 1)."""
    cv2, pillow = library.cv2, library.pillow
    if cv2 is not None:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.28 * size
        (width, height), base = cv2.getTextSize(text, font, scale, 1)
        ink = np.zeros((height + base, width), np.uint8)
        cv2.putText(ink, text, (0, height), font, scale, 255, 1, cv2.LINE_AA)
    else:
        canvas = pillow.Image.new("L", (16 * len(text) + 16, 24))
        pillow.ImageDraw.Draw(canvas).text((2, 2), text, fill=255)
        canvas = canvas.crop(canvas.getbbox())
        scale = max(1.0, 0.7 * size)  # the built-in font has one size
        ink = np.asarray(canvas.resize((int(canvas.width * scale), int(canvas.height * scale))))
    shades: np.ndarray = ink[:, :, None] / 255.0
    return shades


def _label(image: np.ndarray, text: str, x: int, y: int, bgr: Tuple[int, int, int], size: int) -> None:
    """Write text on a filled patch with its lower left corner at (x, y), moved inside if it would leave the image."""
    pen = (255, 255, 255) if sum(bgr) < 400 else (20, 20, 20)
    ink = np.pad(_rendered(text.encode("ascii", "replace").decode(), size), ((2, 2), (2, 2), (0, 0)), "constant")
    height, width = ink.shape[:2]
    x = max(0, min(x, image.shape[1] - width))
    top = y - height if y >= height else min(y, max(image.shape[0] - height, 0))
    patch = image[top : top + height, x : x + width]
    ink = ink[: patch.shape[0], : patch.shape[1]]
    patch[:] = np.rint(bgr * (1 - ink) + pen * ink)


def draw(image: np.ndarray, detections: np.ndarray, names: Dict[int, str]) -> np.ndarray:
    """Return a copy of ``image`` with a box, the class and the score of every detection (rows of six, in pixels)."""
    library.require()
    out: np.ndarray = np.ascontiguousarray(image).copy()
    size = max(1, round(max(image.shape[:2]) / 400))
    for row in detections[::-1]:  # the most certain one is drawn last, on top
        index = int(row[5])
        box = [max(0, round(float(value))) for value in row[:4]]
        _rectangle(out, box, colour(index), size + 1)
        _label(out, "{} {:.2f}".format(names.get(index, str(index)), row[4]), box[0], box[1], colour(index), size)
    return out
