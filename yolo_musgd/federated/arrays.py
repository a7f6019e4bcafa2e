"""A model as named float32 arrays: which of them are shared, and whether received ones can be of this model."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, np.ndarray]
PARTS = ("backbone", "neck", "head")


def parse_share(text: str) -> tuple[str, ...]:
    """The parts of a model that ``share=`` names: all, or some of backbone, neck and head joined by ``+``.

    Raises:
        UserError: another word.
    """
    words = PARTS if text == "all" else tuple(text.split("+"))
    if wrong := [word for word in words if word not in PARTS]:
        raise UserError(f"share={text}: {wrong[0]!r} is none of all, {', '.join(PARTS)}; join parts as backbone+neck")
    return words


def part_of(name: str, model: nn.Module) -> str:
    """Which part a tensor ``model.<layer>.…`` belongs to: the YAML says how many layers the backbone has."""
    layer, described, layers = int(name.split(".")[1]), cast(Any, model.yaml), cast(Any, model.model)
    if layer < len(described["backbone"]):
        return "backbone"
    return "head" if layer == len(layers) - 1 else "neck"


def float_names(model: nn.Module) -> list[str]:
    """All of a model's floating-point tensors: weights and BatchNorm's statistics, not its counters."""
    return [name for name, value in model.state_dict().items() if value.is_floating_point()]


def shared_names(model: nn.Module, share: str) -> list[str]:
    """The tensors that travel.

    Raises:
        UserError: ``share`` names no part.
    """
    parts = parse_share(share)
    return [name for name in float_names(model) if share == "all" or part_of(name, model) in parts]


def take(model: nn.Module, names: Iterable[str]) -> Arrays:
    """Copies of a model's tensors as float32."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().float().numpy().copy() for name in names}


def put(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays over a model's tensors.

    Raises:
        UserError: they are not this model's.
    """
    import torch

    state = model.state_dict()
    with torch.no_grad():
        for name, value in arrays.items():
            if name not in state or tuple(state[name].shape) != value.shape:
                raise UserError(
                    f"the model received is another one: {name} {value.shape}; both sides need the same model="
                )
            state[name].copy_(torch.from_numpy(value))


def flaw(arrays: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> str:
    """What is wrong with received arrays beside those that were sent; empty if nothing."""
    if arrays.keys() != reference.keys():
        odd = sorted(arrays.keys() ^ reference.keys())
        return f"a foreign model: {len(odd)} tensors differ by name, {odd[0]} first"
    for name, value in arrays.items():
        if value.shape != reference[name].shape:
            return f"{name} has the shape {value.shape}, not {reference[name].shape}"
        if value.dtype != np.float32:
            return f"{name} is of {value.dtype}, not float32"
        if not np.isfinite(value).all():
            return f"{name} holds NaN or infinity"
    return ""


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file whole or not at all; nothing is pickled."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # none is of objects, which alone would be pickled
    write_whole(str(file), buffer.getvalue())


def read_arrays(file: Path) -> Arrays:
    """What `write_arrays` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    except Exception as error:  # zipfile and zlib have classes of their own
        raise UserError(f"{file} is damaged: {type(error).__name__}: {error}") from None


def with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Arrays under ``prefix/name``, to put several sets into one file."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays that `with_prefix` put under a prefix."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}
