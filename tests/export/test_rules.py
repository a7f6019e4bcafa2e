"""A model is judged on what it was trained for: single_cls and classes come from its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from yolo_musgd.data.reader import Rules, check, read_split
from yolo_musgd.export.backends import trained_with
from yolo_musgd.export.command import export_model
from yolo_musgd.export.settings import ExportSettings


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A random model of one class, as `yolo train single_cls=True` leaves it."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    wrapper = YOLO("yolo26n.yaml")
    wrapper.model = DetectionModel("yolo26n.yaml", nc=1, verbose=False)
    wrapper.model.names = {0: "item"}
    wrapper.model.args = {"task": "detect", "imgsz": 64, "single_cls": True}
    wrapper.ckpt = {"train_args": wrapper.model.args}
    wrapper.save(tmp_path / "one.pt")
    return tmp_path / "one.pt"


def test_a_single_class_model_is_judged_on_all_objects(single: Path, tiny_data: Path, tmp_path: Path) -> None:
    made = export_model(
        ExportSettings(
            model=str(single), data=str(tiny_data), imgsz=64, precision="fp32", runtime="onnxruntime",
            project=str(tmp_path / "out"),
        )
    )  # fmt: skip
    content = json.loads((made.folder / "val.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "item"}]
    every = read_split(check(str(tiny_data)), "val")
    assert len(content["annotations"]) == sum(len(image.labels) for image in every.images)
    assert {note["category_id"] for note in content["annotations"]} == {1}
    assert trained_with(made.artifacts[0].folder) == Rules(single_cls=True)
