"""The running mean square of the gradients, and its root by which MuSGD may divide them (RMSProp's rule).

    s <- decay*s + (1 - decay)*g^2        g <- g / (sqrt(s / (1 - decay^t)) + 1e-8)

The division by ``1 - decay^t`` undoes the bias of the zeros that s starts from, which RMSProp leaves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_musgd.optim.checks import wide_dtype
from yolo_musgd.optim.flat import zero_unless

SECOND_MOMENT, COUNT = "square_avg", "square_avg_steps"
EPS = 1e-8


def normalized(
    group: dict[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    finite: Tensor | None,
) -> list[Tensor]:
    """Gradients over the root of their running mean square, kept in fp32 at least with the count of its steps.

    Args:
        group: param group with ``second_moment``, the decay.
        params: parameters of that group.
        grads: their gradients, only read.
        states: their optimizer states, where the mean is kept.
        finite: 0-d tensor, 0 to keep the means as they are; None always updates.
    """
    decay = group["second_moment"]
    steps = group["second_moment_steps"] = int(group.get("second_moment_steps", 0)) + 1
    for p, state in zip(params, states, strict=True):
        if SECOND_MOMENT not in state:
            state[SECOND_MOMENT] = torch.zeros_like(p, dtype=wide_dtype(p.dtype), memory_format=torch.preserve_format)
            state[COUNT] = 0
        state[COUNT] = state.get(COUNT, steps - 1) + 1  # older releases counted in the group alone
    means = [state[SECOND_MOMENT] for state in states]
    wide = [g.to(m.dtype) for g, m in zip(grads, means, strict=True)]
    if finite is None:
        torch._foreach_mul_(means, decay)
    else:  # a skipped step keeps the mean
        wide = zero_unless(finite, wide)
        torch._foreach_mul_(means, torch.where(finite > 0, decay, 1.0).to(means[0].dtype))
    torch._foreach_addcmul_(means, wide, wide, 1 - decay)
    torch._foreach_clamp_max_(means, torch.finfo(torch.float32).max)  # inf would stay for ever
    roots = torch._foreach_sqrt(means)
    corrections = [(1 - decay ** state[COUNT]) ** 0.5 for state in states]
    torch._foreach_div_(roots, corrections[0] if len(set(corrections)) == 1 else corrections)
    torch._foreach_add_(roots, EPS)
    return [n.to(g.dtype) for n, g in zip(torch._foreach_div(wide, roots), grads, strict=True)]
