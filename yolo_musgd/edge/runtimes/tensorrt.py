"""TensorRT 8.2 to 11: builds an engine from ONNX on the board and runs it, by its Python bindings and ctypes' CUDA.

Three interfaces changed on the way, each is asked for by name and not by version: tensors replaced bindings (8.5),
memory pools replaced the workspace size (8.4, the old one gone in 10), strongly typed networks replaced precision flags
(11).
"""

import json
import os
from typing import Any, Dict, List, Optional

import numpy as np

from ..errors import UserError, first_line
from .artifact import Artifact
from .base import Runtime, as_matrix
from .cuda import Cuda
from .metadata import read_engine_header

_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
_TYPES["INT64"] = np.int64
WORKSPACE = 1 << 28  # bytes; a Jetson Nano shares 4 GB between CPU and GPU
INT8_CAPABILITY = 6.1  # compute capability with INT8 dot products; 6.2 (TX2) lacks them, see no_int8


def no_int8(capability: float) -> bool:
    """Whether a GPU has no fast INT8: everything below 6.1 (the original Nano is 5.3), and 6.2 (TX2)."""
    return capability < INT8_CAPABILITY or capability == 6.2


def refuse_int8(capability: float) -> None:
    """Raise UserError when INT8 is asked for on a GPU without it.

    TensorRT itself would quietly run such layers in FP32, slower than FP16, so it is refused instead.
    """
    if no_int8(capability):
        raise UserError(
            "this GPU (compute capability {}) has no INT8; TensorRT would fall back to FP32 silently: use the "
            "FP16 model with precision=fp16".format(capability)
        )


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.ERROR)


def _network_flags(trt: Any, typed: bool) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    out = 0
    if hasattr(flags, "EXPLICIT_BATCH"):  # required in 8, the only way in 10, gone later
        out |= 1 << int(flags.EXPLICIT_BATCH)
    if typed and hasattr(flags, "STRONGLY_TYPED"):
        out |= 1 << int(flags.STRONGLY_TYPED)
    return out


def use_timing_cache(config: Any, path: Optional[str]) -> Any:
    """Give a builder's configuration the timings of earlier builds, so that a rebuild takes seconds, not minutes.

    Args:
        config: TensorRT's builder configuration.
        path: File of an earlier build, which may be missing; None uses no cache.

    Returns:
        What save_timing_cache needs; None without a cache (TensorRT-RTX, for one, keeps none).
    """
    if path is None or not hasattr(config, "create_timing_cache"):
        return None
    known = b""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            known = file.read()
    cache = config.create_timing_cache(known)
    if not cache or not config.set_timing_cache(cache, False):  # of another GPU or version: begin anew
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def save_timing_cache(config: Any, cache: Any, path: Optional[str]) -> None:
    """Write the timings of a build to ``path``, for use_timing_cache; nothing without a cache."""
    if cache is None or path is None:
        return
    temporary = path + ".part"
    with open(temporary, "wb") as file:
        file.write(bytes(config.get_timing_cache().serialize()))
    os.replace(temporary, path)


