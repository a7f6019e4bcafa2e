"""Grey models (``channels: 1`` in the data YAML) in export, INT8, val, detect, bench, bundle; Ultralytics judges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.cli import main
from yolo_musgd.edge.detect import Detector
from yolo_musgd.edge.pictures.images import read_image
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.export.command import export_model
from yolo_musgd.export.loaded import load
from yolo_musgd.export.settings import ExportSettings

CLASSES = {0: "circle", 1: "square", 2: "triangle"}


@pytest.fixture(scope="module")
def grey_data(tiny_data: Path) -> Path:
    path = tiny_data.with_name("grey.yaml")
    path.write_text(tiny_data.read_text() + "channels: 1\n")
    return path


@pytest.fixture(scope="module")
def grey_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    wrapper = YOLO("yolo26n.yaml")
    wrapper.model = DetectionModel("yolo26n.yaml", ch=1, nc=3, verbose=False)
    wrapper.model.yaml["channels"] = 1
    wrapper.model.names = dict(CLASSES)
    wrapper.ckpt = {"train_args": {"task": "detect", "imgsz": 64}}
    path = tmp_path_factory.mktemp("grey") / "grey.pt"
    wrapper.save(path)
    return path


@pytest.fixture(scope="module")
def exported(grey_checkpoint: Path, grey_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Precision -> artifact."""
    made = {}
    for precision in ("fp32", "int8"):
        settings = ExportSettings(
            model=str(grey_checkpoint), data=str(grey_data), imgsz=64, runtime="onnxruntime", precision=precision,
            calibration_images=8, project=str(tmp_path_factory.mktemp("out")),
        )  # fmt: skip
        made[precision] = export_model(settings).artifacts[0].folder
    return made


def test_the_artifact_says_so_and_computes_what_the_checkpoint_does(exported: dict[str, Path]) -> None:
    manifest = json.loads((exported["fp32"] / "manifest.json").read_text())
    assert manifest["channels"] == 1
    assert manifest["parity"]["max_score"] < 1e-3
    assert manifest["map50_95"]["images"] == 8
    assert "one grey image, float32 NCHW (1, 1, 64, 64)" in (exported["fp32"] / "README.md").read_text()
    assert load(exported["int8"], "onnxruntime", 1).runtime.input_shape == (1, 1, 64, 64)


def test_the_input_is_ultralytics_own(grey_data: Path) -> None:
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    content = check_det_dataset(str(grey_data))
    args = get_cfg(overrides={"imgsz": 64, "task": "detect"})
    theirs = build_yolo_dataset(args, content["val"], 1, content, mode="val", rect=False)
    letterbox = Letterbox((64, 64), 1)
    for item in (theirs[k] for k in range(len(theirs))):
        blob = letterbox(read_image(item["im_file"], 1))[0]
        np.testing.assert_array_equal(blob[0] * 255, item["img"].numpy())


def test_detections_are_ultralytics_own(exported: dict[str, Path], grey_checkpoint: Path, grey_data: Path) -> None:
    from ultralytics import YOLO

    loaded = load(exported["fp32"], "onnxruntime", 1)
    detector = Detector(*loaded, conf=0.0001, max_det=20)
    model = YOLO(str(exported["fp32"] / "model.onnx"), task="detect")
    for file in sorted((grey_data.parent / "images" / "val").glob("*.*"))[:3]:
        theirs = model.predict(str(file), imgsz=64, conf=0.0001, iou=0.7, max_det=20, verbose=False)[0].boxes.data
        mine = detector(read_image(str(file), 1))
        assert len(mine) == 20
        np.testing.assert_allclose(mine[:, 4], theirs[:, 4], atol=1e-5)
    loaded.close()


def test_the_commands_take_it(exported: dict[str, Path], grey_data: Path, tmp_path: Path) -> None:
    images = grey_data.parent / "images" / "val"
    words = [f"model={exported['int8']}", f"source={images}", f"project={tmp_path}", "runtime=onnxruntime"]
    assert main(["val", *words]) == 0
    assert main(["detect", *words, "conf=0.0001", "max_det=3"]) == 0
    assert main(["bench", *words, "threads=1", "n=2", "seconds=0.1", "warmup=0.1"]) == 0
    assert main(["bundle", f"model={exported['int8']}", f"samples={images}", f"project={tmp_path}"]) == 0
    assert json.loads((tmp_path / "edge-x86" / "model" / "manifest.json").read_text())["channels"] == 1
