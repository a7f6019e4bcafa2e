"""detect.py, evaluate.py and runtimes/{open,base,onnx_runtime,openvino_runtime,ncnn_runtime}.py.

Boxes and mAP, with Ultralytics as oracle.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.detect import Detector, Tally
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.labels import label_path
from yolo_musgd.edge.pictures.boxes import iou_matrix
from yolo_musgd.edge.pictures.images import read_image
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime

REPO = Path(__file__).resolve().parents[2]


def ultralytics_boxes(model: str, image: np.ndarray, imgsz: int, conf: float) -> np.ndarray:
    from ultralytics import YOLO

    result = YOLO(model, task="detect").predict(image, imgsz=imgsz, conf=conf, iou=0.7, verbose=False, device="cpu")
    return np.asarray(result[0].boxes.data)


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Same boxes in any order of equal scores."""
    assert len(got) == len(expected)
    if not len(got):
        return
    got, expected = (
        rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 5], -rows[:, 4].round(3)))] for rows in (got, expected)
    )
    np.testing.assert_array_equal(got[:, 5], expected[:, 5])
    np.testing.assert_allclose(got[:, 4], expected[:, 4], atol=1e-3)
    np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=0.5)
    solid = ((expected[:, 2:4] - expected[:, :2]) > 2).all(axis=1)  # boxes at the rim may have no area left
    assert np.diag(iou_matrix(got[solid, :4], expected[solid, :4])).min(initial=1.0) > 0.99


@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_random_weights_detect_as_in_ultralytics(
    head: str, random_models: dict[str, Path], pictures: Path, oracle: list[str]
) -> None:
    artifact = open_artifact(str(random_models[head]))
    assert artifact.onnx is not None
    named = "end2end" in artifact.onnx.metadata
    assert artifact.head == (head if named else None)
    assert named or (head == "raw" and "match_predictions" in oracle)  # 8.4.0 writes it for the NMS-free head only
    runtime = open_runtime(artifact, "onnxruntime", 1)
    scores = []
    for path in sorted(pictures.iterdir()):
        image = read_image(str(path))
        every = Detector(artifact, runtime, conf=0.0)(image)
        conf = float(np.sort(every[:, 4])[-min(40, len(every))]) - 1e-7  # about forty boxes pass
        got = Detector(artifact, runtime, conf=conf)(image)
        scores.append(len(got))
        assert_same(got, ultralytics_boxes(str(random_models[head]), image, 128, conf))
    assert max(scores) > 5


@pytest.mark.shared
@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_twenty_photographs(head: str, real_models: dict[str, Path], photos: list[Path]) -> None:
    artifact = open_artifact(str(real_models[head]))
    detector = Detector(artifact, open_runtime(artifact, "onnxruntime", 1))
    total = 0
    for path in photos:
        image = read_image(str(path))
        got = detector(image)
        total += len(got)
        assert_same(got, ultralytics_boxes(str(real_models[head]), image, 320, 0.25))
    assert total > 40


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_runtimes_agree(runtime: str, small_models: dict[str, Path], pictures: Path) -> None:
    pytest.importorskip(runtime)
    artifact = open_artifact(str(small_models["raw"]))
    blob = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    reference = open_runtime(artifact, "onnxruntime", 1).infer(blob)
    opened = open_runtime(artifact, runtime, 1)
    np.testing.assert_allclose(opened.infer(blob), reference, atol=2e-3)
    assert opened.version
    opened.close()


def test_ncnn_and_openvino_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_head: Callable[[object], dict[str, object]]
) -> None:
    for package in ("ncnn", "pnnx"):
        pytest.importorskip(package)
    import torch
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = YOLO("yolo26n.yaml")
    words = raw_head(model)
    folder = model.export(format="ncnn", imgsz=64, **words)
    onnx_file = model.export(format="onnx", imgsz=64, **words)
    artifact = open_artifact(str(folder))
    assert (artifact.format, artifact.imgsz, len(artifact.names)) == ("ncnn", (64, 64), 80)
    blob = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    exact = open_runtime(artifact, None, 1, precision="fp32").infer(blob)
    reference = open_runtime(open_artifact(str(onnx_file)), "onnxruntime", 1).infer(blob)
    np.testing.assert_allclose(exact, reference, atol=0.02)
    with pytest.raises(UserError, match="a model for ncnn, not for tensorrt"):
        open_runtime(artifact, "tensorrt", 1)


