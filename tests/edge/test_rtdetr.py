"""A real RT-DETR from Ultralytics' exporter: boxes and mAP are those of its own predictor and validator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.detect import Detector
from yolo_musgd.edge.pictures.images import synthetic_frame, write_image
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime

SIDE = 128
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rtdetr-l with random weights and two classes, so that a row of either layout has six numbers."""
    pytest.importorskip("onnxslim")
    import torch
    from ultralytics import RTDETR
    from ultralytics.nn.tasks import RTDETRDetectionModel

    torch.manual_seed(0)
    wrapper = RTDETR("rtdetr-l.yaml")
    wrapper.model = RTDETRDetectionModel("rtdetr-l.yaml", nc=2, verbose=False)
    wrapper.model.names = {0: "cat", 1: "dog"}
    wrapper.ckpt = {"train_args": {"task": "detect", "imgsz": SIDE}}
    wrapper.save(tmp_path_factory.mktemp("rtdetr") / "rtdetr.pt")
    return Path(RTDETR(tmp_path_factory.getbasetemp() / "rtdetr0" / "rtdetr.pt").export(format="onnx", imgsz=SIDE))


def test_its_boxes_and_its_map(model: Path, tmp_path: Path) -> None:
    from ultralytics import RTDETR
    from ultralytics.utils import metrics

    artifact = open_artifact(str(model))
    assert artifact.head == "rtdetr"
    detector = Detector(artifact, open_runtime(artifact, "onnxruntime", 1), conf=0.0005)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(6):
        image = np.roll(synthetic_frame(90 + 20 * number, 160), 11 * number, axis=1)
        file = write_image(str(tmp_path / "images" / "val" / f"{number}.png"), image)
        found, (height, width) = detector(image), image.shape[:2]
        theirs = RTDETR(str(model)).predict(file, imgsz=SIDE, conf=0.0005, verbose=False)[0].boxes.data.numpy()
        theirs[:, :4] = theirs[:, :4].clip(0, [width, height] * 2)
        np.testing.assert_allclose(found[:, 4], theirs[:, 4], atol=1e-3)
        same = np.abs(found[:, None] - theirs).max(axis=2) < 1e-3  # equal scores have no order
        assert len(found) == len(theirs)
        assert same.any(axis=0).all()
        assert same.any(axis=1).all()
        rows = found[chance.choice(60, 6, replace=False)]
        rows[:, :4] = (rows[:, :4] + chance.normal(0, 1, (6, 4))).clip(0, [width, height] * 2) / ([width, height] * 2)
        rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
        text = "".join(f"{int(k)} {(a + c) / 2} {(b + d) / 2} {c - a} {d - b}\n" for a, b, c, d, _, k in rows)
        (tmp_path / "labels" / "val" / f"{number}.txt").write_text(text)
    content = {"path": str(tmp_path), "train": "images/val", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    (tmp_path / "data.yaml").write_text(json.dumps(content))
    judged = RTDETR(str(model)).val(
        data=str(tmp_path / "data.yaml"), imgsz=SIDE, batch=1, workers=0, plots=False, rect=False, project=str(tmp_path)
    )
    assert main(["val", str(model), f"source={tmp_path}/images/val", f"project={tmp_path}/out", "threads=1"]) == 0
    ours = json.loads((tmp_path / "out" / "val" / "val.json").read_text())["result"]
    if hasattr(metrics, "_AP_X"):  # older releases count hits otherwise than today's `yolo val`, which we follow
        assert ours["map50_95"] == pytest.approx(float(judged.box.map), abs=1e-3)
    assert ours["map50_95"] > 0.01


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_export_refuses_the_checkpoint_by_what_it_is(
    precision: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from yolo_musgd.cli import main as command

    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "yolo11n-mine.pt"  # its name says something else
    checkpoint.symlink_to(model.with_name("rtdetr.pt"))
    assert command(["export", f"model={checkpoint}", "target=x86", f"precision={precision}", "imgsz=64"]) == 2
    assert "is an RT-DETR, which is neither quantized nor judged here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
