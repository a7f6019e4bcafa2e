"""MNN: runs .mnn files on the CPU."""

from typing import Any, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError, first_line
from .artifact import Artifact
from .base import Runtime, as_matrix


class Mnn(Runtime):
    """MNN on the CPU in float32; ``precision=fp16`` lets it compute in float16 where the CPU can, as most ARM do."""

    name, package = "mnn", "MNN"
    install = "python3 -m pip install MNN"
    reads = ("mnn",)

    @classmethod
    def available(cls) -> Tuple[bool, str]:
        """See Runtime.available; MNN tells its version by a function."""
        try:
            return True, str(cls.load().version())
        except RuntimeMissing as error:
            return False, str(error)

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        mnn = self.load()
        computes = "low" if precision == "fp16" else "high"
        try:
            manager = mnn.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": computes},))
            self._net = mnn.nn.load_module_from_file(artifact.model, [], [], runtime_manager=manager, rearrange=True)
            if len(self._net.get_info()["inputNames"]) != 1:
                raise ValueError("it takes several inputs")
        except Exception as error:  # a damaged file is an empty module, or an error of several kinds
            raise UserError("MNN cannot read {}: {}".format(artifact.model, first_line(error)))
        self._expr: Any = mnn.expr
        self.version, self.threads = str(mnn.version()), threads
        self.detail = {"backend": "CPU", "precision": computes}

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        image = self._expr.const(blob, list(blob.shape), self._expr.NCHW)
        return as_matrix(np.array(self._net.onForward([image])[0].read()))  # a copy: MNN owns the memory

    def close(self) -> None:
        """See Runtime.close."""
        self._net = None
