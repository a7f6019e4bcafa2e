"""MuSGD: SGD whose momentum falls where the gradient is large.

Source: the article "MuSGD optimizer" (2026-02-12), formulas in `yolo_musgd.optim.momentum` and
`yolo_musgd.optim.kernels`. Not to be confused with Ultralytics' optimizer of the same name (Muon + SGD), which this
plugin offers as ``MuSGD-native``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from yolo_musgd.optim.kernels import (
    Coefficients,
    Hyper,
    decayed,
    fused_available,
    squared_norms,
    update_foreach,
    update_fused,
    update_single,
    zero_unless,
)
from yolo_musgd.optim.momentum import adaptive_momentum, relative_to_mean
from yolo_musgd.optim.settings import MuSGDSettings
from yolo_musgd.optim.state import protect, unprotect
from yolo_musgd.settings import Settings, SettingsError, setting


class _Batch(NamedTuple):
    """One param group's tensors that have a gradient."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]


SECOND_MOMENT = "square_avg"
BACKENDS = ("auto", "single", "foreach", "fused")


@dataclass(frozen=True)
class _Common(Settings):
    """The hyper-parameters that every momentum method has."""

    lr: float = setting(0.01, "learning rate", low=0.0)
    momentum: float = setting(0.9, "beta_max", low=0.0, below=1.0)
    weight_decay: float = setting(0.0, "L2 penalty", low=0.0)


