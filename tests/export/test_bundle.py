"""The archive for a board: what is in it, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolo_musgd.cli import main as command
from yolo_musgd.export.bundle import build_pyz
from yolo_musgd.export.targets import NAMES


def detector(path: Path, operator: str = "", quantized: bool = False, opset: int = 13) -> Path:
    """A detector of two classes that finds the same object in every picture."""
    head = np.zeros((1, 6, 4), np.float32)
    head[0, :, 0] = [16, 16, 12, 8, 0.1, 0.9]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    answer = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 4])
    constants = [numpy_helper.from_array(head, "head"), numpy_helper.from_array(np.float32([0]), "zero")]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["head", "nothing"], ["output0"]),
    ]
    if operator:
        nodes.append(helper.make_node(operator, ["nothing", "zero"], ["unused"], fmod=1))
    if quantized:
        constants += [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
        nodes.append(helper.make_node("QuantizeLinear", ["nothing", "s", "z"], ["unused8"]))
    graph = helper.make_graph(nodes, "g", [image], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    for key, value in {"names": "{0: 'cat', 1: 'dog'}", "task": "detect", "end2end": "False"}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


def pyz(path: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60, check=False)


def test_pyz_is_reproducible_and_holds_edge_only(tmp_path: Path) -> None:
    first, second = build_pyz(tmp_path / "a.pyz"), build_pyz(tmp_path / "b.pyz")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    names = zipfile.ZipFile(first).namelist()
    assert {name.split("/")[0] for name in names} == {"edge", "__main__.py"}
    assert first.stat().st_size < 200_000


@pytest.mark.parametrize("target", NAMES)
def test_bundle_runs_by_itself(target: str, tmp_path: Path) -> None:
    model = detector(tmp_path / "best.onnx")
    assert command(["bundle", f"model={model}", f"target={target}", f"project={tmp_path}/out"]) == 0
    folder = tmp_path / "out" / f"edge-{target}"
    present = {path.name for path in folder.iterdir()}
    assert present == {"model", "edge.pyz", "requirements.txt", "run.sh", "samples", "README.md"}
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert list((folder / "samples").iterdir())
    assert "edge.pyz bench model" in (folder / "README.md").read_text()
    assert subprocess.run(["sh", "-n", str(folder / "run.sh")], check=False).returncode == 0
    with tarfile.open(tmp_path / "out" / f"edge-{target}.tar.gz") as archive:
        assert f"edge-{target}/edge.pyz" in archive.getnames()
    done = pyz(
        folder / "edge.pyz",
        "detect",
        "model",
        "source=samples",
        "project=results",
        "runtime=onnxruntime",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results" / "detect" / "detections.json").read_text())
    assert {row["name"] for row in found["images"][0]["detections"]} == {"dog"}


def test_damaged_bundle_is_not_run(tmp_path: Path) -> None:
    assert (
        command(["bundle", f"model={detector(tmp_path / 'best.onnx')}", f"project={tmp_path}/out", "archive=false"])
        == 0
    )
    folder = tmp_path / "out" / "edge-x86"
    with (folder / "model" / "best.onnx").open("ab") as file:
        file.write(b"\0")
    done = pyz(folder / "edge.pyz", "bench", "model", "n=1", folder=folder)
    assert done.returncode == 2
    assert "changed or damaged" in done.stderr
    assert not (folder / "runs").exists()


def test_an_artifact_is_copied_whole(tmp_path: Path) -> None:
    assert command(["bundle", f"model={detector(tmp_path / 'best.onnx')}", f"project={tmp_path}/out"]) == 0
    artifact = tmp_path / "out" / "edge-x86" / "model"
    (artifact / "notes.txt").write_text("kept")
    assert command(["bundle", f"model={artifact}", f"project={tmp_path}/again"]) == 0
    assert (tmp_path / "again" / "edge-x86" / "model" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["target=jetson-nano"], {"quantized": True}, "no INT8"),
        (["target=jetson-nano"], {"operator": "Mod"}, "no Mod operator"),
        (["target=jetson-nanoo"], {}, "did you mean jetson-nano?"),
        (["samples=nowhere"], {}, "no such file or folder"),
        (["sampels=x"], {}, "did you mean samples=?"),
    ],
)
def test_refusals(
    words: list[str], changes: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector(tmp_path / "best.onnx", **changes)
    assert command(["bundle", f"model={model}", f"project={tmp_path}/out", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_warnings_and_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = detector(tmp_path / "best.onnx", opset=14)
    assert command(["bundle", f"model={model}", "target=jetson-nano", f"project={tmp_path}/out"]) == 0
    assert "opset=13" in capsys.readouterr().err
    assert command(["bundle", f"model={model}", "target=jetson-nano", f"project={tmp_path}/out"]) == 2
    assert "there already" in capsys.readouterr().err
    assert command(["bundle"]) == 2
    assert "model= is required" in capsys.readouterr().err
