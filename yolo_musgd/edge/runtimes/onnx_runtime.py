"""ONNX Runtime: runs .onnx files on the CPU."""

from typing import Any, Dict, Optional

import numpy as np

from ..errors import UserError, first_line
from . import fusion
from .artifact import Artifact
from .base import Runtime, as_matrix


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU; the precision is the graph's."""

    name = package = "onnxruntime"
    install = "python3 -m pip install onnxruntime   (Jetson Nano, Python 3.6: onnxruntime==1.10.0)"
    reads = ("onnx",)

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        self._ort = ort = self.load()
        self._model, self.threads = artifact.model, threads
        try:
            self._session = ort.InferenceSession(artifact.model, self._options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(
                "ONNX Runtime {} cannot run {}: {}".format(ort.__version__, artifact.model, first_line(error))
            )
        self.version = ort.__version__
        tensor = self._session.get_inputs()[0]
        self._feed = tensor.name
        self._half = "float16" in tensor.type
        outputs = self._session.get_outputs()
        if not outputs:
            raise UserError("{} has no output".format(artifact.model))
        self._fetch = [outputs[0].name]
        self.detail = {"provider": "CPUExecutionProvider"}

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        return options

    def graph(self) -> Optional[Dict[str, int]]:
        """See Runtime.graph; the model is loaded once more for it."""
        return fusion.of_onnxruntime(self._ort, self._model, self._options())

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        if self._half:
            blob = blob.astype(np.float16)
        return as_matrix(self._session.run(self._fetch, {self._feed: blob})[0])

    def close(self) -> None:
        """See Runtime.close."""
        self._session = None
