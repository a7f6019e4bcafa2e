"""Optimizer state: how it survives Ultralytics' checkpoints, its rounding to bfloat16, its size, its rate.

Ultralytics saves fp32 tensors of an optimizer's state in fp16, but for a few names (8.4.0: ``step`` alone). What is
below 6e-8 becomes zero: squared gradients of 1e-4, say, or the momentum of a matrix whose gradients are small, which
Muon would nevertheless step along at full length. It does not look into tuples, so there they are safe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yolo_musgd.optim.checks import TensorError


def protect(state_dict: dict[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """A state dict with fp32 tensors inside tuples of one.

    Args:
        state_dict: as torch's; not changed.
        names: keys of the state to protect; all but ``step`` if None.
    """
    return {**state_dict, "state": {k: _wrap(v, names) for k, v in state_dict["state"].items()}}


def unprotect(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`protect`; an unprotected state dict comes back as it is, without what is None in it.

    Raises:
        TensorError: no state dict of an optimizer.
    """
    states, groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(states, Mapping) or not isinstance(groups, list):
        raise TensorError(
            f"a state dict has state and param_groups, this one has {', '.join(map(str, state_dict))[:200]}"
        )
    return {**state_dict, "state": {k: _unwrap(v) for k, v in states.items()}}


def _wrap(state: Any, names: Collection[str] | None) -> Any:
    if not isinstance(state, Mapping):
        return state
    return {k: (v,) if _exposed(k, v, names) else v for k, v in state.items()}


def _exposed(name: str, value: Any, names: Collection[str] | None) -> bool:
    wanted = name != "step" if names is None else name in names
    return wanted and isinstance(value, Tensor) and value.dtype == torch.float32


def _unwrap(state: Any) -> Any:
    if not isinstance(state, Mapping):
        return state
    return {k: v[0] if isinstance(v, tuple) and len(v) == 1 else v for k, v in state.items() if v is not None}


def stochastic_round(source: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round fp32 to bf16 up or down at random, with the exact value as the mean.

    Rounding to nearest loses every change below 1/256 of a value, and a moving average makes such changes all the
    time: with ``momentum=0.9`` and a constant gradient it stops short of the gradient.

    Args:
        source: any shape, finite; fp64 is rounded to fp32 first.
        generator: source of the random bits; the global one if None.

    Returns:
        bf16, same shape and strides.
    """
    bits = source.float().view(torch.int32)
    noise = torch.empty_like(bits).random_(0, 1 << 16, generator=generator)
    return noise.add_(bits).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)


def picked(optimizer: Optimizer) -> dict[str, Any]:
    """What a run really trains with, which ``optimizer=auto`` does not say beforehand.

    Returns:
        ``optimizer`` (its class), ``lr0`` and ``momentum`` (beta_1 for AdamW's kin, None for who has none): of the
        param group with the most tensors: Ultralytics gives the new classes a group of their own at three times lr0.
    """
    group = max(optimizer.param_groups, key=lambda g: len(g["params"]))
    momentum = group["betas"][0] if "betas" in group else group.get("momentum")
    return {
        "optimizer": type(optimizer).__name__,
        "lr0": float(group.get("initial_lr", group["lr"])),
        "momentum": None if momentum is None else float(momentum),
    }


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the tensors in an optimizer's state, in lists and tuples too."""
    return _bytes(optimizer.state)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0
