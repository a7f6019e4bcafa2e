"""NCNN's INT8, and its files.

Covers ncnn_files.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.images import synthetic_frame, write_image
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export import ncnn as quantizer
from yolo_musgd.export.ncnn_files import TAG_HALF

for package in ("ncnn", "pnnx", "torch"):
    pytest.importorskip(package, reason="exports and runs an NCNN network")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """yolo11n with random weights at 64 pixels, by Ultralytics' exporter."""
    import torch
    from ultralytics import YOLO

    folder, before = tmp_path_factory.mktemp("ncnn"), Path.cwd()
    os.chdir(folder)
    try:
        torch.manual_seed(0)
        model = YOLO("yolo11n.yaml")
        model.model.train()
        with torch.no_grad():  # an untrained network's output hardly depends on the picture: normalize, then spread it
            for module in model.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 0.7
            for _ in range(3):
                model.model(torch.nn.functional.interpolate(torch.rand(4, 3, 16, 16), size=64))
            for branch in (*model.model.model[-1].cv2, *model.model.model[-1].cv3):
                branch[-1].weight.normal_(std=0.25)
                branch[-1].bias.fill_(-1.0)
        model.model.eval()
        return (folder / model.export(format="ncnn", imgsz=64)).resolve()
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    return [write_image(str(folder / f"{k}.png"), synthetic_frame(64 + 8 * k, 80)) for k in range(4)]


@pytest.fixture(scope="module")
def quantized(exported: Path, images: list[str]) -> tuple[Path, dict]:
    (exported / "__pycache__").mkdir(exist_ok=True)  # as Ultralytics leaves it
    target = exported.with_name("q_int8_ncnn_model")
    return target, quantizer.quantize_ncnn(exported, target, images, 100.0)


def test_every_byte_of_the_weights_is_read(exported: Path) -> None:
    layers = quantizer.read_network(exported)
    size = sum(a.size for layer in layers for a in (layer.weights, layer.bias) if a is not None)
    tagged = sum(layer.weights is not None for layer in layers)
    assert 4 * (size + tagged) == (exported / "model.ncnn.bin").stat().st_size
    assert sum(layer.kind in quantizer.CONVOLUTIONS for layer in layers) > 80


def test_weights_are_rounded_to_the_nearest_step(exported: Path) -> None:
    for layer in quantizer.read_network(exported):
        if layer.weights is None:
            continue
        values, scales = quantizer.quantize_weights(layer)
        back = values.reshape(len(scales), -1) / scales[:, None]
        error = np.abs(back - layer.weights.reshape(len(scales), -1))
        assert (error <= 0.5 / scales[:, None] * (1 + 1e-4) + 1e-12).all()
        assert np.abs(values.reshape(len(scales), -1)).max(axis=1).min() == 127  # each channel uses its whole range


def test_the_heads_last_convolutions_stay_float(exported: Path, quantized: tuple[Path, dict]) -> None:
    layers = {layer.name: layer for layer in quantizer.read_network(exported)}
    last = quantizer.last_convolutions(list(layers.values()))
    outputs = sorted(layers[name].number(0) for name in last if layers[name].number(0) > 1)
    assert outputs == [64, 64, 64, 80, 80, 80]  # boxes (4 x 16 bins) and classes of three scales
    assert quantized[1]["float_layers"] == sorted(last)


def test_only_the_network_is_copied(exported: Path, quantized: tuple[Path, dict]) -> None:
    assert {p.name for p in exported.iterdir()} - {p.name for p in quantized[0].iterdir()} == {"__pycache__"}


def test_the_target_may_be_inside_of_the_source(exported: Path, images: list[str], tmp_path: Path) -> None:
    """As name=best_ncnn_model/int8 has it; the copy once went on into itself."""
    source = Path(shutil.copytree(exported, tmp_path / "m_ncnn_model"))
    quantizer.quantize_ncnn(source, source / "int8", images[:1])
    assert {p.name for p in (source / "int8").iterdir()} == {p.name for p in source.iterdir() if p.is_file()}


