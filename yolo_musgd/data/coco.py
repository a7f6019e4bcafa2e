"""A split as a COCO file, which ``edge val`` reads on the board: the rules of the data set were applied here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import LabelledImage
from yolo_musgd.edge.files import write_whole


def as_coco(images: Sequence[LabelledImage], names: Mapping[int, str], root: Path | None = None) -> dict[str, Any]:
    """The images and their boxes in COCO's object-detection format.

    Categories count from 1, as COCO's and Ultralytics' ``save_json`` do; boxes are ``[x, y, width, height]`` in pixels.

    Args:
        images: with their labels.
        names: class names by index.
        root: folder that ``file_name`` is relative to; None writes whole paths.
    """
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": index + 1, "name": name} for index, name in sorted(names.items())],
    }
    for number, (file, labels, (height, width)) in enumerate(images):
        path = Path(file)
        name = str(path.absolute()) if root is None else path.relative_to(root).as_posix()
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for kind, x, y, w, h in labels.astype(float).tolist():
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1, "image_id": number, "category_id": int(kind) + 1,
                    "bbox": [round(value, 3) for value in box], "area": round(box[2] * box[3], 3), "iscrowd": 0,
                }
            )  # fmt: skip
    return content


def write_coco(file: Path, images: Sequence[LabelledImage], names: Mapping[int, str], root: Path | None = None) -> Path:
    """Write :func:`as_coco` whole or not at all; returns the file."""
    write_whole(str(file), json.dumps(as_coco(images, names, root)))
    return file
