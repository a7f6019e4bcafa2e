"""MuSGD: SGD whose momentum falls where the gradient is large.

Source: the article "MuSGD optimizer" (2026-02-12), formulas in `yolo_musgd.optim.momentum` and
`yolo_musgd.optim.kernels`. Not to be confused with Ultralytics' optimizer of the same name (Muon + SGD), which this
plugin offers as ``MuSGD-native``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
)
from yolo_musgd.optim.momentum import adaptive_momentum, relative_to_mean
from yolo_musgd.settings import MuSGDSettings, SettingsError, check_value


class _Batch(NamedTuple):
    """One param group's tensors that have a gradient."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]


BACKENDS = ("auto", "single", "foreach", "fused")
_RANGES: dict[str, dict[str, Any]] = {
    "lr": {"low": 0.0, "high": None, "below": None, "choices": None},
    "momentum": {"low": 0.0, "high": None, "below": 1.0, "choices": None},
    "weight_decay": {"low": 0.0, "high": None, "below": None, "choices": None},
}


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
        backend: ``single``, ``foreach``, ``fused`` (torch's kernel, CPU), or ``auto``: fused on the CPU where there is
            a kernel, foreach elsewhere (which never waits for the device).

    A step with a non-finite gradient is skipped as a whole and counted in ``skipped_steps``.

    Raises:
        SettingsError: a value out of range.
    """

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
        )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **rule.to_dict()}
        super().__init__(params, defaults)
        self._reset_counters()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its values; see torch.optim.Optimizer.add_param_group."""
        values = {**self.defaults, **{k: v for k, v in param_group.items() if k in self.defaults}}
        MuSGDSettings.from_mapping(values, ignore_unknown=True)
        for name, meta in _RANGES.items():
            check_value(name, values[name], 0.0, meta)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a checkpoint of an older release lacks newer settings
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self.__dict__.setdefault("backend", "auto")
        self._reset_counters()

    def _reset_counters(self) -> None:
        self._skipped: int | Tensor = 0
        self._betas: list[Coefficients] = []

    @property
    def skipped_steps(self) -> int:
        """Steps left out because a gradient was not finite (waits for the device)."""
        return int(self._skipped)

    def report(self) -> dict[str, Tensor]:
        """Metrics of the last step, left on the device.

        Returns:
            ``beta_t``: one value a parameter tensor that had a gradient, in param-group order (absent before the
            first step); ``skipped_steps``: 0-d count.
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
        norms = squared_norms([t for b in batches for t in self._measured(b)])
        finite = norms.isfinite().all()
        on_host = norms.device.type == "cpu"
        if on_host and not finite:
            self._skipped += 1
            return loss
        if not on_host:
            self._skipped = self._skipped + (~finite).to(torch.int64)
        self._betas = self._momenta(batches, norms, finite, on_host)
        for batch, betas in zip(batches, self._betas, strict=True):
            self._update(batch, betas, None if on_host else finite.to(norms.dtype))
        return loss

    def _collect(self, group: dict[str, Any]) -> _Batch:
        params = [p for p in group["params"] if p.grad is not None]
        buffers = []
        for p in params:
            if p.grad.is_sparse:
                raise RuntimeError("MuSGD does not support sparse gradients; use torch.optim.SparseAdam for that layer")
            buffer = self.state[p].get("momentum_buffer")
            if buffer is None:
                buffer = self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            elif buffer.stride() != p.stride():  # the fused kernel walks raw memory
                buffer = self.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(buffer)
            buffers.append(buffer)
        return _Batch(group, params, [cast(Tensor, p.grad) for p in params], buffers)

    @staticmethod
    def _measured(batch: _Batch) -> list[Tensor]:
        """The tensors whose norm sets beta_t."""
        if batch.group["norm_source"] == "decayed" and not batch.group["decoupled_decay"]:
            return decayed(batch.grads, batch.params, batch.group["weight_decay"])
        return batch.grads

    def _momenta(self, batches: list[_Batch], norms: Tensor, finite: Tensor, on_host: bool) -> list[Coefficients]:
        """beta_t of every tensor, group by group: numbers on the CPU, (n,) or 0-d tensors elsewhere."""
        per_group = torch.split(norms, [len(b.params) for b in batches])
        everything = norms.sum()
        out: list[Coefficients] = []
        for (group, params, _, _), own in zip(batches, per_group, strict=True):
            n2 = everything if group["norm_scope"] == "global" else own
            if group["norm_mode"] == "relative":
                n2 = self._relative(group, params, n2, finite)
            beta = adaptive_momentum(n2, group["momentum"], group["adapt_factor"], group["beta_min"])
            if not on_host:
                out.append(beta)
            elif beta.ndim == 0:
                out.append([float(beta)] * len(params))
            else:
                out.append(beta.tolist())
        return out

    @staticmethod
    def _relative(group: dict[str, Any], params: list[Tensor], norm_sq: Tensor, finite: Tensor) -> Tensor:
        """Squared norm over its running mean, which lives in the group: Ultralytics halves what is in the state."""
        everyone = group["params"]
        mean = group.get("norm_sq_mean")
        if mean is None:
            mean = norm_sq.new_zeros(() if norm_sq.ndim == 0 else len(everyone))
        mean = mean.to(norm_sq)
        if norm_sq.ndim == 0 or len(params) == len(everyone):
            ratio, updated = relative_to_mean(norm_sq, mean, group["norm_decay"])
        else:
            present = torch.tensor([p.grad is not None for p in everyone], device=norm_sq.device)
            ratio, part = relative_to_mean(norm_sq, mean[present], group["norm_decay"])
            updated = mean.clone()
            updated[present] = part
        group["norm_sq_mean"] = torch.where(finite, updated, mean)
        return ratio

    def _update(self, batch: _Batch, betas: Coefficients, finite: Tensor | None) -> None:
        group, params, grads, buffers = batch
        hyper = Hyper(
            lr=float(group["lr"]),
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
