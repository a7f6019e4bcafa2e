"""topk.py: the selection of anchors in the graph changes no box, and TensorRT-RTX builds it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.append(str(Path(__file__).parents[1] / "edge"))
from small_models import ANCHORS, CLASSES, write_detector

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.boxes import decode
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.tensorrt_graph import trial_build, unsupported
from yolo_musgd.export.topk import add_topk


def outputs(path: Path, count: int = 5) -> list[np.ndarray]:
    runtime = open_runtime(open_artifact(str(path)), "onnxruntime", 1)
    rng = np.random.default_rng(0)
    return [runtime.infer(rng.random((1, 3, 128, 128), np.float32)).copy() for _ in range(count)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "raw.onnx", False)


@pytest.mark.parametrize("count", [1, 16, ANCHORS - 1])
def test_the_best_anchors_come_out_best_first(count: int, raw: Path) -> None:
    whole = outputs(raw)
    add_topk(raw, count)
    artifact = open_artifact(str(raw))
    assert (artifact.head, len(artifact.names)) == ("raw", CLASSES)
    for all_anchors, selected in zip(whole, outputs(raw), strict=True):
        order = np.argsort(-all_anchors[4:].max(axis=0), kind="stable")[:count]
        np.testing.assert_array_equal(selected, all_anchors[:, order])


def test_boxes_are_the_same(raw: Path) -> None:
    whole = outputs(raw)
    add_topk(raw, 32)
    compared = 0
    for all_anchors, selected in zip(whole, outputs(raw), strict=True):
        conf = float(np.sort(all_anchors[4:].max(axis=0))[-20])  # twenty anchors pass
        expected = decode(all_anchors, "raw", CLASSES, conf)
        np.testing.assert_array_equal(decode(selected, "raw", CLASSES, conf), expected)
        compared += len(expected)
    assert compared > 20


def test_a_graph_with_few_anchors_stays(raw: Path) -> None:
    before = raw.read_bytes()
    add_topk(raw, ANCHORS)
    assert raw.read_bytes() == before


def test_other_heads_are_refused(tmp_path: Path) -> None:
    model = onnx.load(str(write_detector(tmp_path / "x.onnx", False)))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(UserError, match="needs a raw head"):
        add_topk(tmp_path / "x.onnx", 8)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18])
def test_opsets(opset: int, raw: Path) -> None:
    model = onnx.load(str(raw))
    model.opset_import[0].version = opset
    onnx.save(model, str(raw))
    add_topk(raw, 8)
    assert outputs(raw, 1)[0].shape == (4 + CLASSES, 8)


def test_tensorrt_reads_and_builds_it(raw: Path) -> None:
    add_topk(raw, 16)
    facts = read_onnx(str(raw))
    assert unsupported(facts, "8.2") == []
    built = trial_build(raw, 8.7)
    if built is None:
        pytest.skip("no TensorRT-RTX here")
    assert built["error"] is None
