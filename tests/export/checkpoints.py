"""Checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path

NAMES = {0: "circle", 1: "square", 2: "triangle"}  # of tests/conftest.py's tiny_data


def save_random(path: Path, task: str = "detect", yaml: str = "yolo26n.yaml") -> Path:
    """A checkpoint with random weights and the classes of tiny_data."""
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    torch.manual_seed(0)
    wrapper = YOLO(yaml, task=task)
    kind = SegmentationModel if task == "segment" else DetectionModel
    wrapper.model = kind(yaml, nc=3, verbose=False)
    wrapper.model.names = dict(NAMES)
    wrapper.ckpt = {"train_args": {"task": task, "imgsz": 64}}
    wrapper.save(path)
    return path