def build_engine(
    trt: Any, artifact: Artifact, precision: str, check_gpu: bool = True, timings: Optional[str] = None
) -> bytes:
    """Build an engine from the artifact's ONNX file.

    Args:
        trt: The ``tensorrt`` module (or ``tensorrt_rtx``, which shares this interface).
        artifact: An ONNX model.
        precision: fp32, fp16 or int8; int8 needs a graph with Q/DQ nodes.
        check_gpu: Ask TensorRT whether the GPU has INT8.
        timings: File that keeps the timings from build to build; None keeps none.

    Returns:
        The serialized engine.

    Raises:
        UserError: The parser's or the builder's own words.
    """
    quantized = artifact.onnx is not None and artifact.onnx.is_quantized
    if precision == "int8" and not quantized:
        raise UserError(
            "{} holds no Q/DQ nodes, so there is no INT8 in it; export it with precision=int8".format(artifact.model)
        )
    logger = _logger(trt)
    builder = trt.Builder(logger)
    if check_gpu and quantized and getattr(builder, "platform_has_fast_int8", True) is False:
        raise UserError("this GPU has no INT8 (TensorRT says so): use the FP16 model with precision=fp16")
    flags = trt.BuilderFlag
    typed = not hasattr(flags, "FP16")  # 11: precision stands in the graph, there are no flags
    network = builder.create_network(_network_flags(trt, typed))
    parser = trt.OnnxParser(network, logger)
    with open(artifact.model, "rb") as file:
        if not parser.parse(file.read()):
            errors = [str(parser.get_error(k)).strip() for k in range(parser.num_errors)]
            raise UserError(
                "TensorRT {} cannot read {}: {}".format(trt.__version__, artifact.model, "; ".join(errors)[:400])
            )
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    else:
        config.max_workspace_size = WORKSPACE
    if not typed:
        if precision in ("fp16", "int8"):
            config.set_flag(flags.FP16)
        if quantized:
            config.set_flag(flags.INT8)
    cache = use_timing_cache(config, timings)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(
            "TensorRT {} could not build {} as {}; its own lines above say why".format(
                trt.__version__, artifact.model, precision
            )
        )
    save_timing_cache(config, cache, timings)
    return bytes(engine)


def _unwritten(path: str, error: OSError) -> UserError:
    return UserError("cannot write {}: {}; give engine= another place".format(path, error.strerror))


def _try_place(path: str) -> None:
    """Raise UserError where an engine cannot be kept, before it is built for minutes."""
    try:
        with open(path + ".part", "wb"):
            pass
        os.remove(path + ".part")
    except OSError as error:
        raise _unwritten(path, error)


def save_engine(path: str, engine: bytes, header: Dict[str, Any]) -> None:
    """Write an engine with its description before it (4 bytes of length, JSON), as Ultralytics does.

    Raises:
        UserError: It cannot be written.
    """
    text = json.dumps(header).encode("utf-8")
    temporary = path + ".part"
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(4, "little") + text + engine)
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise _unwritten(path, error)


