"""Chooses the inference runtime for a model and opens it; the package that it needs is imported then, never before."""

from typing import Dict, List, Optional, Tuple, Type

from ..errors import RuntimeMissing, UserError
from .artifact import Artifact
from .base import Runtime
from .executorch_runtime import ExecuTorch
from .mnn_runtime import Mnn
from .ncnn_runtime import Ncnn
from .onnx_runtime import OnnxRuntime
from .openvino_runtime import OpenVino
from .tensorrt import TensorRt
from .trtexec import Trtexec

CLASSES = (  # in the order in which one is chosen
    TensorRt,
    OnnxRuntime,
    OpenVino,
    Ncnn,
    Mnn,
    ExecuTorch,
    Trtexec,
)
RUNTIMES: Dict[str, Type[Runtime]] = {runtime.name: runtime for runtime in CLASSES}
NAMES = tuple(RUNTIMES)


def available(name: str) -> Tuple[bool, str]:
    """Whether a runtime can be loaded here, with its version, or the line that installs it."""
    return RUNTIMES[name].available()


def choose(artifact: Artifact, asked: Optional[str]) -> str:
    """Choose the runtime: the one asked for if it reads this model, else the first installed one that does.

    For ONNX the order is TensorRT (where it is installed there is a GPU to use), ONNX Runtime, OpenVINO, trtexec.

    Raises:
        UserError: The runtime does not read this kind of model, or none that does is installed.
    """
    readers = [name for name, runtime in RUNTIMES.items() if artifact.format in runtime.reads]
    if asked is not None:
        if asked not in readers:
            raise UserError(
                "{} is a model for {}, not for {}; {} reads {}".format(
                    artifact.model, " or ".join(readers), asked, asked, " and ".join(RUNTIMES[asked].reads)
                )
            )
        return asked
    for name in readers:
        if available(name)[0]:
            return name
    raise RuntimeMissing(
        "nothing here can run {}; install one of: {}".format(
            artifact.model, "; ".join("{}: {}".format(name, RUNTIMES[name].install) for name in readers)
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
    return RUNTIMES[choose(artifact, name)].open(artifact, threads, engine, precision)


def installed() -> List[Tuple[str, bool, str]]:
    """Return (name, whether it loads, version or what to type) for every runtime."""
    return [(name,) + available(name) for name in NAMES]
