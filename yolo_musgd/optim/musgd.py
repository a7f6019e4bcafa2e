"""MuSGD: SGD whose momentum falls where the gradient is large, with orthogonalised steps on matrices and filters.

What ``yolo train optimizer=MuSGD`` trains with. Sources: the article "MuSGD optimizer" (2026-02-12) for beta_t,
formulas in `yolo_musgd.optim.momentum` and `yolo_musgd.optim.kernels`; `yolo_musgd.optim.muon` for Muon's step. Not to
be confused with Ultralytics' optimizer of the same name, which this plugin offers as ``MuSGD-native``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from yolo_musgd.optim.batches import Batch
from yolo_musgd.optim.checks import Wanted, wide_dtype
from yolo_musgd.optim.hybrid import Hybrid, Params
from yolo_musgd.optim.kernels import BACKENDS, Coefficients, Hyper, decayed, in_layout_of, update
from yolo_musgd.optim.matrix_steps import SGD_MOMENTUM
from yolo_musgd.optim.momentum import adaptive_momentum, relative_to_mean
from yolo_musgd.optim.muon_update import RMS
from yolo_musgd.optim.param_groups import ParamGroups, param_groups
from yolo_musgd.optim.second_moment import SECOND_MOMENT, normalized
from yolo_musgd.optim.settings import MuSGDSettings
from yolo_musgd.settings import Settings, SettingsError, setting

_contiguous = Tensor.is_contiguous  # of the class: half the time of a bound method each


@dataclass(frozen=True)
class _Common(Settings):
    """The hyper-parameters that every momentum method has."""

    lr: float = setting(0.01, "learning rate", low=0.0)
    momentum: float = setting(0.9, "beta_max", low=0.0, below=1.0)
    weight_decay: float = setting(0.0, "L2 penalty", low=0.0)


class MuSGD(Hybrid):
    """Momentum-adaptive SGD: ``beta_t = max(momentum / (1 + adapt_factor*||g||^2), beta_min)``, with Muon on filters.

    ``MuSGD(model.parameters())`` orthogonalises the step of every matrix and filter (2 to 5 dimensions, more than one
    row and column) and updates everything else as SGD with momentum beta_t. ``MuSGD(MuSGD.groups(model))`` leaves the
    input layer, the output layers, depthwise filters, embeddings and normalisation to SGD too, as a run of
    ``yolo train optimizer=MuSGD`` does; given the same settings, it takes the same steps to the last bit.
    ``MuSGD(params, orthogonalize=False)`` is the article's rule on every parameter, and with ``adapt_factor=0``
    torch.optim.SGD, bit for bit. State: one velocity a parameter, like SGD.

    Args:
        params: parameters or param groups; every argument below but ``exclude`` and ``backend`` may differ between
            groups.
        lr: learning rate, >= 0; matrices use ``muon_lr`` times it.
        momentum: beta_max, in [0, 1). Ultralytics' warm-up overwrites it while it runs.
        weight_decay: L2 penalty, >= 0; on matrices ``muon_decay`` times it, decoupled.
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
            its first steps), in [0, 1); 0 or None is off. beta_t and weight decay see the gradient as it was. One more
            state. Beside orthogonalised groups the steps are scaled to Muon's RMS: ``p -= 0.2*lr*(1 - momentum)*v``.
        orthogonalize: Muon's step on matrices and filters; False is an SGD step on every parameter.
        muon_lr: their learning rate as a multiple of lr, >= 0; None is 1. (The trainer takes 2 from random weights,
            0.3 from trained ones.)
        muon_scale: length of an update, ``rms``, ``keller`` or ``native``; see
            :func:`~yolo_musgd.optim.muon_update.update_scale`.
        muon_share: Muon's share of a matrix' step, in [0, 1]; the rest is an SGD step.
        muon_momentum: momentum of matrices, in [0, 1); 0 follows ``momentum``.
        muon_nesterov: look ahead along the momentum of matrices.
        muon_decay: decoupled decay of matrices as a multiple of weight_decay, >= 0.
        muon_method: orthogonalisation, ``quintic``, ``polar-express``, ``cubic`` or ``svd``.
        muon_steps: its iterations, 1 to 100.
        muon_precision: of the orthogonalisation, ``auto``, ``float32`` or ``bfloat16``.
        muon_rows: NorMuon: decay of the running mean square of each row, in [0, 1); 0 is off.
        muon_state: momentum of matrices, ``float32`` (the parameter's type) or ``bfloat16``.
        muon_every: orthogonalise a matrix every so many steps, by a step as many times as long; >= 1.
        muon_adapt: beta_t on the momentum of matrices too.
        muon_graph: on a CUDA device, replay the orthogonalisation as a CUDA graph.
        muon_shard: under DDP, each process orthogonalises its share of the matrices.
        exclude: matrices that SGD updates all the same.
        backend: ``single``, ``foreach``, ``fused`` (torch's kernel, CPU), or ``auto``: fused on the CPU where there is
            a kernel, foreach elsewhere (which never waits for the device).

    A step with a non-finite gradient is skipped as a whole and counted in ``skipped_steps``.

    Raises:
        SettingsError: a value out of range.
    """

    rules: ClassVar[tuple[type[Settings], ...]] = (_Common, MuSGDSettings, *Hybrid.rules)

    def __init__(
        self,
        params: Params,
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
        second_moment: float | None = None,
        orthogonalize: bool = True,
        muon_lr: float | None = None,
        muon_scale: str = "rms",
        muon_share: float = 1.0,
        muon_momentum: float = 0.0,
        muon_nesterov: bool = True,
        muon_decay: float = 0.0,
        muon_method: str = "quintic",
        muon_steps: int = 5,
        muon_precision: str = "auto",
        muon_rows: float = 0.0,
        muon_state: str = "float32",
        muon_every: int = 1,
        muon_adapt: bool = True,
        muon_graph: bool = False,
        muon_shard: bool = True,
        exclude: Collection[Tensor] = (),
        backend: str = "auto",
    ):
        given = locals()
        if backend not in BACKENDS:
            raise SettingsError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.backend = backend
        defaults = {k: v for k, v in given.items() if any(k in rule.names() for rule in self.rules)}
        super().__init__(params, defaults, exclude)

    @staticmethod
    def groups(model: nn.Module, stem: bool = False, head: bool = False, depthwise: bool = False) -> ParamGroups:
        """Param groups of any PyTorch model; see :func:`~yolo_musgd.optim.param_groups.param_groups`."""
        return param_groups(model, stem, head, depthwise)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("backend", "auto")

    def _reset(self) -> None:
        super()._reset()
        self._betas: list[Coefficients] = []
        self._beta_params: list[list[Tensor]] = []

    @property
    def reports(self) -> tuple[str, ...]:
        """What :meth:`report` holds beside ``skipped_steps``."""
        return ("beta_t", *super().reports)

    @property
    def normalizes(self) -> bool:
        """Whether every step's length is independent of the gradient's: no rate above lr is good for anything then."""
        return self._orthogonalizes and any(group["second_moment"] for group in self.param_groups)

    @property
    def beta_params(self) -> list[Tensor]:
        """The parameters that the values of ``report()["beta_t"]`` belong to, in their order."""
        return [p for params in self._beta_params for p in params]

    def report(self) -> dict[str, Tensor]:
        """Metrics of the last step, left on the device.

        Returns:
            ``beta_t``: one value a parameter tensor that had a gradient and has one, see ``beta_params`` (absent before
            the first step and after a skipped one); and what :meth:`Hybrid.report` holds.
        """
        out = super().report()
        if self._betas:
            out["beta_t"] = torch.cat([torch.as_tensor(b).reshape(-1) for b in self._betas])
        return out

    def _wanted_of_rest(self, p: Tensor) -> dict[str, Wanted]:
        return {SGD_MOMENTUM: (p.shape, p.dtype), SECOND_MOMENT: (p.shape, wide_dtype(p.dtype))}

    def _begin(self) -> None:
        super()._begin()
        self._betas, self._beta_params = [], []

    def _measured(self, batch: Batch) -> list[Tensor]:
        if batch.group["norm_source"] == "decayed" and not batch.group["decoupled_decay"]:
            return decayed(batch.grads, batch.params, batch.group["weight_decay"])
        return batch.grads

    def _update(self, batch: Batch, norms_sq: Tensor, total_sq: Tensor, finite: Tensor | None) -> None:
        group, cut = batch.group, batch.cut
        betas = self._momenta(batch, total_sq if group["norm_scope"] == "global" else norms_sq, finite)
        adapts = group["muon_adapt"]
        shown = len(batch.params) if adapts or group["muon_share"] < 1 else cut  # Muon alone has no beta_t
        self._betas.append(betas.expand(shown) if isinstance(betas, Tensor) and betas.ndim == 0 else betas[:shown])
        self._beta_params.append(batch.params[:shown])
        own = betas if isinstance(betas, Tensor) and betas.ndim == 0 else betas[cut:]
        if cut:
            self._step_rest(batch, betas if own is betas else betas[:cut], finite)
        if cut == len(batch.params):
            return
        self._step_matrices(batch, finite, own if adapts else None)
        if group["muon_share"] < 1:
            params = batch.params[cut:]
            grads, velocities, dense = _velocities(params, batch.grads[cut:], batch.states[cut:])
            hyper = self._hyper(group, group["muon_lr"] * (1 - group["muon_share"]))
            update(params, grads, velocities, own, hyper, finite, self.backend if dense else "single")

    def _step_rest(self, batch: Batch, betas: Coefficients, finite: Tensor | None) -> None:
        """SGD's step of what Muon leaves over.

        A normalised gradient has RMS 1 and a velocity of them up to 1 / (1 - momentum): beside Muon's steps a factor
        brings the RMS of a step to 0.2 lr at most, as theirs is and AdamW's.
        """
        group, params = batch.group, batch.params[: batch.cut]
        states = batch.states[: batch.cut]
        grads, velocities, dense = _velocities(params, batch.grads, states)
        rate = 1.0
        if group["second_moment"]:
            grads = normalized(group, params, grads, states, finite)
            rate = RMS * (1 - float(group["momentum"])) if self._orthogonalizes else 1.0
        backend = self.backend if dense else "single"
        update(params, grads, velocities, betas, self._hyper(group, rate), finite, backend)

    @staticmethod
    def _hyper(group: dict[str, Any], rate: float) -> Hyper:
        return Hyper(
            lr=float(group["lr"]) * rate,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            lr_in_velocity=group["lr_in_velocity"],
            decoupled_decay=group["decoupled_decay"],
        )

    def _momenta(self, batch: Batch, norm_sq: Tensor, finite: Tensor | None) -> Coefficients:
        """beta_t of every tensor of one group: numbers on the CPU, a (n,) or 0-d tensor elsewhere."""
        group = batch.group
        if group["norm_mode"] == "relative":
            norm_sq = self._relative(batch, norm_sq, finite)
        beta = adaptive_momentum(norm_sq, group["momentum"], group["adapt_factor"], group["beta_min"])
        if finite is not None:
            return beta
        return [beta.item()] * len(batch.params) if beta.ndim == 0 else cast("list[float]", beta.tolist())

    @staticmethod
    def _relative(batch: Batch, norm_sq: Tensor, finite: Tensor | None) -> Tensor:
        """Squared norm over its running mean, which lives in the group: Ultralytics halves what is in the state."""
        group, count = batch.group, len(batch.group["params"])
        mean = group.get("norm_sq_mean")
        shape = () if norm_sq.ndim == 0 else (count,)
        if mean is None or mean.shape != shape:
            mean = norm_sq.new_zeros(shape)
        mean = mean.to(norm_sq)
        fresh = [place for place, state in zip(batch.places, batch.states, strict=True) if not state]
        if fresh and norm_sq.ndim:  # who deletes a state starts its mean anew too
            mean = mean.index_fill(0, torch.tensor(fresh).to(mean.device, non_blocking=True), 0.0)
        if norm_sq.ndim == 0 or batch.places == list(range(count)):
            ratio, updated = relative_to_mean(norm_sq, mean, group["norm_decay"])
        else:
            # Places are sent without waiting; a boolean index would wait for the device.
            places = torch.tensor(batch.places).to(norm_sq.device, non_blocking=True)
            ratio, part = relative_to_mean(norm_sq, mean.index_select(0, places), group["norm_decay"])
            updated = mean.index_copy(0, places, part)
        group["norm_sq_mean"] = updated if finite is None else torch.where(finite > 0, updated, mean)
        return ratio


def _velocities(
    params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]]
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Gradients and velocities in the layout of their parameters, and whether raw memory may be walked.

    Velocities are made on first use. A filter may be channels_last here and not there; a parameter that is a view of
    every other column, say, has memory between its elements.
    """
    grads = grads[: len(params)]
    found = [v for state in states if (v := state.get(SGD_MOMENTUM)) is not None]
    if len(found) == len(params) and all(map(_contiguous, chain(grads, params, found))):
        return grads, found, True
    out, velocities, dense = [], [], True
    for p, grad, state in zip(params, grads, states, strict=True):
        velocity = state.get(SGD_MOMENTUM)
        if velocity is None:
            velocity = state[SGD_MOMENTUM] = torch.zeros_like(p, memory_format=torch.preserve_format)
        if not (grad.is_contiguous() and p.is_contiguous() and velocity.is_contiguous()):
            grad = in_layout_of(p, grad)
            velocity = state[SGD_MOMENTUM] = in_layout_of(p, velocity)
            dense = dense and velocity.stride() == p.stride()
        out.append(grad)
        velocities.append(velocity)
    return out, velocities, dense
