"""The command as people run it, what it refuses, and what it leaves behind when it is stopped.

Covers checkpoint.py, settings.py, manifest.py, openvino.py, parity.py, summary.py and timing.py.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.export import backend, settings
from yolo_musgd.export.checkpoint import read_checkpoint
from yolo_musgd.export.command import export_model
from yolo_musgd.export.settings import ExportSettings


@pytest.fixture(scope="session")
def exported(run, random_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``yolo-musgd export`` made of the random checkpoint for x86, INT8."""
    folder = tmp_path_factory.mktemp("exported")
    words = [f"model={random_checkpoint}", f"data={tiny_data}", "imgsz=64", "calibration_images=8"]
    done = run("yolo-musgd", "export", *words, "runtime=onnxruntime", f"project={folder}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "| onnxruntime | int8 |" in done.stdout
    return folder / "exp"


def test_the_artifact_opens_on_the_board_and_carries_its_evidence(exported: Path, random_checkpoint: Path) -> None:
    folder = exported / "random_int8_onnx_model"
    artifact = open_artifact(str(folder))
    assert artifact.verified
    assert (artifact.precision, artifact.head, artifact.imgsz) == ("int8", "raw", (64, 64))
    assert list(artifact.names.values()) == ["circle", "square", "triangle"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["map50_95"]["images"] == 8
    assert manifest["calibration"]["images"] == 8
    assert len(manifest["float_layers"]) == 9  # the six last ones, and the first with its SiLU
    assert manifest["fused"]["convolutions_int8"] == 95
    assert manifest["source"]["file"] == random_checkpoint.name
    assert manifest["parity_of_fp32_graph"]["max_score"] < 1e-3
    assert manifest["parity_of_fp32_graph"]["max_box"] < 1e-3
    assert manifest["latency_ms_p50"]["this"] > 0
    assert "yolo predict" in (folder / "README.md").read_text()
    assert not list(exported.parent.glob(".export-*"))  # nothing temporary is left
    assert "precision: int8" in (exported / "args.yaml").read_text()


def test_ultralytics_loads_the_artifact(run, exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = exported / "random_int8_onnx_model" / "model.onnx"
    source = tiny_data.parent / "images" / "val"
    done = run("yolo", "predict", f"model={model}", "imgsz=64", f"source={source}", f"project={tmp_path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 " in done.stdout or "8/8" in done.stdout


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ({"target": "jetson-nano", "precision": "int8"}, None, "sm_53"),
        ({"data": None}, None, "needs data="),
        ({"data": "nowhere.yaml"}, None, "nowhere.yaml cannot be read"),
        ({"imgsz": 100}, None, "use imgsz=96 or 128"),
        ({"model": "nowhere.pt"}, None, "does not exist"),
        ({"model": None}, None, "model= is required"),
        ({"float_layers": "/model.0/nothing"}, None, "no quantizable node '/model.0/nothing'"),
        ({"opset": 11}, None, "use opset=13"),
        ({"target": "jetson-nano", "opset": 17, "precision": "fp16"}, None, "use opset=13"),
        ({"target": "jetson-orin-nano", "variant": "x86"}, None, "use variant=universal"),
        ({"target": "raspberry-pi-5", "runtime": "ncnn", "calibration": "entropy"}, None, "percentile or minmax"),
    ],
)
def test_bad_input_is_one_line(
    words: dict, changes: object, message: str, random_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = {"model": str(random_checkpoint), "data": str(tiny_data), "imgsz": 64, "project": str(tmp_path / "out")}
    given |= {"runtime": "auto" if "target" in words else "onnxruntime", "calibration_images": 4, "val_images": 2}
    with pytest.raises(UserError) as caught:
        export_model(ExportSettings(**{**given, **words}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    left = [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] if (tmp_path / "out").exists() else []
    assert not [name for name in left if not name.endswith(".json")]  # at most the calibration, which is whole


def test_wrong_kinds_of_model(exported: Path, tiny_data: Path, make_checkpoint, tmp_path: Path) -> None:
    onnx = exported / "random_int8_onnx_model" / "model.onnx"
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"not a checkpoint")
    segment = make_checkpoint(tmp_path / "segment.pt", "segment", "yolo26n-seg.yaml")
    for path, part in ((onnx, "no checkpoint"), (damaged, "cannot be loaded"), (segment, "task=segment")):
        with pytest.raises(UserError, match=part):
            export_model(ExportSettings(model=str(path), data=str(tiny_data), imgsz=64, project=str(tmp_path)))


def test_classes_must_fit(random_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "one.yaml"
    yaml.write_text(f"path: {tiny_data.parent}\ntrain: images/train\nval: images/val\nnames: {{0: thing}}\n")
    with pytest.raises(UserError, match="has 1 classes"):
        export_model(ExportSettings(model=str(random_checkpoint), data=str(yaml), imgsz=64, project=str(tmp_path)))


def test_only_a_data_set_that_was_asked_for_is_downloaded(random_checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "downloaded"
    yaml = tmp_path / "far.yaml"
    splits = f"path: {tmp_path}/far\ntrain: images\nval: images\nnames: [circle, square, triangle]\n"
    yaml.write_text(f"{splits}download: |\n  open({str(marker)!r}, 'w').close()\n")
    checkpoint = dataclasses.replace(read_checkpoint(random_checkpoint), data=str(yaml))
    assert settings._splits(ExportSettings(), checkpoint, "fp32") is None
    with pytest.raises(UserError, match=r"needs data=.*trained with is not at hand .*far\.yaml"):
        settings._splits(ExportSettings(), checkpoint, "int8")
    assert not marker.exists()
    with pytest.raises(UserError, match="train split cannot be read"):  # this download brought no images
        settings._splits(ExportSettings(data=str(yaml)), checkpoint, "int8")
    assert marker.exists()


def test_exist_ok_replaces_an_earlier_export_and_nothing_else(random_checkpoint: Path, tmp_path: Path) -> None:
    given = {"precision": "fp32", "runtime": "onnxruntime", "imgsz": 64, "exist_ok": True}
    training = tmp_path / "train"
    weights = training / "weights" / "best.pt"
    weights.parent.mkdir(parents=True)
    shutil.copyfile(random_checkpoint, weights)
    for place in ({"project": str(tmp_path), "name": "train"}, {"save_dir": str(training)}):
        with pytest.raises(UserError, match="something else than results of this command"):
            export_model(ExportSettings(model=str(weights), **given, **place))
    assert weights.is_file()
    for _ in range(2):
        made = export_model(ExportSettings(model=str(weights), save_dir=str(tmp_path / "out"), **given))
        (made.folder / "old").touch()
    assert {path.name for path in tmp_path.iterdir()} - {".calibration"} == {"train", "out"}
    assert (made.folder / "best_fp32_onnx_model" / "manifest.json").is_file()
    assert made.artifacts[0].folder.parent == made.folder


def test_a_full_disk_leaves_nothing(
    random_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backend, "write_artifact", full)
    settings = ExportSettings(
        model=str(random_checkpoint), data=str(tiny_data), imgsz=64, precision="fp32", runtime="onnxruntime",
        project=str(tmp_path / "out"), val_images=2,
    )  # fmt: skip
    with pytest.raises(UserError, match="no space left"):
        export_model(settings)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_export_leaves_nothing(
    random_checkpoint: Path, tiny_data: Path, tmp_path: Path, programs: Path, sent: signal.Signals
) -> None:
    words = [f"model={random_checkpoint}", f"data={tiny_data}", "imgsz=64", f"project={tmp_path / 'out'}"]
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from yolo_musgd.cli import main; "
        f"sys.exit(main(['export', *{words!r}]))"
    )
    process = subprocess.Popen([programs / "python", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".export-*/work/fp32")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, output
    assert not [p for p in (tmp_path / "out").iterdir() if p.name != ".calibration"]


def test_tensorrt_graph_without_data(random_checkpoint: Path, tmp_path: Path) -> None:
    """FP16 needs no images; what was not measured is null."""
    result = export_model(
        ExportSettings(model=str(random_checkpoint), target="jetson-nano", imgsz=64, project=str(tmp_path), lint=False)
    )
    manifest = json.loads((result.artifacts[0].folder / "manifest.json").read_text())
    assert manifest["tensorrt"] == {"operators_of": "8.2", "trial_build": None}
    assert manifest["map50_95"] is None
    assert manifest["latency_ms_p50"]["this"] is None
    assert manifest["opset"] == 13
    assert result.fastest is None
    readme = (result.artifacts[0].folder / "README.md").read_text()
    assert "trtexec --onnx=model.onnx" in readme
    assert "not measured" in readme


def test_openvino_int8_with_our_calibration(random_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="extra openvino is not installed")
    pytest.importorskip("nncf", reason="extra openvino is not installed")
    settings = ExportSettings(
        model=str(random_checkpoint), data=str(tiny_data), imgsz=64, runtime="openvino", project=str(tmp_path),
        calibration_images=4, val_images=4,
    )  # fmt: skip
    built = export_model(settings).artifacts[0]
    artifact = open_artifact(str(built.folder))
    assert (artifact.format, artifact.precision, artifact.head) == ("openvino", "int8", "raw")
    weights = np.fromfile(built.folder / "model.bin", np.uint8)
    assert weights.size < 0.45 * random_checkpoint.stat().st_size  # FP16 in the checkpoint, INT8 here
    assert "stride: 32" in (built.folder / "metadata.yaml").read_text()


def test_a_pruned_checkpoint_keeps_its_widths(random_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Widths that no model YAML has: half of the second convolution's channels are cut out."""
    import torch
    from ultralytics import YOLO

    wrapper = YOLO(str(random_checkpoint))
    second, third = wrapper.model.model[1], wrapper.model.model[2].cv1
    for norm in (second.bn.weight, second.bn.bias):
        norm.data = norm.data[:16]
    second.bn.running_mean, second.bn.running_var = second.bn.running_mean[:16], second.bn.running_var[:16]
    second.conv.weight.data, third.conv.weight.data = second.conv.weight.data[:16], third.conv.weight.data[:, :16]
    second.conv.out_channels = third.conv.in_channels = second.bn.num_features = 16
    pruned = tmp_path / "pruned.pt"
    wrapper.save(pruned)
    settings = ExportSettings(
        model=str(pruned), data=str(tiny_data), imgsz=64, precision="fp32", runtime="onnxruntime", val_images=2,
        project=str(tmp_path / "out"),
    )  # fmt: skip
    built = export_model(settings).artifacts[0]
    assert built.evidence["parity"]["max_score"] < 1e-3
    import onnx

    shapes = {i.name: list(i.dims) for i in onnx.load(str(built.folder / "model.onnx")).graph.initializer}
    assert shapes["model.1.conv.weight"] == [16, 16, 3, 3]
    assert torch.load(pruned, weights_only=False)["model"].model[1].conv.out_channels == 16
