"""Draws detections on a picture: OpenCV's text where it is there, else a 5 x 7 dot font of capitals and digits."""

import colorsys
from typing import Dict, List, Tuple

import numpy as np

from .letterbox import cv2

# One character: seven rows of five dots; a row is one digit of base 32 (0-9, A-V), its bit 4 the left dot
_DOTS = {
    "A": "EHHVHHH", "B": "UHHUHHU", "C": "EHGGGHE", "D": "UHHHHHU", "E": "VGGUGGV", "F": "VGGUGGG", "G": "EHGNHHE",
    "H": "HHHVHHH", "I": "E44444E", "J": "72222IC", "K": "HIKOKIH", "L": "GGGGGGV", "M": "HRLLHHH", "N": "HPPLJJH",
    "O": "EHHHHHE", "P": "UHHUGGG", "Q": "EHHHLID", "R": "UHHUKIH", "S": "FGGE11U", "T": "V444444", "U": "HHHHHHE",
    "V": "HHHHHA4", "W": "HHHLLRH", "X": "HHA4AHH", "Y": "HHHA444", "Z": "V1248GV", "0": "EHJLPHE", "1": "4C4444E",
    "2": "EH1248V", "3": "V2421HE", "4": "26AIV22", "5": "VGU11HE", "6": "68GUHHE", "7": "V124888", "8": "EHHEHHE",
    "9": "EHHF12C", ".": "00000CC", "-": "000V000", "%": "OP248J3", ":": "0CC0CC0", "_": "000000V", "/": "01248G0",
    "?": "EH12404",
}  # fmt: skip


def colour(index: int) -> Tuple[int, int, int]:
    """Return the BGR colour of a class: hues apart by the golden ratio, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1.0, 0.85, 0.95)
    return int(blue * 255), int(green * 255), int(red * 255)


def _dots(text: str, scale: int) -> np.ndarray:
    """Render text as a bool array (7 * scale, 6 * scale * letters)."""
    out = np.zeros((7, 6 * len(text)), bool)
    for k, letter in enumerate(text.upper()):
        if letter != " ":
            for row, digit in enumerate(_DOTS.get(letter, _DOTS["?"])):
                out[row, 6 * k : 6 * k + 5] = [int(digit, 32) >> (4 - x) & 1 for x in range(5)]
    return np.repeat(np.repeat(out, scale, axis=0), scale, axis=1)


def _rectangle(image: np.ndarray, box: List[int], bgr: Tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = box
    for rows, columns in (
        (slice(y1, y1 + width), slice(x1, x2)),
        (slice(max(y2 - width, 0), y2), slice(x1, x2)),
        (slice(y1, y2), slice(x1, x1 + width)),
        (slice(y1, y2), slice(max(x2 - width, 0), x2)),
    ):
        image[rows, columns] = bgr


def _label(image: np.ndarray, text: str, x: int, y: int, bgr: Tuple[int, int, int], size: int) -> None:
    """Write text on a filled patch with its lower left corner at (x, y), moved inside if it would leave the image."""
    ink = (255, 255, 255) if sum(bgr) < 400 else (20, 20, 20)
    if cv2 is not None:
        scale = 0.28 * size
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        height += base
    else:
        width, height = 6 * size * len(text), 7 * size
    height += 4
    x = max(0, min(x, image.shape[1] - width - 4))
    top = y - height if y >= height else min(y, max(image.shape[0] - height, 0))
    image[top : top + height, x : x + width + 4] = bgr
    if cv2 is not None:
        cv2.putText(image, text, (x + 2, top + height - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
        return
    area = image[top + 2 : top + height - 2, x + 2 : x + 2 + width]
    dots = _dots(text, size)[: area.shape[0], : area.shape[1]]
    area[dots] = ink


def draw(image: np.ndarray, detections: np.ndarray, names: Dict[int, str]) -> np.ndarray:
    """Return a copy of ``image`` with a box, the class and the score of every detection (rows of six, in pixels)."""
    out: np.ndarray = np.ascontiguousarray(image).copy()
    size = max(1, round(max(image.shape[:2]) / 400))
    for row in detections[::-1]:  # the most certain one is drawn last, on top
        index = int(row[5])
        box = [max(0, round(float(value))) for value in row[:4]]
        _rectangle(out, box, colour(index), size + 1)
        _label(out, "{} {:.2f}".format(names.get(index, str(index)), row[4]), box[0], box[1], colour(index), size)
    return out
