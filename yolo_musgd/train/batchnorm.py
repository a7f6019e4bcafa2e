"""How fast BatchNorm's running statistics follow the weights while a model trains.

Ultralytics' momentum of 0.03 averages over the last 33 batches. A model that was changed moves far in each of them, and
its statistics, by which it is validated, stay behind: figures are in docs/speed.md.
"""

from __future__ import annotations

from torch import nn

AFTER_CHANGE = 0.1
"""Momentum for models whose channels or activations were changed; PyTorch's default."""


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Set the weight of a batch in every running mean and variance, in place."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
