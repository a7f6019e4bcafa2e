"""A user's data set as Ultralytics itself reads it: the YAML, the images of a split, their labels, their pixels.

Everything on a PC that lists images or reads labels asks here, so that a model is calibrated and judged on the very
images and boxes that it was trained on. The rules (formats, hidden files, lists, polygons, key points, damaged files,
``single_cls``, ``classes``, ``channels``) are those of Ultralytics' data classes; none of them is written again. The
board has no Ultralytics: it reads the COCO file that `yolo_musgd.data.coco` writes from what was read here.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.pictures import images as pictures
from yolo_musgd.host import quiet_host

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a training run made of its data set; the model is judged by the same.

    Attributes:
        task: detect, segment, pose, obb or classify.
        single_cls: every object is of class 0, named ``item``.
        classes: the only classes that count, None for all.
    """

    task: str = "detect"
    single_cls: bool = False
    classes: tuple[int, ...] | None = None

    @classmethod
    def of_training(cls, train_args: Mapping[str, Any] | None) -> Rules:
        """The rules in a checkpoint's ``train_args``."""
        args = train_args or {}
        chosen = args.get("classes")
        chosen = [chosen] if isinstance(chosen, int) else chosen
        return cls(
            str(args.get("task") or "detect"),
            bool(args.get("single_cls")),
            tuple(chosen) if chosen is not None else None,
        )


NO_RULES = Rules()


class LabelledImage(NamedTuple):
    """An image with its labels.

    Attributes:
        file: its path.
        labels: float32 (n, 5): class, centre x, centre y, width, height in fractions of the image.
        shape: (height, width) in pixels, upright.
    """

    file: str
    labels: np.ndarray
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split that Ultralytics would take.

    Attributes:
        name: train, val or test.
        images: with their labels, in Ultralytics' order (by path).
        left_out: why others were not taken, a line each.
        labelled: whether one of the images has a label file; without any, a split cannot judge.
        channels: of the images: 3, or 1 for grey ones.
    """

    name: str
    images: tuple[LabelledImage, ...]
    left_out: tuple[str, ...]
    labelled: bool
    channels: int

    @property
    def files(self) -> list[str]:
        """The image files."""
        return [image.file for image in self.images]


def check(data: str, download: bool = True, task: str = "detect") -> dict[str, Any]:
    """Ultralytics' description of a data set.

    Args:
        data: path or name of its YAML, or the folder of a classification set.
        download: fetch what is not here, where the YAML says how.
        task: of the model.

    Raises:
        UserError: it is not there, broken, or not for this task.
    """
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset

    try:
        found: dict[str, Any] = (
            check_cls_dataset(data) if task == "classify" else check_det_dataset(data, autodownload=download)
        )
    except Exception as error:  # files, YAML, downloads: whatever a broken file makes the host raise
        raise UserError(f"data={data} cannot be read: {first_line(error)}") from error
    return found


def class_names(content: Mapping[str, Any], rules: Rules = NO_RULES) -> dict[int, str]:
    """Class names by index, as a model has them that was trained by these rules."""
    if rules.single_cls:
        return {0: "item"}
    names = content["names"]
    return {int(k): str(v) for k, v in (names.items() if isinstance(names, dict) else enumerate(names))}


def read_split(content: Mapping[str, Any], split: str, rules: Rules = NO_RULES) -> Split:
    """Read a split's labels and check its images, as a validation does; Ultralytics keeps the result in its cache.

    Args:
        content: from :func:`check`.
        split: train, val or test.
        rules: of the model's training.

    Raises:
        UserError: no such split, no image in it, or more than a tenth of them cannot be read.
    """
    where = content.get(split)
    if not where:
        raise UserError(f"data={_name(content)} has no {split} split")
    try:
        with quiet_host():
            found = dataset(content, split, rules)
            listed = found.get_img_files(where)
    except Exception as error:  # no image at all, or not one that can be read
        raise UserError(f"data={_name(content)}: its {split} split cannot be read: {_reason(error)}") from error
    images = tuple(
        LabelledImage(
            str(entry["im_file"]),
            np.hstack((entry["cls"], entry["bboxes"])).astype(np.float32).reshape(-1, 5),
            (int(entry["shape"][0]), int(entry["shape"][1])),
        )
        for entry in found.labels
    )
    taken = {image.file for image in images}
    left_out = tuple(_why_left_out(found, [file for file in listed if file not in taken]))
    labelled = any(len(image.labels) for image in images) or any(Path(f).is_file() for f in label_files(taken))
    tolerate(left_out, len(listed), f"{split} images")
    return Split(split, images, left_out, labelled, int(content.get("channels", 3)))


def dataset(
    content: Mapping[str, Any],
    split: str,
    rules: Rules = NO_RULES,
    imgsz: int = 640,
    batch: int = 16,
    augment: bool = False,
) -> Any:
    """Ultralytics' own data set of a split, square.

    Args:
        content: from :func:`check`.
        split: train, val or test.
        rules: of the model's training.
        imgsz: side that its images are brought to, pixels.
        batch: images a batch.
        augment: as in the last epochs of a training, by Ultralytics' defaults: without mosaic.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset

    chosen = list(rules.classes) if rules.classes is not None else None
    wanted = {"task": rules.task, "single_cls": rules.single_cls, "classes": chosen, "imgsz": imgsz}
    mode = "train" if augment else "val"
    args = get_cfg(overrides={**wanted, "mode": mode, "rect": False, "cache": False, "mosaic": 0.0})
    names = class_names(content, rules)
    described = {**content, "names": names, "nc": len(names)}
    return build_yolo_dataset(args, content[split], batch, described, mode=mode, rect=False, stride=32)


