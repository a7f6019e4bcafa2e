"""Many tensors as one vector: what a GPU does in a launch or two instead of one a tensor.

A network has hundreds of small tensors, and starting a kernel takes longer than its arithmetic on one of them. Torch's
foreach functions help where a number is applied to all, or one a tensor that the host knows; for numbers on the device,
which nobody may wait for, they fall back to a launch a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors


def is_nhwc(t: Tensor) -> bool:
    """Whether a filter lies in memory as channels_last, and not as contiguous too."""
    return t.ndim == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one new vector, shape (n,), filters in channels_last in their memory order."""
    if any(map(is_nhwc, tensors)):
        tensors = [t.permute(0, 2, 3, 1) if is_nhwc(t) else t for t in tensors]
    flat: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return flat if len(tensors) > 1 else flat.clone()  # of one tensor torch returns a view


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector with the shapes, and the memory order, of the tensors that it was made of."""
    if not any(map(is_nhwc, like)):
        return list(_unflatten_dense_tensors(flat, like))  # type: ignore[no-untyped-call]
    moved = [t.permute(0, 2, 3, 1) if is_nhwc(t) else t for t in like]
    views = _unflatten_dense_tensors(flat, moved)  # type: ignore[no-untyped-call]
    return [v.permute(0, 3, 1, 2) if is_nhwc(t) else v for v, t in zip(views, like, strict=True)]


def spread(values: Tensor, sizes: Tensor, total: int) -> Tensor:
    """Each value as often as its tensor has elements; a 0-d value is left alone, since it is broadcast.

    Args:
        values: (n,) or 0-d.
        sizes: (n,) int64 on the same device.
        total: sum of the sizes, which asking the device for would mean waiting.
    """
    return values if values.ndim == 0 else torch.repeat_interleave(values, sizes, output_size=total)


def zero_unless(finite: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, or zeros where ``finite`` is 0: NaN * 0 would stay NaN. All have one type and device."""
    flat = flatten(tensors)
    return unflatten(torch.where(finite > 0, flat, torch.zeros_like(flat[:1])), tensors)
