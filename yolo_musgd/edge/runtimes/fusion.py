"""How much of a model a runtime really computes in INT8, counted in the graph that it made of the model for itself.

A file with Q/DQ nodes only proposes INT8. A runtime fuses each operator with the nodes around it where it has a kernel
for it and computes the rest in float, so the count differs between machines: it belongs into the benchmark's report.
"""

import os
import tempfile
from typing import Any, Dict, Iterable, Optional

from ..errors import UserError
from .onnxfile import read_onnx

# ONNX Runtime's names: QLinearConv, QLinearAdd and so on take and give INT8; ConvInteger, MatMulInteger,
# MatMulIntegerToFloat and DynamicQuantizeMatMul compute in INT8 between float ends.
_INT8_STARTS = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize", "NhwcQLinear")
_BRIDGES = ("QuantizeLinear", "DequantizeLinear")
_OPENVINO_INT8 = ("i8", "u8")


def count(operators: Dict[str, int]) -> Dict[str, int]:
    """Count an optimized ONNX graph's operators.

    Args:
        operators: Operator type -> how often; vendor domains (QLinearConv of com.microsoft) need not be told apart.

    Returns:
        ``convolutions`` and ``convolutions_int8`` of them, ``operators`` and ``operators_int8`` of them (quantize and
        dequantize nodes are neither), and ``bridges``, the quantize and dequantize nodes left: each is a pass over a
        tensor.
    """
    bridges = sum(number for name, number in operators.items() if name in _BRIDGES)
    int8 = {name: number for name, number in operators.items() if name.startswith(_INT8_STARTS)}
    return {
        "convolutions": sum(number for name, number in operators.items() if "Conv" in name),
        "convolutions_int8": sum(number for name, number in int8.items() if "Conv" in name),
        "operators": sum(operators.values()) - bridges,
        "operators_int8": sum(int8.values()),
        "bridges": bridges,
    }


def of_onnxruntime(ort: Any, model: str, options: Any) -> Optional[Dict[str, int]]:
    """Let ONNX Runtime write its optimized graph to a temporary file and count that.

    Args:
        ort: The onnxruntime module.
        model: The ONNX file.
        options: Session options, optimized_model_filepath is set in them.

    Returns:
        See ``count``; None where it could not be written (no room for a copy of the model, or a runtime that refuses).
    """
    try:
        with tempfile.TemporaryDirectory(prefix="edge-") as folder:
            options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return count(read_onnx(options.optimized_model_filepath).operators)
    except UserError:
        return None
    except Exception:  # the runtime's own errors derive from Exception and RuntimeError, by release
        return None


def of_openvino(nodes: Iterable[Any]) -> Dict[str, int]:
    """Count the nodes of OpenVINO's execution graph, which tells each one's type and precision; see ``count``."""
    total = dict.fromkeys(("convolutions", "convolutions_int8", "operators", "operators_int8", "bridges"), 0)
    for node in nodes:
        facts = node.get_rt_info()
        kind, precision = str(facts["layerType"].value), str(facts["runtimePrecision"].value)
        if kind in ("Input", "Output", "Const", "Constant"):
            continue
        if kind == "FakeQuantize":
            total["bridges"] += 1
            continue
        for name in ("operators",) + (("convolutions",) if "Convolution" in kind else ()):
            total[name] += 1
            total[name + "_int8"] += precision in _OPENVINO_INT8
    return total


def of_ncnn(param: str) -> Dict[str, int]:
    """Count the layers of an NCNN .param file, whose marks (8=1, 8=2) say what is computed in INT8; see ``count``."""
    total = dict.fromkeys(("convolutions", "convolutions_int8", "operators", "operators_int8", "bridges"), 0)
    with open(param, encoding="utf-8") as file:
        lines = [line.split() for line in file.readlines()[2:]]
    for words in lines:
        if not words or words[0] in ("Input", "Split", "MemoryData"):
            continue
        int8 = any(word.startswith("8=") and word != "8=0" for word in words[4:])
        weighted = words[0] in ("Convolution", "ConvolutionDepthWise")
        total["operators"] += 1
        total["convolutions"] += weighted
        if words[0] in ("Quantize", "Dequantize", "Requantize"):
            total["bridges"] += 1
            total["operators"] -= 1
        elif int8 and (weighted or words[0] == "InnerProduct"):
            total["operators_int8"] += 1
            total["convolutions_int8"] += weighted
    return total
