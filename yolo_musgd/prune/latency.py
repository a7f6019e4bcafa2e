"""How long a model takes on a runtime here, against another one: in turns, in one process, one thread.

Milliseconds of a busy machine mean little; the ratio of medians of runs that take turns holds. A latency target is
therefore a ratio to the unpruned model on the same runtime.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.edge.artifact import open_artifact
from yolo_musgd.edge.errors import EdgeError
from yolo_musgd.edge.runtimes import Runtime, first_line, open_runtime
from yolo_musgd.prune import checkpoint
from yolo_musgd.settings import UserError

NEEDS = {
    "onnx-fp32": ("onnx", "onnxslim", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxslim", "onnxruntime"),
    "ncnn": ("ncnn", "pnnx"),
}
"""Runtime -> packages; the first two come with the extra prune."""


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
        raise UserError(f"runtime={runtime} needs {', '.join(absent)}: pip install 'yolo-musgd[prune]'")


class Exported:
    """A model on one runtime, loaded, and the folder that holds its files until `close`.

    Args:
        model: stock module of task detect.
        runtime: onnx-fp32, onnx-int8 or ncnn.
        imgsz: side, pixels.

    Raises:
        UserError: a package is missing, or Ultralytics' exporter failed.
    """

    def __init__(self, model: Any, runtime: str, imgsz: int) -> None:
        require(runtime)
        self._folder = tempfile.TemporaryDirectory(prefix="yolo-musgd-prune-")
        try:
            path = export(model, Path(self._folder.name), "ncnn" if runtime == "ncnn" else "onnx", imgsz)
            if runtime == "onnx-int8":
                path = quantize(path, imgsz)
            self.size_bytes = sum(f.stat().st_size for f in ([path] if path.is_file() else path.glob("*.ncnn.*")))
            name = "ncnn" if runtime == "ncnn" else "onnxruntime"
            self.runtime: Runtime = open_runtime(open_artifact(str(path), imgsz), name, threads=1)
        except EdgeError as error:
            self._folder.cleanup()
            raise UserError(str(error)) from error
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """Free the runtime and remove the files."""
        self.runtime.close()
        self._folder.cleanup()


def export(model: Any, folder: Path, fmt: str, imgsz: int) -> Path:
    """Have Ultralytics export a module.

    Args:
        model: stock module; it is not changed.
        folder: where the files go.
        fmt: onnx or ncnn.
        imgsz: side, pixels.
    """
    from ultralytics import YOLO

    from yolo_musgd.plugin import quiet_host

    file = checkpoint.save(model, folder / "model.pt", {}, {})
    try:
        with quiet_host():
            made = YOLO(str(file)).export(format=fmt, imgsz=imgsz, device="cpu")
    except Exception as error:  # the exporter raises assertions, runtime errors and those of the format's tools
        raise UserError(f"Ultralytics could not export the model to {fmt}: {first_line(error)}") from error
    finally:
        file.unlink()
    return Path(made)


def quantize(path: Path, imgsz: int) -> Path:
    """An INT8 graph for timing: unsigned activations and INT8 weights per channel, which x86's fast kernels take.

    Ranges come from random images. They decide what the model sees and not how long it takes; the INT8 model to deploy
    is made by ``yolo-musgd export``.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self._left = [generator.random((1, 3, imgsz, imgsz), dtype=np.float32) for _ in range(2)]

        def get_next(self) -> dict[str, Any] | None:
            return {"images": self._left.pop()} if self._left else None

    made = path.with_name("int8.onnx")
    quantize_static(
        str(path), str(made), Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return made


def race(contenders: Mapping[str, Exported], seconds: float = 6.0, least: int = 15, most: int = 60) -> dict[str, float]:
    """Median milliseconds of each contender on the same image, in turns of random order.

    Args:
        contenders: name -> loaded model; all take an image of the same size.
        seconds: a contender; fewer than ``least`` rounds are never made, more than ``most`` neither.
        least: rounds.
        most: rounds.
    """
    from ultralytics.utils import TQDM

    image = np.random.default_rng(0).random(next(iter(contenders.values())).runtime.input_shape, dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        for _ in range(2):
            contender.runtime.infer(image)
    order, end = random.Random(0), time.perf_counter() + seconds * len(contenders)
    for count in TQDM(range(most), desc="timing"):
        if count >= least and time.perf_counter() > end:
            break
        for name in order.sample(list(contenders), len(contenders)):
            start = time.perf_counter()
            contenders[name].runtime.infer(image)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(t)) for name, t in times.items()}
