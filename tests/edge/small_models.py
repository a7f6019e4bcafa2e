"""A detector of two random convolutions, written with the onnx package, for tests that need any model that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, ANCHORS, CLASSES = 128, 64, 80
CONVOLUTIONS = 2


def write_detector(path: Path, nms_free: bool) -> Path:
    """Write a detector of 80 classes at 128 pixels: the raw head (1, 84, 64), or the NMS-free one (1, 64, 6)."""
    rng = np.random.default_rng(0)
    scale = np.array([SIDE, SIDE, SIDE / 2, SIDE / 2], np.float32)[:, None]
    constants = {
        "w1": rng.normal(0, 0.15, (16, 3, 8, 8)).astype(np.float32),
        "w2": rng.normal(0, 0.5, (4 + CLASSES, 16, 2, 2)).astype(np.float32),
        "b2": np.array([0.0] * 4 + [-4.0] * CLASSES, np.float32),
        "shape": np.array([1, 4 + CLASSES, ANCHORS]),
        "scale": np.concatenate((scale, np.ones((CLASSES, 1), np.float32))),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w1"], ["y1"], strides=[8, 8]),
        node("Relu", ["y1"], ["x1"]),
        node("Conv", ["x1", "w2", "b2"], ["y2"], strides=[2, 2]),
        node("Sigmoid", ["y2"], ["x2"]),
        node("Reshape", ["x2", "shape"], ["x3"]),
        node("Mul", ["x3", "scale"], ["x4" if nms_free else "output0"]),
    ]
    if nms_free:
        constants |= {"sizes": np.array([2, 2, CLASSES]), "half": np.float32(0.5), "all": np.array([ANCHORS])}
        nodes += [
            node("Transpose", ["x4"], ["x5"], perm=[0, 2, 1]),
            node("Split", ["x5", "sizes"], ["centre", "size", "scores"], axis=2),
            node("Mul", ["size", "half"], ["half_size"]),
            node("Sub", ["centre", "half_size"], ["low"]),
            node("Add", ["centre", "half_size"], ["high"]),
            node("ReduceMax", ["scores"], ["best"], axes=[2]),
            node("ArgMax", ["scores"], ["class"], axis=2),
            node("Cast", ["class"], ["class_f"], to=TensorProto.FLOAT),
            node("Concat", ["low", "high", "best", "class_f"], ["rows"], axis=2),
            node("TopK", ["best", "all"], ["sorted", "order"], axis=1),
            node("Squeeze", ["order"], ["flat"]),
            node("Gather", ["rows", "flat"], ["output0"], axis=1),
        ]
    answer = [1, ANCHORS, 6] if nms_free else [1, 4 + CLASSES, ANCHORS]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, answer)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    facts = {"names": repr({k: f"thing {k}" for k in range(CLASSES)}), "task": "detect", "end2end": str(nms_free)}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path
