"""Divides a data set between clients, and gives each a folder of its own, as a board would have it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from yolo_musgd.data.reader import LabelledImage, Rules, check, class_names, label_files, read_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.options import items

Images = list[LabelledImage]


def parse_split(text: str) -> float | None:
    """Concentration of the Dirichlet distribution; None for ``iid`` and ``folders``.

    Raises:
        UserError: something else.
    """
    kind, colon, number = text.partition(":")
    if text in ("iid", "folders"):
        return None
    try:
        alpha = float(number) if kind == "dirichlet" and colon else -1.0
    except ValueError:
        alpha = -1.0
    if not 0.001 <= alpha <= 1000:
        raise UserError(f"split={text}: must be iid, folders or dirichlet:ALPHA with ALPHA in [0.001, 1000]")
    return alpha


def divide(images: Sequence[LabelledImage], clients: int, split: str, seed: int) -> list[Images]:
    """The images of each client, each list in the given order.

    Args:
        images: of the train split.
        clients: number of parts.
        split: ``iid`` (shuffled, then equal parts) or ``dirichlet:ALPHA``: the images of each kind are divided in
            proportions drawn from a Dirichlet distribution. An image's kind is the rarest class in it, since the
            commonest is in nearly every image and says nothing.
        seed: of the drawing.

    Raises:
        UserError: more clients than images.
    """
    if clients > len(images):
        raise UserError(
            f"clients={clients}: the train split has {len(images)} images, one for each at least; "
            f"give clients={len(images)} or fewer"
        )
    random = np.random.default_rng(seed)
    alpha = parse_split(split)
    if alpha is None:
        parts = [part.tolist() for part in np.array_split(random.permutation(len(images)), clients)]
    else:
        parts = _uneven(_kinds(images), clients, alpha, random)
    return [[images[i] for i in sorted(part)] for part in parts]


def _kinds(images: Sequence[LabelledImage]) -> np.ndarray:
    """The rarest class in each image, by boxes in all of them; -1 for an image without any."""
    classes = [image.labels[:, 0].astype(int) for image in images]
    counts = np.bincount(np.concatenate([*classes, np.zeros(0, int)]))
    return np.array([min(found, key=lambda c: counts[c]) if len(found) else -1 for found in classes])


def _uneven(kinds: np.ndarray, clients: int, alpha: float, random: np.random.Generator) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for kind in np.unique(kinds):
        members = random.permutation(np.flatnonzero(kinds == kind))
        cuts = (np.cumsum(random.dirichlet([alpha] * clients))[:-1] * len(members)).round().astype(int)
        for part, found in zip(parts, np.split(members, cuts), strict=True):
            part.extend(found.tolist())
    for part in parts:  # a client without any image could not take part
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def write_client(folder: Path, images: Sequence[LabelledImage], content: Mapping[str, Any], rules: Rules) -> Path:
    """Make a client's data set: links to its images and labels, numbered in their order, and its data YAML.

    Args:
        folder: new; written beside it and renamed, so that it is whole or absent.
        images: of this client.
        content: Ultralytics' description of the whole data set, whose val split the client gets too.
        rules: of the training.

    Returns:
        The data YAML.
    """
    if not folder.exists():
        part = folder.with_name(f".part-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        for kind in ("images", "labels"):
            (part / kind / "train").mkdir(parents=True)
        labels = label_files([image.file for image in images])
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            source = Path(image.file)
            name = f"{number:06d}-{source.stem[:50]}"  # file systems take 255 bytes
            _link(source, part / "images" / "train" / (name + source.suffix))
            if Path(label).is_file():
                _link(Path(label), part / "labels" / "train" / f"{name}.txt")
        keys = ("kpt_shape", "flip_idx", "channels")
        described = {
            "train": "images/train",  # beside this file, wherever the folder is moved
            "val": content["val"],
            "names": class_names(content, Rules(rules.task)),
            **{k: content[k] for k in keys if k in content},
        }
        write_whole(str(part / "data.yaml"), yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
        part.replace(folder)
    return folder / "data.yaml"


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def own_folders(data: str, task: str) -> list[str]:
    """The clients' own data YAMLs, checked: each has images, all have the same classes.

    Raises:
        UserError: fewer than two, one that cannot be read or has no image, or classes that differ.
    """
    files = items(data)
    if len(files) < 2:
        raise UserError(f"split=folders needs data=[a.yaml,b.yaml,...], one a client; got {data}")
    names: dict[int, str] = {}
    found_at = []
    for file in files:
        content = check(file, task=task)
        found = class_names(content)
        if names and found != names:
            differ = next(k for k in sorted({*found, *names}) if found.get(k) != names.get(k))
            raise UserError(
                f"the clients' classes differ: class {differ} is {names.get(differ)!r} in {files[0]} "
                f"and {found.get(differ)!r} in {file}; give all the same names in the same order"
            )
        names = found
        read_split(content, "train", Rules(task))
        found_at.append(str(content["yaml_file"]))  # that of a mere name lies elsewhere
    return found_at
