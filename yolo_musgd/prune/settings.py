"""Arguments of ``yolo-musgd prune``, and the recipes that hold some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import items
from yolo_musgd.optim import registry
from yolo_musgd.resources import read_recipe
from yolo_musgd.settings import MOST_SEED, Settings, SettingsError, exist_ok, parse, save_dir, setting
from yolo_musgd.train.settings import ACTIVATIONS

KINDS = ("taylor", "magnitude", "bn", "random")
ALLOCATIONS = ("uniform", "global")
RUNTIMES = ("onnx-fp32", "onnx-int8", "ncnn")
SPARSITIES = ("none", "2:4", "unstructured")


@dataclasses.dataclass(frozen=True)
class PruneSettings(Settings):
    """Arguments of ``yolo-musgd prune``."""

    renamed: ClassVar[Mapping[str, str]] = {"distill": "teacher"}

    model: str | None = setting(
        None, "checkpoint to prune, the best.pt of a training run", kind=str, file="model",
        required="runs/detect/train/weights/best.pt",
    )  # fmt: skip
    data: str | None = setting(
        None, "data set it was trained on; by default what the checkpoint says", kind=str, file="data"
    )
    recipe: str | None = setting(
        None, "YAML with some of these arguments: prune-20.yaml, prune-40.yaml, prune-60.yaml, a latency recipe or "
        "your own; arguments on the command line win", kind=str,
    )  # fmt: skip
    flops: float | None = setting(
        None, "target: change of the FLOPs, -0.4 takes 40 % away (the default target); 0 cuts nothing, for activation= "
        "alone", kind=float, low=-0.95, high=0.0,
    )  # fmt: skip
    params: float | None = setting(
        None, "target: change of the parameters, e.g. -0.5", kind=float, low=-0.95, below=0.0
    )
    latency: float | None = setting(
        None, "target: latency as a share of the model's own on runtime=, e.g. 0.7", kind=float, low=0.05, below=1.0
    )
    runtime: str = setting("onnx-fp32", "where a latency target is measured, one thread", choices=RUNTIMES)
    table: str | None = setting(
        None, "latency target on a board: bench.json files or folders of the models that ladder=True wrote, "
        "[a/bench.json,b/bench.json,...]", kind=str,
    )  # fmt: skip
    ladder: bool = setting(False, "write ONNX files at 0, 20, 40, 60 % fewer FLOPs to measure on a board, and stop")
    tolerance: float = setting(0.05, "how far from a latency target is good enough, as a share", low=0.005, high=0.5)
    importance: str = setting("taylor", "which channels matter; random is the control", choices=KINDS)
    allocation: str | None = setting(
        None, "global takes the least important channels for the FLOPs they save (default with taylor); uniform the "
        "same share of every layer (default otherwise)", kind=str, choices=ALLOCATIONS,
    )  # fmt: skip
    steps: int = setting(1, "prune in so many steps, scoring and recalibrating anew in each", low=1, high=50)
    round_to: int | None = setting(
        None, "channels in multiples of this; default 16 (see the rounding table in docs/prune.md)", kind=int, low=1
    )
    activation: str | None = setting(
        None, "replace the activations of the cut model too: relu is the fastest in INT8", kind=str, choices=ACTIVATIONS
    )
    keep: str | None = setting(None, "layers that stay whole, by name: [model.0,model.23]", kind=str)
    max_ratio: float = setting(0.9, "largest share of a layer's channels that may go", low=0.05, below=1.0)
    images: int = setting(64, "training images for importance and for BatchNorm", low=16)
    recalibrate: bool = setting(True, "set BatchNorm's statistics anew after pruning, where val is better for it")
    sparse: str = setting("none", "also zero weights of what is left: a sparsity, not a speed-up", choices=SPARSITIES)
    sparsity: float = setting(0.5, "share of zeros with sparse=unstructured", low=0.05, high=0.95)
    epochs: int = setting(30, "epochs of fine-tuning; 0 stops after recalibration", low=0)
    cfg: str | None = setting(
        "musgd.yaml",
        "training recipe of the fine-tuning; None takes Ultralytics' defaults",
        kind=str,
        file="recipe",
    )
    optimizer: str | None = setting(None, "optimizer of the fine-tuning; by default the training recipe's", kind=str)
    lr0: float | None = setting(None, "initial learning rate; by default the training recipe's", kind=float, low=0.0)
    teacher: str | None = setting(
        None, "fine-tune by Ultralytics' distillation from base (the model as given), or from a checkpoint of the same "
        "classes", kind=str, file="teacher",
    )  # fmt: skip
    control: bool = setting(False, "control arm: fine-tune the unpruned model for as many epochs")
    scratch: bool = setting(False, "control arm: a narrower model of equal FLOPs from scratch")
    scratch_epochs: int | None = setting(
        None, "epochs of that model; by default those of the base and of the fine-tuning together", kind=int, low=1
    )
    bench: str = setting("auto", "runtimes to time before and after: auto, none, or [onnx-fp32,onnx-int8,ncnn]")
    imgsz: int | None = setting(None, "image side; by default the one it was trained with", kind=int, low=32)
    batch: int = setting(16, "images a batch", low=1)
    seed: int = setting(0, "of the image choice, the random importance and the training", low=0, high=MOST_SEED)
    workers: int = setting(0, "processes that load images", low=0)
    device: str | None = setting(
        None, "where to fine-tune: cpu, 0, [0,1], as Ultralytics has it; by default a GPU where there is one", kind=str
    )
    resume: str | None = setting(None, "folder of an interrupted run to go on with", kind=str)
    project: str = setting("runs/prune", "parent folder of the results")
    name: str = setting("exp", "folder of the results, counted up")
    save_dir: str | None = save_dir()
    exist_ok: bool = exist_ok("replace")
    verbose: bool = setting(True, "show the log of the training, as Ultralytics has it")

    @property
    def layers_to_keep(self) -> list[str]:
        """Names in ``keep``."""
        return items(self.keep or "")

    @property
    def chosen_allocation(self) -> str:
        """``allocation``, or what suits the importance: only Taylor's scores compare across layers."""
        return self.allocation or ("global" if self.importance == "taylor" else "uniform")

    @classmethod
    def read(cls, args: Mapping[str, str]) -> PruneSettings:
        """See `read_settings`."""
        return read_settings(args)

    def check_files(self) -> None:
        """See `Settings.check_files`; the model is that of the run which ``resume`` goes on with, or must be given."""
        super().check_files()
        registry.find(self.optimizer or "auto")
        if not self.resume:
            self.require("model")


