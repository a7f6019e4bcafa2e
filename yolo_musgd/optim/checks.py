"""What an optimizer is given, checked before a kernel that walks raw memory sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from yolo_musgd.edge.errors import UserError

Wanted = tuple[torch.Size, torch.dtype]


class TensorError(UserError, RuntimeError):
    """A parameter, gradient or state tensor that the optimizer cannot step.

    PyTorch's own optimizers raise a ValueError where one is loaded and a RuntimeError where one is stepped.
    """


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of statistics on parameters of this one: at least fp32, since squares of 1e-4 vanish in fp16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def label(group: Mapping[str, Any], number: int, place: int) -> str:
    """``parameter 3 of group 0 (layer.weight, shape (16, 8, 3, 3))``; the name if the group has ``param_names``."""
    names = group.get("param_names")
    name = f"{names[place]}, " if names and place < len(names) else ""
    return f"parameter {place} of group {number} ({name}shape {tuple(group['params'][place].shape)})"


def check_parameter(optimizer: str, p: Any, what: Callable[[], str]) -> None:
    """Refuse what has no real gradient.

    Raises:
        TensorError: a complex parameter.
    """
    if isinstance(p, Tensor) and p.is_complex():
        raise TensorError(f"{what()} is complex, which {optimizer} does not support; train torch.view_as_real of it")


def check_gradient(optimizer: str, p: Tensor, grad: Tensor, what: Callable[[], str]) -> None:
    """Refuse a gradient that does not belong to the parameter as it is now.

    Raises:
        TensorError: sparse, or of another shape, type or device.
    """
    if grad.layout != torch.strided:
        raise TensorError(
            f"{what()} has a sparse gradient, which {optimizer} does not support; use torch.optim.SparseAdam for it"
        )
    if grad.shape != p.shape or grad.dtype != p.dtype or grad.device != p.device:
        raise TensorError(f"{what()} has a gradient of {_kind(grad)}, the parameter is of {_kind(p)}; compute it anew")


def check_state(p: Tensor, key: str, value: Tensor, wanted: Wanted, what: Callable[[], str]) -> None:
    """Refuse a tensor of the state that does not belong to the parameter as it is now.

    Args:
        p: the parameter.
        key: name of the tensor in the state.
        value: the tensor.
        wanted: its shape and type.
        what: says which parameter it is.

    Raises:
        TensorError: another shape, type or device.
    """
    shape, dtype = wanted
    if value.shape != shape or value.dtype != dtype or value.device != p.device:
        should = f"shape {tuple(shape)}, {_name(dtype)} on {p.device}"
        raise TensorError(
            f"{what()}: its {key} is of {_kind(value)}, but must be of {should}; load the state of this very model, "
            "or delete optimizer.state of this parameter to start it anew"
        )


def saved_entries(
    groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> Iterator[tuple[int, int, Tensor, Mapping[str, Any]]]:
    """(group, place in it, parameter, saved state) of every parameter that a state dict has something for.

    Nothing if the groups do not fit, which torch says itself.
    """
    saved = state_dict["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved]:
        return
    for number, (group, theirs) in enumerate(zip(groups, saved, strict=True)):
        for place, (p, index) in enumerate(zip(group["params"], theirs["params"], strict=True)):
            entry = state_dict["state"].get(index)
            if isinstance(entry, Mapping):
                yield number, place, p, entry


def foreign_state(what: str, key: str, value: Tensor) -> TensorError:
    """The error of state that belongs to a model of other widths."""
    return TensorError(
        f"{what}: the {key} to load has shape {tuple(value.shape)}; "
        "load the state of this very model, not of one with other widths"
    )


def _kind(t: Tensor) -> str:
    return f"shape {tuple(t.shape)}, {_name(t.dtype)} on {t.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
