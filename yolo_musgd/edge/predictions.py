"""Reads what another program, chip or phone detected: COCO's result format, as every evaluation takes it."""

import math
import os
from collections import Counter
from typing import Any, Dict, List, Tuple

import numpy as np

from .coco import Coco
from .errors import UserError
from .files import read_json


def read_predictions(path: str, coco: Coco, conf: float, max_det: int) -> Tuple[List[np.ndarray], List[str]]:
    """Read detections: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``.

    An image is named by its ``file_name`` or its id; Ultralytics' ``save_json`` writes both, and as the id the file's
    name without its ending, which may be another image's number. A category is named by its id.

    Args:
        path: The JSON file; boxes in pixels of the image as the COCO file states its size.
        coco: The labelled images.
        conf: Lowest score that counts.
        max_det: Most detections an image; those of the highest scores count.

    Returns:
        For each image of ``coco`` float64 (n, 6) xyxy, score, class by falling score; and what is odd about them: how
        many are of images that are not in it, of no area, or far outside of their image.

    Raises:
        UserError: Not such a list, a category that the labels do not have, or not one detection of these images.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError("{} is no list of COCO results: [{{image_id, category_id, bbox, score}}, ...]".format(path))
    if not content:
        raise UserError("{} holds no detection, so there is nothing to score".format(path))
    names = [os.path.basename(file) for file, _ in coco.labelled]
    named = _unique(names)
    keys = dict(_unique([os.path.splitext(name)[0] for name in names]), **named)
    keys.update({_text(key): index for index, key in enumerate(coco.ids)})
    rows = [[] for _ in coco.ids]  # type: List[List[List[float]]]
    places = []  # type: List[int]
    boxes = []  # type: List[List[float]]
    for number, entry in enumerate(content):
        try:
            place = keys.get(_text(entry["image_id"]))
            place = named.get(os.path.basename(str(entry.get("file_name"))), place)
            row = _row(entry, coco)
        except KeyError as error:
            raise UserError("{}: entry {} is no COCO result (it lacks {})".format(path, number, error))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError("{}: entry {} is no COCO result ({}: {})".format(path, number, type(error).__name__, error))
        if place is None:
            continue
        places.append(place)
        boxes.append(row[:4])
        if row[4] > conf:
            rows[place].append(row)
    if not places:
        raise UserError("{}: none of {} detections is of an image of the labels".format(path, len(content)))
    found = [np.array(sorted(some, key=lambda row: -row[4])[:max_det]).reshape(-1, 6) for some in rows]
    strangers = len(content) - len(places)
    notes = ["{} detections are of other images".format(strangers)] if strangers else []
    return found, notes + _oddities(np.array(boxes), np.array(coco.sizes)[places])


def _oddities(boxes: np.ndarray, sizes: np.ndarray) -> List[str]:
    """Say what is odd about boxes (n, 4) xyxy on images (n, 2) of these sizes: the marks of another format."""
    empty = int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum())
    outside = int((boxes[:, 2:] > 1.1 * sizes + 2).any(1).sum())
    notes = ["{} boxes have no area".format(empty)] if empty else []
    if boxes.max() <= 2:
        notes.append("all boxes lie in one corner: bbox is in pixels, not in fractions of the image")
    elif outside > len(boxes) / 10:
        notes.append("{} boxes reach out of their image: bbox is [x, y, width, height]".format(outside))
    return notes


def _unique(names: List[str]) -> Dict[str, int]:
    """The names that stand there once, with their places."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _text(key: Any) -> str:
    """An id as text: 7, 7.0 and "7" are the same."""
    return str(int(key) if isinstance(key, float) and key.is_integer() else key)


def _row(entry: Dict[str, Any], coco: Coco) -> List[float]:
    category, bbox, score = entry["category_id"], entry["bbox"], float(entry["score"])
    if category not in coco.classes:
        known = ", ".join(map(str, list(coco.classes)[:5]))
        raise ValueError("category_id {!r} is none of the labels': {}, ...".format(category, known))
    if not 0 <= score <= 1:
        raise ValueError("score {:g} must be in [0, 1]".format(score))
    x, y, width, height = (float(value) for value in bbox)
    row = [x, y, x + width, y + height, score, float(coco.classes[category])]
    if not all(map(math.isfinite, row)) or width < 0 or height < 0:
        raise ValueError("bbox {} must be [x, y, width, height]".format(bbox))
    return row