def read_settings(args: Mapping[str, str]) -> PruneSettings:
    """Settings from the command line and from the recipe that it names.

    Raises:
        UserError: unknown or impossible arguments, no such recipe, or more than one target.
    """
    given = parse(PruneSettings, args)  # checks the words themselves
    from_recipe = read_recipe(_find(given.recipe)) if given.recipe else {}
    targets = ("flops", "params", "latency")
    if any(name in args for name in targets):
        from_recipe = {k: v for k, v in from_recipe.items() if k not in targets}
    settings = PruneSettings.from_mapping({**from_recipe, **{k: getattr(given, k) for k in args}})
    chosen = [name for name in targets if getattr(settings, name) is not None]
    if len(chosen) > 1:
        raise SettingsError(f"give one target, got {' and '.join(chosen)}")
    if not chosen and not settings.ladder:
        settings = dataclasses.replace(settings, flops=-0.4)
    if settings.flops == 0 and not settings.activation:
        raise SettingsError("flops=0 changes nothing: give flops=-0.4, or activation=relu to replace the activations")
    if settings.latency is not None and settings.steps > 1 and not settings.table:
        raise SettingsError("a latency target is met in one step: drop steps=, or give flops= or params=")
    if settings.table and settings.latency is None:
        raise SettingsError("table= is for a latency target: add latency=0.7")
    for name in ("control", "teacher") if not settings.epochs else ():
        if getattr(settings, name):
            raise SettingsError(f"{name}= is for the fine-tuning, which epochs=0 leaves out: give epochs=30")
    if "sparsity" in {**from_recipe, **args} and settings.sparse != "unstructured":
        raise SettingsError("sparsity= is the share of zeros of sparse=unstructured: add that")
    if settings.scratch_epochs and not settings.scratch:
        raise SettingsError("scratch_epochs= is for scratch=True: add that")
    for name in [] if settings.bench in ("auto", "none") else items(settings.bench):
        if name not in RUNTIMES:
            raise SettingsError(f"bench must be auto, none or among {', '.join(RUNTIMES)}, got {name!r}")
    return settings


def _find(recipe: str) -> Path:
    found = resources.find_recipe("prune", recipe)
    if found is None:
        shipped = ", ".join(resources.recipe_names("prune"))
        raise UserError(f"recipe={recipe} does not exist; shipped recipes: {shipped}")
    return found
