"""Graphs for TensorRT: FP16 weights, a check against the operators that a version's parser reads, a trial build.

A PC without a GPU cannot build a board's engine. What can be known here: whether every operator is one that the board's
TensorRT reads, and whether TensorRT-RTX, a sibling product whose builder needs no GPU, builds the graph. Neither proves
that the board does.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes import tensorrt
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.onnxfile import OnnxFacts, read_onnx
from yolo_musgd.export.onnx_graph import head_parts
from yolo_musgd.export.targets import Target

ARCHITECTURES = {8.7: "SM87", 8.6: "SM86"}  # compute capability -> TensorRT's name


@cache
def operator_table() -> dict[str, dict[str, Any]]:
    """TensorRT version -> ``max_opset`` and ``operators``."""
    import yaml

    path = resources.folder("cfg") / "export" / "tensorrt-operators.yaml"
    table: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return table


def unsupported(facts: OnnxFacts, version: str) -> list[str]:
    """What TensorRT ``version`` does not read in a graph: operators, or the opset; empty when it reads all.

    Args:
        facts: of :func:`yolo_musgd.edge.runtimes.onnxfile.read_onnx`.
        version: a key of :func:`operator_table`.
    """
    known = operator_table()[version]
    missing = sorted(set(facts.operators) - set(known["operators"]))
    return missing + ([f"opset {facts.opset}"] if facts.opset > known["max_opset"] else [])


def save_half(model: Path, path: Path) -> Path:
    """Write the graph of ``model`` with FP16 weights and arithmetic; input, output and box decoding stay FP32.

    FP16 has steps of half a pixel above 512, so boxes are decoded in FP32. A graph that states its types is what
    strongly typed TensorRT (11) needs, and older ones read it too.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.load(str(model))
    decode = list(head_parts(graph.graph).decode)
    half = convert_float_to_float16(graph, keep_io_types=True, node_block_list=decode)
    seen: set[str] = set()
    for node in list(half.graph.node):  # it casts a tensor once for each float reader, under one name
        if node.output[0] in seen:
            half.graph.node.remove(node)
        seen.update(node.output)
    ONNXModel(half).topological_sort()  # the casts were appended
    onnx.save(half, str(path))
    return path


def trial_build(model: Path, capability: float | None) -> dict[str, Any] | None:
    """Build ``model`` with TensorRT-RTX on the CPU.

    Returns:
        ``builder, seconds, error`` (None when it built); None where TensorRT-RTX is not installed.
    """
    if find_spec("tensorrt_rtx_libs") is None or find_spec("tensorrt_rtx_bindings") is None:
        return None
    try:
        import tensorrt_rtx_bindings as rtx
        import tensorrt_rtx_libs  # noqa: F401  (its native libraries, which the bindings need)
    except Exception:  # broken native libraries raise OSError and worse
        return None
    errors: list[str] = []

    class Log(rtx.ILogger):  # type: ignore[misc]
        """Keeps errors."""

        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            """Called by TensorRT."""
            if severity <= rtx.ILogger.ERROR:
                errors.append(text)

    logger = Log()
    builder = rtx.Builder(logger)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, logger)
    start = time.perf_counter()
    if not parser.parse(model.read_bytes()):
        errors += [parser.get_error(k).desc() for k in range(parser.num_errors)]
        engine = None
    else:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        # RTX begins at Turing; for a board below that, the nearest it knows stands in.
        name = ARCHITECTURES.get(capability or 0.0, "SM86")
        config.set_compute_capability(getattr(rtx.ComputeCapability, name, rtx.ComputeCapability.SM86), 0)
        engine = builder.build_serialized_network(network, config)
    error = None if engine is not None else (errors[-1] if errors else "no reason given").splitlines()[0][:300]
    seconds = round(time.perf_counter() - start, 1)
    return {"builder": f"TensorRT-RTX {rtx.__version__}", "seconds": seconds, "error": error}


def build_engine(model: Path, precision: str) -> Path:
    """Build the engine of an ONNX file with the TensorRT that is installed, for the GPU that is here.

    Args:
        model: ONNX file; ``model.engine`` and ``model.timings`` are written beside it.
        precision: fp32, fp16 or int8.

    Returns:
        The engine, with the ONNX file's metadata before it as Ultralytics writes and reads it.

    Raises:
        UserError: TensorRT is missing or refuses the model, or the GPU has no INT8.
    """
    artifact = open_artifact(str(model))
    path = model.with_suffix(".engine")
    try:
        module = tensorrt.TensorRt.load()
        built = tensorrt.build_engine(module, artifact, precision, timings=str(model.with_suffix(".timings")))
        header = {**artifact.metadata, "precision": precision, "tensorrt": str(module.__version__)}
        tensorrt.save_engine(str(path), built, {**header, "onnx_sha256": artifact.sha256})
    except UserError as error:
        raise UserError(f"engine=True: {error}") from error
    return path


def inspect(model: Path, target: Target, lint: bool) -> dict[str, Any]:
    """Check a graph for a board with TensorRT.

    Returns:
        ``operators_of`` (TensorRT version), ``trial_build`` (of :func:`trial_build`, None when not tried).

    Raises:
        UserError: an operator that the board's TensorRT does not read, or a graph that TensorRT-RTX does not build.
    """
    version = target.tensorrt or "10.1"
    missing = unsupported(read_onnx(str(model)), version)
    if missing:
        raise UserError(
            f"target={target.name}: TensorRT {version} does not read {', '.join(missing)} of this graph; "
            "use head=raw and the board's own opset"
        )
    built = trial_build(model, target.compute_capability) if lint else None
    if built and built["error"]:
        raise UserError(f"{built['builder']} does not build this graph: {built['error']}; lint=False skips the trial")
    return {"operators_of": version, "trial_build": built}