def judging_split(content: Mapping[str, Any], rules: Rules = NO_RULES) -> str:
    """Which split judges a finished model: ``test``, which picked nothing, else ``val``.

    A data YAML may name a test split that was never downloaded, or one whose labels are kept secret (COCO's test-dev);
    such a split judges nothing.
    """
    entries = content.get("test") or ()
    entries = [entries] if isinstance(entries, (str, Path)) else entries
    if not entries or not all(Path(entry).exists() for entry in entries):
        return "val"
    return "test" if read_split(content, "test", rules).labelled else "val"


def read_image(file: str, channels: int = 3) -> np.ndarray:
    """The pixels as Ultralytics sees them: uint8 (height, width, 3) BGR, or (height, width) for one channel.

    Raises:
        UserError: it cannot be decoded.
    """
    import cv2
    from ultralytics.utils.patches import imread

    try:
        image = imread(file, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    except Exception as error:
        raise UserError(f"{file} cannot be decoded: {first_line(error)}") from error
    if image is None:
        raise UserError(f"{file} cannot be decoded: damaged or not an image")
    pixels: np.ndarray = image[..., 0] if channels == 1 and image.ndim == 3 else image
    return pixels


def decodable(file: str, channels: int = 3) -> bool:
    """Whether :func:`read_image` can read it."""
    try:
        read_image(file, channels)
    except UserError:
        return False
    return True


def label_files(images: Sequence[str] | set[str]) -> list[str]:
    """Where Ultralytics looks for the labels of these images, in their order."""
    from ultralytics.data.utils import img2label_paths

    found: list[str] = img2label_paths(list(images))
    return found


def tolerate(left_out: Sequence[str], total: int, what: str) -> None:
    """One policy for bad files, wherever they are met: a few are left out and named once, many are an error.

    Args:
        left_out: a line for each that could not be used.
        total: how many there were.
        what: they are, for the message.

    Raises:
        UserError: more than a tenth are bad.
    """
    told = pictures.tolerate(left_out, total, what)
    if told:
        log.warning("%s; left out, as Ultralytics does", told)


def _name(content: Mapping[str, Any]) -> str:
    return str(content.get("yaml_file") or content.get("path"))


def _why_left_out(dataset: Any, files: Sequence[str]) -> list[str]:
    """The host's own words about files that it did not take."""
    verify = getattr(dataset, "verify_args", None)
    if verify is None or not files:  # releases before 8.4.60 or so keep them to themselves
        return [f"{file}: damaged image or label" for file in files]
    dataset.im_files, dataset.label_files = list(files), label_files(files)
    judge, arguments = verify()
    told = (str(judge(each)[-1]).rpartition("ignoring corrupt image/label: ")[2] for each in arguments)
    return [f"{file}: {first}" for file, first in zip(files, told, strict=True)]


def _reason(error: Exception) -> str:
    """The first line of what the host says, or of what caused it."""
    from ultralytics.utils import remove_colorstr

    told = [line for line in remove_colorstr(str(error.__cause__ or error)).splitlines() if line.strip()]
    return " ".join(" ".join(told[:2]).split())[:300] or type(error).__name__
