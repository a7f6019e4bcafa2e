"""Detectors of a few bytes, whose answer does not depend on the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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


def alter(path: Path, **change: object) -> Path:
    """The detector with another answer, input or metadata."""
    model = onnx.load(str(path))
    if "answer" in change:
        answer = change["answer"]
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(answer, "head"))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output0", TensorProto.FLOAT, answer.shape))
    if "batch" in change:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = change["batch"]
    for entry in list(model.metadata_props):
        if entry.key in change.get("metadata", {}):
            model.metadata_props.remove(entry)
    for key, value in change.get("metadata", {}).items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


def boxes(*rows: list[float]) -> np.ndarray:
    """The answer of a model whose NMS is done: at most 300 rows of box, score, class."""
    answer = np.zeros((1, 300, 6), np.float32)
    answer[0, : len(rows)] = np.float32(rows).reshape(-1, 6)
    return answer
