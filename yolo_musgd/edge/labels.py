"""YOLO folders as Ultralytics validates on them: which files are images, where their labels are, what a label may say.

A PC asks Ultralytics itself (``yolo_musgd.data.reader``); a board has the COCO file that was written there, or this.
One difference is known: a JPEG whose last bytes are missing is restored by Ultralytics where it can be, and is read
here as far as it goes.
"""

import os
from typing import List, Tuple

import numpy as np

from .errors import UserError
from .files import read_bytes, read_text
from .pictures import images

SUFFIXES = ("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
SMALLEST = 10  # pixels; Ultralytics takes no image with a shorter side
_NOT_TAKEN = {
    b"GIF8": "a GIF", b"P1": "a PBM", b"P2": "a PGM", b"P3": "a PPM", b"P4": "a PBM", b"P5": "a PGM", b"P6": "a PPM",
    b"P7": "a PAM", b"Pf": "a PFM", b"PF": "a PFM", b"#?R": "an HDR", b"v/1\x01": "an EXR",
    b"\x59\xa6\x6a\x95": "a Sun raster",
}  # fmt: skip
TOLERANCE = 0.01  # of the image, by which coordinates may lie outside of it


def list_images(source: str) -> List[str]:
    """Return what Ultralytics would validate on: a folder's images at any depth, a list's, or the one file.

    Hidden files and folders (``._x.jpg``, ``.thumbs``) are no images. In a list a line that begins with ``./`` is
    relative to the list's folder, any other to the working folder; a file that is not there but beside the list is
    taken from there.

    Raises:
        UserError: No such file or folder, or no images in it.
    """
    if os.path.isdir(source):
        paths = [os.path.join(root, name) for root, name in _walk(source)]
    elif source.lower().endswith(".txt") and os.path.isfile(source):
        base = os.path.dirname(source)
        paths = [_resolved(line.strip(), base) for line in read_text(source).splitlines() if line.strip()]
    else:
        return images.list_images(source)
    paths = sorted(path for path in paths if path.rpartition(".")[2].lower() in SUFFIXES)
    if not paths:
        raise UserError("source={}: no images in it ({})".format(source, ", ".join(SUFFIXES)))
    return paths


def _walk(source: str) -> List[Tuple[str, str]]:
    found = []
    seen = set()
    for root, folders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up would never end
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(root, name) for name in names + folders if not name.startswith(".")]  # x.jpg/ is a bad image there
    return found


def _resolved(line: str, base: str) -> str:
    if line.startswith("./"):
        return os.path.join(base, line[2:])
    return line if os.path.exists(line) else os.path.join(base, line)


def label_path(image: str, labels: str = "") -> str:
    """Return an image's label file: in ``labels``, or with the last /images/ of the path turned into /labels/."""
    base = os.path.splitext(os.path.basename(image))[0] + ".txt"
    if labels:
        return os.path.join(labels, base)
    parts = os.path.dirname(os.path.abspath(image)).split(os.sep)
    for k in range(len(parts) - 1, -1, -1):
        if parts[k] == "images":
            return os.sep.join(parts[:k] + ["labels"] + parts[k + 1 :] + [base])
    return os.path.join(os.path.dirname(image), base)


def read_labels(path: str) -> np.ndarray:
    """Read a YOLO label file: ``class cx cy w h`` a line, or a polygon a line, which counts as its box.

    Returns:
        float32 (n, 5), coordinates in fractions of the image, without duplicates; empty when the file does not exist,
        which means an image without objects.

    Raises:
        UserError: Something in it that Ultralytics does not take either, which costs the whole image.
    """
    if not os.path.exists(path):
        return np.zeros((0, 5), np.float32)
    try:
        text = read_bytes(path).decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise UserError("{}:1: not UTF-8 ({})".format(path, error.reason))
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    polygons = any(len(line.split()) > 6 for _, line in lines)
    rows = {}  # a row that is there twice counts once
    for number, line in lines:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # 1e39 becomes inf, which is refused
                row = np.array([_number(word) for word in line.split()], np.float32)
                rows[tuple(row.tolist())] = _checked(_box(row) if polygons else row)
        except (ValueError, OverflowError) as error:
            raise UserError("{}:{}: {}: {:.60}".format(path, number, error, line.strip()))
    return np.stack(list(rows.values())) if rows else np.zeros((0, 5), np.float32)


def _number(word: str) -> float:
    try:
        if "_" not in word:  # Python reads 1_0 as 10
            return float(word)
    except ValueError:
        pass
    raise ValueError("not numbers")


def _box(polygon: np.ndarray) -> np.ndarray:
    """Turn ``class x y x y ...`` into the box around it."""
    if len(polygon) == 5:
        raise ValueError("polygons and boxes in one file")
    if len(polygon) % 2 == 0 or len(polygon) < 3:
        raise ValueError("expected 'class x y x y ...'")
    x, y = polygon[1::2], polygon[2::2]
    left, top, right, bottom = x.min(), y.min(), x.max(), y.max()
    return np.array([polygon[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top], np.float32)


def _checked(row: np.ndarray) -> np.ndarray:
    """Return the row.

    Raises:
        ValueError: Not five numbers, a class that is no whole number, or a box outside of the image.
    """
    wanted = "expected 'class cx cy w h' in [0, 1]"
    if len(row) != 5 or not np.isfinite(row).all() or row[0] % 1 != 0 or row[0] >= 1 << 24:
        raise ValueError(wanted)
    low = row.min()
    if row[1:].max() > 1 + TOLERANCE or low < -TOLERANCE or (low < 0 and row[3:].min() < 0) or row[0] < 0:
        raise ValueError(wanted)
    return row


def read_pair(path: str, classes: int, labels: str = "", channels: int = 3) -> Tuple[np.ndarray, np.ndarray]:
    """Read an image and its labels.

    Args:
        path: Image file; its labels are where label_path says.
        classes: Of the model; 0 when it does not say.
        labels: Folder of the label files, where they are elsewhere.
        channels: Of the image: 3 or 1.

    Returns:
        The image, see images.read_image, and float32 (n, 5), see read_labels.

    Raises:
        UserError: One of them cannot be used, or a class that the model does not have.
    """
    targets = read_labels(label_path(path, labels))
    if classes and len(targets) and targets[:, 0].max() >= classes:
        raise UserError("{}: class {} but the model has {}".format(path, int(targets[:, 0].max()), classes))
    kind = _kind(read_bytes(path))
    if kind:
        raise UserError("{} is {}, which Ultralytics does not take".format(path, kind))
    image = images.read_image(path, channels)
    if min(image.shape[:2]) < SMALLEST:
        raise UserError("{}: {} x {} px, below {}".format(path, image.shape[1], image.shape[0], SMALLEST))
    return image, targets


def _kind(data: bytes) -> str:
    """What a file is by its first bytes, if it is nothing that Ultralytics takes, whatever its name says."""
    return next((name for start, name in _NOT_TAKEN.items() if data.startswith(start)), "")
