"""What every inference runtime is, and what they share: loading a package, counting cores, checking an output.

Every runtime takes one image as float32 of shape (1, 3, height, width) in [0, 1], RGB, or (1, 1, height, width), grey,
and returns one array: the raw head (4 + classes, anchors), or final boxes, of the NMS-free head or after NMS in the
graph (detections, 6).
"""

import os
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError, first_line
from ..interrupts import held_back
from .artifact import Artifact


class Runtime:
    """A loaded model.

    Subclasses set the names below, ``version``, ``threads`` and ``detail``, and implement ``infer``. They are made as
    ``cls(artifact, threads, precision)``, or override ``open``, and raise a UserError where the file cannot be run.
    """

    name = ""  # as in runtime=name
    package = ""  # the module that it needs
    install = ""  # what to type where that is missing
    reads: Tuple[str, ...] = ()  # formats of models, see artifact.FORMATS
    version = ""
    threads: Optional[int] = None

    @classmethod
    def load(cls) -> Any:
        """Import the runtime's package, or raise RuntimeMissing with the line to type."""
        try:
            with held_back():
                return __import__(cls.package)
        except Exception as error:  # a broken native library raises OSError or worse, not only ImportError
            reason = str(error).splitlines()[0] if str(error) else "-"
            raise RuntimeMissing(
                "{} cannot be loaded ({}: {}); install it: {}".format(
                    cls.name, type(error).__name__, reason, cls.install
                )
            )

    @classmethod
    def available(cls) -> Tuple[bool, str]:
        """Whether it can be loaded here, with its version, or the line that installs it."""
        try:
            return True, str(getattr(cls.load(), "__version__", "version unknown"))
        except RuntimeMissing as error:
            return False, str(error)

    @classmethod
    def open(
        cls, artifact: Artifact, threads: Optional[int], engine: Optional[str], precision: Optional[str]
    ) -> "Runtime":
        """Load ``artifact``; the arguments are open_runtime's, and a model without an output, say, is one line."""
        try:
            return cls(artifact, threads or cpu_count(), precision)  # type: ignore[call-arg]
        except UserError:
            raise
        except Exception as error:  # every runtime has classes of its own
            raise UserError("{} cannot open {}: {}".format(cls.name, artifact.model, first_line(error)))

    def __init__(self, artifact: Artifact) -> None:
        self.input_shape: Tuple[int, ...] = (1, artifact.channels) + artifact.imgsz
        self.detail: Dict[str, Any] = {}

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """Run one image, float32 (1, 3, height, width) in [0, 1]; return a 2-D float32 array."""
        raise NotImplementedError

    def answer(self, blob: np.ndarray) -> np.ndarray:
        """As ``infer``, with a fault of the runtime as one line: a graph may load and not run.

        Raises:
            UserError: The runtime's own words.
        """
        try:
            return self.infer(blob)
        except UserError:
            raise
        except Exception as error:  # every runtime has classes of its own
            raise UserError("{} cannot run this model: {}".format(self.name, first_line(error)))

    def graph(self) -> Optional[Dict[str, int]]:
        """Count what it really computes in INT8, see fusion.count; None where the runtime does not tell."""
        return None

    def close(self) -> None:
        """Free what the runtime holds; afterwards it must not be used."""


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