class TensorRt(Runtime):
    """A TensorRT engine on the GPU; copies to and from the GPU are part of ``infer``."""

    name = package = "tensorrt"
    install = "sudo apt install tensorrt python3-libnvinfer   (part of JetPack); no wheel replaces it on a Jetson"
    reads = ("engine", "onnx")

    def __init__(self, artifact: Artifact, trt: Any, engine: bytes, cuda: Cuda) -> None:
        Runtime.__init__(self, artifact)
        self._cuda = cuda
        self.version = str(trt.__version__)
        self._logger = _logger(trt)  # TensorRT keeps a bare pointer to it
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise UserError(
                "TensorRT {} refuses {}: an engine runs only on the kind of GPU and the TensorRT version that built "
                "it; build it here from the ONNX file".format(self.version, artifact.model)
            )
        self._context = self._engine.create_execution_context()
        self._stream = cuda.stream()
        self._host: Dict[str, np.ndarray] = {}
        self._device: Dict[str, int] = {}
        self._inputs: List[str] = []
        self._outputs: List[str] = []
        self._named = hasattr(self._engine, "num_io_tensors")
        self._allocate(trt)
        self.detail = {"interface": "tensors" if self._named else "bindings", "compute_capability": cuda.capability()}

    @classmethod
    def open(
        cls, artifact: Artifact, threads: Optional[int], engine: Optional[str], precision: Optional[str]
    ) -> Runtime:
        """See Runtime.open."""
        return open_tensorrt(artifact, engine, precision)

    def _allocate(self, trt: Any) -> None:
        engine = self._engine
        count = engine.num_io_tensors if self._named else engine.num_bindings
        for index in range(count):
            if self._named:
                name = engine.get_tensor_name(index)
                is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
                shape, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            else:
                name = engine.get_binding_name(index)
                is_input = bool(engine.binding_is_input(index))
                shape, dtype = tuple(engine.get_binding_shape(index)), engine.get_binding_dtype(index)
            if min(shape) < 1:
                raise UserError(
                    "the engine's tensor {} has a dynamic shape {}; export with a fixed imgsz".format(name, shape)
                )
            kind = str(getattr(dtype, "name", dtype)).split(".")[-1]
            if kind not in _TYPES:
                raise UserError("the engine's tensor {} is of the type {}, which is not read".format(name, kind))
            self._host[name] = np.zeros(shape, _TYPES[kind])
            self._device[name] = self._cuda.malloc(self._host[name].nbytes)
            (self._inputs if is_input else self._outputs).append(name)
            if self._named:
                self._context.set_tensor_address(name, self._device[name])
        if len(self._inputs) != 1 or self._host[self._inputs[0]].shape != self.input_shape:
            raise UserError(
                "the engine takes {}, expected one image {}; is it another model's?".format(
                    [self._host[name].shape for name in self._inputs], self.input_shape
                )
            )

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        feed = self._inputs[0]
        np.copyto(self._host[feed], blob, casting="same_kind")
        self._cuda.upload(self._device[feed], self._host[feed], self._stream)
        if self._named:
            started = self._context.execute_async_v3(self._stream)
        else:
            started = self._context.execute_async_v2(list(self._device.values()), self._stream)
        if not started:
            raise UserError("TensorRT did not start the inference; its log above says why")
        name = self._outputs[0]
        self._cuda.download(self._host[name], self._device[name], self._stream)
        self._cuda.synchronize(self._stream)
        return as_matrix(self._host[name])

    def close(self) -> None:
        """See Runtime.close."""
        for address in self._device.values():
            self._cuda.free(address)
        self._device.clear()
        self._cuda.destroy(self._stream)
        self._context = self._engine = self._runtime = None


def build_precision(artifact: Artifact, asked: Optional[str]) -> str:
    """Precision of an engine built from ``artifact``: the one asked for, int8 for a quantized model, else fp16."""
    return asked or ("int8" if artifact.onnx is not None and artifact.onnx.is_quantized else "fp16")


def open_tensorrt(artifact: Artifact, engine: Optional[str], precision: Optional[str]) -> TensorRt:
    """Open an engine, or build one from ONNX and keep it at ``engine``; see open_runtime.

    A kept engine is used again when its header names the same ONNX file (sha256), TensorRT version and precision.
    """
    chosen = build_precision(artifact, precision)
    trt = TensorRt.load()
    cuda = Cuda()
    if (artifact.precision if artifact.format == "engine" else chosen) == "int8":
        refuse_int8(cuda.capability())
    if artifact.format == "engine":
        with open(artifact.model, "rb") as file:
            file.seek(read_engine_header(artifact.model)[1])
            return TensorRt(artifact, trt, file.read(), cuda)
    header = dict(artifact.metadata, imgsz=list(artifact.imgsz), precision=chosen)
    header.update(onnx_sha256=artifact.sha256, tensorrt=str(trt.__version__))
    if engine and os.path.isfile(engine):
        known, offset = read_engine_header(engine)
        if all(known.get(key) == header[key] for key in ("onnx_sha256", "tensorrt", "precision")):
            with open(engine, "rb") as file:
                file.seek(offset)
                return TensorRt(artifact, trt, file.read(), cuda)
    if engine:
        _try_place(engine)
    try:
        built = build_engine(trt, artifact, chosen, timings=engine + ".timings" if engine else None)
    except UserError:
        raise
    except Exception as error:
        raise UserError("TensorRT {}: {}".format(trt.__version__, first_line(error)))
    if engine:
        save_engine(engine, built, header)
    return TensorRt(artifact, trt, built, cuda)
