"""MuonSGD and MuonAdamW: Muon on matrices and flattened convolution filters, a standard optimizer on the rest.

Both take Ultralytics' param groups as they are and split each of them inside, so that the warm-up, the schedule and the
group count of a checkpoint stay what the trainer expects. Sources: S2 to S4; Keller Jordan's post on Muon; NorMuon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from yolo_musgd.optim.kernel_plan import Plan
from yolo_musgd.optim.kernels import squared_norms
from yolo_musgd.optim.matrix_steps import MOMENTUM, ROWS, SGD_MOMENTUM, MatrixSteps
from yolo_musgd.optim.muon_update import RMS, describe
from yolo_musgd.optim.musgd import MuSGD, _Batch
from yolo_musgd.optim.settings import MuonSettings, MuSGDSettings
from yolo_musgd.optim.state import protect, unprotect
from yolo_musgd.settings import Settings, setting

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class MuonSGD(MuSGD):
    """Muon on matrices and filters, SGD (optionally with adaptive beta_t) on everything else.

    Args:
        params: parameters or param groups; groups may differ in lr, momentum, weight_decay and nesterov.
        lr: learning rate, >= 0; matrices use ``muon_lr`` times it (kept in the param groups, so that a resumed run has
            the one it began with).
        momentum: of SGD, and of Muon unless ``muon_momentum`` is set; in [0, 1).
        weight_decay: coupled (L2) on what SGD updates; on matrices decoupled, ``muon_decay`` times it.
        nesterov: of SGD.
        muon: settings of Muon's part; the recipe for small YOLOs if None.
        rest: settings of SGD's part; plain SGD (``adapt_factor=0``) if None. With a second moment its steps are scaled
            to Muon's RMS: ``p -= 0.2*lr*(1 - momentum)*v``.
        exclude: matrices that SGD updates all the same, see
            :func:`~yolo_musgd.optim.param_groups.muon_exclusions`.

    A step with a non-finite gradient is skipped as a whole and counted.

    Raises:
        SettingsError: a value out of range.
    """

    reports = ("beta_t", "update_rms")

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        muon: MuonSettings | None = None,
        rest: MuSGDSettings | None = None,
        exclude: Collection[Tensor] = (),
    ):
        self.matrices = MatrixSteps(muon or MuonSettings(), exclude)
        rule = (rest or MuSGDSettings(adapt_factor=0.0)).to_dict()
        super().__init__(params, lr, momentum, weight_decay, **{**rule, "nesterov": nesterov})
        self.defaults["muon_lr"] = muon_rate(self.matrices.settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its values; see torch.optim.Optimizer.add_param_group."""
        super().add_param_group({"muon_lr": muon_rate(self.matrices.settings), **param_group})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "matrices": self.matrices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.matrices.restore(self.state)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the state of matrices protected from Ultralytics' fp16."""
        return protect(super().state_dict(), (MOMENTUM, ROWS))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        super().load_state_dict(unprotect(state_dict))

    @property
    def normalizes(self) -> bool:
        """Whether every step's length is independent of the gradient's: no rate above lr is good for anything then."""
        return any(g["second_moment"] for g in self.param_groups)

    def _reset(self) -> None:
        super()._reset()
        self._splits: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def report(self) -> dict[str, Tensor]:
        """As MuSGD's (``beta_t`` of what SGD updates), and ``update_rms``: RMS of Muon's last step of each matrix."""
        out = super().report()
        if self.matrices.update_rms:
            out["update_rms"] = torch.cat(self.matrices.update_rms)
        return out

    def plan(self) -> Plan:
        """Shapes, kernels and floating-point operations of Muon's part; printable."""
        params = [p for group in self.param_groups for p in group["params"] if self.matrices.takes(p)]
        return describe(params, self.matrices.settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; see :meth:`MuSGD.step`."""
        self.matrices.update_rms = []
        loss = super().step(closure)
        return loss

    def _collect(self, group: dict[str, Any]) -> _Batch:
        rest, ours = self._split(group)
        batch = super()._collect({**group, "params": rest})._replace(group=group)
        for p in ours:
            if p.grad is not None:
                batch.params.append(p)
                batch.grads.append(p.grad)
                batch.buffers.append(self.matrices.buffers(p, self.state[p]))
        if group["norm_mode"] == "relative":  # its running means are kept in the group's order
            place = {id(p): i for i, p in enumerate(group["params"])}
            order = sorted(range(len(batch.params)), key=lambda i: place[id(batch.params[i])])
            batch = _Batch(group, *([items[i] for i in order] for items in batch[1:]))
        return batch

    def _split(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """What SGD and what Muon updates of a group; kept from step to step."""
        params = group["params"]
        known = self._splits.get(id(params))
        if known is None or len(known[0]) + len(known[1]) != len(params):
            ours = [self.matrices.takes(p) for p in params]
            known = self._splits[id(params)] = (_pick(params, [not m for m in ours]), _pick(params, ours))
        return known

    @staticmethod
    def _rest_rate(group: dict[str, Any]) -> float:
        """What SGD's part makes of the learning rate; with a second moment its steps are as long as Muon's.

        A normalised gradient has RMS 1 and a velocity of them up to 1 / (1 - momentum): the factor brings the RMS of a
        step to 0.2 lr at most (S4's alignment with AdamW).
        """
        return RMS * (1 - float(group["momentum"])) if group["second_moment"] else 1.0

    def _update(self, batch: _Batch, betas: Any, finite: Tensor | None, rate: float = 1.0) -> None:
        group, params, grads, buffers = batch
        ours = [self.matrices.takes(p) for p in params]
        rest = [not m for m in ours]
        if any(rest):
            part = _Batch(group, *(_pick(t, rest) for t in (params, grads, buffers)))
            super()._update(part, _select(betas, rest), finite, self._rest_rate(group))
        if not any(ours):
            return
        s = self.matrices.settings
        if s.muon_share == 1 and not s.muon_adapt:  # Muon has no beta_t to report
            self._betas[-1] = _select(betas, rest)
            self._beta_params[-1] = _pick(params, rest)
        chosen, slopes = _pick(params, ours), _pick(grads, ours)
        own = _select(betas, ours) if s.muon_adapt else None
        self.matrices.step(group, chosen, slopes, [self.state[p] for p in chosen], finite, own)
        if s.muon_share < 1:
            velocities = [self.state[p][SGD_MOMENTUM] for p in chosen]
            beside = _Batch({**group, "second_moment": 0.0}, chosen, slopes, velocities)
            super()._update(beside, _select(betas, ours), finite, group["muon_lr"] * (1 - s.muon_share))


def muon_rate(settings: MuonSettings) -> float:
    """``muon_lr`` as a number; None is 1, since only the trainer knows where the weights come from."""
    return 1.0 if settings.muon_lr is None else settings.muon_lr


def _pick(items: list[Any], keep: list[bool]) -> list[Any]:
    return [item for item, k in zip(items, keep, strict=True) if k]


def _select(betas: Any, keep: list[bool]) -> Any:
    """The coefficients of the kept tensors, without waiting for a device; a 0-d tensor is one for all."""
    if not isinstance(betas, Tensor):
        return _pick(betas, keep)
    if betas.ndim == 0 or all(keep):
        return betas
    count = sum(keep)
    if all(keep[:count]):
        return betas[:count]
    if all(keep[len(keep) - count :]):
        return betas[len(keep) - count :]
    return torch.stack(_pick(list(betas.unbind()), keep))  # a mask would ask the device how many


@dataclasses.dataclass(frozen=True)
class _AdamWRule(Settings):
    """Ranges of MuonAdamW's numbers."""

    lr: float = setting(0.002, "learning rate", low=0.0)
    momentum: float = setting(0.9, "beta_1, and Muon's momentum", low=0.0, below=1.0)
    beta2: float = setting(0.999, "decay of the mean square", low=0.0, below=1.0)
    eps: float = setting(1e-8, "added to the denominator", low=0.0)
    weight_decay: float = setting(0.0, "decoupled decay", low=0.0)


class MuonAdamW(Optimizer):
    """Muon on matrices and filters, AdamW on everything else.

    With ``muon_scale="rms"`` both parts take steps of AdamW's size, so that one learning rate fits both.

    Args:
        params: parameters or param groups; groups may differ in lr, momentum and weight_decay.
        lr: learning rate, >= 0; matrices use ``muon_lr`` times it (kept in the param groups, so that a resumed run has
            the one it began with).
        momentum: beta_1 of AdamW, and Muon's momentum unless ``muon_momentum`` is set; in [0, 1).
        beta2: decay of AdamW's mean square, in [0, 1).
        eps: added to AdamW's denominator, >= 0.
        weight_decay: decoupled; on matrices ``muon_decay`` times it.
        muon: settings of Muon's part; the recipe for small YOLOs if None.
        exclude: matrices that AdamW updates all the same.

    A step with a non-finite gradient is skipped as a whole and counted.

    Raises:
        SettingsError: a value out of range.
    """

    reports = ("update_rms",)
    normalizes = True

    def __init__(
        self,
        params: Params,
        lr: float = 0.002,
        momentum: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        muon: MuonSettings | None = None,
        exclude: Collection[Tensor] = (),
    ):
        self.matrices = MatrixSteps(muon or MuonSettings(), exclude)
        self._skipped: int | Tensor = 0
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        defaults["muon_lr"] = muon_rate(self.matrices.settings)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its values; see torch.optim.Optimizer.add_param_group."""
        values = {**self.defaults, **{k: v for k, v in param_group.items() if k in self.defaults}}
        _AdamWRule.from_mapping(values, ignore_unknown=True)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "matrices": self.matrices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._skipped = 0
        self.matrices.restore(self.state)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the state of matrices protected from Ultralytics' fp16."""
        return protect(super().state_dict(), (MOMENTUM, ROWS))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        super().load_state_dict(unprotect(state_dict))

    @property
    def skipped_steps(self) -> int:
        """Steps left out because a gradient was not finite (waits for the device)."""
        return int(self._skipped)

    plan = MuonSGD.plan

    def report(self) -> dict[str, Tensor]:
        """``skipped_steps`` and ``update_rms``, as MuonSGD's."""
        out = {"skipped_steps": torch.as_tensor(self._skipped)}
        if self.matrices.update_rms:
            out["update_rms"] = torch.cat(self.matrices.update_rms)
        return out

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.matrices.update_rms = []
        groups = [(g, [p for p in g["params"] if p.grad is not None]) for g in self.param_groups]
        grads = [p.grad for _, params in groups for p in params]
        if not grads:
            return loss
        if any(g.is_sparse for g in grads):
            raise RuntimeError("MuonAdamW does not support sparse gradients; use torch.optim.SparseAdam for that layer")
        ok = squared_norms(grads).isfinite().all()
        finite = None
        if ok.device.type != "cpu":
            finite = ok.to(torch.float32)
            self._skipped = self._skipped + (~ok).to(torch.int64)
        elif not ok:
            self._skipped += 1
            return loss
        for group, params in groups:
            matrices = [p for p in params if self.matrices.takes(p)]
            rest = [p for p in params if not self.matrices.takes(p)]
            if rest:
                self._adamw(group, rest, finite)
            if matrices:
                slopes = [cast(Tensor, p.grad) for p in matrices]
                self.matrices.step(group, matrices, slopes, [self.state[p] for p in matrices], finite)
        return loss

    def _adamw(self, group: dict[str, Any], params: list[Tensor], finite: Tensor | None) -> None:
        """Torch's own AdamW, fused: it can skip on the device when told that a gradient was not finite."""
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        grads = [cast(Tensor, p.grad) for p in params]
        grads = [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)
        ]
        adamw(
            params,
            grads,
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=True,
            amsgrad=False,
            beta1=float(group["momentum"]),
            beta2=group["beta2"],
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            found_inf=None if finite is None else 1 - finite,
        )
