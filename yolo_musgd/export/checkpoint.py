"""The checkpoint that is exported: what it is, which of its heads is taken, and what Ultralytics makes of it."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import Rules
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.runtimes.artifact import sha256_of
from yolo_musgd.host import silent_host
from yolo_musgd.resources import install


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained detection model on disk.

    Attributes:
        path: the ``.pt`` file.
        sha256: of the file.
        names: class names by index.
        stride: largest stride in pixels; sides of the input are its multiples.
        imgsz: side it was trained with, pixels.
        data: the ``data`` argument it was trained with, or None.
        rules: what its training made of the data set.
        heads: ``raw`` and, where the model has one, ``nms_free``.
        channels: of its input: 3, or 1 for grey images.
        activation: after most of its convolutions: ``silu``, ``relu``, ...
    """

    path: Path
    sha256: str
    names: dict[int, str]
    stride: int
    imgsz: int
    data: str | None
    rules: Rules
    heads: tuple[str, ...]
    channels: int = 3
    activation: str | None = None


def load_model(path: Path) -> Any:
    """Ultralytics' wrapper of the checkpoint at ``path``.

    Raises:
        UserError: missing, not a checkpoint, damaged, or not a detection model.
    """
    from ultralytics import YOLO

    if not path.exists():
        raise UserError(f"model={path} does not exist; give the best.pt of a training run")
    if path.suffix != ".pt":
        raise UserError(
            f"model={path} is no checkpoint: export starts from the .pt file that training wrote, since an exported "
            "graph has lost its second head and its training arguments"
        )
    try:
        with silent_host():
            model = YOLO(str(path))
    except Exception as error:  # unpickling raises whatever the file makes it raise
        raise UserError(f"model={path} cannot be loaded as a checkpoint: {first_line(error)}") from error
    if is_qat(model.model):
        raise UserError(
            f"model={path} was trained with quantize=8 (QAT), so its ranges are its own and are not calibrated again: "
            "yolo export format=onnx writes its INT8 graph, which yolo-musgd val, bench and bundle take"
        )
    if model.task != "detect":
        raise UserError(f"model={path} is a model for task={model.task}; only task=detect is exported here")
    if "RTDETR" in type(model.model).__name__:
        raise UserError(
            f"model={path} is an RT-DETR, which is neither quantized nor judged here: yolo export format=onnx writes "
            "its graph, which yolo-musgd val, bench, detect and bundle take"
        )
    return model


def is_qat(module: Any) -> bool:
    """Whether a network carries the fake quantizers of Ultralytics' quantization-aware training."""
    return any(type(part).__name__ == "TensorQuantizer" for part in module.modules())


def read_checkpoint(path: Path) -> Checkpoint:
    """Facts of the checkpoint at ``path``; see :func:`load_model` for the errors."""
    model = load_model(path)
    trained: Any = getattr(model.model, "args", None) or {}
    trained = trained if isinstance(trained, dict) else vars(trained)
    size = trained.get("imgsz") or 640
    head = model.model.model[-1]
    return Checkpoint(
        path=path,
        sha256=sha256_of(str(path)),
        names={int(k): str(v) for k, v in model.names.items()},
        stride=int(max(model.model.stride)),
        imgsz=int(max(size) if isinstance(size, (list, tuple)) else size),
        data=trained.get("data"),
        rules=Rules.of_training(trained),
        heads=("raw", "nms_free") if getattr(head, "one2one_cv2", None) is not None else ("raw",),
        channels=int(getattr(model.model, "yaml", {}).get("channels", 3)),
        activation=_activation(model.model),
    )


def _activation(module: Any) -> str | None:
    found = Counter(type(part.act).__name__.lower() for part in module.modules() if hasattr(part, "act"))
    del found["identity"]
    return found.most_common(1)[0][0] if found else None


def choose_head(model: Any, head: str) -> None:
    """Leave ``model`` (Ultralytics' wrapper) with the one head that is asked for.

    Releases differ in which head they export and how one asks for it; taking the one-to-one branch out works on all.
    """
    module = model.model.model[-1]
    if head == "raw":
        for name in [name for name in module._modules if name.startswith("one2one")]:
            delattr(module, name)
    elif isinstance(getattr(type(module), "end2end", None), property) and type(module).end2end.fset:
        module.end2end = True


def export_by_ultralytics(
    checkpoint: Checkpoint, head: str, folder: Path, fmt: str, imgsz: int, opset: int | None = None, half: bool = False
) -> Path:
    """Have Ultralytics export the checkpoint into ``folder``.

    Args:
        checkpoint: what to export.
        head: ``raw`` or ``nms_free``.
        folder: where the file (ONNX) or folder (OpenVINO, NCNN) is made.
        fmt: Ultralytics' name of the format.
        imgsz: side of the input in pixels.
        opset: ONNX opset; None leaves it to Ultralytics.
        half: store FP16 weights.

    Returns:
        The path that was written.

    Raises:
        UserError: a missing package, or Ultralytics' own words.
    """
    from ultralytics.utils import DEFAULT_CFG_DICT

    packages = {"onnx": ("onnx", "onnxslim", "onnxruntime")}
    require(packages.get(fmt, (fmt,)), fmt if fmt in ("executorch", "openvino") else "export")
    copy = folder / "model.pt"  # Ultralytics writes beside the checkpoint, and the user's folder is not ours
    shutil.copyfile(checkpoint.path, copy)
    model = load_model(copy)
    choose_head(model, head)
    options: dict[str, Any] = {"opset": opset} if fmt == "onnx" and opset else {}
    if half:  # the argument was renamed on the way
        options.update({"quantize": 16} if "quantize" in DEFAULT_CFG_DICT else {"half": True})
    try:
        with silent_host():
            made = model.export(
                format=fmt, imgsz=imgsz, nms=False if head == "nms_free" else None, device="cpu", **options
            )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"Ultralytics could not export {checkpoint.path} as {fmt}: {first_line(error)}") from error
    except Exception as error:  # the exporter raises assertions, runtime errors and those of the format's tools
        raise UserError(f"Ultralytics could not export {checkpoint.path} as {fmt}: {first_line(error)}") from error
    finally:
        copy.unlink(missing_ok=True)
    shutil.rmtree(Path(made) / "__pycache__", ignore_errors=True)  # PNNX imports the Python that it writes there
    return Path(made)


def require(modules: tuple[str, ...], extra: str = "export") -> None:
    """Check that packages are installed, see :func:`require_all`."""
    require_all({extra: modules})


def require_all(wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Check that the packages of several extras are installed.

    Args:
        wanted: extra -> names of modules.

    Raises:
        UserError: with one line that brings all that is missing.
    """
    from importlib.util import find_spec

    missing = {extra: [name for name in modules if find_spec(name) is None] for extra, modules in wanted.items()}
    names = [name for found in missing.values() for name in found]
    if names:
        extras = ",".join(extra for extra, found in missing.items() if found)
        raise UserError(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not installed: {install(extras)}")
