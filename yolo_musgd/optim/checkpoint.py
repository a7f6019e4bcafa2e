"""Optimizer state that survives Ultralytics' checkpoints.

Ultralytics saves fp32 tensors of an optimizer's state in fp16, but for a few names (8.4.0: ``step`` alone). What is
below 6e-8 becomes zero: squared gradients of 1e-4, say, or the momentum of a matrix whose gradients are small, which
Muon would nevertheless step along at full length. It does not look into tuples, so there they are safe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor


def protect(state_dict: dict[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """A state dict with fp32 tensors inside tuples of one.

    Args:
        state_dict: as torch's; not changed.
        names: keys of the state to protect; all but ``step`` if None.
    """
    return {**state_dict, "state": {k: _wrap(v, names) for k, v in state_dict["state"].items()}}


def unprotect(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`protect`; an unprotected state dict comes back as it is."""
    return {**state_dict, "state": {k: _unwrap(v) for k, v in state_dict["state"].items()}}


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
    return {k: v[0] if isinstance(v, tuple) and len(v) == 1 else v for k, v in state.items()}
