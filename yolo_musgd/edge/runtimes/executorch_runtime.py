"""ExecuTorch: runs .pte files on the CPU; its Python package brings PyTorch with it."""

from typing import Any, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError, first_line
from .artifact import Artifact
from .base import Runtime, as_matrix

_MAGIC = b"ET12"  # behind the first offset, as every FlatBuffers file has its identifier
_SIZE_AT, _SEGMENTS_AT = 16, 24  # in the extended header: bytes of the program, and where the weights begin


class ExecuTorch(Runtime):
    """ExecuTorch with the kernels that the file was made for, XNNPACK's as Ultralytics exports it."""

    name = package = "executorch"
    install = "python3 -m pip install executorch torch"
    reads = ("executorch",)

    @classmethod
    def load(cls) -> Any:
        """See Runtime.load; the module with the runtime in it."""
        Runtime.load.__func__(cls)  # type: ignore[attr-defined]
        try:
            return __import__("executorch.runtime", fromlist=["Runtime"])
        except Exception as error:  # made for another PyTorch
            raise RuntimeMissing(
                "executorch cannot be loaded ({}); install it: {}".format(first_line(error), cls.install)
            )

    @classmethod
    def available(cls) -> Tuple[bool, str]:
        """See Runtime.available."""
        try:
            cls.load()
            return True, _version()
        except RuntimeMissing as error:
            return False, str(error)

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        _check(artifact.model)
        module = self.load()
        pool: Any = __import__("executorch.extension.pybindings.portable_lib", fromlist=["portable_lib"])
        self._torch = __import__("torch")
        try:
            pool._unsafe_reset_threadpool(threads)  # the only way to say it; unsafe only while a model runs
            self._program = module.Runtime.get().load_program(artifact.model)
            self._method = self._program.load_method("forward")
        except Exception as error:
            raise UserError("ExecuTorch cannot run {}: {}".format(artifact.model, first_line(error)))
        self.version, self.threads = _version(), threads
        self.detail = {"backends": list(module.Runtime.get().backend_registry.registered_backend_names)}

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        output = self._method.execute([self._torch.from_numpy(blob)])[0]
        return as_matrix(np.array(output.numpy()))  # a copy: the method owns the memory

    def close(self) -> None:
        """See Runtime.close."""
        self._method = self._program = None


def _version() -> str:
    return str(__import__("executorch.version", fromlist=["version"]).__version__)


def _check(path: str) -> None:
    """Refuse what is no whole program: on such a file ExecuTorch ends the process instead of raising an error."""
    with open(path, "rb") as file:
        head = file.read(32)
        size = file.seek(0, 2)
    needed = max(int.from_bytes(head[at : at + 8], "little") for at in (_SIZE_AT, _SEGMENTS_AT))
    if len(head) < 32 or head[4:8] != _MAGIC or head[8:10] != b"eh" or size < needed:
        raise UserError("ExecuTorch cannot run {}: damaged, or no program".format(path))
