"""The data set: its images by split, and a digest that changes when one of its files does."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_musgd import resources
from yolo_musgd.data.reader import NO_RULES, Rules, check, class_names, judging_split, label_files, read_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.runtimes.artifact import sha256_of


@dataclass(frozen=True)
class DataSet:
    """A data set as the pipeline uses it.

    Attributes:
        yaml: path of its YAML.
        images: split -> image files, of train, val, and test where it can judge.
        names: classes.
    """

    yaml: str
    images: dict[str, list[str]]
    names: list[str]

    @property
    def judged(self) -> str:
        """The split of the final table: test, which picked nothing, else val."""
        return "test" if self.images.get("test") else "val"


def read_data(data: str, rules: Rules = NO_RULES) -> DataSet:
    """Find a data set; Ultralytics downloads or draws it where its YAML says how.

    Args:
        data: its YAML.
        rules: of the training that the pipeline starts with.

    Raises:
        UserError: not there, broken, or without images to train on and to validate with.
    """
    known = not Path(data).exists() and Path(data).name == data  # to Ultralytics, which has it by its name
    file = str(resources.find(data) or (data if known else Path(data).absolute()))
    try:
        content = check(file)
    except UserError as error:
        raise UserError(str(error).replace(file, data, 1)) from error
    judged = judging_split(content, rules)
    splits = {split: read_split(content, split, rules) for split in dict.fromkeys(("train", "val", judged))}
    if not splits[judged].labelled:
        raise UserError(
            f"data={data}: no image of its {judged} split has a label file; images/ needs labels/ beside it"
        )
    names = class_names(content, rules)
    return DataSet(file, {name: split.files for name, split in splits.items()}, [names[k] for k in sorted(names)])


def digest(data: DataSet, cache: Path | None) -> str:
    """SHA-256 over every image, label and class name.

    Args:
        data: the data set.
        cache: JSON file that keeps the digests of files whose size and time of change are the same; None keeps none.
    """
    known = _read(cache)
    fresh: dict[str, list[Any]] = {}
    total = hashlib.sha256(json.dumps(data.names).encode())
    for split, images in data.images.items():
        for image, label in zip(images, label_files(images), strict=True):
            total.update(os.fsencode(f"{split}/{Path(image).name}"))
            for file in (image, label):
                total.update(_digest(file, known, fresh).encode())
    if cache is not None and fresh != known:
        write_whole(str(cache), json.dumps(fresh))
    return total.hexdigest()


def digest_folder(path: Path) -> str:
    """SHA-256 over the names and contents of the files in a folder, or of one file."""
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(file.name) + sha256_of(str(file)).encode())
    return total.hexdigest()


def _digest(file: str, known: dict[str, list[Any]], fresh: dict[str, list[Any]]) -> str:
    try:
        facts = Path(file).stat()
    except FileNotFoundError:
        return "none"  # an image without a label file is background
    old = known.get(file)
    same = old is not None and old[:2] == [facts.st_size, facts.st_mtime_ns]
    value = str(old[2]) if old is not None and same else sha256_of(file)
    fresh[file] = [facts.st_size, facts.st_mtime_ns, value]
    return value


def _read(cache: Path | None) -> dict[str, list[Any]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
