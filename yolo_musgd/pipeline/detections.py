"""Detections of two models on the same pictures, side by side: boxes are drawn by the page, sharp at every size."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from yolo_musgd.export.accuracy import paired

WIDEST = 720  # pixels of a picture in the page
NAMED = 8  # boxes of a picture that are labelled, the surest; more would hide each other
CROWD = 20  # boxes above which lines are thin, and only what the other model does not have is labelled
COLOURS = ("#e69f00", "#56b4e9", "#d55e00", "#cc79a7", "#009e73", "#f0e442", "#0072b2", "#ffffff")


@dataclass(frozen=True)
class Box:
    """One detection, in fractions of the picture's width.

    Attributes:
        x: left.
        y: top.
        width: of the box.
        height: of the box.
        label: class and score, empty where a label would hide others.
        colour: of the class.
        alone: only this model has it.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    colour: str
    alone: bool


@dataclass(frozen=True)
class View:
    """One model's detections.

    Attributes:
        boxes: to draw.
        words: what was found, for people who do not see it.
        crowded: there are many, so they are drawn thin.
    """

    boxes: list[Box]
    words: str
    crowded: bool


@dataclass(frozen=True)
class Pair:
    """A picture as the base model and as the final one see it.

    Attributes:
        name: of the image file.
        picture: JPEG as a data URI.
        aspect: height over width.
        before: of the base model.
        after: of the final model.
    """

    name: str
    picture: str
    aspect: float
    before: View
    after: View


def pairs(before: Mapping[str, Any], after: Mapping[str, Any], folder: Path) -> list[Pair]:
    """Pictures that both models have seen.

    Args:
        before: detections.json of the base model.
        after: of the final model.
        folder: where the pictures are now: it may have been moved since.
    """
    others = {Path(record["image"]).name: record for record in after["images"]}
    found = []
    for record in before["images"]:
        file = folder / Path(record["image"]).name
        other = others.get(file.name)
        if other is None:
            continue
        rows = [_rows(r["detections"]) for r in (record, other)]
        matched = [m[:2] for m in paired(rows[0], rows[1])]
        width, height = record["width"], record["height"]
        views = [_view(r["detections"], {m[k] for m in matched}, width) for k, r in enumerate((record, other))]
        found.append(Pair(file.name, embed(file), height / width, *views))
    return found


def _rows(detections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    rows = [[*d["box"], d["score"], d["class"]] for d in detections]
    return np.array(rows, np.float32).reshape(-1, 6)


def _view(detections: Sequence[Mapping[str, Any]], matched: set[int], width: int) -> View:
    boxes, counts, crowded = [], dict[str, int](), len(detections) > CROWD
    named = [k for k in range(len(detections)) if not crowded or k not in matched][:NAMED]
    for k, found in enumerate(detections):
        x1, y1, x2, y2 = (v / width for v in found["box"])
        counts[found["name"]] = counts.get(found["name"], 0) + 1
        label = f"{found['name']} {found['score']:.2f}" if k in named else ""
        colour = COLOURS[found["class"] % len(COLOURS)]
        boxes.append(Box(x1, y1, x2 - x1, y2 - y1, label, colour, k not in matched))
    words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"
    return View(boxes, words, crowded)


def embed(file: Path) -> str:
    """A picture as a JPEG data URI, upright and not wider than :data:`WIDEST`."""
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    picture.thumbnail((WIDEST, 4 * WIDEST))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
