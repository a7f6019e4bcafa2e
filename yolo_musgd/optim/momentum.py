"""The momentum coefficient beta_t of momentum-adaptive SGD, as one pure function.

Source: the article "MuSGD optimizer" (2026-02-12), ``beta_t = beta_max / (1 + adapt_factor * ||g||^2)``.
"""

from __future__ import annotations

from typing import TypeVar

import torch

Number = TypeVar("Number", float, torch.Tensor)


def adaptive_momentum(grad_norm_sq: Number, beta_max: float, adapt_factor: float, beta_min: float = 0.0) -> Number:
    """Momentum coefficient for a gradient of the given squared L2 norm.

    ``beta_t = max(beta_max / (1 + adapt_factor * grad_norm_sq), beta_min)``, never above ``beta_max``: a large gradient
    shortens the memory, a small one restores it.

    Args:
        grad_norm_sq: squared L2 norm(s) of the gradient, a number or a tensor of any shape; not negative.
        beta_max: momentum at a vanishing gradient, in [0, 1).
        adapt_factor: strength of the adaptation, >= 0; 0 gives plain momentum. The article uses 0.01 to 0.1.
        beta_min: lower bound. A bound above ``beta_max`` (Ultralytics' warm-up lowers ``beta_max``) is ``beta_max``.

    Returns:
        beta_t in [min(beta_min, beta_max), beta_max], of the type and shape of ``grad_norm_sq``.
    """
    if adapt_factor == 0:  # 0 * inf would be NaN
        return torch.full_like(grad_norm_sq, beta_max) if isinstance(grad_norm_sq, torch.Tensor) else beta_max
    beta = beta_max / (1.0 + adapt_factor * grad_norm_sq)
    floor = min(beta_min, beta_max)
    if isinstance(beta, torch.Tensor):
        return beta.clamp(min=floor) if floor > 0 else beta
    return max(beta, floor)


def relative_to_mean(norm_sq: torch.Tensor, mean: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norm divided by its own exponential running mean: scale-free, about 1 in steady training.

    ``m_t = decay*m_{t-1} + (1 - decay)*norm_sq`` with ``m_1 = norm_sq``; the ratio of a zero gradient is 0.

    Args:
        norm_sq: squared norms, any shape.
        mean: running means of the same shape; 0 stands for "none yet".
        decay: in [0, 1).

    Returns:
        (norm_sq / m_t, m_t).
    """
    updated = torch.where(mean > 0, decay * mean + (1 - decay) * norm_sq, norm_sq)
    ratio = torch.where(updated > 0, norm_sq / updated.clamp(min=torch.finfo(updated.dtype).tiny), 0.0)
    return ratio, updated
