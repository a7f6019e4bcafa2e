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
    beta = beta_max / (1.0 + adapt_factor * grad_norm_sq)
    floor = min(beta_min, beta_max)
    if isinstance(beta, torch.Tensor):
        return beta.clamp(min=floor)
    return max(beta, floor)
