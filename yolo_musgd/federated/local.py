"""A client's share of the work: some epochs of Ultralytics' trainer, from given arrays, in the middle of a schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from ultralytics import YOLO
from ultralytics.utils.torch_utils import unwrap_model

from yolo_musgd import trainers
from yolo_musgd.edge.errors import UserError, first_line
from yolo_musgd.federated.arrays import Arrays, put, take
from yolo_musgd.host import quiet_host

TASKS = {
    "detect": "MuSGDDetectionTrainer",
    "segment": "MuSGDSegmentationTrainer",
    "pose": "MuSGDPoseTrainer",
    "obb": "MuSGDOBBTrainer",
}
"""Task -> its trainer in :mod:`yolo_musgd.trainers`."""
QUIET = {"val": False, "save": False, "plots": False, "verbose": False, "exist_ok": True, "patience": 0}
"""What a client's training does without: the server judges and keeps."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be trained.

    Attributes:
        model: YAML or checkpoint that gives the architecture.
        data: data YAML.
        folder: for what the trainer writes.
        arguments: of ``yolo train``.
        start: first epoch of the schedule, from 0.
        epochs: how many are trained now.
        total: epochs of the whole schedule: learning rate, warm-up and the end of the mosaics follow it.
        seed: of shuffling and augmentation.
        proximal: FedProx's mu; 0 for none.
        average: ``ema`` or ``weights``.
        fine_tunes: whether the federation began from trained weights, which decides defaults of some optimizers.
        new_classes: whether these were of other classes.
    """

    model: str
    data: str
    folder: Path
    arguments: Mapping[str, Any]
    start: int
    epochs: int
    total: int
    seed: int
    proximal: float = 0.0
    average: str = "ema"
    fine_tunes: bool = False
    new_classes: bool = False

    def overrides(self) -> dict[str, Any]:
        """Arguments for Ultralytics' trainer."""
        place = {"project": str(self.folder.resolve().parent), "name": self.folder.name}
        task = {"model": self.model, "data": self.data, "epochs": self.total, "seed": self.seed}
        return {"telemetry": False, **self.arguments, **QUIET, **place, **task}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        arrays: every floating-point tensor of the model.
        images: trained on, in each epoch.
        loss: mean of the last epoch, its parts summed.
        optimizer: its state, for the next round.
    """

    arrays: Arrays
    images: int
    loss: float
    optimizer: dict[str, Any]


class RoundMixin:
    """Over a trainer with the plugin: begins from arrays, amid the schedule, and judges and keeps nothing."""

    work: Work
    arrays: Arrays
    kept: dict[str, Any] | None

    def setup_model(self) -> Any:
        """Build the model as the host does, and put the global model's arrays in."""
        checkpoint = super().setup_model()  # type: ignore[misc]
        put(unwrap_model(self.model), self.arrays)  # type: ignore[attr-defined]
        self._fine_tunes, self._new_classes = self.work.fine_tunes, self.work.new_classes
        return checkpoint

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> Optimizer:
        """Build the optimizer; with FedProx, mu (w - w_global) joins its gradients (Li et al., arXiv 1812.06127)."""
        optimizer: Optimizer = super().build_optimizer(model, *args, **kwargs)  # type: ignore[misc]
        if self.work.proximal:
            start = {p: p.detach().clone() for p in model.parameters()}

            def pull(*_: Any) -> None:
                for parameter, where in start.items():
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - where, alpha=self.work.proximal)

            optimizer.register_step_pre_hook(pull)
        return optimizer

    def resume_training(self, checkpoint: Any) -> None:
        """Go on in the schedule as the host does when it resumes; the epochs before were other rounds."""
        if self.work.start:
            self.resume = True
            state = {"optimizer": self.kept, "ema": None, "updates": 0, "scaler": None, "best_fitness": 0.0}
            super().resume_training({"epoch": self.work.start - 1, **state})  # type: ignore[misc]
            self.resume = False
        self.add_callback("on_fit_epoch_end", _stop_after_round)  # type: ignore[attr-defined]

    def validate(self) -> tuple[dict[str, float], float]:
        """Nothing: the global model is what is judged."""
        return {}, 0.0

    def save_model(self) -> bool:
        """Nothing: the arrays are sent."""
        return False

    def final_eval(self) -> None:
        """Nothing, see `validate`."""


def _stop_after_round(trainer: Any) -> None:
    trainer.stop = trainer.epoch + 1 >= trainer.work.start + trainer.work.epochs


@cache
def task_of(model: str) -> str:
    """The task of a model file.

    Raises:
        UserError: it cannot be loaded, or is for classification, whose data sets cannot be divided here.
    """
    try:
        with quiet_host():
            task = str(YOLO(model).task)
    except Exception as error:  # files, YAML, pickles: whatever a broken file makes the host raise
        raise UserError(f"model={model} cannot be loaded: {first_line(error)}") from error
    if task not in TASKS:
        raise UserError(f"model={model} is for {task}; federate trains {', '.join(TASKS)}")
    return task


def base_trainer(task: str) -> Any:
    """The trainer of a task, with the plugin."""
    return getattr(trainers, TASKS[task])


@cache
def round_trainer(task: str) -> Any:
    """The trainer of a task, with the plugin and with `RoundMixin`."""
    base = base_trainer(task)
    return type(f"Round{base.__name__}", (RoundMixin, base), {})


def train(work: Work, arrays: Arrays, kept: dict[str, Any] | None = None) -> Trained:
    """Train one round.

    Args:
        work: what and how.
        arrays: tensors to begin from; those that are not among them are as the model's file or the seed has them.
        kept: the optimizer's state of the round before, or None.

    Raises:
        UserError: the arrays are not this model's, or the data cannot be trained on.
        RuntimeError: the loss became NaN.
    """
    with quiet_host():
        trainer = round_trainer(task_of(work.model))(overrides=work.overrides())
        trainer.work, trainer.arrays, trainer.kept = work, arrays, kept
        trainer.train()
    source = trainer.ema.ema if work.average == "ema" else unwrap_model(trainer.model)
    losses = trainer.label_loss_items(trainer.tloss)
    names = [name for name, value in source.state_dict().items() if value.is_floating_point()]
    images = len(trainer.train_loader.dataset)
    return Trained(take(source, names), images, float(sum(losses.values())), trainer.optimizer.state_dict())


def initial_model(work: Work) -> tuple[nn.Module, bool, bool]:
    """The model that a federation begins with, as a central training of these arguments would begin.

    Returns:
        The model, whether its weights were trained, and whether for other classes.
    """
    with quiet_host():
        trainer = base_trainer(task_of(work.model))(overrides=work.overrides())
        trainer.setup_model()
        trainer.set_model_attributes()
    return unwrap_model(trainer.model), bool(trainer._fine_tunes), bool(trainer._new_classes)


def save_kept(file: Path, state: dict[str, Any]) -> None:
    """Keep an optimizer's state on this client's own disk."""
    part = file.with_name(f".part-{file.name}")
    torch.save(state, part)
    part.replace(file)


def load_kept(file: Path) -> dict[str, Any] | None:
    """What `save_kept` kept; None without it. Tensors and plain values only are read."""
    return torch.load(file, weights_only=True) if file.is_file() else None
