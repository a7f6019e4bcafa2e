"""Which images calibrate and which ones judge: train and val of a data YAML, chosen the same every time."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

from yolo_musgd.data.reader import NO_RULES, LabelledImage, Rules, check, class_names, read_image, read_split, tolerate
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import sha256_of

FEW_IMAGES = 32  # fewer than this and single images decide the ranges
MIN_IMAGES = 16
"""What pruning needs: statistics and scores of fewer images say more about those images than about the data."""

log = logging.getLogger("yolo_musgd")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set's images, by the rules of the model's training.

    Attributes:
        data: the YAML.
        train: image files of the train split.
        val: labelled images of the val split; none when not one of them has a label file.
        names: class names by index.
        channels: of the images: 3, or 1 for grey ones.
    """

    data: str
    train: tuple[str, ...]
    val: tuple[LabelledImage, ...]
    names: dict[int, str]
    channels: int = 3


def read_splits(
    data: str, download: bool = True, rules: Rules = NO_RULES, model: Mapping[int, str] | None = None
) -> Splits:
    """The train and val images of ``data``, a data YAML as Ultralytics takes it.

    Args:
        data: its path, or its name.
        download: fetch what is not here, where the YAML says how.
        rules: of the model's training.
        model: class names of the model that it is for.

    Raises:
        UserError: no such file, classes that are not the model's, or Ultralytics' own words about what is wrong.
    """
    content = check(data, download)
    names = class_names(content, rules)
    if model is not None:
        check_names(model, names, data)
    train, val = (read_split(content, split, rules) for split in ("train", "val"))
    return Splits(data, tuple(train.files), val.images if val.labelled else (), names, val.channels)


def check_names(model: Mapping[int, str], given: Mapping[int, str], data: str) -> None:
    """Refuse a data set whose classes are not the model's, or are in another order; say which have another name.

    Args:
        model: index -> name of the model's classes.
        given: the same of the data set.
        data: the data set's YAML.

    Raises:
        UserError: every figure would be of the wrong class.
    """
    if len(given) != len(model):
        raise UserError(
            f"data={data} has {len(given)} classes, the model has {len(model)}; give the data set that it was trained "
            "with"
        )
    mine, theirs = ({k: name.casefold() for k, name in names.items()} for names in (model, given))
    other = [k for k in mine if theirs.get(k, mine[k]) != mine[k]]
    if not other:
        return
    first = f"class {other[0]} is {model[other[0]]!r} in the model and {given[other[0]]!r} there"
    if sorted(mine.values()) == sorted(theirs.values()):
        raise UserError(f"data={data} has the model's classes in another order: {first}; reorder its names and labels")
    log.warning("data=%s calls %d of %d classes otherwise: %s", data, len(other), len(model), first)


def spread(files: Sequence[T], count: int) -> list[T]:
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
        UserError: the train split is empty, or more than a tenth of the images cannot be read.
    """
    if not splits.train:
        raise UserError(
            f"data={splits.data}: its train split has no images, and INT8 is calibrated on train; name some there"
        )
    judged = {sha256_of(image.file) for image in splits.val} if len(splits.val) <= 5000 else set()
    chosen: dict[str, str] = {}
    waiting = spread(splits.train, count)
    others = sorted(set(splits.train) - set(waiting))
    leaked, unreadable = list[tuple[str, str]](), list[str]()
    for file in [*waiting, *others]:
        if len(chosen) >= count:
            break
        try:
            read_image(file, splits.channels)
        except UserError as error:
            unreadable.append(str(error))
            continue
        digest = sha256_of(file)
        if digest in judged:
            leaked.append((digest, file))
        else:
            chosen.setdefault(digest, file)
    tolerate(unreadable, len(unreadable) + len(leaked) + len(chosen), "train images")
    if not chosen:
        log.warning("every train image of %s is also in val: INT8 is judged by the images it was made for", splits.data)
        chosen = dict(leaked[:count])
    elif leaked:
        log.warning("train images of %s that are in val too do not calibrate: %d", splits.data, len(leaked))
    if len(chosen) < min(count, FEW_IMAGES):
        log.warning("only %d different images calibrate; 100 or more give steadier ranges", len(chosen))
    digest = hashlib.sha256("".join(sorted(chosen)).encode()).hexdigest()
    return CalibrationSet(tuple(sorted(chosen.values())), digest)
