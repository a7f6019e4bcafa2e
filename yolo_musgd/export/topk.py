"""Selects the best anchors inside the graph, so that little is left to do after it.

The raw head gives every anchor to the program behind it: (4 + classes) x 8400 numbers at 640 pixels, of which a few
become boxes. With the selection in the graph the output keeps its form, with fewer columns, so that whatever reads a
raw head reads this one; NMS stays where it was. TensorRT has had all of these operators since version 8.
"""

from __future__ import annotations

from pathlib import Path

from yolo_musgd.edge.errors import UserError


def add_topk(path: Path, count: int) -> Path:
    """Let the graph in ``path`` give its ``count`` anchors of the highest class scores, best first.

    Args:
        path: ONNX file with a raw head, (1, 4 + classes, anchors); written anew.
        count: anchors to keep; a graph that has no more stays as it is.

    Returns:
        ``path``.

    Raises:
        UserError: another output.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    output = graph.output[0]
    shape = [axis.dim_value for axis in output.type.tensor_type.shape.dim]
    if len(shape) != 3 or shape[0] != 1 or shape[1] < 5 or shape[2] < 1:
        raise UserError(f"{path}: a selection needs a raw head, (1, 4 + classes, anchors); its output is {shape}")
    if shape[2] <= count:
        return path
    for node in graph.node:
        node.output[:] = ["all_anchors" if name == output.name else name for name in node.output]
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    numbers = {"first_class": 4, "last_class": shape[1], "class_axis": 1, "best_count": count, "batch_axis": 0}
    graph.initializer.extend(numpy_helper.from_array(np.array([v], np.int64), f"topk_{k}") for k, v in numbers.items())
    node = helper.make_node
    if opset >= 18:  # ReduceMax takes its axes as an attribute before
        most = node("ReduceMax", ["topk_scores", "topk_class_axis"], ["topk_best"], keepdims=0)
    else:
        most = node("ReduceMax", ["topk_scores"], ["topk_best"], keepdims=0, axes=[1])
    if opset >= 13:  # and so does Squeeze
        flat = node("Squeeze", ["topk_rows", "topk_batch_axis"], ["topk_anchors"])
    else:
        flat = node("Squeeze", ["topk_rows"], ["topk_anchors"], axes=[0])
    graph.node.extend(
        [
            node("Slice", ["all_anchors", "topk_first_class", "topk_last_class", "topk_class_axis"], ["topk_scores"]),
            most,
            node("TopK", ["topk_best", "topk_best_count"], ["topk_values", "topk_rows"], axis=1),
            flat,
            node("Gather", ["all_anchors", "topk_anchors"], [output.name], axis=2),
        ]
    )
    for k, entry in enumerate(list(graph.node)[-5:]):
        entry.name = f"topk_{k}_{entry.op_type}"
    output.type.tensor_type.shape.dim[2].dim_value = count
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
