"""How long a model takes on a runtime here, against another one: in turns, in one process, one thread.

Milliseconds of a busy machine mean little; the ratio of medians of runs that take turns holds, by the CPU's clock:
by the wall's, a machine with more work than cores once made a base 40 times slower than its cut. A target is
therefore a ratio to the unpruned model on the same runtime. Graphs are made by the parts of ``yolo-musgd export``.
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.calibration import collect_ranges
from yolo_musgd.export.checkpoint import export_by_ultralytics, read_checkpoint
from yolo_musgd.export.quantize import make_plan, quantize
from yolo_musgd.export.splits import calibration_set, read_splits
from yolo_musgd.export.timing import race
from yolo_musgd.prune import stock_checkpoint
from yolo_musgd.resources import install

NEEDS = {
    "onnx-fp32": ("onnx", "onnxslim", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxslim", "onnxruntime"),
    "ncnn": ("ncnn", "pnnx"),
}
"""Runtime -> packages, which come with the extra export."""

RANGE_IMAGES = 4
"""Images behind the ranges of an INT8 graph that is only timed: ranges do not decide how long it takes."""


def missing(runtime: str) -> list[str]:
    """Packages that this runtime needs and that are not installed."""
    from importlib.util import find_spec

    return [name for name in NEEDS[runtime] if find_spec(name) is None]


def require(runtime: str) -> None:
    """Check that a runtime can be used.

    Raises:
        UserError: with the line to type.
    """
    if absent := missing(runtime):
        raise UserError(f"runtime={runtime} needs {', '.join(absent)}: {install('export')}")


class Exported:
    """A model's files for the runtimes, each made when first asked for; a context manager that removes them.

    Args:
        model: stock module of task detect.
        imgsz: side, pixels.
        data: data set whose training images give an INT8 graph its ranges.
    """

    def __init__(self, model: Any, imgsz: int, data: str) -> None:
        self._model, self._imgsz, self._data = model, imgsz, data
        self._folder = tempfile.TemporaryDirectory(prefix="yolo-musgd-prune-")
        self._made: dict[str, Path] = {}

    def __enter__(self) -> Exported:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def open(self, runtime: str) -> Runtime:
        """The model on a runtime (onnx-fp32, onnx-int8 or ncnn), on one thread.

        Raises:
            UserError: a package is missing, or Ultralytics' exporter failed.
        """
        require(runtime)
        name = "ncnn" if runtime == "ncnn" else "onnxruntime"
        return open_runtime(open_artifact(str(self._file(runtime)), self._imgsz), name, threads=1)

    def _file(self, runtime: str) -> Path:
        if runtime not in self._made:
            self._made[runtime] = self._quantized() if runtime == "onnx-int8" else self._export(runtime)
        return self._made[runtime]

    def _export(self, runtime: str) -> Path:
        fmt = "ncnn" if runtime == "ncnn" else "onnx"
        folder = Path(self._folder.name) / fmt
        folder.mkdir()
        return export(self._model, folder, fmt, self._imgsz)

    def _quantized(self) -> Path:
        path = self._file("onnx-fp32")
        variant = "universal-all" if platform.machine().lower() in ("aarch64", "arm64") else "x86"
        images = calibration_set(read_splits(self._data), RANGE_IMAGES)
        ranges = collect_ranges(path, images, self._imgsz, "minmax", 100)
        plan = make_plan(path, variant)
        return quantize(plan, path.with_name("int8.onnx"), ranges, variant, (*plan.last, *plan.first))


def times(base: Exported, model: Exported, runtime: str) -> dict[str, float]:
    """Median CPU milliseconds of one thread: ``base`` and ``pruned``, which is ``model``."""
    with contextlib.closing(base.open(runtime)) as before, contextlib.closing(model.open(runtime)) as after:
        pair = {"base": before, "pruned": after}
        return race(pair, seconds=6.0, desc=f"timing on {runtime}", clock=time.process_time)


def export(model: Any, folder: Path, fmt: str, imgsz: int) -> Path:
    """Have Ultralytics export a module with its raw head.

    Args:
        model: stock module; it is not changed.
        folder: where the files go.
        fmt: onnx or ncnn.
        imgsz: side, pixels.
    """
    file = stock_checkpoint.save(model, folder / "pruned.pt", {}, {})
    try:
        return export_by_ultralytics(read_checkpoint(file), "raw", folder, fmt, imgsz)
    finally:
        file.unlink()