def make_dataset(base: Path, model: Path, pictures: Path) -> Path:
    """Label pictures with the model's own best boxes, a little shifted, so that mAP lies between 0 and 1."""
    artifact = open_artifact(str(model))
    detector = Detector(artifact, open_runtime(artifact, "onnxruntime", 1), conf=0.0, max_det=12)
    (base / "images").mkdir(parents=True)
    (base / "labels").mkdir()
    for k, path in enumerate(sorted(pictures.iterdir())):
        image = read_image(str(path))
        (base / "images" / path.name).write_bytes(path.read_bytes())
        height, width = image.shape[:2]
        lines = []
        for x1, y1, x2, y2, _, cls in detector(image):
            shift = 0.04 * k * (x2 - x1)
            x1, x2 = min(x1 + shift, width), min(x2 + shift, width)
            if x2 - x1 > 2 and y2 - y1 > 2:
                box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(" ".join([str(int(cls)), *(f"{value:.6f}" for value in box)]))
        (base / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
    return base / "images"


def ultralytics_map(model: Path, images: Path, names: dict[int, str], imgsz: int, tmp: Path) -> float:
    from ultralytics import YOLO

    data = tmp / "data.yaml"
    data.write_text(json.dumps({"path": str(images.parent), "train": "images", "val": "images", "names": names}))
    metrics = YOLO(str(model), task="detect").val(
        data=str(data), imgsz=imgsz, batch=1, plots=False, verbose=False, device="cpu", project=str(tmp / "runs")
    )
    return float(metrics.box.map)


@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_val_is_ultralytics_without_real_data(
    head: str, random_models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    images = make_dataset(tmp_path / "set", random_models[head], pictures)
    words = ["val", str(random_models[head]), f"source={images}", f"project={tmp_path}/out", "threads=1"]
    assert main(words) == 0
    report = json.loads((tmp_path / "out" / "val" / "val.json").read_text())
    names = open_artifact(str(random_models[head])).names
    expected = ultralytics_map(random_models[head], images, names, 128, tmp_path)
    assert report["result"]["map50_95"] == pytest.approx(expected, abs=0.002)
    assert expected > 0.05
    assert report["result"]["images"] == 3


def test_val_leaves_out_what_ultralytics_leaves_out(
    random_models: dict[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image without a label file is one without objects; one that cannot be read must not cost the others."""
    model = random_models["raw"]
    images = make_dataset(tmp_path / "set", model, pictures)
    first = min(images.iterdir())
    labels = images.with_name("labels")
    for k, name in enumerate(("background", "junk", "other_class", "outside", "slightly_outside")):
        # never the same picture twice: which of two equal scores comes first is chance
        Image.open(first).point([(v + 17 * k + 9) % 256 for v in range(256)] * 3).save(images / f"{name}.png")
    (images / "no_image.jpg").write_text("this is no picture")
    (labels / "junk.txt").write_text("0 a b c d\n")
    (labels / "other_class.txt").write_text("99 0.5 0.5 0.2 0.2\n")
    (labels / "outside.txt").write_text("0 1.5 0.5 0.2 0.2\n")
    (labels / "slightly_outside.txt").write_text("0 -0.005 0.5 0.2 0.2\n")
    assert main(["val", str(model), f"source={images}", f"project={tmp_path}/out", "threads=1"]) == 2
    report = json.loads((tmp_path / "out" / "val" / "val.json").read_text())
    expected = ultralytics_map(model, images, open_artifact(str(model)).names, 128, tmp_path)
    assert report["result"]["map50_95"] == pytest.approx(expected, abs=0.002)
    assert (report["result"]["images"], len(report["left_out"])) == (3 + 2, 4)
    said = capsys.readouterr()
    assert said.err.count("left out: ") == 4
    assert "4 of 9 images cannot be used: " in said.err.splitlines()[-1]
    assert said.err.endswith("; more than a tenth: mend the data set first\n")
    assert "4 images left out" in said.out
    for label in labels.iterdir():
        label.write_text("99 0.5 0.5 0.2 0.2\n")
    (images / f"background{first.suffix}").unlink(missing_ok=True)
    (images / "background.png").unlink(missing_ok=True)
    assert main(["val", str(model), f"source={images}", f"project={tmp_path}/wrong", "threads=1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert re.search("none of 8 images can be judged: .*class 99 but the model has 80", said[-1])
    assert not any((tmp_path / "wrong").iterdir())


@pytest.mark.parametrize("command", ["val", "detect"])
def test_a_source_without_images_leaves_no_folder(
    command: str, small_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = [command, str(small_models["raw"]), f"source={tmp_path / 'empty'}", f"project={tmp_path}/out"]
    assert main(words) == 2
    assert "no images in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_costs_only_itself(
    small_models: dict[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_text("no picture")
    words = ["detect", str(small_models["raw"]), f"source={folder}", f"project={tmp_path}/out", "save=False"]
    assert main(words) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "1 of 4 images cannot be used" in said.splitlines()[-1]
    record = json.loads((tmp_path / "out" / "detect" / "detections.json").read_text())
    assert len(record["images"]) == len(list(pictures.iterdir()))


@pytest.mark.shared
def test_val_is_ultralytics_on_photographs(real_models: dict[str, Path], photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    for path in photos:
        (tmp_path / "set" / "images" / path.name).symlink_to(path)
        label = Path(label_path(str(path)))
        if label.is_file():
            (tmp_path / "set" / "labels" / label.name).symlink_to(label)
    images = tmp_path / "set" / "images"
    model = real_models["raw"]
    assert main(["val", str(model), f"source={images}", f"project={tmp_path}/out", "threads=1"]) == 0
    report = json.loads((tmp_path / "out" / "val" / "val.json").read_text())
    expected = ultralytics_map(model, images, open_artifact(str(model)).names, 320, tmp_path)
    assert report["result"]["map50_95"] == pytest.approx(expected, abs=0.002)
    assert expected > 0.2


def test_detect_command(small_models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    words = [
        "detect",
        str(small_models["raw"]),
        f"source={pictures}",
        f"project={tmp_path}/o",
        "conf=0.0",
        "max_det=5",
    ]
    assert main(words) == 0
    report = json.loads((tmp_path / "o" / "detect" / "detections.json").read_text())
    assert report["schema"] == "yolo-musgd/detections/1"
    assert [Path(entry["image"]).name for entry in report["images"]] == ["0.png", "1.png", "2.png"]
    for entry in report["images"]:
        assert len(entry["detections"]) == 5
        picture = read_image(str(tmp_path / "o" / "detect" / entry["picture"]))
        assert picture.shape[:2] == (entry["height"], entry["width"])
    assert main(words) == 0
    assert (tmp_path / "o" / "detect2").is_dir()  # counted up, nothing overwritten


def test_pictures_of_many_folders_may_have_one_name(
    small_models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """As a list names them: 0.png of a folder a clip, more often than a file's name has letters."""
    (pictures / "list.txt").write_text("0.png\n" * 260)
    assert main(["detect", str(small_models["raw"]), f"source={pictures}/list.txt", f"project={tmp_path}/o"]) == 0
    report = json.loads((tmp_path / "o" / "detect" / "detections.json").read_text())
    written = [entry["picture"] for entry in report["images"]]
    assert len(set(written)) == 260
    assert {path.name for path in (tmp_path / "o" / "detect").glob("*.jpg")} == set(written)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_is_stopped_leaves_what_was_detected(sent: int, small_models: dict[str, Path], tmp_path: Path) -> None:
    """From edge.pyz's command line, as a service manager stops it: the file is whole and has its name."""
    Image.new("RGB", (64, 48)).save(tmp_path / "first.png")
    words = ["detect", str(small_models["raw"]), f"source={tmp_path}", "watch=True", "runtime=onnxruntime"]
    with subprocess.Popen(
        [sys.executable, "-m", "yolo_musgd.edge", *words, f"project={tmp_path}/out"], text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "first.png" in process.stdout.readline()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "edge: interrupted"
    folder = tmp_path / "out" / "detect"
    assert sorted(path.name for path in folder.iterdir()) == ["detections.json", "first.jpg"]
    assert len(json.loads((folder / "detections.json").read_text())["images"]) == 1


def test_where_nothing_is_found_the_threshold_is_named() -> None:
    tally = Tally()
    tally.add({"ms": {"inference": 2.0}, "detections": []})
    assert "0 objects on 1 images (none with a score of 0.25" in tally.result("f", "p", "m", 0.25).said
    tally.add({"ms": {"inference": 2.0}, "detections": [{"name": "bolt"}]})
    assert "1 objects on 2 images (most: 1 bolt)" in tally.result("f", "p", "m", 0.25).said