class MuSGD(Optimizer):
    """Momentum-adaptive SGD: ``beta_t = max(momentum / (1 + adapt_factor*||g||^2), beta_min)``.

    With ``adapt_factor=0`` it is torch.optim.SGD, bit for bit. State: one velocity a parameter, like SGD.

    Args:
        params: parameters or param groups; every argument below but ``backend`` may differ between groups.
        lr: learning rate, >= 0.
        momentum: beta_max, in [0, 1). Ultralytics' warm-up overwrites it while it runs.
        weight_decay: L2 penalty, >= 0.
        nesterov: look ahead along the velocity.
        adapt_factor: strength of the adaptation, >= 0.
        beta_min: lower bound of beta_t, in [0, 1).
        norm_scope: ``tensor`` (each tensor has its own norm and beta_t) or ``global`` (one over all parameters).
        norm_source: ``raw`` gradient, or ``decayed`` (gradient + weight_decay*parameter, as in the article's code).
        norm_mode: ``absolute``, or ``relative``: ||g||^2 over its own running mean, so that beta_t does not change
            when the loss is multiplied by a constant.
        norm_decay: decay of that running mean, in [0, 1).
        lr_in_velocity: ``v = beta*v + lr*g; p -= v``, the article's formula, instead of its code.
        decoupled_decay: AdamW-style decay.
        second_moment: decay of the running mean square whose root divides the gradient (RMSProp's, without the bias of
            its first steps), in [0, 1); 0 is off. beta_t and weight decay see the gradient as it was. One more state.
        backend: ``single``, ``foreach``, ``fused`` (torch's kernel, CPU), or ``auto``: fused on the CPU where there is
            a kernel, foreach elsewhere (which never waits for the device).

    A step with a non-finite gradient is skipped as a whole and counted in ``skipped_steps``.

    Raises:
        SettingsError: a value out of range.
    """

    reports: tuple[str, ...] = ("beta_t",)  # what report() holds beside skipped_steps

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        adapt_factor: float = 0.01,
        beta_min: float = 0.0,
        norm_scope: str = "tensor",
        norm_source: str = "raw",
        norm_mode: str = "absolute",
        norm_decay: float = 0.99,
        lr_in_velocity: bool = False,
        decoupled_decay: bool = False,
        second_moment: float = 0.0,
        backend: str = "auto",
    ):
        if backend not in BACKENDS:
            raise SettingsError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.backend = backend
        rule = MuSGDSettings(
            adapt_factor=adapt_factor,
            beta_min=beta_min,
            norm_scope=norm_scope,
            norm_source=norm_source,
            norm_mode=norm_mode,
            norm_decay=norm_decay,
            nesterov=nesterov,
            lr_in_velocity=lr_in_velocity,
            decoupled_decay=decoupled_decay,
            second_moment=second_moment,
        )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **rule.to_dict()}
        super().__init__(params, defaults)
        self._reset()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its values; see torch.optim.Optimizer.add_param_group."""
        values = {**self.defaults, **{k: v for k, v in param_group.items() if k in self.defaults}}
        checked = MuSGDSettings.from_mapping(values, ignore_unknown=True).to_dict()
        checked |= _Common.from_mapping(values, ignore_unknown=True).to_dict()
        super().add_param_group({**param_group, **checked})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a checkpoint of an older release lacks newer settings
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self.__dict__.setdefault("backend", "auto")
        self._reset()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the second moment protected from the fp16 of Ultralytics' checkpoints (all of 8.4.0's)."""
        return protect(super().state_dict(), (SECOND_MOMENT,))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`; takes checkpoints without a second moment too."""
        super().load_state_dict(unprotect(state_dict))

    def _reset(self) -> None:
        self._kept_slots: dict[int, tuple[list[Tensor], list[list[Any]]]] = {}
        self._skipped: int | Tensor = self.__dict__.get("_skipped", 0)  # a checkpoint loaded midway keeps the count
        self._betas: list[Coefficients] = []
        self._beta_params: list[list[Tensor]] = []

    @property
    def skipped_steps(self) -> int:
        """Steps left out because a gradient was not finite (waits for the device)."""
        return int(self._skipped)

    @property
    def beta_params(self) -> list[Tensor]:
        """The parameters that the values of ``report()["beta_t"]`` belong to, in their order."""
        return [p for params in self._beta_params for p in params]

    def report(self) -> dict[str, Tensor]:
        """Metrics of the last step, left on the device.

        Returns:
            ``beta_t``: one value a parameter tensor that had a gradient, see ``beta_params`` (absent before the first
            step); ``skipped_steps``: 0-d count.
        """
        out = {"skipped_steps": torch.as_tensor(self._skipped)}
        if self._betas:
            out["beta_t"] = torch.cat([torch.as_tensor(b).reshape(-1) for b in self._betas])
        return out

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            the closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = [b for b in map(self._collect, self.param_groups) if b.params]
        if not batches:
            return loss
        norms = [squared_norms(self._measured(b)) for b in batches]
        total = torch.cat(norms).sum()
        finite = None  # "go ahead", or on a device the 0/1 flag that nobody waits for
        if total.device.type != "cpu":
            finite = total.isfinite().to(total.dtype)
            self._skipped = self._skipped + (1 - finite)
        elif not math.isfinite(total):
            self._skipped += 1
            self._betas, self._beta_params = [], []
            return loss
        self._betas, self._beta_params = [], []
        for batch, own in zip(batches, norms, strict=True):
            betas = self._momenta(batch, total if batch.group["norm_scope"] == "global" else own, finite)
            if isinstance(betas, Tensor) and betas.ndim == 0:
                self._betas.append(betas.expand(len(batch.params)))
            else:
                self._betas.append(betas)
            self._beta_params.append(batch.params)
            self._update(batch, betas, finite)
        return loss

    def _collect(self, group: dict[str, Any]) -> _Batch:
        batch = _Batch(group, [], [], [])
        for slot in self._slots(group):
            p, buffer, has_layout = slot
            grad = p.grad
            if grad is None:
                continue
            if buffer is None:
                if grad.is_sparse:
                    raise RuntimeError("MuSGD does not support sparse gradients; use torch.optim.SparseAdam for them")
                buffer = torch.zeros_like(p, memory_format=torch.preserve_format)
                slot[1] = self.state[p]["momentum_buffer"] = buffer
            # A filter may be channels_last here and not there, and the fused kernel walks raw memory.
            if has_layout and not (grad.is_contiguous() and p.is_contiguous() and buffer.is_contiguous()):
                grad = _in_layout_of(p, grad)
                slot[1] = self.state[p]["momentum_buffer"] = buffer = _in_layout_of(p, buffer)
            batch.params.append(p)
            batch.grads.append(grad)
            batch.buffers.append(buffer)
        return batch

    def _slots(self, group: dict[str, Any]) -> list[list[Any]]:
        """[parameter, velocity or None, has a layout] of one group, kept from step to step.

        Looking up 366 velocities by parameter takes longer than updating the small ones.
        """
        params = group["params"]
        known, slots = self._kept_slots.get(id(params), ([], []))
        same = len(known) == len(params) and all(map(is_, known, params))
        if same and slots:  # somebody may have replaced the state
            same = slots[0][1] is self.state.get(params[0], {}).get("momentum_buffer")
        if not same:
            slots = [[p, self.state.get(p, {}).get("momentum_buffer"), p.ndim > 1] for p in params]
            self._kept_slots[id(params)] = list(params), slots
        return slots

    @staticmethod
    def _measured(batch: _Batch) -> list[Tensor]:
        """The tensors whose norm sets beta_t."""
        if batch.group["norm_source"] == "decayed" and not batch.group["decoupled_decay"]:
            return decayed(batch.grads, batch.params, batch.group["weight_decay"])
        return batch.grads

    def _momenta(self, batch: _Batch, norm_sq: Tensor, finite: Tensor | None) -> Coefficients:
        """beta_t of every tensor of one group: numbers on the CPU, a (n,) or 0-d tensor elsewhere."""
        group = batch.group
        if group["norm_mode"] == "relative":
            norm_sq = self._relative(batch, norm_sq, finite)
        beta = adaptive_momentum(norm_sq, group["momentum"], group["adapt_factor"], group["beta_min"])
        if finite is not None:
            return beta
        return [beta.item()] * len(batch.params) if beta.ndim == 0 else cast("list[float]", beta.tolist())

    @staticmethod
    def _relative(batch: _Batch, norm_sq: Tensor, finite: Tensor | None) -> Tensor:
        """Squared norm over its running mean, which lives in the group: Ultralytics halves what is in the state."""
        group, everyone = batch.group, batch.group["params"]
        mean = group.get("norm_sq_mean")
        if mean is None:
            mean = norm_sq.new_zeros(() if norm_sq.ndim == 0 else len(everyone))
        mean = mean.to(norm_sq)
        if norm_sq.ndim == 0 or len(batch.params) == len(everyone):
            ratio, updated = relative_to_mean(norm_sq, mean, group["norm_decay"])
        else:
            # Places are made on the host and sent without waiting; a boolean index would wait for the device.
            places = torch.tensor([i for i, p in enumerate(everyone) if p.grad is not None])
            places = places.to(norm_sq.device, non_blocking=True)
            ratio, part = relative_to_mean(norm_sq, mean.index_select(0, places), group["norm_decay"])
            updated = mean.index_copy(0, places, part)
        group["norm_sq_mean"] = updated if finite is None else torch.where(finite > 0, updated, mean)
        return ratio

    def _normalized(self, batch: _Batch, finite: Tensor | None) -> list[Tensor]:
        """Gradients over the root of their running mean square.

        The mean's steps are counted in the group.
        """
        group, params, grads, _ = batch
        decay = group["second_moment"]
        count = group["second_moment_steps"] = int(group.get("second_moment_steps", 0)) + 1
        for p in params:
            if SECOND_MOMENT not in self.state[p]:
                self.state[p][SECOND_MOMENT] = torch.zeros_like(p, memory_format=torch.preserve_format)
        means = [self.state[p][SECOND_MOMENT] for p in params]
        if finite is None:
            torch._foreach_mul_(means, decay)
        else:  # a skipped step keeps the mean
            grads = zero_unless(finite, grads)
            torch._foreach_mul_(means, torch.where(finite > 0, decay, 1.0).to(means[0].dtype))
        torch._foreach_addcmul_(means, grads, grads, 1 - decay)
        roots = torch._foreach_sqrt(means)
        torch._foreach_div_(roots, (1 - decay**count) ** 0.5)
        torch._foreach_add_(roots, 1e-8)
        return list(torch._foreach_div(grads, roots))

    def _update(self, batch: _Batch, betas: Coefficients, finite: Tensor | None, rate: float = 1.0) -> None:
        """Step the tensors of a batch at ``rate`` times the group's learning rate."""
        group, params, grads, buffers = batch
        if group["second_moment"]:
            grads = self._normalized(batch, finite)
        hyper = Hyper(
            lr=float(group["lr"]) * rate,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            lr_in_velocity=group["lr_in_velocity"],
            decoupled_decay=group["decoupled_decay"],
        )
        backend = self.backend
        dtypes = {p.dtype for p in params}
        if backend in ("auto", "fused"):
            kernel = not hyper.lr_in_velocity and all(fused_available(params[0].device.type, d) for d in dtypes)
            backend = "fused" if kernel else "single" if finite is None else "foreach"
        if finite is not None:  # on a device only foreach can skip a step without waiting
            update_foreach(params, grads, buffers, betas, hyper, finite)
        elif backend == "fused" and len(dtypes) == 1:
            update_fused(params, grads, buffers, cast("list[float]", betas), hyper)
        elif backend == "foreach" and len(dtypes) == 1:
            update_foreach(params, grads, buffers, betas, hyper)
        else:
            update_single(params, grads, buffers, betas, hyper)


def _in_layout_of(like: Tensor, t: Tensor) -> Tensor:
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)
