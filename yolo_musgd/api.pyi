# Written by .ci/stubs.py from the table of commands; a test holds it to that.
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypeAlias

from yolo_musgd.edge.result import Result

Words: TypeAlias = str | int | float | PathLike[str] | Sequence[object] | Mapping[str, object]
"""Text, a number, a path, or a list or mapping of them."""

NAMES: tuple[str, ...]

def documentation(name: str) -> str: ...
def bench(
    model: Words,
    *,
    runtime: Literal["tensorrt", "onnxruntime", "openvino", "ncnn", "mnn", "executorch", "trtexec"] | None = None,
    imgsz: int | None = None,
    engine: Words | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    iou: float = 0.7,
    max_det: int = 300,
    source: Words | None = None,
    size: Words | None = None,
    rate: float | None = None,
    format: Words | None = None,
    patience: float | None = 60.0,
    threads: int | Sequence[int] | None = None,
    n: int = 200,
    seconds: float = 10.0,
    soak: float = 0.0,
    conf: float | None = None,
    power: Words = "auto",
    csv_offset: float = 0.0,
    idle: float = 10.0,
    warmup: float = 10.0,
    picture: bool = True,
    label: Words = "",
    project: Words = "",
    name: Words = "",
    save_dir: Words = "",
    exist_ok: bool = False,
) -> Result:
    """FPS, latency percentiles, watts and joules per frame of a model on this machine.

    See `yolo-musgd help bench`.
    """

def bundle(
    model: Words,
    *,
    target: Literal["jetson-nano", "jetson-orin-nano", "raspberry-pi-4", "raspberry-pi-5", "x86"] = "x86",
    samples: Words = "",
    val: Words = "",
    val_images: int = 64,
    project: Words = "runs/bundle",
    name: Words = "",
    save_dir: Words = "",
    exist_ok: bool = False,
    archive: bool = True,
    probe: bool = True,
    imgsz: int | None = None,
) -> Result:
    """A folder or archive to copy to a board: model, edge.pyz, requirements, run.sh, walkthrough.

    See `yolo-musgd help bundle`.
    """

def compare(
    *,
    protocol: Words | None = None,
    data: Words | None = None,
    starts: Words | None = None,
    optimizers: Words | None = None,
    seeds: Words | None = None,
    epochs: int | None = None,
    baseline: Words | None = None,
    goal: float | None = None,
    tune: Words | None = None,
    train: Words | None = None,
    device: Words | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    ray: Words | None = None,
    keep_weights: bool = False,
    imports: Words | None = None,
    dry_run: bool = False,
    project: Words = "runs/compare",
    name: Words | None = None,
    save_dir: Words | None = None,
    store: Words | None = None,
) -> Result:
    """Which optimizer converges faster: data sets x starts x optimizers x seeds, with a report.

    See `yolo-musgd help compare`.
    """

def detect(
    model: Words,
    *,
    runtime: Literal["tensorrt", "onnxruntime", "openvino", "ncnn", "mnn", "executorch", "trtexec"] | None = None,
    imgsz: int | None = None,
    engine: Words | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    iou: float = 0.7,
    max_det: int = 300,
    source: Words,
    size: Words | None = None,
    rate: float | None = None,
    format: Words | None = None,
    patience: float | None = 60.0,
    watch: bool = False,
    threads: int | None = None,
    conf: float | None = None,
    n: int | None = None,
    save: bool = True,
    project: Words = "",
    name: Words = "",
    save_dir: Words = "",
    exist_ok: bool = False,
) -> Result:
    """Boxes on images, a video or a camera, as the board computes them (no torch).

    See `yolo-musgd help detect`.
    """

def export(
    model: Words,
    *,
    target: Literal["jetson-nano", "jetson-orin-nano", "raspberry-pi-4", "raspberry-pi-5", "x86"] = "x86",
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    data: Words | None = None,
    imgsz: int | None = None,
    head: Literal["raw", "nms_free"] | None = None,
    runtime: Literal["auto", "onnxruntime", "openvino", "ncnn", "mnn", "executorch", "tensorrt"] = "auto",
    variant: Literal["universal", "universal-all", "x86"] | None = None,
    calibration: Literal["minmax", "entropy", "percentile"] = "percentile",
    calibration_images: int = 128,
    percentile: float = 99.99,
    float_layers: Words | None = None,
    max_drop: float = 0.01,
    max_score_shift: float = 0.05,
    search: bool = True,
    val_images: int = 500,
    opset: int | None = None,
    lint: bool = True,
    topk: int | None = None,
    engine: bool = False,
    profile: bool = False,
    threads: int = 1,
    bundle: bool = False,
    samples: Words | None = None,
    push: Words | None = None,
    push_dry_run: bool = False,
    project: Words = "runs/export",
    name: Words = "exp",
    save_dir: Words | None = None,
    exist_ok: bool = False,
    verbose: bool = False,
) -> Result:
    """A checkpoint for a board: ONNX, OpenVINO, NCNN; INT8 with its accuracy guarded; one folder with its evidence.

    See `yolo-musgd help export`.
    """

