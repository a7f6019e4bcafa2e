"""Labelled images for a bundle, so that the board can judge its model: a COCO file with the images beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import tolerate
from yolo_musgd.edge.coco import read_coco
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import read_json
from yolo_musgd.edge.pictures.images import read_image
from yolo_musgd.export.splits import spread

ANNOTATIONS = "annotations.json"


def copy_val(annotations: str, names: Mapping[int, str], folder: Path, count: int) -> int:
    """Fill a new ``folder`` with at most ``count`` images of a COCO file, evenly spaced, and their boxes.

    Args:
        annotations: the COCO file, such as the ``val.json`` that export writes beside its artifacts.
        names: class names of the model.
        folder: to make.
        count: most images.

    Returns:
        How many were taken.

    Raises:
        UserError: not a COCO file of the model's classes, or more than a tenth of the images cannot be read.
    """
    read_coco(annotations, dict(names))  # says in one line what is wrong with it
    content: dict[str, Any] = read_json(annotations)
    chosen = spread(content["images"], count)
    folder.mkdir()
    images, left_out = [], list[str]()
    for number, entry in enumerate(chosen):
        source = os.path.join(os.path.dirname(annotations), entry["file_name"])  # noqa: PTH118, PTH120  as edge has it
        try:
            read_image(source)  # an image, and nothing else that a foreign file may name
        except UserError as error:
            left_out.append(str(error))
            continue
        name = f"{number:04}{Path(source).suffix.lower()}"
        shutil.copyfile(source, folder / name)
        images.append({**entry, "file_name": name})
    tolerate(left_out, len(chosen), "images")
    taken = {entry["id"] for entry in images}
    notes = [note for note in content["annotations"] if note["image_id"] in taken]
    packed = {"images": images, "annotations": notes, "categories": content["categories"]}
    (folder / ANNOTATIONS).write_text(json.dumps(packed), encoding="utf-8")
    return len(images)


def check_val(annotations: str) -> None:
    """Refuse a COCO file that is not there before anything is made.

    Raises:
        UserError: no such file.
    """
    if annotations and not Path(annotations).is_file():
        raise UserError(f"val={annotations}: no such file; export writes val.json beside its artifacts")
