"""What an optimizer is given, checked before a kernel that walks raw memory sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_musgd.edge.errors import UserError
from yolo_musgd.settings import SettingsError

Wanted = tuple[torch.Size, torch.dtype]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = ("step", "square_avg_steps")
"""Entries of a state that are numbers of steps."""


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
        TensorError: sparse, of a type that is not stepped, or of another shape, type or device.
    """
    if p.dtype not in DTYPES:
        raise TensorError(f"{what()} is of {_name(p.dtype)}; {optimizer} steps {', '.join(map(_name, DTYPES))}")
    if grad.layout != torch.strided:
        raise TensorError(
            f"{what()} has a sparse gradient, which {optimizer} does not support; use torch.optim.SparseAdam for it"
        )
    if grad.shape != p.shape or grad.dtype != p.dtype or grad.device != p.device:
        raise TensorError(f"{what()} has a gradient of {_kind(grad)}, the parameter is of {_kind(p)}; compute it anew")


def check_memory(t: Tensor, name: str, what: Callable[[], str]) -> None:
    """Refuse a tensor without the memory that its shape needs, which some kernels would read all the same.

    Raises:
        TensorError: its storage was freed, or it is on the device ``meta``.
    """
    if type(t) in (Tensor, nn.Parameter) and t.numel() and not t.data_ptr():
        raise TensorError(f"{what()}: its {name} has no memory: freed, or on the device meta")


def check_devices(devices: Iterable[torch.device]) -> None:
    """Refuse parameters of several devices, whose norms have no common sum.

    Raises:
        TensorError: more than one device.
    """
    names = sorted(set(map(str, devices)))
    if len(names) > 1:
        raise TensorError(f"parameters are on {' and '.join(names)}; make an optimizer for each device")


def check_rates(group: Mapping[str, Any], number: int) -> None:
    """Refuse what a schedule may make of the rates, before it is in every weight.

    Raises:
        SettingsError: lr or momentum is not finite.
    """
    for name in ("lr", "momentum"):
        if not math.isfinite(group[name]):
            raise SettingsError(f"{name} of group {number} must be finite, got {float(group[name])}")


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

    Raises:
        TensorError: a saved state that is no mapping.
    """
    saved = state_dict["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved]:
        return
    for number, (group, theirs) in enumerate(zip(groups, saved, strict=True)):
        for place, (p, index) in enumerate(zip(group["params"], theirs["params"], strict=True)):
            entry = state_dict["state"].get(index)
            if isinstance(entry, Mapping):
                yield number, place, p, entry
            elif entry is not None:
                raise TensorError(f"{label(group, number, place)}: the state to load is no mapping")


def check_saved(key: str, value: Any, shapes: Sequence[torch.Size], what: Callable[[], str]) -> None:
    """Refuse a tensor of a saved state that is none, is not finite, or belongs to a model of other widths.

    Raises:
        TensorError: says which parameter it is of.
    """
    if not isinstance(value, Tensor):
        raise TensorError(f"{what()}: the {key} to load is no tensor but {type(value).__name__}")
    if value.shape not in shapes:
        raise TensorError(
            f"{what()}: the {key} to load has shape {tuple(value.shape)}; "
            "load the state of this very model, not of one with other widths"
        )
    if not value.is_meta and not value.isfinite().all():
        raise TensorError(f"{what()}: the {key} to load is not finite; load an older one, or the weights alone")


def check_count(key: str, value: Any, what: Callable[[], str]) -> None:
    """Refuse a saved number of steps that is none.

    Raises:
        TensorError: no number, below 0, or not finite.
    """
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(number, (int, float)) or not 0 <= number < math.inf:
        raise TensorError(f"{what()}: the {key} to load must be a number >= 0, got {str(number)[:80]!r}")


def _kind(t: Tensor) -> str:
    return f"shape {tuple(t.shape)}, {_name(t.dtype)} on {t.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
