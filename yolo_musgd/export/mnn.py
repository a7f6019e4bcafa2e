"""Makes an MNN file from an ONNX graph.

By MNN's own converter, called without the Python module around it (``MNN.tools.mnnconvert``, which Ultralytics'
exporter loads): that one installs a package for telemetry into the environment when it is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.checkpoint import require

_CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(['', *sys.argv[1:]])"


def save_mnn(graph: Path, file: Path, metadata: Mapping[str, Any], half: bool) -> Path:
    """Convert ``graph`` in a process of its own, since the converter prints much and ends with a crash where it fails.

    Args:
        graph: the FP32 ONNX file.
        file: to write.
        metadata: what the model says of itself, kept in the file.
        half: store FP16 weights.

    Returns:
        ``file``.

    Raises:
        UserError: MNN is missing, or its own words.
    """
    require(("MNN",), "mnn")
    words = ["-f", "ONNX", "--modelFile", str(graph), "--MNNModel", str(file), "--bizCode", json.dumps(dict(metadata))]
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, *words, *(["--fp16"] if half else [])],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0 or not file.is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"MNN cannot convert {graph}: {said[-1] if said else done.returncode}")
    (file.parent / ".__convert_external_data.bin").unlink(missing_ok=True)
    return file
