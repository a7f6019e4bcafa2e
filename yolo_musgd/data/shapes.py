"""The synthetic detection set: deterministic pictures of circles, squares and triangles with YOLO labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from yolo_musgd.data.folder import complete_folder

CLASSES = ("circle", "square", "triangle")
SPLITS = {"train": 320, "val": 80, "test": 80}
SIZE = 192  # pixels, both sides
MAX_OVERLAP = 0.35  # share of a shape's box that one other shape may cover
_SUPERSAMPLE = 2


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """A blurred mosaic of random colours with grain: no flat ground that would make the edges trivial."""
    cells = int(rng.integers(3, 7))
    coarse = rng.integers(40, 216, size=(cells, cells, 3), dtype=np.uint8)
    ground = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    grain = rng.normal(0.0, rng.uniform(2, 10), size=(size, size, 1))
    return Image.fromarray(np.clip(np.asarray(ground, dtype=np.float64) + grain, 0, 255).astype(np.uint8))


def _outline(kind: int, cx: float, cy: float, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape of class ``kind`` around (cx, cy); radius is that of its circumscribed circle, in pixels."""
    corners = (64, 4, 3)[kind]
    turns = [angle + 2 * math.pi * i / corners for i in range(corners)]
    return [(cx + radius * math.cos(t), cy + radius * math.sin(t)) for t in turns]


def _box(outline: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    xs, ys = zip(*outline, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _covered(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Share of the smaller box that the intersection of two boxes (x1, y1, x2, y2) takes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / smaller


def draw(seed: int, size: int = SIZE) -> tuple[Image.Image, list[tuple[int, float, float, float, float]]]:
    """One picture and its labels, the same for the same seed.

    Args:
        seed: of the picture.
        size: side in pixels.

    Returns:
        an RGB image and rows (class, x centre, y centre, width, height), the last four in [0, 1].
    """
    rng = np.random.default_rng(seed)
    big = size * _SUPERSAMPLE
    image = _background(rng, big)
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[tuple[int, float, float, float, float]] = []
    wanted = int(rng.integers(2, 7))
    for _ in range(wanted * 6):
        if len(boxes) == wanted:
            break
        kind = int(rng.integers(len(CLASSES)))
        radius = big * math.exp(rng.uniform(math.log(0.05), math.log(0.22)))
        cx, cy = rng.uniform(radius, big - radius, size=2)
        outline = _outline(kind, cx, cy, radius, rng.uniform(0, 2 * math.pi))
        box = _box(outline)
        if any(_covered(box, other) > MAX_OVERLAP for other in boxes):
            continue
        ground = np.asarray(image.crop(tuple(int(v) for v in box)), dtype=np.float64).mean(axis=(0, 1))
        colour = rng.uniform(0, 255, size=3)
        while np.abs(colour - ground).sum() < 150:  # faint shapes would be label noise
            colour = rng.uniform(0, 255, size=3)
        fill = tuple(int(c) for c in colour)
        edge = tuple(int(c * 0.55) for c in colour)
        ImageDraw.Draw(image).polygon(outline, fill=fill, outline=edge, width=max(1, int(radius * 0.08)))
        boxes.append(box)
        x1, y1, x2, y2 = (v / big for v in box)
        labels.append((kind, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    return image, labels


def generate(folder: str | Path, splits: dict[str, int] | None = None, size: int = SIZE) -> Path:
    """Write the data set as ``images/<split>`` and ``labels/<split>``.

    Args:
        folder: target; missing or empty, and complete or untouched afterwards.
        splits: split -> number of images; 320 / 80 / 80 by default.
        size: side of the pictures in pixels.

    Returns:
        the folder.

    Raises:
        UserError: the folder exists and is not empty.
    """
    with complete_folder(folder) as part:
        for number, (split, count) in enumerate((splits or SPLITS).items()):
            images, texts = part / "images" / split, part / "labels" / split
            images.mkdir(parents=True)
            texts.mkdir(parents=True)
            for index in range(count):
                image, labels = draw(seed=1_000_000 * (number + 1) + index, size=size)
                name = f"shapes_{split}_{index:04d}"
                image.save(images / f"{name}.jpg", quality=92)
                rows = [f"{k} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for k, x, y, w, h in labels]
                (texts / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
    return Path(folder)
