"""The other optimizers of the sources, from torch.optim and the library pytorch_optimizer, made fit for Ultralytics.

What an optimizer needs to live in that trainer, and gets here:

- Ultralytics' param groups, with the names that the optimizer uses (``momentum`` becomes ``betas``).
- State that survives a checkpoint, see :mod:`yolo_musgd.optim.state`.
- A step with a non-finite gradient is skipped and counted (on a CPU; on a GPU Ultralytics' gradient scaler does that).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yolo_musgd.edge.errors import UserError
from yolo_musgd.optim.checks import TensorError, check_saved, label, saved_entries
from yolo_musgd.optim.kernels import all_finite
from yolo_musgd.optim.state import protect, unprotect
from yolo_musgd.resources import install
from yolo_musgd.settings import Settings


class MissingExtraError(UserError):
    """A library that an optional part needs is not installed."""


@dataclass(frozen=True)
class Recipe:
    """How to build one optimizer of the zoo.

    Attributes:
        library: module it comes from.
        cls: class in that module.
        betas: the second coefficient of ``betas``, the first being the momentum; None if it takes ``momentum`` itself
            or no momentum.
        momentum: whether it takes ``momentum``.
        options: further arguments.
        prepare: wraps the class further, e.g. to feed it what the trainer cannot.
        settings: arguments of its own on the command line; ``softstep_width`` reaches Softstep as ``width``.
    """

    library: str
    cls: str
    betas: float | None = None
    momentum: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[type[Optimizer]], type[Optimizer]] | None = None
    settings: type[Settings] | None = None


class CheckpointSafe(Optimizer):
    """Mixin: state that survives Ultralytics' fp16 checkpoints, and no step on a non-finite gradient."""

    _skipped: int

    def report(self) -> dict[str, Tensor]:
        """``skipped_steps``: 0-d count of steps left out because a gradient was not finite."""
        return {"skipped_steps": torch.as_tensor(getattr(self, "_skipped", 0))}

    def step(self, closure: Any = None) -> Any:
        """Step unless a gradient on the CPU is not finite.

        Raises:
            TensorError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        if any(g.layout != torch.strided for g in grads):
            raise TensorError(f"{type(self).__name__} does not support sparse gradients; use torch.optim.SparseAdam")
        if grads and grads[0].device.type == "cpu" and not all_finite(grads):
            self._skipped = getattr(self, "_skipped", 0) + 1
            return loss
        _unhooked(super().step)()  # the hooks of this very step have been called
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As torch's, protected from Ultralytics' fp16."""
        return protect(super().state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`; takes checkpoints of the plain class too.

        Raises:
            TensorError: a tensor of another shape than this model's; nothing is loaded then.
        """
        plain = unprotect(state_dict)
        for number, place, p, entry in saved_entries(self.param_groups, plain):
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.ndim == p.ndim > 0:
                    check_saved(key, value, [p.shape], partial(label, self.param_groups[number], number, place))
        super().load_state_dict(plain)


def _unhooked(step: Any) -> Any:
    """A parent's bound ``step`` without the hooks that torch wraps round it once the parent itself has been used."""
    function = step.__func__
    return MethodType(function.__wrapped__, step.__self__) if getattr(function, "hooked", False) else step


def _with_squared_gradients(cls: type[Optimizer]) -> type[Optimizer]:
    """Sophia with the squared gradient for its curvature.

    SophiaH samples the Hessian through a second backward pass, for which Ultralytics keeps no graph. The empirical
    Fisher, on which Sophia's own G variant is built, needs the gradient alone.
    """

    class Sophia(cls):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> Any:
            due = all(g.get("step", 0) % self.update_period == 0 for g in self.param_groups)
            params = [p for g in self.param_groups for p in g["params"]] if due else []
            squares = [torch.zeros_like(p) if p.grad is None else p.grad.square() for p in params]  # it counts on all
            return _unhooked(super().step)(closure, hessian=squares or None)

    return Sophia


_PO = "pytorch_optimizer"
RECIPES: dict[str, Recipe] = {
    "Adagrad": Recipe("torch.optim", "Adagrad"),
    "LARS": Recipe(_PO, "LARS", momentum=True, options={"nesterov": True, "trust_coefficient": 0.02}),
    "LAMB": Recipe(_PO, "Lamb", betas=0.999),
    "Adafactor": Recipe(_PO, "AdaFactor", betas=0.999, options={"relative_step": False, "scale_parameter": False}),
    "Lion": Recipe(_PO, "Lion", betas=0.99),
    "Sophia": Recipe(_PO, "SophiaH", betas=0.99, prepare=_with_squared_gradients),
    "Shampoo": Recipe(
        _PO,
        "ScalableShampoo",
        betas=0.999,
        options={"start_preconditioning_step": 25, "preconditioning_compute_steps": 50},
    ),
}


def zoo_class(name: str) -> type[Optimizer]:
    """The optimizer class of a recipe, fit for Ultralytics' trainer.

    Raises:
        MissingExtraError: its library is not installed.
    """
    recipe = RECIPES[name]
    try:
        cls: type[Optimizer] = getattr(importlib.import_module(recipe.library), recipe.cls)
    except ImportError as error:
        raise MissingExtraError(
            f"optimizer={name} needs {recipe.library}, which is not installed: {install('zoo')}"
        ) from error
    if recipe.prepare is not None:
        cls = recipe.prepare(cls)
    return type(name, (CheckpointSafe, cls), {"__doc__": f"{recipe.cls} of {recipe.library}."})


def build(name: str, groups: list[dict[str, Any]], args: Mapping[str, Any] | None = None) -> Optimizer:
    """Make an optimizer of the zoo from Ultralytics' param groups.

    Args:
        name: key of ``RECIPES``.
        groups: ``params``, ``lr``, ``momentum``, ``weight_decay`` and ``param_group`` each; order and count are kept.
        args: arguments of the run, of which the recipe's settings take theirs.

    Raises:
        MissingExtraError: its library is not installed.
        SettingsError: a setting of the recipe is out of range.
    """
    recipe = RECIPES[name]
    cls: Any = zoo_class(name)
    translated = []
    for group in groups:
        new: dict[str, Any] = {k: group[k] for k in ("params", "lr", "weight_decay", "param_group") if k in group}
        if recipe.momentum:
            new["momentum"] = group.get("momentum", 0.9)
        elif recipe.betas is not None:
            new["betas"] = (group.get("momentum", 0.9), recipe.betas)
        translated.append(new)
    own = recipe.settings.from_mapping(args or {}, ignore_unknown=True).to_dict() if recipe.settings else {}
    prefix = f"{name.lower()}_"
    made: Optimizer = cls(translated, **recipe.options, **{k.removeprefix(prefix): v for k, v in own.items()})
    return made
