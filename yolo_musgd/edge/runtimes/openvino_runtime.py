"""OpenVINO: runs its own IR and .onnx files on the CPU."""

import sys
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

import numpy as np

from ..errors import UserError, first_line
from . import fusion
from .artifact import Artifact
from .base import Runtime, as_matrix

TELEMETRY = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO or NNCF without the package by which they report their use to their makers.

    It does so from a forked process, which may never end, and then neither does the program.
    """
    known = TELEMETRY in sys.modules
    if not known:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not known:
            del sys.modules[TELEMETRY]


class OpenVino(Runtime):
    """OpenVINO on the CPU, from its own IR (.xml) or straight from ONNX.

    Left alone, OpenVINO computes an FP32 model in bfloat16 where the CPU has it, which moved scores by 0.1 when tried;
    here it computes in float32 unless fp16 is asked for, which leaves the choice to OpenVINO. The report says what it
    chose.
    """

    name = package = "openvino"
    install = "python3 -m pip install openvino"
    reads = ("openvino", "onnx")

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        openvino = self.load()
        core_class = getattr(openvino, "Core", None)
        if core_class is None:  # before 2023.1 it lived in a submodule
            core_class = __import__("openvino.runtime", fromlist=["Core"]).Core
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
        if precision != "fp16":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            core = core_class()
            model = core.read_model(artifact.model)
            if model.input(0).get_partial_shape().is_dynamic:
                model.reshape(list(self.input_shape))
            self._compiled = compiled = core.compile_model(model, "CPU", config)
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise UserError("OpenVINO cannot run {}: {}".format(artifact.model, first_line(error)))
        self.version, self.threads = str(openvino.__version__).split("-")[0], threads
        computes = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        self.detail = {
            "device": "CPU",
            "hint": "latency",
            "computes_in": computes.split("'")[1] if "'" in computes else computes,
        }

    @classmethod
    def load(cls) -> Any:
        """See Runtime.load and without_telemetry."""
        with without_telemetry():
            return super().load()

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        self._request.infer([blob])
        return as_matrix(self._request.get_output_tensor(0).data)

    def graph(self) -> Optional[Dict[str, int]]:
        """See Runtime.graph."""
        return fusion.of_openvino(self._compiled.get_runtime_model().get_ops())

    def close(self) -> None:
        """See Runtime.close."""
        self._request = self._compiled = None
