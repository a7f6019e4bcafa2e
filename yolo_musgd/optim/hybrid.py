"""The step that MuSGD, MuonSGD and MuonAdamW share: Muon on matrices and filters, a standard rule on the rest.

All of them take param groups as they are and split each of them inside, so that the warm-up, the schedule and the group
count of a checkpoint stay what a trainer expects.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from yolo_musgd.optim.batches import Batch, Batches
from yolo_musgd.optim.checks import (
    COUNTS,
    TensorError,
    Wanted,
    check_count,
    check_devices,
    check_parameter,
    check_rates,
    check_saved,
    label,
    saved_entries,
)
from yolo_musgd.optim.kernel_plan import Plan
from yolo_musgd.optim.kernels import runs_ahead, scaled_squared_norms, squared_norms
from yolo_musgd.optim.matrix_steps import MOMENTUM, ROWS, MatrixSteps, muon_settings
from yolo_musgd.optim.muon_update import describe
from yolo_musgd.optim.second_moment import SECOND_MOMENT
from yolo_musgd.optim.settings import ExclusionSettings, MuonSettings
from yolo_musgd.optim.state import protect, unprotect
from yolo_musgd.settings import Settings, SettingsError

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
GROUP_DEFAULTS = {"muon_lr": 1.0, "second_moment": 0.0}
"""What None stands for without a trainer, which alone knows where the weights come from."""


class Hybrid(Optimizer):
    """Base of the hybrids: param groups, checkpoints, the skip of non-finite steps, and the report.

    A subclass gives its settings (``rules``) and :meth:`_update`, the step of one param group.

    Args:
        params: parameters or param groups.
        defaults: values of a group that does not say otherwise; every key may differ between groups.
        exclude: matrices that the standard rule updates all the same.
    """

    rules: ClassVar[tuple[type[Settings], ...]] = (MuonSettings, ExclusionSettings)

    def __init__(self, params: Params, defaults: dict[str, Any], exclude: Collection[Tensor] = ()):
        self.matrices = MatrixSteps(exclude)
        self._reset()
        super().__init__(params, {k: GROUP_DEFAULTS.get(k) if v is None else v for k, v in defaults.items()})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its values; see torch.optim.Optimizer.add_param_group.

        Raises:
            SettingsError: a value out of range.
            TensorError: a complex parameter.
        """
        values = self._checked({**self.defaults, **{k: v for k, v in param_group.items() if k in self.defaults}})
        super().add_param_group({**param_group, **values})
        number, group = len(self.param_groups) - 1, self.param_groups[-1]
        try:
            for place, p in enumerate(group["params"]):
                check_parameter(type(self).__name__, p, partial(label, group, number, place))
        except TensorError:
            del self.param_groups[number]
            raise

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """Settings of a group in their types, with what None stands for; SettingsError for one out of range."""
        for name, value in values.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise SettingsError(f"Tensor {name} must be 1-element, got shape {tuple(value.shape)}")
        for rule in self.rules:
            checked = rule.from_mapping(values, ignore_unknown=True).to_dict()
            values |= {k: v for k, v in checked.items() if k in values}
        return {k: GROUP_DEFAULTS.get(k) if v is None else v for k, v in values.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "matrices": self.matrices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = self.__dict__.get("param_groups", [])
        super().__setstate__(state)
        for number, group in enumerate(self.param_groups):  # a checkpoint of an older release lacks newer settings
            own = before[number] if number < len(before) else {}
            for name, value in self.defaults.items():
                if name != "differentiable":  # torch's own, which it adds on its way
                    group.setdefault(name, own.get(name, value))
        self._reset()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with what would not survive the fp16 of Ultralytics' checkpoints protected from it."""
        return protect(super().state_dict(), (MOMENTUM, ROWS, SECOND_MOMENT))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`; what an older release did not save gets the values of this optimizer.

        Raises:
            TensorError: a tensor of another shape than this model's, or one that is none, or not finite.
            SettingsError: a setting of a group out of range. Nothing is loaded then.
        """
        final: dict[str, Any] = {}  # the state dict after all other hooks

        def check(_: Optimizer, given: dict[str, Any]) -> None:
            self._check_saved(given)
            final.update(given)

        hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(unprotect(state_dict))
        finally:
            hook.remove()
        for number, _, p, entry in saved_entries(self.param_groups, final):  # torch has cast all to p's type
            group = self.param_groups[number]
            for key, (_, dtype) in self._wanted(p, group, self._is_muons(p, group)).items():
                if key in entry and dtype != p.dtype:
                    self.state[p][key] = entry[key].detach().to(p.device, dtype, copy=True)

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        """Refuse what is no state of this model's, before any of it is loaded."""
        for number, place, p, entry in saved_entries(self.param_groups, state_dict):
            group = self.param_groups[number]
            kinds = [self._wanted(p, group, muons) for muons in {False, self.matrices.takes(p)}]
            for key, value in entry.items():
                shapes, what = [kind[key][0] for kind in kinds if key in kind], partial(label, group, number, place)
                if shapes:
                    check_saved(key, value, shapes, what)
                elif key in COUNTS:
                    check_count(key, value, what)
        for group in state_dict["param_groups"]:
            self._checked({k: v for k, v in group.items() if k in self.defaults})

    def _reset(self) -> None:
        self._skipped: int | Tensor = self.__dict__.get("_skipped", 0)  # a checkpoint loaded midway keeps the count
        self._batches = Batches(type(self).__name__, self._is_muons, self._wanted)
        self._grad_norm: Tensor | None = None
        self.matrices.forget()

    @property
    def reports(self) -> tuple[str, ...]:
        """What :meth:`report` holds beside ``skipped_steps``."""
        return ("grad_norm", "update_rms") if self._orthogonalizes else ("grad_norm",)

    @property
    def normalizes(self) -> bool:
        """Whether every step's length is independent of the gradient's: no rate above lr is good for anything then."""
        return False

    @property
    def _orthogonalizes(self) -> bool:
        return any(group["orthogonalize"] for group in self.param_groups)

    @property
    def skipped_steps(self) -> int:
        """Steps left out because a gradient was not finite (waits for the device)."""
        return int(self._skipped)

    def report(self) -> dict[str, Tensor]:
        """Metrics of the last step, left on the device.

        Returns:
            ``skipped_steps``: 0-d count; ``grad_norm``: 0-d L2 norm over all gradients (absent before the first step);
            ``update_rms``: RMS of Muon's step of each matrix, if any.
        """
        out = {"skipped_steps": torch.as_tensor(self._skipped)}
        if self._grad_norm is not None:
            out["grad_norm"] = self._grad_norm
        if self.matrices.update_rms:
            out["update_rms"] = torch.cat(self.matrices.update_rms)
        return out

    def plan(self) -> Plan:
        """Shapes, kernels and floating-point operations of Muon's part; printable."""
        chosen = [(p, g) for g in self.param_groups for p in g["params"] if self._is_muons(p, g)]
        settings = muon_settings(chosen[0][1] if chosen else self.param_groups[0])
        return describe([p for p, _ in chosen], settings)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        A step with a non-finite gradient is skipped as a whole and counted.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            the closure's loss, if there is one.

        Raises:
            TensorError: a gradient that is sparse, or a tensor of a state, that does not fit its parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._begin()
        batches = self._collect()
        if not batches:
            return loss
        measured = [self._measured(b) for b in batches]
        norms = [squared_norms(tensors) for tensors in measured]
        total = torch.cat(norms).sum()
        ahead = runs_ahead(total.device)
        if not ahead and not math.isfinite(total):  # or it is only the squares that are too large
            norms = [scaled_squared_norms(tensors) for tensors in measured]
            total = torch.cat(norms).sum()
        raw = [n if m is b.grads else squared_norms(b.grads) for n, m, b in zip(norms, measured, batches, strict=True)]
        self._grad_norm = torch.cat(raw).sum().sqrt()
        finite = None  # "go ahead", or on a device the 0/1 flag that nobody waits for
        if ahead:
            finite = total.isfinite().to(total.dtype)
            self._skipped = self._skipped + (1 - finite)
        elif not math.isfinite(total):
            self._skipped += 1
            return loss
        batches = [self._batches.with_states(b, self.state) for b in batches]
        for batch, own in zip(batches, norms, strict=True):
            self._update(batch, own, total, finite)
        return loss

    def _begin(self) -> None:
        """Forget what the last step reported."""
        self.matrices.update_rms = []

    @abstractmethod
    def _update(self, batch: Batch, norms_sq: Tensor, total_sq: Tensor, finite: Tensor | None) -> None:
        """Step the tensors of one param group.

        Args:
            batch: the tensors.
            norms_sq: squared norm of what :meth:`_measured` returned, shape (len(batch.params),).
            total_sq: 0-d, their sum over all groups.
            finite: None on a CPU; elsewhere a 0-d tensor, 0 to leave everything as it is.
        """

    def _measured(self, batch: Batch) -> list[Tensor]:
        """The tensors whose norms the rule asks for; these very gradients wherever possible."""
        return batch.grads

    def _collect(self) -> list[Batch]:
        """The tensors that have a gradient, of every group that has any."""
        batches, changed = [], False
        for number, group in enumerate(self.param_groups):
            batch, known = self._batches.collect(number, group)
            if not known:
                self.matrices.forget(number)
                changed = True
            if batch.params:
                check_rates(group, number)
                batches.append(batch)
        if changed:
            check_devices(p.device for batch in batches for p in batch.params)
        return batches

    def _wanted(self, p: Tensor, group: dict[str, Any], muons: bool) -> dict[str, Wanted]:
        """Shape and type of every state tensor that the rule reads of a parameter."""
        return self.matrices.wanted(group, p) if muons else self._wanted_of_rest(p)

    @abstractmethod
    def _wanted_of_rest(self, p: Tensor) -> dict[str, Wanted]:
        """As :meth:`_wanted`, of what the standard rule updates."""

    def _is_muons(self, p: Tensor, group: dict[str, Any]) -> bool:
        return bool(group["orthogonalize"]) and self.matrices.takes(p)

    def _step_matrices(self, batch: Batch, finite: Tensor | None, betas: list[float] | Tensor | None = None) -> None:
        """Muon's step of the batch's matrices, with beta_t of each if it has one."""
        params, grads = batch.params[batch.cut :], batch.grads[batch.cut :]
        self.matrices.step(batch.group, params, grads, batch.states[batch.cut :], finite, betas, batch.number)
