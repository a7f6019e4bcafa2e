"""One calibration: the range of every tensor of the FP32 graph, which all quantized graphs then share.

ONNX Runtime collects the values; images are fed one by one, so that memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.data.reader import read_image
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.export.splits import CalibrationSet

METHODS = ("minmax", "entropy", "percentile")
BINS = {"minmax": 1, "entropy": 128, "percentile": 2048}  # of a histogram, at first
Ranges = dict[str, tuple[float, float]]
"""Tensor name -> (lowest, highest) value."""


def blobs(files: Sequence[str], shape: Sequence[int], desc: str) -> Any:
    """Yield the network's input for each file, float32 of ``shape`` (1, channels, height, width), with a bar."""
    from ultralytics.utils import TQDM

    _, channels, height, width = shape
    letterbox = Letterbox((height, width), channels)
    for file in TQDM(files, desc=desc):
        yield letterbox(read_image(file, channels))[0].copy()


class Histogram:
    """Counts of a tensor's values in equal bins about zero, from the first value on, growing by whole bins.

    Bins and growth are those of ONNX Runtime's collector, so that its rules for a threshold hold here too; counting
    block by block in the processor's cache takes a quarter of ``np.histogram``'s time.
    """

    BLOCK = 1 << 16
    TINY = 1e-30  # bins below are too narrow for float32, which counts them

    def __init__(self, bins: int) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.reach, self.low, self.high = 0.0, math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        """Count float32 values of any shape; one bin counts nothing and only knows the extremes."""
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        reach = max(-self.low, self.high)
        if not math.isfinite(reach) or reach < self.TINY:  # no range to be had, or nothing but zeros so far
            return
        if reach > self.reach:
            self._grow(reach)
        if len(self.counts) > 1:
            self.counts += self._count(values.ravel())

    def _grow(self, reach: float) -> None:
        if reach > 64 * self.reach:  # it was all but zero: what was counted falls into the new middle
            middle, self.reach = int(self.counts.sum()), reach
            self.counts = np.zeros_like(self.counts)
            self.counts[len(self.counts) // 2] = middle
            return
        width = 2 * self.reach / len(self.counts)
        more = int((reach - self.reach) // width + 1)
        self.counts, self.reach = np.pad(self.counts, more), self.reach + more * width

    def _count(self, values: np.ndarray) -> np.ndarray:
        bins = len(self.counts)
        scale, shift = np.float32(bins / (2 * self.reach)), np.float32(bins / 2)
        found, buffer = np.zeros(bins + 1, np.int64), np.empty(self.BLOCK, np.float32)
        for start in range(0, len(values), self.BLOCK):
            block = values[start : start + self.BLOCK]
            place = np.multiply(block, scale, out=buffer[: len(block)])
            place += shift
            found += np.bincount(place.astype(np.intp), minlength=bins + 1)
        found[-2] += found[-1]  # the highest value itself
        return found[:-1]

    @property
    def is_finite(self) -> bool:
        """Whether there is a range at all."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def edges(self) -> np.ndarray:
        """Borders of the bins, float32, one more than there are bins."""
        return np.linspace(-self.reach, self.reach, len(self.counts) + 1).astype(np.float32)

    def percentile(self, share: float) -> tuple[float, float]:
        """The range that leaves out (100 - ``share``) / 2 percent of the values on either side."""
        cut, edges = (100.0 - share) / 200.0, self.edges()
        below = self.counts.cumsum() / max(self.counts.sum(), 1)
        left, right = (int(np.searchsorted(below, at)) for at in (cut, 1.0 - cut))
        return max(float(edges[left]), self.low), min(float(edges[right]), self.high)

    def entropy(self) -> tuple[float, float]:
        """The range that loses least information in 128 steps, by ONNX Runtime's search."""
        from onnxruntime.quantization.calibrate import HistogramCollector

        search = HistogramCollector("entropy", False, len(self.counts), 128, 0, "same")
        extremes = (np.float32(self.low), np.float32(self.high))
        low, high = search.get_entropy_threshold((self.counts, self.edges(), *extremes), 128)[:2]
        return float(low), float(high)


def _with_every_tensor(model: Path, path: Path) -> Path:
    """Write ``model`` to ``path`` with each of its float tensors as an output."""
    import onnx
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    made = load_model_with_shape_infer(model)
    missing = {name for node in made.graph.node for name in node.output} - {out.name for out in made.graph.output}
    for info in made.graph.value_info:  # which names a tensor twice where its shape was known before
        if info.name in missing and info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            made.graph.output.append(info)
            missing.remove(info.name)
    onnx.save(made, str(path))
    return path


def cache_key(model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float) -> str:
    """Name under which ranges are found again: same graph, images, size and method."""
    import onnx

    # The graph alone: Ultralytics writes the time of day into the file's metadata.
    graph = hashlib.sha256(onnx.load(str(model)).graph.SerializeToString(deterministic=True)).hexdigest()
    parts = [graph, images.sha256, str(imgsz), method, f"{percentile:g}"]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def collect_ranges(
    model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float, threads: int = 1
) -> Ranges:
    """Run ``images`` through ``model`` and note the range of every tensor.

    Args:
        model: FP32 ONNX file with one input.
        images: what to run.
        imgsz: side of the input, pixels.
        method: ``minmax`` (lowest and highest value seen), ``entropy`` (threshold that loses least information, from
            TensorRT's calibrator) or ``percentile`` (clips the rarest values).
        percentile: share of the values kept by method ``percentile``, in percent.
        threads: of the session.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # not all: a layout of its own would have to be undone for every tensor that is looked at
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    found: dict[str, Histogram] = {}
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:  # which goes with the run, however that ends
        augmented = _with_every_tensor(model, Path(folder) / "augmented.onnx")
        session = ort.InferenceSession(str(augmented), options, providers=["CPUExecutionProvider"])
        entry, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
        shape = (1, entry.shape[1], imgsz, imgsz)
        for blob in blobs(images.files, shape, f"calibrating ({method})"):
            for name, values in zip((entry.name, *names), (blob, *session.run(names, {entry.name: blob})), strict=True):
                tensor = found.setdefault(name, Histogram(BINS[method]))
                tensor.add(values)
    rules: dict[str, Callable[[Histogram], tuple[float, float]]] = {
        "minmax": lambda tensor: (tensor.low, tensor.high),
        "entropy": Histogram.entropy,
        "percentile": lambda tensor: tensor.percentile(percentile),
    }
    return {name: rules[method](tensor) for name, tensor in found.items() if tensor.is_finite}


def cached_ranges(
    folder: Path, model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float, threads: int = 1
) -> Ranges:
    """As :func:`collect_ranges`, but found again in ``folder`` when the same work was done before."""
    file = folder / f"{cache_key(model, images, imgsz, method, percentile)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return {name: (float(low), float(high)) for name, (low, high) in json.loads(file.read_text()).items()}
    ranges = collect_ranges(model, images, imgsz, method, percentile, threads)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(str(file), json.dumps(ranges))
    return ranges


def as_tensors_data(ranges: Mapping[str, tuple[float, float]]) -> Any:
    """The ranges in the type that ONNX Runtime's quantizer takes."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData  # its home in older releases too

    return TensorsData(
        CalibrationMethod.MinMax, {k: (np.float32(low), np.float32(high)) for k, (low, high) in ranges.items()}
    )
