"""Reading the checkpoint that is pruned, and writing one in stock classes that loads anywhere."""

from __future__ import annotations

import copy
import datetime
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune import adapters
from yolo_musgd.train.pruned import MARK

TASKS = ("detect", "segment", "pose", "obb", "classify")


def load(path: str) -> tuple[Any, dict[str, Any]]:
    """A trained model and its checkpoint.

    Args:
        path: a ``.pt`` that training wrote, the name of one that Ultralytics offers, or a model YAML (random
            weights, for trying things).

    Returns:
        The module in FP32 and eval mode, and the checkpoint's dictionary (empty for a YAML).

    Raises:
        UserError: missing, not a checkpoint, or an architecture without adapters.
    """
    from ultralytics import YOLO
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
    from ultralytics.utils.patches import torch_load

    if Path(path).suffix not in (".pt", ".yaml", ".yml"):
        raise UserError(f"model={path} must be a .pt checkpoint, since an exported graph cannot be pruned")
    if Path(path).suffix == ".pt" and not Path(path).is_file() and path not in GITHUB_ASSETS_NAMES:
        raise UserError(f"model={path} does not exist")
    named = Path(path).stem.lower()
    if "rtdetr" in named:
        raise UserError(f"model={path}: RT-DETR cannot be pruned, {adapters.REFUSED['RTDETRDecoder']}")
    try:
        model: Any = YOLO(path).model
        saved: dict[str, Any] = torch_load(path, map_location="cpu") if Path(path).suffix == ".pt" else {}
    except Exception as error:  # whatever a broken file makes the loader raise
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"model={path} cannot be loaded: {first[0]}") from error
    if not isinstance(model, nn.Module) or getattr(model, "task", None) not in TASKS:
        raise UserError(f"model={path} is not a model for {', '.join(TASKS)}")
    adapters.check_supported(model)
    module: Any = model
    module.criterion = None
    return module.float().eval(), saved


def save(model: Any, path: Path, source: dict[str, Any], note: dict[str, Any]) -> Path:
    """Write a checkpoint as Ultralytics' training does at its end, whole or not at all.

    Args:
        model: pruned, in stock classes.
        path: where.
        source: the checkpoint that was pruned, whose training arguments are carried over.
        note: what was done, kept in ``model.yaml``: plain numbers and texts; empty for a model that is not pruned.
    """
    from ultralytics import __version__
    from ultralytics.cfg import DEFAULT_CFG_DICT

    kept: Any = copy.deepcopy(model)
    kept.criterion = None
    kept.yaml = {**kept.yaml, MARK: note} if note else kept.yaml
    arguments = {k: v for k, v in (source.get("train_args") or {}).items() if k in DEFAULT_CFG_DICT}
    kept.args, kept.pt_path = {**arguments, "task": kept.task, "model": str(path)}, str(path)
    for parameter in kept.parameters():
        parameter.requires_grad_(False)
    content = {
        "date": datetime.datetime.now().astimezone().isoformat(),
        "version": __version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "epoch": -1,
        "best_fitness": None,
        "model": kept.half().eval(),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": kept.args,
        "train_metrics": None,
    }
    return write(content, path)


def write(content: dict[str, Any], path: Path) -> Path:
    """Write the dictionary of a checkpoint whole or not at all; returns ``path``."""
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
    try:
        torch.save(content, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
