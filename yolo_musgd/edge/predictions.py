"""Reads what another program, chip or phone detected: COCO's result format, as every evaluation takes it."""

import math
import os
from typing import Any, Dict, List, Tuple

import numpy as np

from .coco import Coco
from .errors import UserError
from .files import read_json


def read_predictions(path: str, coco: Coco, conf: float, max_det: int) -> Tuple[List[np.ndarray], int]:
    """Read detections: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``.

    An image is named by its id, or as Ultralytics does by its file's name without the ending; a category by its id.

    Args:
        path: The JSON file; boxes in pixels of the image as the COCO file states its size.
        coco: The labelled images.
        conf: Lowest score that counts.
        max_det: Most detections an image; those of the highest scores count.

    Returns:
        For each image of ``coco`` float64 (n, 6) xyxy, score, class by falling score; and how many detections were of
        images that are not in it.

    Raises:
        UserError: Not such a list, a category that the labels do not have, or not one detection of these images.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError("{} is no list of COCO results: [{{image_id, category_id, bbox, score}}, ...]".format(path))
    keys = {}  # type: Dict[Any, int]
    for index, (key, labelled) in enumerate(zip(coco.ids, coco.labelled)):
        keys[os.path.splitext(os.path.basename(labelled[0]))[0]] = index
        keys[str(key)] = index
    rows = [[] for _ in coco.ids]  # type: List[List[List[float]]]
    strangers = 0
    for number, entry in enumerate(content):
        try:
            place = keys.get(str(entry["image_id"]))
            row = _row(entry, coco)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError("{}: entry {} is no COCO result ({}: {})".format(path, number, type(error).__name__, error))
        if place is None:
            strangers += 1
        elif row[4] > conf:
            rows[place].append(row)
    if strangers == len(content):
        raise UserError("{}: none of {} detections is of an image of the labels".format(path, len(content)))
    found = [np.array(sorted(some, key=lambda row: -row[4])[:max_det]).reshape(-1, 6) for some in rows]
    return found, strangers


def _row(entry: Dict[str, Any], coco: Coco) -> List[float]:
    x, y, width, height = (float(value) for value in entry["bbox"])
    row = [x, y, x + width, y + height, float(entry["score"]), float(coco.classes[entry["category_id"]])]
    if not all(map(math.isfinite, row)) or not 0 <= row[4] <= 1 or width < 0 or height < 0:
        raise ValueError("box {} with score {}".format(entry["bbox"], entry["score"]))
    return row
