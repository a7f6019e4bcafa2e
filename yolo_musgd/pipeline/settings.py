"""Arguments of ``yolo-musgd pipeline``, and the recipes that hold some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from yolo_musgd import resources
from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.targets import NAMES, PRECISIONS
from yolo_musgd.resources import read_recipe
from yolo_musgd.settings import MOST_SEED, Settings, SettingsError, parse, save_dir, setting
from yolo_musgd.train.settings import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class PipelineSettings(Settings):
    """Arguments of ``yolo-musgd pipeline``."""

    data: str | None = setting(
        None, "data set: shapes.yaml, or a data YAML of yours", kind=str, file="data", required="shapes.yaml"
    )
    target: str = setting("x86", "board: " + ", ".join(NAMES), choices=NAMES)
    recipe: str | None = setting(
        None, "YAML with some of these arguments; by default the shipped one named as the data set, if there is one; "
        "arguments on the command line win", kind=str,
    )  # fmt: skip
    model: str = setting(
        "yolo26n.pt", "what training starts from: pretrained weights, or yolo26n.yaml for none", file="model"
    )
    imgsz: int | None = setting(
        None, "side of the input, pixels; by default 640, or what target_fps= allows", kind=int, low=32
    )
    epochs: int = setting(100, "epochs of training; 0 takes model= as it is", low=0)
    finetune_epochs: int = setting(30, "epochs of fine-tuning after pruning", low=0)
    cfg: str = setting("musgd.yaml", "training recipe", file="recipe")
    finetune_cfg: str = setting("musgd.yaml", "training recipe of the fine-tuning", file="recipe")
    flops: float = setting(-0.4, "change of the FLOPs by pruning; 0 prunes nothing", low=-0.95, high=0.0)
    activation: str | None = setting(
        None, "replace the model's activations before the fine-tuning: relu is the fastest in INT8", kind=str,
        choices=ACTIVATIONS,
    )  # fmt: skip
    teacher: str | None = setting(
        None,
        "fine-tune by Ultralytics' distillation from base, or from a checkpoint of the same classes",
        kind=str,
        file="teacher",
    )
    precision: str | None = setting(None, "fp32, fp16 or int8; by default the board's", kind=str, choices=PRECISIONS)
    target_fps: float | None = setting(
        None, "frames a second wanted on the board: chooses imgsz and the model's width by an estimate", kind=float,
        low=0.1,
    )  # fmt: skip
    anchor: str | None = setting(
        None, "[model,imgsz,milliseconds] you measured on your board, for target_fps; by default a published figure",
        kind=str,
    )  # fmt: skip
    max_drop: float | None = setting(
        None, "largest drop of mAP50-95 on val from the FP32 base to the final model; prunes less, or not, where it is "
        "exceeded", kind=float, low=0.0, high=1.0,
    )  # fmt: skip
    max_hours: float | None = setting(
        None, "hours that the whole may take here: epochs are cut to fit, after one has been timed", kind=float, low=0.0
    )
    images: str | None = setting(
        None, "folder of your own photos for the detections before and after; by default images of the data set",
        kind=str,
    )  # fmt: skip
    batch: int = setting(16, "images a batch", low=1)
    seed: int = setting(0, "of the training", low=0, high=MOST_SEED)
    workers: int = setting(0, "processes that load images", low=0)
    device: str | None = setting(
        None, "where to train: cpu, 0, [0,1], as Ultralytics has it; by default a GPU where there is one", kind=str
    )
    threads: int = setting(1, "CPU threads of the timings here", low=1)
    resume_after: float = setting(
        10.0, "an interrupted training with more than so many minutes behind it goes on from its last epoch, which is "
        "near to the uninterrupted result; a shorter one starts anew, which is equal to it", low=0.0,
    )  # fmt: skip
    dry_run: bool = setting(False, "print the plan: what is done, what is to do and why; no step is done")
    verbose: bool = setting(False, "show the output of the steps, which goes to logs/ otherwise")
    project: str = setting("runs/pipeline", "parent folder of the results")
    name: str | None = setting(
        None, "folder of the results, by default <data>-<target>; it is taken up again, not counted up", kind=str
    )
    save_dir: str | None = save_dir()

    @classmethod
    def read(cls, args: Mapping[str, str]) -> PipelineSettings:
        """See `read_settings`."""
        return read_settings(args)[0]

    @property
    def prunes(self) -> bool:
        """Whether the model is changed by the step prune: fewer channels, other activations."""
        return bool(self.flops or self.activation)

    @property
    def folder(self) -> Path:
        """Of the results."""
        return Path(self.save_dir or Path(self.project) / (self.name or f"{self.data_name}-{self.target}"))

    @property
    def data_name(self) -> str:
        """The data set in a word: the name of its YAML, or of the folder around a mere ``data.yaml``."""
        file = Path(str(self.data))
        return file.absolute().parent.name if file.stem in ("data", "dataset") else file.stem


@dataclasses.dataclass(frozen=True)
class MeasureSettings(Settings):
    """Arguments of the step that measures the final table."""

    base: str = setting("base", "artifact of the base model")
    pruned: str | None = setting(None, "artifact of the pruned model", kind=str)
    final: str = setting("final", "artifact of the final model")
    data: str = setting("shapes.yaml", "data YAML")
    split: str = setting("val", "split that judges", choices=("val", "test"))
    threads: int = setting(1, "CPU threads", low=1)
    out: str = setting("measure.json", "file to write")


@dataclasses.dataclass(frozen=True)
class SampleSettings(Settings):
    """Arguments of the step that chooses the pictures."""

    data: str = setting("shapes.yaml", "data YAML")
    split: str = setting("val", "split whose images are taken without source=", choices=("train", "val", "test"))
    source: str | None = setting(None, "folder of photos", kind=str)
    out: str = setting("samples", "folder to fill")


def read_settings(args: Mapping[str, str]) -> tuple[PipelineSettings, str | None]:
    """Settings from the command line and a recipe.

    Returns:
        The settings, and the recipe's file, None without one.

    Raises:
        UserError: unknown or impossible arguments, or no such recipe.
    """
    given = parse(PipelineSettings, args)
    given.require("data", ", which is drawn on your machine")
    file = _find(given)
    content = read_recipe(file) if file else {}
    settings = PipelineSettings.from_mapping({**content, **{k: getattr(given, k) for k in args}})
    if settings.target_fps and "imgsz" not in args:
        settings = dataclasses.replace(settings, imgsz=None)  # a recipe's size does not outrank a wish of the user's
    if settings.anchor and not settings.target_fps:
        raise SettingsError("anchor= is for a goal of speed: add target_fps=30")
    if settings.imgsz and settings.imgsz % 32:
        raise SettingsError(f"imgsz must be a multiple of 32, got {settings.imgsz}")
    if settings.flops < 0 and settings.flops > -0.05:
        raise SettingsError(f"flops must be 0 or in [-0.95, -0.05], got {settings.flops:g}")
    if settings.images and not Path(settings.images).exists():
        raise UserError(f"images={settings.images} does not exist; give a folder of photos")
    return settings, str(file) if file else None


def _find(given: PipelineSettings) -> Path | None:
    if given.recipe is None:
        named = resources.find_recipe("pipeline", Path(str(given.data)).name)
        return named if named and not Path(str(given.data)).exists() else None
    found = resources.find_recipe("pipeline", given.recipe)
    if found is None:
        shipped = ", ".join(name for name in resources.recipe_names("pipeline") if name != "boards.yaml")
        raise UserError(f"recipe={given.recipe} does not exist; shipped recipes: {shipped}")
    return found
