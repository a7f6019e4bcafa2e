"""The rules written as plainly as possible, one tensor at a time; tests hold the fast code to them."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def musgd_reference_step(
    params: list[Tensor],
    grads: list[Tensor],
    velocities: list[Tensor],
    lr: float,
    momentum: float,
    adapt_factor: float,
    weight_decay: float = 0.0,
    norm_scope: str = "tensor",
    norm_source: str = "decayed",
    nesterov: bool = False,
    lr_in_velocity: bool = False,
    decoupled_decay: bool = False,
    beta_min: float = 0.0,
) -> list[float]:
    """One step of the article's rule ("MuSGD optimizer", 2026-02-12), in place; the defaults are those of its code.

    Args:
        params: parameters theta, any shapes.
        grads: gradients of the same shapes.
        velocities: v of the same shapes, zeros before the first step.
        lr: learning rate.
        momentum: beta_max.
        adapt_factor: strength of the adaptation.
        weight_decay: wd.
        norm_scope: ``tensor`` or ``global``.
        norm_source: ``raw`` or ``decayed``.
        nesterov: look ahead.
        lr_in_velocity: lr inside the velocity.
        decoupled_decay: ``theta *= 1 - lr*wd`` instead of ``g += wd*theta``.
        beta_min: lower bound of beta_t.

    Returns:
        beta_t of each tensor.
    """
    coupled = 0.0 if decoupled_decay else weight_decay
    decayed = [g + coupled * p for p, g in zip(params, grads, strict=True)]
    source = grads if norm_source == "raw" else decayed
    norms_sq = [float(g.double().pow(2).sum()) for g in source]
    if norm_scope == "global":
        norms_sq = [sum(norms_sq)] * len(norms_sq)
    betas = []
    for p, g, v, norm_sq in zip(params, decayed, velocities, norms_sq, strict=True):
        beta = max(momentum / (1 + adapt_factor * norm_sq), min(beta_min, momentum))
        if decoupled_decay:
            p.mul_(1 - lr * weight_decay)
        inside, outside = (lr, 1.0) if lr_in_velocity else (1.0, lr)
        v.copy_(beta * v + inside * g)
        p.sub_(outside * (beta * v + inside * g if nesterov else v))
        betas.append(beta)
    return betas
