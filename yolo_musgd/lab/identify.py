"""Fingerprints of data sets and initial models, so that a finished run is recognised wherever its files lie."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import check, label_files, read_split
from yolo_musgd.edge.errors import UserError


def locate(file: str) -> str:
    """The absolute path of a file that is there, else the name as it stands (Ultralytics and the plugin know some)."""
    path = Path(file).expanduser()
    return str(path.resolve()) if path.exists() else file


def data_id(file: str, fetch: bool = True) -> str:
    """Fingerprint of a data set: class names, and of train and val the images' names and sizes and the labels' content.

    Lets Ultralytics write its label cache, which parallel runs would otherwise all write at once.

    Args:
        file: data YAML.
        fetch: download or draw the data set if it is absent and its YAML says how.

    Raises:
        UserError: no such data set, or one that Ultralytics cannot read.
    """
    return _read(file, fetch)[0]


def image_counts(file: str) -> dict[str, int]:
    """Images of ``train`` and ``val``; errors as of :func:`data_id`."""
    return _read(file, True)[1]


@cache
def _read(file: str, fetch: bool) -> tuple[str, dict[str, int]]:
    """Fingerprint and number of images by split."""
    content = check(file, fetch)
    digest = hashlib.sha256(json.dumps(list(content["names"].values())).encode())
    counts = {}
    for split in ("train", "val"):
        images = read_split(content, split).files
        counts[split] = len(images)
        rows = [
            (Path(image).name, Path(image).stat().st_size, _content(label))
            for image, label in zip(images, label_files(images), strict=True)
        ]
        digest.update(json.dumps([split, sorted(rows)]).encode())
    return digest.hexdigest()[:16], counts


@cache
def model_id(file: str) -> str:
    """Fingerprint of an initial model: the content of its YAML with its scale, or the bytes of a checkpoint.

    Raises:
        UserError: no such model.
    """
    if Path(file).suffix.lower() in (".yaml", ".yml"):
        from ultralytics.nn.tasks import yaml_model_load

        try:
            content: dict[str, Any] = yaml_model_load(file)
            kept = {k: v for k, v in content.items() if k != "yaml_file"}
            text = json.dumps(kept, sort_keys=True, default=str)  # "on:" is a key of another kind than "nc:"
        except Exception as error:
            raise UserError(f"model={file}: {_short(error)}") from None
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        found = Path(file) if Path(file).is_file() else Path(attempt_download_asset(file))
    except Exception as error:
        raise UserError(f"model={file}: {_short(error)}") from None
    if not found.is_file():
        raise UserError(f"model={file} does not exist; give a checkpoint's path or a model such as yolo26n.yaml")
    with found.open("rb") as stream:
        return _digest(stream)


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()[:16]


def _content(label: str) -> str | None:
    """Of a label file: one that was corrected often keeps its size. None without a file (no object in the image)."""
    path = Path(label)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def _short(error: Exception) -> str:
    """The first line of an error of the host, or of what caused it."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split())[:300] or type(cause).__name__


@cache
def code_id() -> str:
    """Fingerprint of the optimizers' source, so that a report can tell runs of different code apart."""
    import yolo_musgd.optim

    digest = hashlib.sha256()
    for file in sorted(Path(yolo_musgd.optim.__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]