def federate(
    data: Words,
    *,
    model: Words = "yolo26n.yaml",
    clients: int = 4,
    rounds: int = 10,
    local_epochs: int = 1,
    optimizer: Words = "MuSGD",
    split: Words = "iid",
    share: Words = "all",
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedmuon"] = "fedavg",
    average: Literal["ema", "weights"] = "ema",
    optimizer_state: Literal["keep", "restart"] = "keep",
    compress: Words = "none",
    proximal_mu: float = 0.01,
    server_lr: float | None = None,
    server_momentum: float = 0.0,
    val: Words | None = None,
    baselines: Literal["none", "central", "alone", "all"] = "none",
    timeout: float = 3600.0,
    jobs: int = 1,
    threads: int | None = None,
    project: Words = "runs/federate",
    name: Words = "exp",
    **train: Words,
) -> Result:
    """Many clients, one model: federated training on Flower, simulated here; goes on where it stopped.

    See `yolo-musgd help federate`.
    """

def pipeline(
    data: Words,
    *,
    target: Literal["jetson-nano", "jetson-orin-nano", "raspberry-pi-4", "raspberry-pi-5", "x86"] = "x86",
    recipe: Words | None = None,
    model: Words = "yolo26n.pt",
    imgsz: int | None = None,
    epochs: int = 100,
    finetune_epochs: int = 30,
    cfg: Words = "musgd.yaml",
    finetune_cfg: Words = "musgd.yaml",
    flops: float = -0.4,
    activation: Literal["relu", "relu6", "hardswish", "silu"] | None = None,
    teacher: Words | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    target_fps: float | None = None,
    anchor: Words | None = None,
    max_drop: float | None = None,
    max_hours: float | None = None,
    images: Words | None = None,
    batch: int = 16,
    seed: int = 0,
    workers: int = 0,
    device: Words | None = None,
    threads: int = 1,
    resume_after: float = 10.0,
    dry_run: bool = False,
    verbose: bool = False,
    project: Words = "runs/pipeline",
    name: Words | None = None,
    save_dir: Words | None = None,
) -> Result:
    """From data to board: train, prune, fine-tune, quantize, check, bundle, with a report; goes on where it stopped.

    See `yolo-musgd help pipeline`.
    """

def prune(
    model: Words | None = None,
    *,
    data: Words | None = None,
    recipe: Words | None = None,
    flops: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    runtime: Literal["onnx-fp32", "onnx-int8", "ncnn"] = "onnx-fp32",
    table: Words | None = None,
    ladder: bool = False,
    tolerance: float = 0.05,
    importance: Literal["taylor", "magnitude", "bn", "random"] = "taylor",
    allocation: Literal["uniform", "global"] | None = None,
    steps: int = 1,
    round_to: int | None = None,
    activation: Literal["relu", "relu6", "hardswish", "silu"] | None = None,
    keep: Words | None = None,
    max_ratio: float = 0.9,
    images: int = 64,
    recalibrate: bool = True,
    sparse: Literal["none", "2:4", "unstructured"] = "none",
    sparsity: float = 0.5,
    epochs: int = 30,
    cfg: Words = "musgd.yaml",
    optimizer: Words | None = None,
    lr0: float | None = None,
    teacher: Words | None = None,
    control: bool = False,
    scratch: bool = False,
    scratch_epochs: int | None = None,
    bench: Words = "auto",
    imgsz: int | None = None,
    batch: int = 16,
    seed: int = 0,
    workers: int = 0,
    device: Words | None = None,
    resume: Words | None = None,
    project: Words = "runs/prune",
    name: Words = "exp",
    save_dir: Words | None = None,
    exist_ok: bool = False,
    verbose: bool = True,
) -> Result:
    """Fewer channels, then fine-tuning: a smaller, faster checkpoint that loads anywhere.

    See `yolo-musgd help prune`.
    """

def val(
    model: Words,
    *,
    runtime: Literal["tensorrt", "onnxruntime", "openvino", "ncnn", "mnn", "executorch", "trtexec"] | None = None,
    imgsz: int | None = None,
    engine: Words | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    iou: float = 0.7,
    max_det: int = 300,
    source: Words,
    labels: Words = "",
    images: Words = "",
    threads: int | None = None,
    conf: float = 0.001,
    n: int | None = None,
    predictions: Words = "",
    label: Words = "",
    latency_ms: float | None = None,
    project: Words = "",
    name: Words = "",
    save_dir: Words = "",
    exist_ok: bool = False,
) -> Result:
    """MAP50-95 of an exported model against YOLO labels on this machine (no torch).

    See `yolo-musgd help val`.
    """
