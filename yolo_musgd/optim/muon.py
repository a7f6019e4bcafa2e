"""Muon on matrices and flattened convolution filters, beside SGD or AdamW on everything else.

The update, for every weight W of at least two dimensions with gradient G, flattened to (rows, columns)::

    beta = momentum / (1 + adapt_factor*||G||^2)             MuSGD; MuonSGD and MuonAdamW: beta = momentum
    M    = beta*M + (1 - momentum)*G                         the momentum, zeros at first
    U    = beta*M + (1 - momentum)*G                         Nesterov's look ahead
    X    = U / ||U||                                         Frobenius norm
    repeat 5 times:                                          Newton-Schulz: singular values towards 1
        A = X @ X.T                                          (of the transpose, if there are more rows than columns)
        X = 3.4445*X + (-4.7750*A + 2.0315*A @ A) @ X
    W    = (1 - lr*muon_lr*decay)*W                          decoupled decay = muon_decay*weight_decay, off by default
    W    = W - lr*muon_lr * 0.2*sqrt(max(rows, columns)) * X     each step with AdamW's RMS of 0.2
    of any other parameter p with gradient g:
        v = beta*v + g + weight_decay*p                      MuSGD and MuonSGD; MuonAdamW: AdamW
        p = p - lr*(g + weight_decay*p + beta*v)

Where it stands: `hybrid` has the step of a whole optimizer (non-finite gradients, checkpoints, reports), `batches` who
takes which parameter, `checks` what is refused; `musgd` the rule of beta_t, `momentum` its formula, `kernels` and
`second_moment` the steps of the rest; `matrix_steps` the steps of the matrices, `muon_update` their momentum, scale
and division into chunks, `orthogonalize` the iteration and `kernel_plan` which form of it is fastest; `device_steps`
all that with few launches, in the batches of `stacks`; `param_groups` what is left out, and why.

Sources: Keller Jordan, "Muon: an optimizer for hidden layers" (https://kellerjordan.github.io/posts/muon/); the
articles "Depth and breadth of optimization (Adam, Muon)", "From SGD to Muon" (NorMuon's rows) and "Muon, continued: why
we try Muon" (decoupled decay, the RMS of 0.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from yolo_musgd.optim.batches import Batch
from yolo_musgd.optim.checks import Wanted, wide_dtype
from yolo_musgd.optim.hybrid import Hybrid, Params
from yolo_musgd.optim.kernels import in_layout_of
from yolo_musgd.optim.musgd import MuSGD
from yolo_musgd.optim.settings import MuonSettings, MuSGDSettings, flat
from yolo_musgd.settings import Settings, setting

FIRST, SECOND, STEP = "exp_avg", "exp_avg_sq", "step"  # torch.optim.AdamW's names


class MuonSGD(MuSGD):
    """MuSGD with a constant momentum, unless its settings say otherwise: Muon on matrices and filters, SGD on the rest.

    Args:
        params: parameters or param groups.
        lr: learning rate, >= 0; matrices use ``muon_lr`` times it (kept in the param groups, so that a resumed run has
            the one it began with).
        momentum: of SGD, and of Muon unless ``muon_momentum`` is set; in [0, 1).
        weight_decay: coupled (L2) on what SGD updates; on matrices decoupled, ``muon_decay`` times it.
        nesterov: of SGD.
        muon: settings of Muon's part together.
        rest: settings of SGD's part together; its ``nesterov`` is the argument above.
        exclude: matrices that SGD updates all the same, see
            :func:`~yolo_musgd.optim.param_groups.muon_exclusions`.
        settings: any other argument of :class:`~yolo_musgd.optim.musgd.MuSGD`; here ``adapt_factor=0`` and
            ``muon_adapt=False`` are the defaults.

    Raises:
        SettingsError: a value out of range.
    """

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
        **settings: Any,
    ):
        together = {"adapt_factor": 0.0, "muon_adapt": False} | (rest.to_dict() if rest else {}) | flat(muon)
        together |= {"nesterov": nesterov, **settings}
        super().__init__(params, lr, momentum, weight_decay, exclude=exclude, **together)


@dataclasses.dataclass(frozen=True)
class _AdamWRule(Settings):
    """Ranges of MuonAdamW's numbers."""

    lr: float = setting(0.002, "learning rate", low=0.0)
    momentum: float = setting(0.9, "beta_1, and Muon's momentum", low=0.0, below=1.0)
    beta2: float = setting(0.999, "decay of the mean square", low=0.0, below=1.0)
    eps: float = setting(1e-8, "added to the denominator", low=0.0)
    weight_decay: float = setting(0.0, "decoupled decay", low=0.0)


