"""Optimizer state in bfloat16: half the memory, kept unbiased by stochastic rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def stochastic_round(source: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round fp32 to bf16 up or down at random, with the exact value as the mean.

    Rounding to nearest loses every change below 1/256 of a value, and a moving average makes such changes all the
    time: with ``momentum=0.9`` and a constant gradient it stops short of the gradient.

    Args:
        source: fp32, any shape, finite.
        generator: source of the random bits; the global one if None.

    Returns:
        bf16, same shape and strides.
    """
    bits = source.view(torch.int32)
    noise = torch.empty_like(bits).random_(0, 1 << 16, generator=generator)
    return noise.add_(bits).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
