"""The running mean square of the gradients, and its root by which MuSGD may divide them (RMSProp's rule).

    s <- decay*s + (1 - decay)*g^2        g <- g / (sqrt(s / (1 - decay^t)) + 1e-8)

The division by ``1 - decay^t`` undoes the bias of the zeros that s starts from, which RMSProp leaves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_musgd.optim.kernels import zero_unless

SECOND_MOMENT = "square_avg"
EPS = 1e-8


def normalized(
    group: dict[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    finite: Tensor | None,
) -> list[Tensor]:
    """Gradients over the root of their running mean square; the mean's steps are counted in the group.

    Args:
        group: param group with ``second_moment``, the decay.
        params: parameters of that group.
        grads: their gradients, only read.
        states: their optimizer states, where the mean is kept.
        finite: 0-d tensor, 0 to keep the means as they are; None always updates.
    """
    decay = group["second_moment"]
    count = group["second_moment_steps"] = int(group.get("second_moment_steps", 0)) + 1
    for p, state in zip(params, states, strict=True):
        if SECOND_MOMENT not in state:
            state[SECOND_MOMENT] = torch.zeros_like(p, memory_format=torch.preserve_format)
    means = [state[SECOND_MOMENT] for state in states]
    if finite is None:
        torch._foreach_mul_(means, decay)
    else:  # a skipped step keeps the mean
        grads = zero_unless(finite, grads)
        torch._foreach_mul_(means, torch.where(finite > 0, decay, 1.0).to(means[0].dtype))
    torch._foreach_addcmul_(means, grads, grads, 1 - decay)
    roots = torch._foreach_sqrt(means)
    torch._foreach_div_(roots, (1 - decay**count) ** 0.5)
    torch._foreach_add_(roots, EPS)
    return list(torch._foreach_div(grads, roots))
