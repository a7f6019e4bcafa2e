"""Trainers by name: ``from yolo_musgd.trainers import MuSGDDetectionTrainer``, and its siblings for every task.

Pickle and the worker processes of DDP import the classes from here. The plugin is registered first, since a worker that
unpickles a trainer needs its keys before it builds the configuration.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from yolo_musgd import plugin
from yolo_musgd.train.trainer import PREFIX, trainer_class

plugin.register()

_HOMES = (
    *(f"ultralytics.models.yolo.{t}" for t in ("detect", "segment", "pose", "obb", "classify", "semantic", "depth")),
    "ultralytics.models.yolo.world",
    "ultralytics.models.yolo.world.train_world",
    "ultralytics.models.yolo.yoloe",
    "ultralytics.models.rtdetr",
    "ultralytics.models.rtdetr.train",
)


def __getattr__(name: str) -> Any:
    """``MuSGD<Trainer>`` for any trainer of Ultralytics (PEP 562); ``MuSGDTrainer`` is the detection trainer's."""
    if name == "MuSGDTrainer":
        name = "MuSGDDetectionTrainer"
    if name.startswith(PREFIX) and "Trainer" in name:
        for home in _HOMES:
            with contextlib.suppress(ImportError):
                base = getattr(importlib.import_module(home), name.removeprefix(PREFIX), None)
                if isinstance(base, type):
                    return trainer_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
