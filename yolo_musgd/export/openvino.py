"""OpenVINO models: FP32 and FP16 by Ultralytics' exporter, INT8 by NNCF with this package's calibration images.

INT8 starts from the FP32 ONNX graph, whose node names OpenVINO keeps, so that layers are left in float by the names
that the sensitivity search found.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo_musgd.edge.runtimes.openvino_runtime import without_telemetry
from yolo_musgd.export.calibration import blobs
from yolo_musgd.export.checkpoint import require


def write_metadata(metadata: dict[str, str], path: Path) -> None:
    """Write an ONNX file's metadata as the ``metadata.yaml`` that Ultralytics reads beside an OpenVINO model."""
    import yaml

    content: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            content[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            content[key] = text
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def save_int8(
    model: Path, folder: Path, files: Sequence[str], imgsz: int, float_layers: Sequence[str], metadata: dict[str, str]
) -> Path:
    """Quantize the FP32 ONNX graph ``model`` with NNCF and save it as OpenVINO IR into ``folder``.

    Args:
        model: FP32 ONNX file.
        folder: gets ``model.xml``, ``model.bin`` and ``metadata.yaml``.
        files: images that calibrate.
        imgsz: side of the input, pixels.
        float_layers: names of nodes to leave in float; names that OpenVINO folded away do not matter.
        metadata: of the ONNX file.

    Returns:
        The ``.xml`` file.

    Raises:
        UserError: NNCF or OpenVINO is not installed.
    """
    require(("openvino", "nncf"), "openvino")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF asks it for CUDA, it warns
    with without_telemetry():
        import nncf
        import openvino

    nncf.set_log_level(logging.ERROR)
    network = openvino.convert_model(str(model))
    shape = (1, network.input(0).get_partial_shape()[1].get_length(), imgsz, imgsz)
    with contextlib.redirect_stdout(io.StringIO()):  # two progress bars a search step, and their tables
        quantized = nncf.quantize(
            network,
            nncf.Dataset(list(blobs(files, shape, ""))),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(files),
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=_present(network, float_layers), validate=False),
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.xml"
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    write_metadata(metadata, folder / "metadata.yaml")
    return path


def _present(network: Any, names: Sequence[str]) -> list[str]:
    known = {op.get_friendly_name() for op in network.get_ops()}
    return [name for name in names if name in known]
