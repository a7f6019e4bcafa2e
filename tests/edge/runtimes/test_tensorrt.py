"""runtimes/tensorrt.py, trtexec.py and cuda.py without a GPU.

CUDA is a C library made here, TensorRT a module with the interface of 8.2 or of 10.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from edge_samples import FakeBoard

from yolo_musgd.edge.errors import RuntimeMissing, UserError
from yolo_musgd.edge.runtimes import cuda, tensorrt, trtexec
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime

CUDART = """
#include <stdlib.h>
#include <string.h>
int cudaMalloc(void **p, size_t n) { if (n > (1u << 30)) return 2; *p = malloc(n); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaStreamCreate(void **s) { *s = (void *)7; return 0; }
int cudaStreamDestroy(void *s) { return 0; }
int cudaStreamSynchronize(void *s) { return s == (void *)7 ? 0 : 400; }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *st) { memcpy(d, s, n); return 0; }
int cudaGetDeviceCount(int *n) { *n = getenv("FAKE_NO_GPU") ? 0 : 1; return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? MAJOR : MINOR; return 0; }
const char *cudaGetErrorString(int e) { return e == 2 ? "out of memory" : "invalid handle"; }
"""


@pytest.fixture(scope="module")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stand-in for libcudart on a Jetson Nano (5.3) and on an Orin (8.7)."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for the stand-in of libcudart")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "cudart.c").write_text(CUDART)
    out = {}
    for name, major, minor in (("nano", 5, 3), ("orin", 8, 7)):
        library = folder / f"lib{name}.so"
        words = ["gcc", "-shared", "-fPIC", f"-DMAJOR={major}", f"-DMINOR={minor}", "-o", str(library)]
        subprocess.run([*words, str(folder / "cudart.c")], check=True)
        out[name] = str(library)
    return out


def fake_tensorrt(model: Path, named: bool) -> types.ModuleType:
    """A tensorrt module whose engines compute with ONNX Runtime on the stand-in's memory.

    ``named`` gives the interface of 10 (tensors, memory pools), else that of 8.2 (bindings, workspace size).
    """
    import onnxruntime

    module = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0" if named else "8.2.1.8"  # type: ignore[attr-defined]
    names, log = ["images", "output0"], []

    class DataType:
        name = "FLOAT"

    class Context:
        def __init__(self, session: onnxruntime.InferenceSession) -> None:
            self.session, self.addresses = session, {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 7
            return self.run(self.addresses["images"], self.addresses["output0"])

        def execute_async_v2(self, bindings: list[int], stream: int) -> bool:
            assert stream == 7
            return self.run(*bindings)

        def run(self, source: int, target: int) -> bool:
            shape = self.session.get_inputs()[0].shape
            data = (ctypes.c_float * int(np.prod(shape))).from_address(source)
            answer = self.session.run(None, {"images": np.frombuffer(data, np.float32).reshape(shape)})[0]
            ctypes.memmove(target, answer.ctypes.data, answer.nbytes)
            return True

    class Engine:
        def __init__(self, data: bytes) -> None:
            self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            self.shapes = [self.session.get_inputs()[0].shape, self.session.get_outputs()[0].shape]
            if named:
                self.num_io_tensors = 2
                self.get_tensor_name = names.__getitem__
                self.get_tensor_mode = lambda name: int(name == "output0")
                self.get_tensor_shape = lambda name: self.shapes[names.index(name)]
                self.get_tensor_dtype = lambda name: DataType()
            else:
                self.num_bindings = 2
                self.get_binding_name = names.__getitem__
                self.binding_is_input = lambda index: index == 0
                self.get_binding_shape = self.shapes.__getitem__
                self.get_binding_dtype = lambda index: DataType()

        def create_execution_context(self) -> Context:
            return Context(self.session)

    class Config:
        def __init__(self) -> None:
            self.flags: list[int] = []
            if named:
                self.set_memory_pool_limit = lambda pool, size: log.append((pool, size))
            else:
                self.max_workspace_size = 0

        def set_flag(self, flag: int) -> None:
            self.flags.append(flag)

    class Builder:
        platform_has_fast_int8 = named

        def __init__(self, logger: object) -> None:
            pass

        def create_network(self, flags: int) -> str:
            assert flags == 1
            return "network"

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: str, config: Config) -> bytes | None:
            log.append(("flags", config.flags))
            return Parser.data

    class Parser:
        data: bytes | None = None
        num_errors = 1

        def __init__(self, network: str, logger: object) -> None:
            pass

        def parse(self, data: bytes) -> bool:
            Parser.data = data
            return b"Mod" not in data

        def get_error(self, index: int) -> str:
            return "No importer registered for op: Mod"

    class Runtime:
        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            return Engine(data) if data != b"foreign" else None

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            pass

    module.__dict__.update(
        Builder=Builder, OnnxParser=Parser, Runtime=Runtime, Logger=Logger, log=log,
        NetworkDefinitionCreationFlag=types.SimpleNamespace(EXPLICIT_BATCH=0),
        BuilderFlag=types.SimpleNamespace(FP16=0, INT8=1),
        MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
        TensorIOMode=types.SimpleNamespace(INPUT=0),
    )  # fmt: skip
    return module


@pytest.mark.parametrize(("named", "gpu"), [(False, "nano"), (True, "orin")])
def test_engine_is_built_kept_and_run(
    named: bool, gpu: str, cudart: dict[str, str], small_models: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = small_models["raw"]
    fake = fake_tensorrt(model, named)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(cuda, "_candidates", lambda: [cudart[gpu]])
    artifact, kept = open_artifact(str(model)), tmp_path / "kept.engine"
    blob = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    expected = open_runtime(artifact, "onnxruntime", 1).infer(blob)
    runtime = open_runtime(artifact, None, None, str(kept))  # where TensorRT is installed it comes first
    assert (runtime.name, runtime.version, runtime.threads) == ("tensorrt", fake.__version__, None)
    assert runtime.detail == {
        "interface": "tensors" if named else "bindings",
        "compute_capability": 8.7 if named else 5.3,
    }
    np.testing.assert_allclose(runtime.infer(blob), expected, atol=1e-5)
    runtime.close()
    builds = len([entry for entry in fake.log if entry[0] == "flags"])
    assert ("flags", [0]) in fake.log  # FP16 unless another precision is asked for
    again = open_runtime(artifact, "tensorrt", None, str(kept))
    np.testing.assert_allclose(again.infer(blob), expected, atol=1e-5)
    assert len([entry for entry in fake.log if entry[0] == "flags"]) == builds  # not built again
    by_file = open_artifact(str(kept))
    assert by_file.names == artifact.names
    np.testing.assert_allclose(open_runtime(by_file, None, None).infer(blob), expected, atol=1e-5)
    open_runtime(artifact, "tensorrt", None, str(kept), "fp32")
    assert ("flags", []) in fake.log  # another precision is another engine


def test_where_no_engine_can_be_kept_none_is_built(
    cudart: dict[str, str], small_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes minutes on a Jetson."""
    fake = fake_tensorrt(small_models["raw"], False)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(cuda, "_candidates", lambda: [cudart["nano"]])
    with pytest.raises(UserError, match="No such file or directory; give engine= another place"):
        open_runtime(open_artifact(str(small_models["raw"])), "tensorrt", None, str(tmp_path / "absent" / "x.engine"))
    assert fake.log == []


