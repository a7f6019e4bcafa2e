"""How long a model takes on a runtime here, against another one: in turns, in one process, one thread.

Milliseconds of a busy machine mean little; the ratio of medians of runs that take turns holds, by the CPU's clock:
by the wall's, a machine with more work than cores once made a base 40 times slower than its cut. A target is
therefore a ratio to the unpruned model on the same runtime. Graphs are made by the parts of ``yolo-musgd export``.
"""

from __future__ import annotations

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
    """A model on one runtime, loaded, and the folder that holds its files until `close`.

    Args:
        model: stock module of task detect.
        runtime: onnx-fp32, onnx-int8 or ncnn.
        imgsz: side, pixels.
        data: data set whose training images give an INT8 graph its ranges.

    Raises:
        UserError: a package is missing, or Ultralytics' exporter failed.
    """

    def __init__(self, model: Any, runtime: str, imgsz: int, data: str) -> None:
        require(runtime)
        self._folder = tempfile.TemporaryDirectory(prefix="yolo-musgd-prune-")
        try:
            path = export(model, Path(self._folder.name), "ncnn" if runtime == "ncnn" else "onnx", imgsz)
            if runtime == "onnx-int8":
                variant = "universal-all" if platform.machine().lower() in ("aarch64", "arm64") else "x86"
                ranges = collect_ranges(path, calibration_set(read_splits(data), RANGE_IMAGES), imgsz, "minmax", 100)
                path = quantize(make_plan(path, variant), path.with_name("int8.onnx"), ranges, variant, ())
            name = "ncnn" if runtime == "ncnn" else "onnxruntime"
            self.runtime: Runtime = open_runtime(open_artifact(str(path), imgsz), name, threads=1)
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """Free the runtime and remove the files."""
        self.runtime.close()
        self._folder.cleanup()


class Stopwatch:
    """Times models against one and the same base; a context manager that frees the base.

    Args:
        base: stock module of task detect.
        runtime: onnx-fp32, onnx-int8 or ncnn.
        imgsz: side, pixels.
        data: as for `Exported`.
    """

    def __init__(self, base: Any, runtime: str, imgsz: int, data: str) -> None:
        self._how = runtime, imgsz, data
        self._base = Exported(base, *self._how)

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def times(self, model: Any) -> dict[str, float]:
        """Median CPU milliseconds of one thread: ``base`` and ``pruned``, which is ``model``."""
        trial = Exported(model, *self._how)
        try:
            return race(
                {"base": self._base.runtime, "pruned": trial.runtime},
                seconds=6.0, desc=f"timing on {self._how[0]}", clock=time.process_time,
            )  # fmt: skip
        finally:
            trial.close()


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
