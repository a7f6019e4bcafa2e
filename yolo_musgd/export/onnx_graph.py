"""What the parts of a YOLO graph are, told by its structure and not by one release's names. Pure functions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from yolo_musgd.edge.runtimes import fusion

_ELEMENTWISE = ("Mul", "Add", "Sub", "Div")
_ACTIVATIONS = ("Sigmoid", "Mul", "Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid")
_MOVING = ("Split", "Resize", "MaxPool", "Reshape", "Transpose", "Slice")
"""Operators whose outputs are some of the values of their first input."""


class HeadParts(NamedTuple):
    """Names of nodes: the last convolutions (raw boxes and class scores come out of them), and all that follows."""

    last: tuple[str, ...]
    decode: tuple[str, ...]


def _constants(graph: Any) -> set[str]:
    return {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}


def _is_dfl(node: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a convolution only takes the mean of the box distribution: one output channel, 1 x 1, no bias."""
    shape = shapes.get(node.input[1], ())
    return len(node.input) == 2 and len(shape) == 4 and shape[0] == 1 and shape[2:] == (1, 1)


def head_parts(graph: Any) -> HeadParts:
    """Find the last convolutions and the decoding after them.

    Args:
        graph: ``onnx.GraphProto`` of a YOLO detector, either head.
    """
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    consumers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    before_conv: set[str] = set()  # nodes with a convolution somewhere after them
    for node in reversed(graph.node):  # ONNX sorts nodes topologically
        followers = [c for output in node.output for c in consumers[output]]
        if any((c.op_type == "Conv" and not _is_dfl(c, shapes)) or c.name in before_conv for c in followers):
            before_conv.add(node.name)
    last = [n for n in graph.node if n.op_type == "Conv" and n.name not in before_conv and not _is_dfl(n, shapes)]
    decode: set[str] = set()
    waiting = list(last)
    while waiting:
        for output in waiting.pop().output:
            for follower in consumers[output]:
                if follower.name not in decode:
                    decode.add(follower.name)
                    waiting.append(follower)
    return HeadParts(tuple(n.name for n in last), tuple(n.name for n in graph.node if n.name in decode))


def first_layer(graph: Any) -> tuple[str, ...]:
    """Names of the convolutions that read the image, and of the activation after them."""
    images = {i.name for i in graph.input} - {i.name for i in graph.initializer}  # old files list both
    found: list[str] = []
    carried: set[str] = set()
    for node in graph.node:
        if (node.op_type == "Conv" and node.input[0] in images) or (
            node.op_type in _ACTIVATIONS and carried.intersection(node.input)
        ):
            found.append(node.name)
            carried.update(node.output)
    return tuple(found)


def shared_scales(graph: Any, nodes: Collection[str]) -> list[set[str]]:
    """Groups of tensors that one scale makes free to join and to move: what a Concat reads and writes.

    Args:
        graph: ``onnx.GraphProto``.
        nodes: names of those that are quantized.

    Returns:
        Names of tensors; no tensor is in two groups.
    """
    groups: list[set[str]] = []
    for node in graph.node:
        if node.name in nodes and node.op_type in ("Concat", *_MOVING):
            group = {*(node.input if node.op_type == "Concat" else node.input[:1]), *node.output}
            apart = [other for other in groups if other.isdisjoint(group)]
            groups = [*apart, group.union(*(other for other in groups if not other.isdisjoint(group)))]
    return groups


def constant_operand_nodes(graph: Any) -> list[str]:
    """Element-wise nodes with a constant operand, such as the scale inside attention.

    Quantizing the constant puts an INT8 constant in front of a shared DequantizeLinear, which TensorRT parses but does
    not build ("quantized constant is only allowed before DQ").
    """
    constants = _constants(graph)
    return [n.name for n in graph.node if n.op_type in _ELEMENTWISE and any(i in constants for i in n.input)]


def layer_groups(graph: Any, nodes: Iterable[str]) -> dict[str, list[str]]:
    """Group nodes by the module of the network they came from: ``model.4``, and each branch of the head by itself.

    Args:
        graph: ``onnx.GraphProto`` whose node names are those of Ultralytics' exporter (``/model.4/cv1/conv/Conv``).
        nodes: names to group, of this graph.

    Returns:
        Group name -> node names, in the order of the graph; a node with another kind of name is a group of its own.
    """
    wanted = set(nodes)
    last = max((int(m[1]) for n in graph.node if (m := re.match(r"/model\.(\d+)/", n.name))), default=-1)
    groups: dict[str, list[str]] = {}
    for node in graph.node:
        if node.name not in wanted:
            continue
        parts = node.name.strip("/").split("/")
        match = re.match(r"model\.(\d+)$", parts[0])
        deep = match is not None and int(match[1]) == last  # the head's branches differ most in what they bear
        key = "/".join(parts[: 3 if deep else 1]) if match else node.name
        groups.setdefault(key, []).append(node.name)
    return groups


def count_fused(model: Path, arm: bool = False) -> dict[str, int] | None:
    """Let ONNX Runtime optimize ``model`` and count what runs in INT8 then.

    Args:
        model: ONNX file.
        arm: optimize as on ARM, where signed activations are fused; on x86 they are not.

    Returns:
        See :func:`yolo_musgd.edge.runtimes.fusion.count`.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if arm:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return fusion.of_onnxruntime(ort, str(model), options)
