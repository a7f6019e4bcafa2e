"""Arguments of ``yolo-musgd export`` and ``quantize-ncnn``, and what is known once those of an export are checked."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.calibration import METHODS
from yolo_musgd.export.checkpoint import Checkpoint, read_checkpoint
from yolo_musgd.export.quantize import VARIANTS
from yolo_musgd.export.sensitivity import Limits
from yolo_musgd.export.splits import Splits, read_splits
from yolo_musgd.export.targets import NAMES, PRECISIONS, Target, load_target
from yolo_musgd.settings import Settings, exist_ok, save_dir, setting

RUNTIMES = (  # those of backends.BACKENDS
    "onnxruntime",
    "openvino",
    "ncnn",
    "mnn",
    "executorch",
    "tensorrt",
)

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
    """Arguments of ``yolo-musgd export``."""

    renamed: ClassVar[Mapping[str, str]] = {"flavour": "variant"}

    model: str | None = setting(
        None, "checkpoint that training wrote: best.pt", kind=str, file="checkpoint",
        required="runs/detect/train/weights/best.pt",
    )  # fmt: skip
    target: str = setting("x86", "board: " + ", ".join(NAMES), choices=NAMES)
    precision: str | None = setting(None, "fp32, fp16 or int8; by default the board's", kind=str, choices=PRECISIONS)
    data: str | None = setting(
        None, "data YAML: train calibrates, val judges; by default the one the model was trained with", kind=str,
        file="data",
    )  # fmt: skip
    imgsz: int | None = setting(None, "side of the input, pixels; by default the one of training", kind=int, low=32)
    head: str | None = setting(
        None, "raw (one-to-many, NMS after it) or nms_free; by default the board's", kind=str,
        choices=("raw", "nms_free"),
    )  # fmt: skip
    runtime: str = setting(
        "auto", "auto makes one artifact for each installed runtime of the board", choices=("auto", *RUNTIMES)
    )
    variant: str | None = setting(
        None, "kind of quantized ONNX graph; by default the board's", kind=str, choices=tuple(VARIANTS)
    )
    calibration: str = setting("percentile", "how ranges are found", choices=METHODS)
    calibration_images: int = setting(128, "different train images that calibrate", low=1)
    percentile: float = setting(99.99, "share of values kept by calibration=percentile, percent", low=90, high=100)
    float_layers: str | None = setting(None, "graph nodes to leave in float besides, separated by commas", kind=str)
    max_drop: float = setting(0.01, "largest drop of mAP50-95 that is accepted", low=0.0, high=1.0)
    max_score_shift: float = setting(
        0.05, "largest mean change of matched scores that is accepted: mAP does not see it, a fixed conf= does",
        low=0.0, high=1.0,
    )  # fmt: skip
    search: bool = setting(True, "move the worst layers to float where more is lost than max_drop or max_score_shift")
    val_images: int = setting(500, "most val images that judge, evenly spaced", low=1)
    opset: int | None = setting(None, "ONNX opset; by default the board's", kind=int, low=11, high=23)
    lint: bool = setting(True, "for TensorRT: try the graph in TensorRT-RTX's builder where it is installed")
    topk: int | None = setting(
        None, "for TensorRT: anchors that the raw head's graph gives, best first; 0 all; by default the board's",
        kind=int, low=0, high=3840,
    )  # fmt: skip
    engine: bool = setting(False, "for TensorRT: also build the engine; only on the board that will run it")
    profile: bool = setting(False, "also show where the time goes, by kind of operator, before and after")
    threads: int = setting(1, "CPU threads of the timings and of the judging", low=1)
    bundle: bool = setting(False, "also pack each artifact with all the board needs, see yolo-musgd help bundle")
    samples: str | None = setting(None, "folder of images that bundle=True takes along", kind=str)
    push: str | None = setting(
        None, "upload the results to this private model of Hugging Face's hub, user/name; needs the extra hub", kind=str
    )
    push_dry_run: bool = setting(False, "list what push= would upload, and upload nothing")
    project: str = setting("runs/export", "parent folder of the results")
    name: str = setting("exp", "folder of the results, counted up")
    save_dir: str | None = save_dir()
    exist_ok: bool = exist_ok("replace")
    verbose: bool = setting(False, "show the output of the converters, which is quiet otherwise")


@dataclasses.dataclass(frozen=True)
class NcnnSettings(Settings):
    """Arguments of ``yolo-musgd quantize-ncnn``."""

    model: str | None = setting(None, "folder that yolo export format=ncnn made", kind=str, required="best_ncnn_model")
    source: str | None = setting(
        None, "folder of training images to measure the activations on", kind=str, required="datasets/mine/images/train"
    )
    images: int = setting(64, "how many of them", low=1)
    percentile: float = setting(
        99.99, "of the absolute activations, the value that 127 stands for; 100 is the largest", low=50.0, high=100.0
    )
    name: str | None = setting(None, "folder to write; by default the model's with _int8 before _ncnn_model", kind=str)


@dataclasses.dataclass(frozen=True)
class Job:
    """An export whose arguments fit together.

    Attributes:
        settings: as given.
        target: the board.
        checkpoint: the model.
        precision: fp32, fp16 or int8.
        head: raw or nms_free.
        imgsz: side of the input, pixels.
        opset: of ONNX graphs.
        variant: of quantized ONNX graphs.
        runtimes: the ones to try, most wanted first.
        splits: images, or None where no data set was given and none is needed.
    """

    settings: ExportSettings
    target: Target
    checkpoint: Checkpoint
    precision: str
    head: str
    imgsz: int
    opset: int
    variant: str
    runtimes: tuple[str, ...]
    splits: Splits | None

    @property
    def limits(self) -> Limits:
        """What a quantized model may lose."""
        return Limits(self.settings.max_drop, self.settings.max_score_shift)


def check(settings: ExportSettings) -> Job:
    """Put defaults in and refuse what cannot work, before anything is computed.

    Raises:
        UserError: one line with value, reason and fix.
    """
    target = load_target(settings.target)
    precision = settings.precision or target.precision
    head = settings.head or target.heads[0]
    runtime = None if settings.runtime == "auto" else settings.runtime
    target.check(precision, head, runtime)
    checkpoint = read_checkpoint(Path(settings.require("model")))
    if head not in checkpoint.heads:
        raise UserError(f"{checkpoint.path} has no NMS-free head; use head=raw")
    opset = settings.opset or target.opset
    if opset > target.opset and target.tensorrt:
        raise UserError(f"opset={opset} is newer than TensorRT of target={target.name} reads; use opset={target.opset}")
    variant = settings.variant or target.variant
    if precision == "int8":
        _check_int8(settings, target, opset, variant)
    return Job(
        settings=settings,
        target=target,
        checkpoint=checkpoint,
        precision=precision,
        head=head,
        imgsz=_image_size(settings.imgsz or checkpoint.imgsz, checkpoint.stride),
        opset=opset,
        variant=variant,
        runtimes=(runtime,) if runtime else tuple(target.runtimes_for(precision)),
        splits=_splits(settings, checkpoint, precision),
    )


def _check_int8(settings: ExportSettings, target: Target, opset: int, variant: str) -> None:
    if opset < 13:
        raise UserError(f"opset={opset} has no weights quantized per channel; use opset=13 or newer")
    if target.tensorrt and not VARIANTS[variant].signed:
        raise UserError(
            f"variant={variant} has unsigned activations, which TensorRT of target={target.name} refuses; use "
            f"variant={target.variant}"
        )
    if settings.runtime == "ncnn" and settings.calibration == "entropy":
        raise UserError("calibration=entropy is not made for runtime=ncnn; use calibration=percentile or minmax")


def _image_size(imgsz: int, stride: int) -> int:
    if imgsz % stride:
        below = max(imgsz // stride, 1) * stride
        raise UserError(
            f"imgsz={imgsz} is no multiple of the model's stride {stride}; use imgsz={below} or {below + stride}"
        )
    return imgsz


def _splits(settings: ExportSettings, checkpoint: Checkpoint, precision: str) -> Splits | None:
    data, splits, reason = settings.data or checkpoint.data, None, ""
    if data:
        try:
            splits = read_splits(str(data), settings.data is not None, checkpoint.rules, checkpoint.names)
        except UserError as error:
            if settings.data is not None:
                raise
            reason = f"; the one it was trained with is not at hand ({error})"
    if splits is None:
        if precision == "int8":
            raise UserError(f"precision=int8 needs data=, a data YAML whose train split calibrates{reason}")
        log.warning("no data= given: the accuracy is not measured%s", reason)
        return None
    if not splits.val:
        log.warning("data=%s: no val image has a label file, so the accuracy is not measured", data)
    return splits
