"""Inference runtimes behind one interface: ONNX Runtime, OpenVINO and NCNN here, TensorRT in trt.py.

Every runtime takes one image as float32 of shape (1, 3, height, width) in [0, 1], RGB, and returns one array: the raw
head (4 + classes, anchors) or the NMS-free head (detections, 6). Packages are imported when a runtime is opened, never
before.
"""

import os
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ..errors import RuntimeMissing, UserError, first_line
from . import fusion
from .artifact import Artifact
from .base import INSTALL, Runtime, as_matrix, cpu_count, import_or_explain

READS = {  # runtime -> the model formats it can open
    "onnxruntime": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "ncnn": ("ncnn",),
    "tensorrt": ("engine", "onnx"),
    "trtexec": ("engine", "onnx"),
}
NAMES = tuple(READS)


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU; the precision is the graph's."""

    name = "onnxruntime"

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        self._ort = ort = import_or_explain("onnxruntime", self.name)
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
        self._fetch = [self._session.get_outputs()[0].name]
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


class OpenVino(Runtime):
    """OpenVINO on the CPU, from its own IR (.xml) or straight from ONNX.

    Left alone, OpenVINO computes an FP32 model in bfloat16 where the CPU has it, which moved scores by 0.1 when tried;
    here it computes in float32 unless fp16 is asked for, which leaves the choice to OpenVINO. The report says what it
    chose.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        openvino = import_or_explain("openvino", self.name)
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


class Ncnn(Runtime):
    """NCNN on the CPU. It stores and, on ARM, computes in float16 by default; ``precision=fp32`` switches that off."""

    name = "ncnn"

    def __init__(self, artifact: Artifact, threads: int, precision: Optional[str]) -> None:
        Runtime.__init__(self, artifact)
        self._ncnn = import_or_explain("ncnn", self.name)
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


def available(name: str) -> Tuple[bool, str]:
    """Whether a runtime can be loaded here, with its version, or the line that installs it."""
    if name == "trtexec":
        from .trtexec import find_trtexec

        path = find_trtexec()
        return (True, path) if path else (False, INSTALL[name])
    try:
        module = import_or_explain(name, name)
    except RuntimeMissing as error:
        return False, str(error)
    return True, str(getattr(module, "__version__", "version unknown"))


def choose(artifact: Artifact, asked: Optional[str]) -> str:
    """Choose the runtime: the one asked for if it reads this model, else the first installed one that does.

    For ONNX the order is TensorRT (where it is installed there is a GPU to use), ONNX Runtime, OpenVINO, trtexec.

    Raises:
        UserError: The runtime does not read this kind of model, or none that does is installed.
    """
    readers = [
        name for name in ("tensorrt", "onnxruntime", "openvino", "ncnn", "trtexec") if artifact.format in READS[name]
    ]
    if asked is not None:
        if asked not in readers:
            raise UserError(
                "{} is a model for {}, not for {}; {} reads {}".format(
                    artifact.model, " or ".join(readers), asked, asked, " and ".join(READS[asked])
                )
            )
        return asked
    for name in readers:
        if available(name)[0]:
            return name
    raise RuntimeMissing(
        "nothing here can run {}; install one of:\n  {}".format(
            artifact.model, "\n  ".join("{}: {}".format(name, INSTALL[name]) for name in readers)
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
    chosen = choose(artifact, name)
    if chosen in ("tensorrt", "trtexec"):
        from . import tensorrt

        return tensorrt.open_tensorrt(artifact, chosen, engine, precision)
    classes: Dict[str, Callable[..., Runtime]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "ncnn": Ncnn}
    return classes[chosen](artifact, threads or cpu_count(), precision)


def installed() -> List[Tuple[str, bool, str]]:
    """Return (name, whether it loads, version or what to type) for every runtime."""
    return [(name,) + available(name) for name in NAMES]