def test_refusals(
    cudart: dict[str, str], random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(random_models["raw"], False))
    monkeypatch.setattr(cuda, "_candidates", lambda: [cudart["nano"]])
    raw = open_artifact(str(random_models["raw"]))
    with pytest.raises(UserError, match="has no INT8"):
        open_runtime(raw, "tensorrt", None, None, "int8")
    tensorrt.save_engine(str(tmp_path / "i.engine"), b"x", {"precision": "int8", "imgsz": [128, 128]})
    with pytest.raises(UserError, match="has no INT8"):
        open_runtime(open_artifact(str(tmp_path / "i.engine")), None, None)
    tensorrt.save_engine(str(tmp_path / "f.engine"), b"foreign", {"imgsz": [128, 128]})
    with pytest.raises(UserError, match="build it here"):
        open_runtime(open_artifact(str(tmp_path / "f.engine")), None, None)
    with pytest.raises(UserError, match="Mod"):
        open_runtime(open_artifact(str(random_models["nms_free"])), "tensorrt", None)
    monkeypatch.setattr(cuda, "_candidates", lambda: [cudart["orin"]])
    with pytest.raises(UserError, match="no Q/DQ nodes"):
        open_runtime(raw, "tensorrt", None, None, "int8")
    with pytest.raises(UserError, match=r"takes .*expected one image"):
        open_runtime(raw._replace(imgsz=(64, 64)), "tensorrt", None)


