"""What every inference runtime is, and what they share: loading a package, counting cores, checking an output.

Every runtime takes one image as float32 of shape (1, 3, height, width) in [0, 1], RGB, and returns one array: the raw
head (4 + classes, anchors) or the NMS-free head (detections, 6).
"""

import os
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError
from .artifact import Artifact

INSTALL = {
    "onnxruntime": "python3 -m pip install onnxruntime   (Jetson Nano, Python 3.6: onnxruntime==1.10.0)",
    "openvino": "python3 -m pip install openvino",
    "ncnn": "python3 -m pip install ncnn",
    "tensorrt": "sudo apt install tensorrt python3-libnvinfer   (part of JetPack); no wheel replaces it on a Jetson",
    "trtexec": "sudo apt install libnvinfer-bin   (part of JetPack: /usr/src/tensorrt/bin/trtexec)",
}


class Runtime:
    """A loaded model. Subclasses set ``name``, ``version``, ``detail`` and implement ``infer``."""

    name = ""
    version = ""
    threads: Optional[int] = None

    def __init__(self, artifact: Artifact) -> None:
        self.input_shape: Tuple[int, ...] = (1, 3) + artifact.imgsz
        self.detail: Dict[str, Any] = {}

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """Run one image, float32 (1, 3, height, width) in [0, 1]; return a 2-D float32 array."""
        raise NotImplementedError

    def graph(self) -> Optional[Dict[str, int]]:
        """Count what it really computes in INT8, see fusion.count; None where the runtime does not tell."""
        return None

    def close(self) -> None:
        """Free what the runtime holds; afterwards it must not be used."""


def import_or_explain(module: str, runtime: str) -> Any:
    """Import a runtime's package, or raise RuntimeMissing with the line to type."""
    try:
        return __import__(module)
    except Exception as error:  # a broken native library raises OSError or worse, not only ImportError
        raise RuntimeMissing(
            "{} cannot be loaded ({}: {}); install it: {}".format(
                runtime, type(error).__name__, str(error).splitlines()[0] if str(error) else "-", INSTALL[runtime]
            )
        )


def cpu_count() -> int:
    """Return the number of CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def as_matrix(output: Any) -> np.ndarray:
    """Drop the batch axis: (1, a, b) or (a, b) -> (a, b) float32.

    Raises:
        UserError: The output is not one image's detections.
    """
    array = np.asarray(output)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise UserError(
            "the model's output has shape {}; expected (1, 4 + classes, anchors) or (1, detections, 6): is this a YOLO "
            "detection model with batch 1?".format(tuple(np.asarray(output).shape))
        )
    return array if array.dtype == np.float32 else array.astype(np.float32)
