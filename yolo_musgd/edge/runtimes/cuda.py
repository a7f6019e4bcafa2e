"""The little of the CUDA runtime that inference needs, through ctypes: no cuda-python, PyCUDA or compiler needed."""

import ctypes
import glob
from typing import Any, List, Optional

import numpy as np

from ..errors import RuntimeMissing, UserError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # cudaDeviceAttr


def _candidates() -> List[str]:
    names = ["libcudart.so"] + ["libcudart.so.{}".format(version) for version in ("13", "12", "11.0", "10.2")]
    folders = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/lib/aarch64-linux-gnu")
    return names + sorted(path for folder in folders for path in glob.glob(folder + "/libcudart.so*"))


class Cuda:
    """The CUDA runtime library.

    Args:
        path: Library file; None searches the usual names and places.

    Raises:
        RuntimeMissing: No library, or no usable GPU.
    """

    def __init__(self, path: Optional[str] = None) -> None:
        self._library: Any = None
        for name in [path] if path else _candidates():
            try:
                self._library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        if self._library is None:
            raise RuntimeMissing(
                "the CUDA runtime (libcudart.so) is not found; it is part of JetPack: sudo apt install cuda-runtime-*"
            )
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        signatures = {
            "cudaMalloc": [ctypes.POINTER(pointer), size],
            "cudaFree": [pointer],
            "cudaStreamCreate": [ctypes.POINTER(pointer)],
            "cudaStreamDestroy": [pointer],
            "cudaStreamSynchronize": [pointer],
            "cudaMemcpyAsync": [pointer, pointer, size, ctypes.c_int, pointer],
            "cudaGetDeviceCount": [ctypes.POINTER(ctypes.c_int)],
            "cudaDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
        }
        for name, arguments in signatures.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._library.cudaGetErrorString.argtypes = [ctypes.c_int]
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int()
        if self._library.cudaGetDeviceCount(ctypes.byref(count)) != 0 or count.value < 1:
            raise RuntimeMissing("CUDA sees no GPU here; TensorRT needs one")

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            reason = self._library.cudaGetErrorString(code) or b"unknown error"
            hint = "; close other programs or use a smaller model" if code == 2 else ""
            raise UserError("CUDA: {} failed: {}{}".format(what, reason.decode("ascii", "replace"), hint))

    def capability(self) -> float:
        """Return the GPU's compute capability, such as 5.3 (Jetson Nano) or 8.7 (Orin)."""
        parts = []
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._check(
                self._library.cudaDeviceGetAttribute(ctypes.byref(value), attribute, 0), "reading the capability"
            )
            parts.append(value.value)
        return parts[0] + parts[1] / 10.0

    def malloc(self, size: int) -> int:
        """Allocate ``size`` bytes on the GPU and return the address."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(pointer), max(size, 1)), "allocating {} bytes".format(size))
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        """Free GPU memory."""
        self._library.cudaFree(address)

    def stream(self) -> int:
        """Create a stream and return its handle."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(pointer)), "creating a stream")
        return int(pointer.value or 0)

    def destroy(self, stream: int) -> None:
        """Destroy a stream."""
        self._library.cudaStreamDestroy(stream)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the GPU; it must live until the stream is synchronized."""
        self._check(
            self._library.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE, stream), "upload"
        )

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array; it is filled once the stream is synchronized."""
        self._check(
            self._library.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST, stream), "download"
        )

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._check(self._library.cudaStreamSynchronize(stream), "inference")
