"""One calibration: the range of every tensor of the FP32 graph, which all quantized graphs then share.

ONNX Runtime collects the values; images are fed one by one, so that memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.data.reader import read_image
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.export.splits import CalibrationSet

METHODS = ("minmax", "entropy", "percentile")
Ranges = dict[str, tuple[float, float]]
"""Tensor name -> (lowest, highest) value."""


def blobs(files: Sequence[str], shape: Sequence[int], desc: str) -> Any:
    """Yield the network's input for each file, float32 of ``shape`` (1, channels, height, width), with a bar."""
    from ultralytics.utils import TQDM

    _, channels, height, width = shape
    letterbox = Letterbox((height, width), channels)
    for file in TQDM(files, desc=desc):
        yield letterbox(read_image(file, channels))[0].copy()


class _Reader:
    """What ONNX Runtime's calibrators read from: the next feed, or None at the end."""

    def __init__(self, feeds: Iterable[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def cache_key(model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float) -> str:
    """Name under which ranges are found again: same graph, images, size and method."""
    import onnx

    # The graph alone: Ultralytics writes the time of day into the file's metadata.
    graph = hashlib.sha256(onnx.load(str(model)).graph.SerializeToString(deterministic=True)).hexdigest()
    parts = [graph, images.sha256, str(imgsz), method, f"{percentile:g}"]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def collect_ranges(model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float) -> Ranges:
    """Run ``images`` through ``model`` and note the range of every tensor.

    Args:
        model: FP32 ONNX file with one input.
        images: what to run.
        imgsz: side of the input, pixels.
        method: ``minmax`` (lowest and highest value seen), ``entropy`` (threshold that loses least information, from
            TensorRT's calibrator) or ``percentile`` (clips the rarest values).
        percentile: share of the values kept by method ``percentile``, in percent.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    kind = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[method]
    options = {"percentile": percentile, "symmetric": False} if method == "percentile" else {}
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:  # which goes with the run, however that ends
        calibrator = create_calibrator(
            model, None, str(Path(folder) / "augmented.onnx"), calibrate_method=kind, extra_options=options
        )
        entry = calibrator.infer_session.get_inputs()[0]
        shape = (1, entry.shape[1], imgsz, imgsz)
        feeds = ({entry.name: blob} for blob in blobs(images.files, shape, f"calibrating ({method})"))
        if method == "minmax":  # two numbers a tensor are all it keeps of an image
            calibrator.collect_data(_Reader(feeds))
        else:  # it would keep every tensor of every image, so each image is turned into histograms at once
            for one in feeds:
                with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does and its own settings
                    calibrator.collect_data(_Reader([one]))
        with contextlib.redirect_stdout(io.StringIO()):
            data = calibrator.compute_data()
    ranges = {name: tuple(float(np.ravel(edge)[0]) for edge in entry.range_value) for name, entry in data.items()}
    return {name: (low, high) for name, (low, high) in ranges.items() if math.isfinite(low) and math.isfinite(high)}


def cached_ranges(
    folder: Path, model: Path, images: CalibrationSet, imgsz: int, method: str, percentile: float
) -> Ranges:
    """As :func:`collect_ranges`, but found again in ``folder`` when the same work was done before."""
    file = folder / f"{cache_key(model, images, imgsz, method, percentile)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return {name: (float(low), float(high)) for name, (low, high) in json.loads(file.read_text()).items()}
    ranges = collect_ranges(model, images, imgsz, method, percentile)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(str(file), json.dumps(ranges))
    return ranges


def as_tensors_data(ranges: Mapping[str, tuple[float, float]]) -> Any:
    """The ranges in the type that ONNX Runtime's quantizer takes."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData  # its home in older releases too

    return TensorsData(
        CalibrationMethod.MinMax, {k: (np.float32(low), np.float32(high)) for k, (low, high) in ranges.items()}
    )
