"""Muon's update of a list of matrices or filters: momentum, orthogonalisation bucket by bucket, step.

Per matrix (Keller Jordan; S2 to S4 of the sources), with mu the momentum and O the orthogonalised update:

    m <- mu m + (1 - mu) g        u = mu m + (1 - mu) g  (Nesterov), else m        W <- W - lr (scale O + decay W)

The work is cut into chunks of matrices of one shape. Momentum, orthogonalisation and step of a chunk follow each other
while it is in the cache, so that the memory in use is that of a chunk and not that of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolo_musgd.optim.muon_settings import MuonSettings
from yolo_musgd.optim.orthogonalize import Kernel, Step, newton_schulz, ns_coefficients, svd_orthogonalize
from yolo_musgd.optim.plan import CHUNK_ELEMENTS, Plan, choose_kernel, iteration_flops, make_plan
from yolo_musgd.optim.rounding import stochastic_round


@dataclass
class Chunk:
    """Matrices of one shape, layout and param group that one batched call orthogonalises."""

    index: list[int]  # positions in the list given to `plan_chunks`
    shape: torch.Size  # of each parameter
    nhwc: bool  # channels_last: flattened in memory order, so that it stays a view
    kernel: Kernel
    owner: int = 0  # rank that orthogonalises it
    turn: int = 0  # step, modulo `muon_every`, on which it is orthogonalised
    flops: int = 0

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the flattened tensors."""
        return flat_shape(self.shape)

    def slots(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The matrices of a batch (count, rows, columns) as views in the parameters' shape."""
        if not self.nhwc:
            return batch.view(len(self.index), *self.shape).unbind(0)
        o, i, h, w = self.shape
        return batch.view(len(self.index), o, h, w, i).permute(0, 1, 4, 2, 3).unbind(0)


def flat_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a filter flattened over all dimensions but the first."""
    return shape[0], math.prod(shape[1:])


def update_scale(shape: Sequence[int], scale: str) -> float:
    """Factor of an orthogonalised update, from the parameter's shape.

    ``rms``: 0.2*sqrt(max(rows, columns)), which gives the update AdamW's typical RMS of 0.2 (S4). ``keller``:
    sqrt(max(1, rows/columns)). Both on the flattened matrix. ``native``: the latter on the last two dimensions, the
    kernel's height and width for a filter, as Ultralytics' optimizer does (its issue 25846).
    """
    rows, columns = flat_shape(shape)
    if scale == "rms":
        return 0.2 * math.sqrt(max(rows, columns))
    if scale == "native":
        rows, columns = shape[-2], shape[-1]
    return math.sqrt(max(1.0, rows / columns))


def plan_chunks(params: Sequence[Tensor], settings: MuonSettings, ranks: int = 1) -> list[Chunk]:
    """Cut the parameters into chunks and share them out among ``ranks`` processes by their cost.

    Args:
        params: matrices or filters of one param group, in any order.
        settings: decides kernel and coefficients.
        ranks: processes; every one must call this with the same shapes in the same order.
    """
    keys: dict[tuple[Any, ...], list[int]] = {}
    for i, p in enumerate(params):
        nhwc = p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        keys.setdefault((p.shape, nhwc, p.device, p.dtype), []).append(i)
    coefficients = _coefficients(settings)
    chunks = []
    for (shape, nhwc, device, _), index in keys.items():
        rows, columns = flat_shape(shape)
        kernel = choose_kernel(rows, columns, device, coefficients, settings.muon_precision)
        each = iteration_flops(rows, columns, coefficients, kernel.restarts)
        limit = CHUNK_ELEMENTS if device.type == "cpu" else 16 * CHUNK_ELEMENTS
        size = max(1, limit // (rows * columns))
        for start in range(0, len(index), size):
            part = index[start : start + size]
            chunks.append(Chunk(part, shape, nhwc, kernel, flops=each * len(part)))
    for chunk, owner in zip(chunks, _share_out(chunks, ranks), strict=True):
        chunk.owner = owner
    for chunk, turn in zip(chunks, _share_out(chunks, settings.muon_every), strict=True):
        chunk.turn = turn
    return chunks


def _share_out(chunks: list[Chunk], parts: int) -> list[int]:
    """The part that each chunk goes to: largest chunk first, always to the part with least work."""
    load = [0] * parts
    out = [0] * len(chunks)
    for i in sorted(range(len(chunks)), key=lambda i: -chunks[i].flops):
        out[i] = load.index(min(load))
        load[out[i]] += chunks[i].flops
    return out


def _coefficients(settings: MuonSettings) -> tuple[Step, ...]:
    if settings.muon_method == "svd":
        return ((1.0, 0.0, 0.0),)
    return ns_coefficients(settings.muon_method, settings.muon_steps)


def describe(params: Sequence[Tensor], settings: MuonSettings) -> Plan:
    """The plan for these parameters, to print."""
    shapes = [flat_shape(p.shape) for p in params]
    device = params[0].device if params else torch.device("cpu")
    return make_plan(shapes, device, _coefficients(settings), settings.muon_precision)


def orthogonal_updates(batch: Tensor, chunk: Chunk, settings: MuonSettings) -> tuple[Tensor, Tensor]:
    """Orthogonalise a batch (count, rows, columns); returns (result, factor per matrix), to be multiplied."""
    if settings.muon_method == "svd":
        return svd_orthogonalize(batch).to(batch.dtype), batch.new_ones(len(batch), dtype=torch.float32)
    spectral = settings.muon_method == "cubic"
    return newton_schulz(batch, _coefficients(settings), chunk.kernel.restarts, spectral)


def normalize_rows(update: Tensor, mean_sq: Tensor, decay: float, step: int) -> Tensor:
    """NorMuon: divide every row by its running root mean square, then restore each matrix' Frobenius norm.

    Args:
        update: (count, rows, columns), the orthogonalised updates.
        mean_sq: (count, rows), the running mean square, changed in place; zeros before the first step.
        decay: of that mean.
        step: number of this update, from 1; undoes the bias of the zeros.

    Returns:
        fp32, the shape of ``update``.
    """
    update = update.float()
    mean_sq.lerp_(update.square().mean(-1), 1 - decay)
    before = torch.linalg.vector_norm(update, dim=(1, 2), keepdim=True)
    rows = update / (mean_sq / (1 - decay**step)).sqrt().add_(1e-8)[..., None]
    after = torch.linalg.vector_norm(rows, dim=(1, 2), keepdim=True)
    return rows.mul_(before / after.clamp_min(1e-30))


def advance_momentum(
    grads: list[Tensor], buffers: list[Tensor], mu: float, generator: torch.Generator | None = None
) -> list[Tensor]:
    """``m <- mu m + (1 - mu) g`` in place; returns the exact new momenta, which bf16 buffers hold only rounded."""
    if buffers[0].dtype == grads[0].dtype:
        torch._foreach_lerp_(buffers, grads, 1 - mu)
        return buffers
    exact = [b.to(g.dtype) for b, g in zip(buffers, grads, strict=True)]
    torch._foreach_lerp_(exact, grads, 1 - mu)
    torch._foreach_copy_(buffers, [stochastic_round(m, generator) for m in exact])
    return exact


def gather(chunk: Chunk, grads: list[Tensor], momenta: list[Tensor], mu: float, nesterov: bool) -> Tensor:
    """The updates to orthogonalise, (count, rows, columns), in the precision of the chunk's kernel."""
    batch = torch.empty(len(grads), *chunk.matrix, dtype=chunk.kernel.dtype, device=grads[0].device)
    slots = list(chunk.slots(batch))
    if not nesterov:
        torch._foreach_copy_(slots, momenta)
    elif batch.dtype == grads[0].dtype and batch.device.type == "cpu":
        for g, m, slot in zip(grads, momenta, slots, strict=True):
            torch.lerp(g, m, mu, out=slot)
    else:
        torch._foreach_copy_(slots, torch._foreach_lerp(grads, momenta, mu))
    return batch
