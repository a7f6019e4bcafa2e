"""Chooses the inference runtime for a model and opens it; the package that it needs is imported then, never before."""

from typing import Callable, Dict, List, Optional, Tuple

from ..errors import RuntimeMissing, UserError
from .artifact import Artifact
from .base import INSTALL, Runtime, cpu_count, import_or_explain
from .ncnn_runtime import Ncnn
from .onnx_runtime import OnnxRuntime
from .openvino_runtime import OpenVino
from .tensorrt import open_tensorrt
from .trtexec import find_trtexec

READS = {  # runtime -> the model formats it can open
    "onnxruntime": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "ncnn": ("ncnn",),
    "tensorrt": ("engine", "onnx"),
    "trtexec": ("engine", "onnx"),
}
NAMES = tuple(READS)


def available(name: str) -> Tuple[bool, str]:
    """Whether a runtime can be loaded here, with its version, or the line that installs it."""
    if name == "trtexec":
        path = find_trtexec()
        return (True, path) if path else (False, INSTALL[name])
    try:
        module = import_or_explain(name, name)
    except RuntimeMissing as error:
        return False, str(error)
    return True, str(getattr(module, "__version__", "version unknown"))


def choose(artifact: Artifact, asked: Optional[str]) -> str:
    """Choose the runtime: the one asked for if it reads this model, else the first installed one that does.

    For ONNX the order is TensorRT (where it is installed there is a GPU to use), ONNX Runtime, OpenVINO, trtexec.

    Raises:
        UserError: The runtime does not read this kind of model, or none that does is installed.
    """
    readers = [
        name for name in ("tensorrt", "onnxruntime", "openvino", "ncnn", "trtexec") if artifact.format in READS[name]
    ]
    if asked is not None:
        if asked not in readers:
            raise UserError(
                "{} is a model for {}, not for {}; {} reads {}".format(
                    artifact.model, " or ".join(readers), asked, asked, " and ".join(READS[asked])
                )
            )
        return asked
    for name in readers:
        if available(name)[0]:
            return name
    raise RuntimeMissing(
        "nothing here can run {}; install one of:\n  {}".format(
            artifact.model, "\n  ".join("{}: {}".format(name, INSTALL[name]) for name in readers)
        )
    )


def open_runtime(
    artifact: Artifact,
    name: Optional[str],
    threads: Optional[int],
    engine: Optional[str] = None,
    precision: Optional[str] = None,
) -> Runtime:
    """Load ``artifact`` into a runtime.

    Args:
        artifact: What to run.
        name: One of NAMES, or None for the best one installed.
        threads: CPU threads, or None for every core; TensorRT has none.
        engine: Where a TensorRT engine that is built from ONNX is kept and found again; None builds into memory only.
        precision: For a TensorRT build: fp32, fp16 or int8; None takes int8 for a quantized model, else fp16. For
            OpenVINO and NCNN: see their classes.

    Raises:
        UserError: See the text: wrong model for the runtime, not installed, or refused by it.
    """
    chosen = choose(artifact, name)
    if chosen in ("tensorrt", "trtexec"):
        return open_tensorrt(artifact, chosen, engine, precision)
    classes: Dict[str, Callable[..., Runtime]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "ncnn": Ncnn}
    return classes[chosen](artifact, threads or cpu_count(), precision)


def installed() -> List[Tuple[str, bool, str]]:
    """Return (name, whether it loads, version or what to type) for every runtime."""
    return [(name,) + available(name) for name in NAMES]