def agreement(got: np.ndarray, expected: np.ndarray) -> float:
    """Correlation of all scores, each class's mean taken away."""
    one, other = (scores[4:] - scores[4:].mean(axis=1, keepdims=True) for scores in (got, expected))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_ncnn_computes_it_in_int8_and_close_to_float(
    exported: Path, quantized: tuple[Path, dict], images: list[str]
) -> None:
    from yolo_musgd.edge.pictures.images import read_image
    from yolo_musgd.edge.pictures.letterbox import Letterbox

    target, done = quantized
    artifact = open_artifact(str(target))
    assert artifact.precision == "int8"
    assert artifact.size_bytes < 0.45 * open_artifact(str(exported)).size_bytes
    opened, plain = (
        open_runtime(artifact, None, 1),
        open_runtime(open_artifact(str(exported)), None, 1, precision="fp32"),
    )
    graph = opened.graph()
    assert graph is not None
    assert (graph["convolutions"], graph["convolutions_int8"]) == (done["convolutions"], done["convolutions_int8"])
    for path in images:
        blob = Letterbox((64, 64))(read_image(path))[0]
        got, expected = opened.infer(blob), plain.infer(blob)
        assert not np.array_equal(got, expected)  # it is another computation
        assert agreement(got, expected) > 0.98


def test_a_wrong_scale_would_show(exported: Path, images: list[str], tmp_path: Path) -> None:
    """The check above can fail: with activations clipped at their median the scores are others."""
    from yolo_musgd.edge.pictures.images import read_image
    from yolo_musgd.edge.pictures.letterbox import Letterbox

    quantizer.quantize_ncnn(exported, tmp_path / "bad_ncnn_model", images, 50.0)
    blob = Letterbox((64, 64))(read_image(images[0]))[0]
    bad = open_runtime(open_artifact(str(tmp_path / "bad_ncnn_model")), None, 1).infer(blob)
    good = open_runtime(open_artifact(str(exported)), None, 1, precision="fp32").infer(blob)
    assert agreement(bad, good) < 0.9


def test_half_precision_weights_are_read(exported: Path, tmp_path: Path) -> None:
    layers, parts = quantizer.read_network(exported), []
    for layer in layers:
        if layer.weights is not None:
            half = layer.weights.astype("<f2").tobytes()
            parts.append(TAG_HALF.to_bytes(4, "little") + half + b"\0" * (-len(half) % 4))
        if layer.bias is not None:
            parts.append(layer.bias.tobytes())
    shutil.copyfile(exported / "model.ncnn.param", tmp_path / "model.ncnn.param")
    (tmp_path / "model.ncnn.bin").write_bytes(b"".join(parts))
    for layer, again in zip(layers, quantizer.read_network(tmp_path), strict=True):
        if layer.weights is not None:
            np.testing.assert_allclose(again.weights, layer.weights, rtol=1e-3, atol=1e-7)


def test_bad_input_is_one_line_and_leaves_nothing(
    exported: Path, quantized: tuple[Path, dict], images: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="there already"):
        quantizer.quantize_ncnn(exported, quantized[0], images)
    with pytest.raises(UserError, match="quantized already"):
        quantizer.quantize_ncnn(quantized[0], tmp_path / "x", images)
    with pytest.raises(UserError, match="is not a folder that yolo export"):
        quantizer.quantize_ncnn(tmp_path / "nowhere", tmp_path / "x", images)
    with pytest.raises(UserError, match="needs model="):
        quantizer.main({})
    with pytest.raises(UserError, match="no such file or folder"):
        quantizer.main({"model": str(exported), "source": str(tmp_path / "none")})
    damaged = tmp_path / "damaged_ncnn_model"
    shutil.copytree(exported, damaged)
    data = (damaged / "model.ncnn.bin").read_bytes()
    for content, message in ((data[:-9], "cannot be quantized"), (data + b"1234", "belong to no layer")):
        (damaged / "model.ncnn.bin").write_bytes(content)
        with pytest.raises(UserError, match=message):
            quantizer.quantize_ncnn(damaged, tmp_path / "x", images)
    assert {path.name for path in tmp_path.iterdir()} == {"damaged_ncnn_model"}


