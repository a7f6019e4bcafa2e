"""NCNN: runs .param and .bin files on the CPU."""

import os
from typing import Dict, Optional

import numpy as np

from ..errors import UserError
from . import fusion
from .artifact import Artifact
from .base import Runtime, as_matrix


class Ncnn(Runtime):
    """NCNN on the CPU. It stores and, on ARM, computes in float16 by default; ``precision=fp32`` switches that off."""

    name = package = "ncnn"
    install = "python3 -m pip install ncnn"
    reads = ("ncnn",)

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        self._ncnn = self.load()
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        if precision == "fp32":
            for switch in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
                setattr(self._net.opt, switch, False)
        weights = os.path.splitext(artifact.model)[0] + ".bin"
        if self._net.load_param(artifact.model) != 0 or self._net.load_model(weights) != 0:
            raise UserError(
                "NCNN cannot read {}: not an NCNN model, or written for a newer NCNN".format(artifact.model)
            )
        self.version, self.threads = str(self._ncnn.__version__), threads
        self._feed = self._net.input_names()[0]
        self._fetch = sorted(self._net.output_names())[0]
        self._param = artifact.model
        switches = ("use_fp16_storage", "use_fp16_arithmetic", "use_int8_inference", "use_vulkan_compute")
        self.detail = {switch: bool(getattr(self._net.opt, switch)) for switch in switches}

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        extractor = self._net.create_extractor()
        extractor.input(self._feed, self._ncnn.Mat(blob[0]))
        code, output = extractor.extract(self._fetch)
        if code != 0:
            raise UserError("NCNN failed on this input (code {})".format(code))
        return as_matrix(np.array(output))  # a copy: the extractor owns the memory

    def graph(self) -> Optional[Dict[str, int]]:
        """See Runtime.graph."""
        return fusion.of_ncnn(self._param)

    def close(self) -> None:
        """See Runtime.close."""
        self._net.clear()
