"""Training after pruning, the control arms beside it, and the figures of a split that did not pick the epoch."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from yolo_musgd import resources
from yolo_musgd.data.reader import NO_RULES, Rules
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.prune import sparse
from yolo_musgd.prune.settings import PruneSettings
from yolo_musgd.resources import read_recipe

NOT_A_RECIPE = (
    "task", "mode", "model", "pretrained", "cfg", "resume", "time", "save", "project", "name", "save_dir", "exist_ok",
)  # fmt: skip
"""What a run's own args.yaml holds beside a recipe: where it was, what it started from and how long it took."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Accuracy of one model.

    Attributes:
        split: of the data that it was measured on.
        map50_95: mean AP over IoU .50 to .95 (top-1 accuracy for classify).
        map50: AP at IoU .50 (top-5 accuracy for classify).
    """

    split: str
    map50_95: float
    map50: float


def recipe(name: str) -> dict[str, Any]:
    """A training recipe, shipped or one's own; a run's args.yaml is one, too.

    Raises:
        UserError: it does not exist, or is no YAML mapping.
    """
    file = resources.find_recipe("train", name)
    if file is None:
        raise UserError(f"cfg={name} does not exist; give a training recipe such as musgd.yaml")
    return {k: v for k, v in read_recipe(file).items() if k not in NOT_A_RECIPE}


def check_recipe(given: str, arguments: Mapping[str, Any]) -> None:
    """Let Ultralytics and the plugin look at the arguments of a training before the work that comes first.

    Args:
        given: the recipe as it was given, ``cfg=mine.yaml``, for the message.
        arguments: of ``train``.

    Raises:
        UserError: one that they do not know, or a value that cannot be.
    """
    from ultralytics.cfg import get_cfg

    from yolo_musgd import plugin
    from yolo_musgd.train.trainer import check_arguments

    plugin.register()
    try:
        check_arguments(arguments)
        get_cfg(overrides=dict(arguments))
    except Exception as error:  # Ultralytics raises TypeError, ValueError or SyntaxError, in several lines
        raise UserError(f"{given}: {first_line(error)}") from error


def training_arguments(settings: PruneSettings, data: str, imgsz: int, rules: Rules = NO_RULES) -> dict[str, Any]:
    """Arguments of Ultralytics' ``train`` that every arm shares; ``rules`` are those of the model's own training.

    Raises:
        UserError: the training recipe does not exist, or cannot be trained by.
    """
    arguments: dict[str, Any] = {}
    if settings.cfg and settings.cfg.lower() != "none":
        arguments.update(recipe(settings.cfg))
    arguments.update(
        {
            "data": data, "imgsz": imgsz, "epochs": settings.epochs, "batch": settings.batch, "nbs": settings.batch,
            "seed": settings.seed, "workers": settings.workers, "device": settings.device, "exist_ok": True,
        }
    )  # fmt: skip
    if rules.single_cls:
        arguments["single_cls"] = True
    if rules.classes is not None:
        arguments["classes"] = list(rules.classes)
    if settings.optimizer:
        arguments["optimizer"] = settings.optimizer
    if settings.lr0 is not None:
        arguments["lr0"] = settings.lr0
    check_recipe(f"cfg={settings.cfg}", {**arguments, "epochs": max(1, settings.epochs)})  # 0: nothing is trained
    return arguments


def check_teacher(teacher: str, names: Mapping[int, str], task: str) -> None:
    """Refuse, before any work, a teacher that Ultralytics' distillation could not take or would take in silence.

    Args:
        teacher: ``base``, which is not looked at, or a checkpoint's path.
        names: of the classes of the model that learns.
        task: of it.

    Raises:
        UserError: a release without distillation, no detection head, no such file, or other classes.
    """
    from ultralytics import YOLO, __version__
    from ultralytics.cfg import DEFAULT_CFG_DICT

    if "distill_model" not in DEFAULT_CFG_DICT:
        raise UserError(
            f"teacher= needs an ultralytics with distill_model, {__version__} has none: pip install -U ultralytics"
        )
    if task == "classify":
        raise UserError("teacher= is for models with a detection head, and this one is for task=classify")
    if teacher == "base":
        return
    if not Path(teacher).is_file() or Path(teacher).suffix != ".pt":
        raise UserError(f"teacher={teacher} is no checkpoint that is there: give base, or a .pt of the same classes")
    try:
        found = YOLO(teacher)
    except Exception as error:  # whatever a broken file makes the loader raise
        raise UserError(f"teacher={teacher} cannot be loaded: {first_line(error)}") from error
    if found.task != task or [n.casefold() for n in found.names.values()] != [n.casefold() for n in names.values()]:
        raise UserError(
            f"teacher={teacher} must be a {task} model of the learning one's {len(names)} classes, in order; "
            f"it is a {found.task} model of {len(found.names)}"
        )


def train(model: str, folder: Path, arm: str, arguments: dict[str, Any], held: bool = False) -> Path:
    """Train one arm with Ultralytics' trainer, or go on where an interrupted one stopped.

    Args:
        model: checkpoint or YAML to start from.
        folder: of the whole run; the arm gets ``folder/arm``.
        arm: finetune, control or scratch.
        arguments: of ``train``.
        held: weights that are zero stay zero.

    Returns:
        Its best checkpoint.
    """
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import strip_optimizer

    from yolo_musgd import plugin
    from yolo_musgd.prune import stock_checkpoint

    plugin.register()
    last, best = (folder / arm / "weights" / name for name in ("last.pt", "best.pt"))
    saved = _interrupted(last)
    resumed = bool(saved)
    if saved:
        if saved["epoch"] == -1:  # Ultralytics marks a finished run so
            return best
        if saved["epoch"] + 1 >= saved["train_args"]["epochs"]:  # only that mark is left to do
            for file in (last, best):
                strip_optimizer(file)
            return best
        home = folder.resolve()
        now = {"project": str(home), "save_dir": str(home / arm)}  # Ultralytics would go on where it lay before
        now |= {key: arguments[key] for key in ("data", "distill_model") if key in arguments}
        saved["train_args"] |= now
        stock_checkpoint.write(saved, last)
    yolo = YOLO(str(last) if resumed else model)
    if held:
        yolo.add_callback("on_train_start", sparse.hold)
    if resumed:
        yolo.train(resume=True)
    else:
        yolo.train(project=str(folder.resolve()), name=arm, **arguments)
    return best


def _interrupted(last: Path) -> dict[str, Any]:
    """The checkpoint that an arm can go on from; empty where there is none, or where it was cut off."""
    from ultralytics.utils.patches import torch_load

    if not last.exists():
        return {}
    try:
        found: dict[str, Any] = torch_load(last, map_location="cpu")
    except Exception as error:  # whatever a damaged file makes PyTorch raise
        LOGGER.warning(f"{last} cannot be read, so this arm starts anew: {first_line(error)}")
        return {}
    return found


def validate(model: Any, arguments: dict[str, Any], split: str, settings: PruneSettings, folder: Path) -> Figures:
    """Accuracy on a split.

    Args:
        model: checkpoint file.
        arguments: of the training, whose data, size and classes count here too.
        split: val or test.
        settings: batch, workers and device.
        folder: where Ultralytics may write its pictures.
    """
    from ultralytics import YOLO

    from yolo_musgd.host import quiet_host

    with quiet_host():
        result = YOLO(str(model)).val(
            **{k: arguments[k] for k in ("data", "imgsz", "single_cls", "classes") if k in arguments},
            split=split, batch=settings.batch, workers=settings.workers, plots=False,
            verbose=False, device=settings.device, project=str(folder.resolve()), name="val", exist_ok=True,
        )  # fmt: skip
    if hasattr(result, "top1"):
        return Figures(split, float(result.top1), float(result.top5))
    part = result.seg if hasattr(result, "seg") else result.pose if hasattr(result, "pose") else result.box
    return Figures(split, float(part.map), float(part.map50))


def curve(folder: Path, arm: str) -> list[float]:
    """mAP50-95 (or top-1) on val after every epoch of an arm, from its results.csv."""
    file = folder / arm / "results.csv"
    if not file.exists():
        return []
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    columns = [c for c in (rows[0] if rows else {}) if c and ("mAP50-95" in c or "accuracy_top1" in c)]
    return [float(row[columns[-1]]) for row in rows] if columns else []


def narrower(model: Any, flops: float, imgsz: int) -> dict[str, Any]:
    """The model's own architecture as Ultralytics would scale it, at the width whose FLOPs come closest.

    Args:
        model: before pruning.
        flops: to come close to, counted as `PruneGraph.cost` does.
        imgsz: side, pixels.

    Returns:
        A model YAML's content.
    """
    import copy

    from yolo_musgd.host import quiet_host
    from yolo_musgd.prune.channel_graph import PruneGraph

    content = {k: v for k, v in copy.deepcopy(model.yaml).items() if k not in ("pruned", "yaml_file", "scale")}
    name = model.yaml.get("scale") or next(iter(content.get("scales", {})), None)
    depth, width, most = content.get("scales", {}).get(name, (content.pop("depth_multiple", 1.0), 1.0, float("inf")))
    best: tuple[float, dict[str, Any]] | None = None
    low, high = 0.05, float(width)
    for _ in range(9):
        middle = (low + high) / 2
        trial = {**content, "scales": {name or "n": [depth, round(middle, 4), most]}, "scale": name or "n"}
        with quiet_host():
            cost = PruneGraph(type(model)(copy.deepcopy(trial), verbose=False), imgsz).cost().flops
        if best is None or abs(cost - flops) < best[0]:
            best = abs(cost - flops), trial
        low, high = (middle, high) if cost < flops else (low, middle)
    assert best is not None
    return best[1]
