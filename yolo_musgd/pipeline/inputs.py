"""What the pipeline is given: found and checked before anything is computed, known by its content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import Rules
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.edge.runtimes.artifact import sha256_of
from yolo_musgd.export.checkpoint import load_model, require_all
from yolo_musgd.export.splits import MIN_IMAGES
from yolo_musgd.host import quiet_host
from yolo_musgd.pipeline.dag import runtime_of
from yolo_musgd.pipeline.dataset import DataSet, digest, digest_folder
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.pipeline.step import Input
from yolo_musgd.resources import read_recipe

RUNTIME_PACKAGES = {"openvino": (("openvino",), "openvino"), "ncnn": (("ncnn", "pnnx"), "export")}
"""Runtime -> packages beside the ONNX ones that make and judge its models here, and the extra that has them."""


def require_packages(settings: PipelineSettings, precision: str) -> None:
    """Check that what the steps will need is installed.

    Raises:
        UserError: with the line to type.
    """
    wanted: dict[str, tuple[str, ...]] = {"export": ("onnx", "onnxruntime", "onnxslim")}
    if settings.prunes:
        wanted["prune"] = ("torch_pruning",)
    for runtime in {runtime_of(settings, "fp32"), runtime_of(settings, precision)} & set(RUNTIME_PACKAGES):
        modules, extra = RUNTIME_PACKAGES[runtime]
        wanted[extra] = wanted.get(extra, ()) + modules
    require_all(wanted)


def check_model(settings: PipelineSettings, model: str) -> None:
    """Refuse a model that is not there and that Ultralytics does not have.

    Raises:
        UserError: with what can be given.
    """
    file = Path(model)
    if settings.epochs == 0 and (file.suffix != ".pt" or not file.is_file()):
        raise UserError(f"epochs=0 takes a trained model as it is, and model={model} is no .pt file here")
    known = file.is_file() or published(model) or (file.suffix != ".pt" and "/" not in model)
    if file.suffix not in (".pt", ".yaml", ".yml") or not known:
        raise UserError(
            f"model={model} must be a .pt checkpoint that is there, or a model of Ultralytics such as yolo26n.pt or "
            "yolo26n.yaml"
        )


def check_images(settings: PipelineSettings, data: DataSet) -> None:
    """Refuse a data set that the pruning step would refuse after the training.

    Raises:
        UserError: too few training images.
    """
    count = len(data.images["train"])
    if settings.prunes and count < MIN_IMAGES:
        raise UserError(
            f"data={settings.data} has {count} training images, and pruning needs at least {MIN_IMAGES} to tell which "
            "channels matter: add some, or leave pruning out with flops=0"
        )


def check_teacher(settings: PipelineSettings, data: DataSet) -> None:
    """Refuse a teacher that the fine-tuning would refuse after the training.

    Raises:
        UserError: see :func:`yolo_musgd.prune.finetuning.check_teacher`, or nothing is fine-tuned.
    """
    if settings.teacher is None:
        return
    if not (settings.prunes and settings.finetune_epochs):
        raise UserError(
            "teacher= is for the fine-tuning after pruning: add flops=-0.4 or activation=relu, and epochs for it"
        )
    from yolo_musgd.prune.finetuning import check_teacher as check

    check(settings.teacher, dict(enumerate(data.names)), "detect")


def check_task(model: str, file: Path | None) -> None:
    """Refuse a model that is no detector, which is all that can be exported and measured.

    Args:
        model: as given.
        file: behind it, None where Ultralytics builds it from a YAML of its own or has yet to download it.

    Raises:
        UserError: with its task, or with what is wrong with the checkpoint.
    """
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load

    if file is not None and file.suffix == ".pt":
        load_model(file)
        return
    try:
        with quiet_host(logging.ERROR):  # of a .pt that is to come its name alone is known, which the host warns of
            task = guess_model_task(Path(model) if model.endswith(".pt") else yaml_model_load(model))
    except Exception as error:  # no such file, several of them, not a model
        raise UserError(f"model={model} cannot be read: {first_line(error)}") from error
    if task != "detect":
        raise UserError(f"model={model} is a model for task={task}; the pipeline is for task=detect")


def published(model: str) -> str | None:
    """The file name of weights that Ultralytics offers for download; None for any other model."""
    from ultralytics.utils.checks import check_yolov5u_filename
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    name: str = check_yolov5u_filename(model, verbose=False)  # yolov5n.pt is yolov5nu.pt by now
    return name if name in GITHUB_ASSETS_NAMES else None


def find_model(model: str, fetch: bool = True) -> Path | None:
    """The file behind ``model=``.

    Published weights are looked for where training would find them, in the working folder and in Ultralytics' folder of
    weights, and downloaded before the first step: a step that did so would change what it was made from.

    Args:
        model: a path, or a name that Ultralytics knows.
        fetch: download published weights that are not here.

    Returns:
        None for a model that Ultralytics builds from a YAML of its own, and for weights that are not here.

    Raises:
        UserError: they cannot be downloaded.
    """
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.downloads import attempt_download_asset

    name = published(model)
    places = [Path(name), Path(SETTINGS["weights_dir"]) / name] if name else [Path(model)]
    file = next((place for place in places if place.is_file()), None)
    if file or not name or not fetch:
        return file
    try:
        file = Path(attempt_download_asset(name))
        reason = "no file came"
    except Exception as error:  # whatever the network makes the host raise
        reason = first_line(error).strip("❌. ")
    if file is None or not file.is_file():
        raise UserError(f"model={model} cannot be downloaded: {reason}; give a .pt file, or train yolo26n.yaml anew")
    return file


def of_model(model: str, file: Path | None) -> Input:
    """The model as the steps know it: by its content, or by its name where there is no file."""
    if file is None:
        return Input(model, hashlib.sha256(model.encode()).hexdigest())
    return Input(str(file.absolute()), sha256_of(str(file)))


def recipes(settings: PipelineSettings) -> dict[str, Input]:
    """The training recipes, under the names that are given and known by their content.

    Raises:
        UserError: not there, where training would find them, or no step could train by them.
    """
    from ultralytics.utils.checks import check_yaml

    found = {}
    for word in ("cfg", "finetune_cfg"):
        name = getattr(settings, word)
        try:
            file = check_yaml(name)
            found[word] = Input(name, sha256_of(file))
        except Exception as error:  # no such file, several of them, not a YAML
            raise UserError(f"{word}={name} cannot be read: {first_line(error)}") from error
        _check_recipe(f"{word}={name}", read_recipe(Path(file)), settings.device)
    return found


def _check_recipe(given: str, content: dict[str, Any], device: str | None) -> None:
    """Refuse what would fail after hours, and a run's own args.yaml, whose places outrank those of a step."""
    from yolo_musgd.prune.finetuning import check_recipe

    for key, what in (("save_dir", "be written over"), ("resume", "go on with another training")):
        if content.get(key):
            raise UserError(f"{given}: {key}={content[key]} would {what}: remove that line")
    check_recipe(given, {**content, "device": device or content.get("device")})