def test_cuda_errors(cudart: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    library = cuda.Cuda(cudart["orin"])
    with pytest.raises(UserError, match="out of memory; close other programs"):
        library.malloc(1 << 31)
    with pytest.raises(UserError, match="invalid handle"):
        library.synchronize(3)
    with pytest.raises(RuntimeMissing, match="libcudart"):
        cuda.Cuda("/nowhere/libcudart.so")


@pytest.mark.parametrize(("capability", "none"), [(5.3, True), (6.1, False), (6.2, True), (7.2, False), (8.7, False)])
def test_int8_by_capability(capability: float, none: bool) -> None:
    assert tensorrt.no_int8(capability) is none


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_tensorrt_builds_an_engine(random_models: dict[str, Path]) -> None:
    """TensorRT-RTX, a sibling product with 11's interface, builds without a GPU; running one needs a GPU."""
    pytest.importorskip("tensorrt_rtx_libs")
    rtx = pytest.importorskip("tensorrt_rtx_bindings")

    class Builder(rtx.Builder):  # type: ignore[misc, name-defined]
        def create_builder_config(self) -> object:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
            return config

    module = types.SimpleNamespace(**{name: getattr(rtx, name) for name in dir(rtx)})
    module.Builder = Builder
    engine = tensorrt.build_engine(module, open_artifact(str(random_models["raw"])), "fp32")
    assert len(engine) > 1_000_000
    for name in ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape", "get_tensor_dtype"):
        assert hasattr(rtx.ICudaEngine, name)
    assert hasattr(rtx.Runtime, "deserialize_cuda_engine")
    assert {"set_tensor_address", "execute_async_v3"} <= set(dir(rtx.IExecutionContext))
    assert rtx.DataType.FLOAT.name in tensorrt._TYPES


TIMES = json.dumps([{"computeMs": 3.0 + k % 2, "latencyMs": 4.0 + k % 2, "startComputeMs": k} for k in range(100)])


def test_trtexec_times(board: FakeBoard, small_models: dict[str, Path], tmp_path: Path) -> None:
    board.program(
        "trtexec",
        "sleep 0.6  # it builds the engine\n"
        'for word in "$@"; do case $word in --exportTimes=*) cat > "${word#*=}" <<\'X\'\n'
        + TIMES + "\nX\n;; esac; done\n"
        f'echo "$@" > {tmp_path}/words; echo "&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # x"',
    )  # fmt: skip
    artifact = open_artifact(str(small_models["raw"]))
    runtime = open_runtime(artifact, "trtexec", None, None, "fp16")
    assert isinstance(runtime, trtexec.Trtexec)
    run = runtime.profile(100, 1)
    assert run["latency_ms"]["infer"]["p50"] == 4.5
    assert run["latency_ms"]["total"] is None  # pre and post were not measured
    assert run["fps"]["inference_only"] == pytest.approx(1000 / 4.5)
    assert run["end"] - run["start"] == pytest.approx(run["seconds"])  # watts and heat of the build are not the frames'
    assert "--fp16" in (tmp_path / "words").read_text()
    assert runtime.version == "8201"
    with pytest.raises(UserError, match="only times"):
        runtime.infer(np.zeros((1, 3, 128, 128), np.float32))
    board.program("trtexec", "echo '[E] Could not parse model'; exit 1")
    with pytest.raises(UserError, match="Could not parse"):
        runtime.profile(1, 0)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1, 2]", '[{"latencyMs": "x", "computeMs": 1}]'])
def test_trtexec_hostile_times(text: str) -> None:
    with pytest.raises(UserError):
        trtexec.parse_times(text)
