"""How good a model is: Ultralytics' own validation of a checkpoint on a val split."""

from __future__ import annotations

import datetime
import io
import math
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics import YOLO

from yolo_musgd.edge.files import write_whole
from yolo_musgd.host import quiet_host

METRICS = ("metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)")
MAIN = METRICS[-1]
"""What decides."""
_ASKED = ("imgsz", "batch", "device", "single_cls", "classes", "workers")


def score(row: Mapping[str, Any]) -> float:
    """A round's `MAIN`; below every other where nobody could judge."""
    return -1.0 if math.isnan(row[MAIN]) else float(row[MAIN])


def save_checkpoint(file: Path, model: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Write a model as Ultralytics does at the end of a training: half precision, loadable by ``YOLO(file)``."""
    buffer = io.BytesIO()
    content = {
        "model": deepcopy(model).half(),
        "train_args": dict(arguments),
        "epoch": -1,
        "date": datetime.datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    torch.save(content, buffer)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(str(file), buffer.getvalue())


def judge(model: nn.Module, data: str, arguments: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Validate a model; it is written to a file first, since the host fuses what it validates.

    Args:
        model: not changed.
        data: data YAML whose val split judges.
        arguments: of the training, of which those count that a validation knows.
        folder: for the host's own files; removed again.

    Returns:
        `METRICS`.
    """
    file = folder.with_suffix(".pt")
    save_checkpoint(file, model, arguments)
    try:
        asked = {key: arguments[key] for key in _ASKED if arguments.get(key) is not None}
        batch = asked.get("batch")
        if not isinstance(batch, int) or batch <= 0:  # a share of a GPU's memory is a training's
            asked.pop("batch", None)
        place = {"project": str(folder.resolve().parent), "name": folder.name, "exist_ok": True}
        with quiet_host():
            found = YOLO(file).val(data=data, plots=False, verbose=False, **asked, **place)
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return {key: float(found.results_dict.get(key, 0.0)) for key in METRICS}
