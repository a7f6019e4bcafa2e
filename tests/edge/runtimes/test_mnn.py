"""runtimes/mnn_runtime.py and yolo_musgd/export/mnn.py: the same detections as in ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MNN", exc_type=ImportError)

from yolo_musgd.edge.__main__ import main
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.metadata import read_embedded_json
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.mnn import save_mnn

FACTS = {"names": {str(k): f"thing {k}" for k in range(80)}, "imgsz": [128, 128], "task": "detect"}


@pytest.fixture(scope="module")
def models(small_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mnn")
    heads = {"raw": "False", "nms_free": "True"}
    return {
        head: save_mnn(small_models[head], folder / f"{head}.mnn", {**FACTS, "end2end": end}, half=False)
        for head, end in heads.items()
    }


@pytest.mark.parametrize("head", ["raw", "nms_free"])
@pytest.mark.parametrize("threads", [1, 2])
def test_output_is_that_of_onnx_runtime(
    head: str, threads: int, models: dict[str, Path], small_models: dict[str, Path]
) -> None:
    artifact = open_artifact(str(models[head]))
    assert (artifact.format, artifact.head, artifact.imgsz, len(artifact.names)) == ("mnn", head, (128, 128), 80)
    runtime = open_runtime(artifact, None, threads)
    reference = open_runtime(open_artifact(str(small_models[head])), "onnxruntime", 1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        blob = rng.random((1, 3, 128, 128), np.float32)
        first = runtime.infer(blob)
        np.testing.assert_allclose(first, reference.infer(blob), atol=2e-3)
        kept = first.copy()
        runtime.infer(rng.random((1, 3, 128, 128), np.float32))
        np.testing.assert_array_equal(first, kept)  # no view of memory that the next frame overwrites
    runtime.close()


def test_detect_gives_the_same_boxes(
    models: dict[str, Path], small_models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    found = {}
    for name, model in (("mnn", models["raw"]), ("onnx", small_models["raw"])):
        words = [f"source={pictures}", "save=False", "conf=0.6", "threads=1", f"save_dir={tmp_path / name}"]
        assert main(["detect", str(model), *words]) == 0
        found[name] = json.loads((tmp_path / name / "detections.json").read_text())
    assert found["mnn"]["runtime"]["name"] == "mnn"
    for mine, theirs in zip(found["mnn"]["images"], found["onnx"]["images"], strict=True):
        assert [d["class"] for d in mine["detections"]] == [d["class"] for d in theirs["detections"]]
        boxes = [[d["box"] for d in side["detections"]] for side in (mine, theirs)]
        np.testing.assert_allclose(*boxes, atol=0.1)


def test_a_damaged_file_is_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.mnn"
    bad.write_bytes(b"x" * 500)
    with pytest.raises(UserError, match="does not say its input size"):
        open_artifact(str(bad))
    with pytest.raises(UserError, match="MNN cannot read"):
        open_runtime(open_artifact(str(bad), 128), "mnn", 1)


def test_metadata_survives_any_text(small_models: dict[str, Path], tmp_path: Path) -> None:
    facts = {**FACTS, "names": {"0": 'a "quoted" {"name"} ä猫\0'}}
    made = save_mnn(small_models["raw"], tmp_path / "x.mnn", facts, half=True)
    assert read_embedded_json(str(made)) == facts
    assert made.stat().st_size < small_models["raw"].stat().st_size


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no graph")
    with pytest.raises(UserError, match="MNN cannot convert") as caught:
        save_mnn(bad, tmp_path / "x.mnn", FACTS, half=False)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "x.mnn").exists()


def test_neither_runner_nor_converter_loads_the_telemetry() -> None:
    code = (
        "import sys, MNN, _tools; from yolo_musgd.edge.runtimes.mnn_runtime import Mnn; Mnn.available();"
        "print([name for name in sys.modules if name.startswith(('MNN.tools', 'aliyun'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