def rules_of(settings: PipelineSettings) -> Rules:
    """What the base's training recipe makes of the data set (``single_cls``, ``classes``).

    Raises:
        UserError: the recipe is not a mapping, or that of the fine-tuning would train for other classes.
    """
    from ultralytics.utils.checks import check_yaml

    names = (settings.cfg, settings.finetune_cfg)
    base, tuned = (Rules.of_training(read_recipe(Path(check_yaml(name)))) for name in names)
    if (
        settings.prunes
        and settings.finetune_epochs
        and (base.single_cls, base.classes) != (tuned.single_cls, tuned.classes)
    ):
        raise UserError(
            f"cfg={names[0]} and finetune_cfg={names[1]} differ in single_cls or classes: fine-tuning would be for "
            "other classes; give both the same"
        )
    return base


def collect(
    settings: PipelineSettings, data: DataSet, known: Mapping[str, Input], cache: Path | None
) -> dict[str, Input]:
    """Everything that it is given, by the name that the steps have for it.

    Args:
        settings: as given.
        data: the data set.
        known: the model and the recipes.
        cache: see :func:`yolo_musgd.pipeline.dataset.digest`.
    """
    found = {"data": Input(data.yaml, digest(data, cache)), **known}
    if settings.teacher not in (None, "base"):
        found["teacher"] = Input(str(Path(settings.teacher).absolute()), sha256_of(settings.teacher))
    if settings.images:
        found["images"] = Input(str(Path(settings.images).absolute()), digest_folder(Path(settings.images)))
    return found