def test_command(exported: Path, images: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(Path(images[0]).parent)
    words = {"model": str(exported), "source": folder, "images": "2", "name": str(tmp_path / "out_ncnn_model")}
    assert quantizer.main(words) == 0
    assert "measured on 2 images" in capsys.readouterr().out
    assert (tmp_path / "out_ncnn_model" / "model.ncnn.bin").is_file()


def test_calibration_images_come_from_the_whole_folder(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[str]] = []

    def note(source: Path, target: Path, images: list[str], percentile: float) -> dict[str, int]:
        taken.append(images)
        return {"convolutions_int8": 1, "convolutions": 1, "bytes": 1, "images": len(images)}

    monkeypatch.setattr(quantizer, "quantize_ncnn", note)
    for k in range(7):
        write_image(str(tmp_path / f"{k}.png"), synthetic_frame(8, 8))
    assert quantizer.main({"model": str(exported), "source": str(tmp_path), "images": "4"}) == 0
    assert [Path(file).stem for file in taken[0]] == ["0", "1", "3", "5"]


def test_layers_are_found_by_their_weights_and_kept_in_float(exported: Path, images: list[str], tmp_path: Path) -> None:
    """Oracle: a graph of the network's own convolutions in another order, half of them changed past recognition."""
    import onnx
    from onnx import helper, numpy_helper

    network = quantizer.FloatNetwork(exported, images[:1], 100.0)
    every = network.convolutions[::-1]
    known = every[::2]
    constants = [
        numpy_helper.from_array(c.weights.reshape(-1, 1, 1, 1) * (1.0 if c in known else 3.0), f"w{k}")
        for k, c in enumerate(every)
    ]
    nodes = [helper.make_node("Conv", ["x", f"w{k}"], [f"y{k}"], name=f"n{k}") for k in range(len(every))]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], constants)), tmp_path / "g.onnx")
    pairs = network.paired(tmp_path / "g.onnx")
    expected = {f"n{k}": c.name for k, c in enumerate(every) if any(c is one for one in known)}
    fixed = {c.name for c in every if quantizer._is_expectation(c)}
    assert {k: v for k, v in pairs.items() if v not in fixed} == {k: v for k, v in expected.items() if v not in fixed}

    kept = [name for name in pairs.values() if name not in network.last][:2]
    done = network.quantize(tmp_path / "made", kept)
    assert set(done["float_layers"]) == network.last | set(kept)
    assert done["convolutions_int8"] == len(every) - len(network.last) - 2
    lines = {line.split()[1]: line for line in (tmp_path / "made" / "model.ncnn.param").read_text().splitlines()[2:]}
    assert not any(" 8=" in lines[name] for name in kept)


@pytest.mark.slow
def test_the_guard_judges_it_as_it_does_the_others(
    make_checkpoint, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as on most machines: PNNX imports what it has written
    from yolo_musgd.export.command import export_model
    from yolo_musgd.export.settings import ExportSettings

    model = make_checkpoint(tmp_path / "model.pt")
    result = export_model(
        ExportSettings(
            model=str(model),
            target="raspberry-pi-5",
            precision="int8",
            runtime="ncnn",
            data=str(tiny_data),
            imgsz=64,
            calibration_images=4,
            project=str(tmp_path / "out"),
        )
    )
    (built,) = result.artifacts
    assert built.folder.name == "model_int8_ncnn_model"
    assert {"map50_95", "scores", "agreement", "float_layers", "calibration"} <= set(built.evidence)
    assert built.evidence["judged_by"].startswith("ncnn")
    assert len(built.evidence["float_layers"]) >= 6
    artifact = open_artifact(str(built.folder))
    assert (artifact.verified, artifact.precision, artifact.format) == (True, "int8", "ncnn")
    assert " 8=2" in Path(artifact.model).read_text()
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    from yolo_musgd.export.ncnn import _place

    for name in ("ready", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.ncnn.bin").write_text(name)
    with pytest.raises(UserError, match="is there already"):
        _place(tmp_path / "ready", tmp_path / "target")
    assert (tmp_path / "target" / "model.ncnn.bin").read_text() == "target"