class MuonAdamW(Hybrid):
    """Muon on matrices and filters, AdamW on everything else.

    With ``muon_scale="rms"`` both parts take steps of AdamW's size, so that one learning rate fits both.

    Args:
        params: parameters or param groups; every number below may differ between groups.
        lr: learning rate, >= 0; matrices use ``muon_lr`` times it (kept in the param groups, so that a resumed run has
            the one it began with).
        momentum: beta_1 of AdamW, and Muon's momentum unless ``muon_momentum`` is set; in [0, 1).
        beta2: decay of AdamW's mean square, in [0, 1).
        eps: added to AdamW's denominator, >= 0.
        weight_decay: decoupled; on matrices ``muon_decay`` times it.
        muon: settings of Muon's part together.
        exclude: matrices that AdamW updates all the same.
        orthogonalize: Muon's step on matrices and filters; False is AdamW on every parameter.
        settings: those of Muon's part one by one, as of :class:`~yolo_musgd.optim.musgd.MuSGD`.

    A step with a non-finite gradient is skipped as a whole and counted.

    Raises:
        SettingsError: an unknown setting, or a value out of range.
    """

    rules: ClassVar[tuple[type[Settings], ...]] = (_AdamWRule, *Hybrid.rules)

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
        orthogonalize: bool = True,
        **settings: Any,
    ):
        both = MuonSettings.from_mapping({**flat(muon), **settings})
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "orthogonalize": orthogonalize, **flat(both)}, exclude)

    @property
    def normalizes(self) -> bool:
        """True: both parts do."""
        return True

    def _wanted_of_rest(self, p: Tensor) -> dict[str, Wanted]:
        return dict.fromkeys((FIRST, SECOND), (p.shape, wide_dtype(p.dtype)))

    def _update(self, batch: Batch, norms_sq: Tensor, total_sq: Tensor, finite: Tensor | None) -> None:
        if batch.cut:
            self._adamw(batch, finite)
        if batch.cut < len(batch.params):
            self._step_matrices(batch, finite)

    @staticmethod
    def _adamw(batch: Batch, finite: Tensor | None) -> None:
        """Torch's own AdamW, fused: it can skip on the device when told that a gradient was not finite.

        Parameters in fp16 or bf16 are stepped as fp32 copies, since squares of gradients vanish in their type; so are
        those with gaps between their elements, since the kernel walks raw memory.
        """
        group, states, cut = batch.group, batch.states[: batch.cut], batch.cut
        params = [_walkable(p) for p in batch.params[:cut]]
        grads = [in_layout_of(p, g.to(p.dtype)) for p, g in zip(params, batch.grads, strict=False)]
        for p, state in zip(params, states, strict=True):
            state[STEP] = torch.as_tensor(state.get(STEP, 0), dtype=torch.float32, device=p.device)
            for key in (FIRST, SECOND):
                state[key] = in_layout_of(p, state[key]) if key in state else torch.zeros_like(p)
        adamw(
            params,
            grads,
            [state[FIRST] for state in states],
            [state[SECOND] for state in states],
            [],
            [state[STEP] for state in states],
            fused=True,
            amsgrad=False,
            beta1=float(group["momentum"]),
            beta2=group["beta2"],
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            found_inf=None if finite is None else (1 - finite).float(),
        )
        for p, stepped in zip(batch.params, params, strict=False):
            if p is not stepped:
                p.copy_(stepped)


def _walkable(p: Tensor) -> Tensor:
    """The parameter, or a copy that the fused kernel may step."""
    wide = p.to(wide_dtype(p.dtype))
    return wide if wide.is_contiguous() else in_layout_of(torch.empty_like(wide), wide)
