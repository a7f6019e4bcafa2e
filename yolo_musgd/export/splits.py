"""Which images calibrate and which ones judge: train and val of a data YAML, chosen the same every time."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.evaluate import label_path
from yolo_musgd.edge.pictures.images import IMAGE_SUFFIXES, read_image
from yolo_musgd.edge.runtimes.artifact import sha256_of

FEW_IMAGES = 32  # fewer than this and single images decide the ranges
MIN_IMAGES = 16
"""What pruning needs: statistics and scores of fewer images say more about those images than about the data."""

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set's images.

    Attributes:
        data: the YAML.
        train: image files of the train split, sorted.
        val: image files of the val split, sorted; none when not one of them has a label file.
        names: class names by index.
    """

    data: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    names: dict[int, str]


def list_split(entry: object) -> list[str]:
    """Image files behind one entry of a data YAML: a folder (searched through), a ``.txt`` list, or several of them."""
    if isinstance(entry, (list, tuple)):
        return sorted({file for part in entry for file in list_split(part)})
    path = Path(str(entry))
    if path.suffix == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return sorted(str(path.parent / line) for line in lines if line)
    return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)


def judging_split(content: Mapping[str, Any]) -> str:
    """Which split judges a finished model: ``test``, which picked nothing, else ``val``.

    A data YAML may name a test split that was never downloaded, or one whose labels are kept secret (COCO's test-dev);
    such a split judges nothing, so at least one of its images must have a label file.

    Args:
        content: a data YAML as ``check_det_dataset`` of Ultralytics returns it.
    """
    entry = content.get("test")
    files = list_split(entry) if entry else []
    return "test" if any_labelled(files) else "val"


def read_splits(data: str, download: bool = True) -> Splits:
    """The train and val images of ``data``, a data YAML as Ultralytics takes it.

    Args:
        data: its path, or its name.
        download: fetch what is not here, where the YAML says how.

    Raises:
        UserError: no such file, or Ultralytics' own words about what is wrong with it.
    """
    from ultralytics.data.utils import check_det_dataset

    try:
        content = check_det_dataset(data, autodownload=download)
    except Exception as error:  # files, YAML, downloads
        raise UserError(f"data={data} cannot be read: {first_line(error)}") from error
    train, val = list_split(content.get("train")), list_split(content.get("val"))
    judges = tuple(val) if any_labelled(val) else ()  # an image without a label file is one without objects
    return Splits(data, tuple(train), judges, {int(k): str(v) for k, v in content["names"].items()})


def any_labelled(files: Sequence[str]) -> bool:
    """Whether one of the images has a label file, so that the others can be taken for images without objects."""
    return any(Path(label_path(file)).is_file() for file in files)


def check_names(model: Mapping[int, str], given: Mapping[int, str], data: str) -> None:
    """Refuse a data set whose classes are the model's in another order; say which ones have another name.

    Args:
        model: index -> name of the model's classes.
        given: the same of the data set, as many.
        data: the data set's YAML.

    Raises:
        UserError: every figure would be of the wrong class.
    """
    other = [k for k in model if given.get(k, model[k]).casefold() != model[k].casefold()]
    if not other:
        return
    first = f"class {other[0]} is {model[other[0]]!r} in the model and {given[other[0]]!r} there"
    if sorted(model.values()) == sorted(given.values()):
        raise UserError(f"data={data} has the model's classes in another order: {first}; reorder its names and labels")
    log.warning("data=%s calls %d of %d classes otherwise: %s", data, len(other), len(model), first)


def spread(files: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of ``files``, evenly spaced, so that images that follow each other in a video differ."""
    if len(files) <= count:
        return list(files)
    return [files[i * len(files) // count] for i in range(count)]


@dataclasses.dataclass(frozen=True)
class CalibrationSet:
    """Images that the ranges come from; ``sha256`` is of their contents, whatever their names."""

    files: tuple[str, ...]
    sha256: str


def calibration_set(splits: Splits, count: int) -> CalibrationSet:
    """Choose ``count`` different images of the train split; an image that is also used to judge is left out.

    Raises:
        UserError: the train split is empty.
    """
    if not splits.train:
        raise UserError(f"data={splits.data}: its train split has no images, and INT8 is calibrated on train")
    judged = {sha256_of(file) for file in splits.val} if len(splits.val) <= 5000 else set()
    chosen: dict[str, str] = {}
    waiting = spread(splits.train, count)
    others = sorted(set(splits.train) - set(waiting))
    leaked = 0
    for file in [*waiting, *others]:
        if len(chosen) >= count:
            break
        try:
            read_image(file)
        except UserError as error:
            log.warning("%s: it does not calibrate", error)
            continue
        digest = sha256_of(file)
        if digest in judged:
            leaked += 1
        else:
            chosen.setdefault(digest, file)
    if not chosen:
        log.warning("every train image of %s is also in val: INT8 is judged by the images it was made for", splits.data)
        chosen = {sha256_of(file): file for file in waiting}
    elif leaked:
        log.warning("%d train images of %s are in val too and do not calibrate", leaked, splits.data)
    if len(chosen) < min(count, FEW_IMAGES):
        log.warning("only %d different images calibrate; 100 or more give steadier ranges", len(chosen))
    digest = hashlib.sha256("".join(sorted(chosen)).encode()).hexdigest()
    return CalibrationSet(tuple(sorted(chosen.values())), digest)
