"""Quantized ONNX graphs with Q/DQ nodes, in variants that share one calibration.

ONNX Runtime's quantizer places the nodes; which layers it may touch, with what zero points, is decided here:

=============  ===========  =========  ================  ==============================================================
variant        activations  bias       operators         for
=============  ===========  =========  ================  ==============================================================
universal      int8, zero   float      Conv and MatMul   TensorRT, which refuses uint8, zero points and INT32 biases
universal-all  int8, zero   float      all               ONNX Runtime on ARM64; TensorRT builds it too
x86            uint8        int32      all               ONNX Runtime on x86, whose fast kernels are for unsigned
=============  ===========  =========  ================  ==============================================================

Weights are symmetric INT8 per output channel; the decoding after the head's last convolutions stays in float. In the
variant x86 all that a Concat joins has one scale, so that ONNX Runtime copies bytes in place of rescaling them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from yolo_musgd.export.calibration import Ranges, as_tensors_data
from yolo_musgd.export.onnx_graph import constant_operand_nodes, first_layer, head_parts, shared_scales
from yolo_musgd.export.upsampling import copy_pixels


class Variant(NamedTuple):
    """One kind of quantized graph; see the module's table."""

    signed: bool
    quantize_bias: bool
    operators: tuple[str, ...]  # empty: all that the quantizer knows
    for_x86: bool = False  # what was timed on x86 only: one scale at a Concat, upsampling as copies, first layer float


VARIANTS = {
    "universal": Variant(True, False, ("Conv", "MatMul")),
    "universal-all": Variant(True, False, ()),
    "x86": Variant(False, True, (), True),
}


class QuantizationPlan(NamedTuple):
    """A loaded FP32 graph and what is always, or by default, left in float."""

    model: Path
    candidates: tuple[str, ...]  # nodes that may be quantized
    last: tuple[str, ...]  # the head's last convolutions
    decode: tuple[str, ...]  # what follows them
    first: tuple[
        str, ...
    ] = ()  # layer that reads the image, where ONNX Runtime's float kernel for it is the faster one


def make_plan(model: Path, variant: str) -> QuantizationPlan:
    """Which nodes of the FP32 graph ``model`` may be quantized in ``variant``."""
    import onnx

    graph = onnx.load(str(model)).graph
    parts = head_parts(graph)
    never = set(parts.decode) | (set(constant_operand_nodes(graph)) if VARIANTS[variant].signed else set())
    operators = set(VARIANTS[variant].operators or _all_operators())
    names = tuple(n.name for n in graph.node if n.op_type in operators and n.name not in never)
    first = first_layer(graph) if VARIANTS[variant].for_x86 else ()
    return QuantizationPlan(model, names, parts.last, parts.decode, first)


def _all_operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def quantize(plan: QuantizationPlan, path: Path, ranges: Ranges, variant: str, float_layers: Iterable[str]) -> Path:
    """Write the quantized graph to ``path``.

    Args:
        plan: of :func:`make_plan` for the same variant.
        path: file to write.
        ranges: of :func:`yolo_musgd.export.calibration.collect_ranges` for the same graph.
        variant: a key of VARIANTS.
        float_layers: names of nodes to leave in float.

    Returns:
        ``path``. Class names, stride and the rest of the metadata are those of the FP32 graph.
    """
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    kind, kept = VARIANTS[variant], set(float_layers)
    nodes = [name for name in plan.candidates if name not in kept]
    if not nodes:  # which the quantizer takes for all of them
        return Path(shutil.copyfile(plan.model, path))
    source = load_model_with_shape_infer(plan.model)
    if kind.for_x86:
        ranges = _with_shared_scales(ranges, shared_scales(source.graph, set(nodes)))
    quantizer = QDQQuantizer(
        source,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if kind.signed else QuantType.QUInt8,
        tensors_range=as_tensors_data(ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=_all_operators(),
        extra_options={
            "ActivationSymmetric": kind.signed,
            "WeightSymmetric": True,
            "QuantizeBias": kind.quantize_bias,
        },
    )
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to pre-process, which onnxslim has done
    try:
        quantizer.quantize_model()
    finally:
        logging.root.setLevel(before)
    quantizer.model.topological_sort()  # which ONNX asks for and not every reader does without
    made: Any = quantizer.model.model
    if kind.for_x86:
        copy_pixels(made.graph, _shapes(source.graph))
    del made.metadata_props[:]
    made.metadata_props.extend(onnx.load(str(plan.model), load_external_data=False).metadata_props)
    onnx.save(made, str(path))
    return path


def _with_shared_scales(ranges: Ranges, groups: Iterable[set[str]]) -> Ranges:
    """The ranges, each as wide as the widest of its group."""
    out = dict(ranges)
    for group in groups:
        known = [ranges[name] for name in group if name in ranges]
        for name in group & ranges.keys():
            out[name] = min(low for low, _ in known), max(high for _, high in known)
    return out


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.value_info}
