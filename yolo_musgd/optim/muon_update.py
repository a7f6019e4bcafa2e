"""Muon's update of a list of matrices or filters: momentum, orthogonalisation chunk by chunk, step.

Per matrix (sources in `yolo_musgd.optim.muon`), with mu the momentum and O the orthogonalised update:

    m <- mu m + (1 - mu) g        u = mu m + (1 - mu) g  (Nesterov), else m        W <- W - lr (scale O + decay W)

With an adaptive momentum beta_t <= mu of its own for every matrix, the gradient keeps its weight and only the past is
shortened, as in MuSGD's ``v = beta_t*v + g`` (whose velocity is m / (1 - mu)):

    m <- beta_t m + (1 - mu) g    u = beta_t m + (1 - mu) g

The work is cut into chunks of matrices of one smaller side. Momentum, orthogonalisation and step of a chunk follow each
other while it is in the cache, so that the memory in use is that of a chunk and not that of the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolo_musgd.optim.flat import is_nhwc
from yolo_musgd.optim.kernel_plan import CHUNK_ELEMENTS, Plan, choose_kernels, iteration_flops, make_plan
from yolo_musgd.optim.orthogonalize import Kernel, Step, newton_schulz, ns_coefficients, svd_orthogonalize
from yolo_musgd.optim.settings import MuonSettings
from yolo_musgd.optim.state import stochastic_round

RMS = 0.2
"""Root mean square of AdamW's typical step at learning rate 1, which every scaled step here has (article "Muon,
continued: why we try Muon")."""


@dataclass(frozen=True)
class Part:
    """Tensors of one shape and layout.

    Attributes:
        index: their positions in the list given to :func:`plan_chunks`.
        shape: of each tensor.
        nhwc: channels_last: flattened in memory order, so that it stays a view. Permuting the columns of a matrix
            permutes those of its orthogonalisation alike.
    """

    index: tuple[int, ...]
    shape: torch.Size
    nhwc: bool

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the flattened tensors."""
        return flat_shape(self.shape)

    def slots(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The matrices of a batch (count, rows, columns) as views in the tensors' shape."""
        if not self.nhwc:
            return batch.view(len(self.index), *self.shape).unbind(0)
        o, i, h, w = self.shape
        return batch.view(len(self.index), o, h, w, i).permute(0, 1, 4, 2, 3).unbind(0)


@dataclass
class Chunk:
    """Tensors that are stepped together: one kernel, one smaller side, one param group, one device.

    Attributes:
        parts: the tensors, by shape.
        kernel: how they are orthogonalised.
        flops: operations that this takes.
        owner: rank that does it.
        turn: step, modulo ``muon_every``, on which it is done.
    """

    parts: tuple[Part, ...]
    kernel: Kernel
    flops: int
    owner: int = 0
    turn: int = 0

    @property
    def index(self) -> tuple[int, ...]:
        """Positions of all tensors."""
        return tuple(i for part in self.parts for i in part.index)


def flat_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a filter flattened over all dimensions but the first."""
    return shape[0], math.prod(shape[1:])


def update_scale(shape: Sequence[int], scale: str) -> float:
    """Factor of an orthogonalised update, from the parameter's shape.

    ``rms``: 0.2*sqrt(max(rows, columns)), which gives the update AdamW's typical RMS of 0.2. ``keller``:
    sqrt(max(1, rows/columns)). Both on the flattened matrix. ``native``: the latter on the last two dimensions, the
    kernel's height and width for a filter, as Ultralytics' optimizer does (its issue 25846).
    """
    rows, columns = flat_shape(shape)
    if scale == "rms":
        return RMS * math.sqrt(max(rows, columns))
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
    coefficients = iteration(settings)
    families: dict[tuple[Any, ...], dict[tuple[torch.Size, bool], list[int]]] = {}
    for device in {p.device for p in params}:
        here = [i for i, p in enumerate(params) if p.device == device]
        counts = Counter(flat_shape(params[i].shape) for i in here)
        kernels = choose_kernels(counts, device, coefficients, settings.muon_precision)
        for i in here:
            p = params[i]
            matrix = flat_shape(p.shape)
            family = families.setdefault((str(device), p.dtype, min(matrix), kernels[matrix]), {})
            family.setdefault((p.shape, is_nhwc(p)), []).append(i)
    chunks = []
    for (*_, kernel), family in families.items():
        for parts in _fill(family, CHUNK_ELEMENTS):
            flops = sum(len(q.index) * iteration_flops(*q.matrix, coefficients, kernel.restarts) for q in parts)
            chunks.append(Chunk(tuple(parts), kernel, flops))
    for chunk, owner in zip(chunks, share_out(chunks, ranks), strict=True):
        chunk.owner = owner
    for chunk, turn in zip(chunks, share_out(chunks, settings.muon_every), strict=True):
        chunk.turn = turn
    return chunks


def _fill(family: dict[tuple[torch.Size, bool], list[int]], limit: int) -> list[list[Part]]:
    """Parts of one family, in chunks of at most ``limit`` elements or of one tensor."""
    chunks: list[list[Part]] = [[]]
    room = limit
    for (shape, nhwc), index in family.items():
        each, start = math.prod(shape), 0
        while start < len(index):
            if room < each and chunks[-1]:
                chunks.append([])
                room = limit
            take = max(1, min(room // each, len(index) - start))
            chunks[-1].append(Part(tuple(index[start : start + take]), shape, nhwc))
            room -= take * each
            start += take
    return chunks


def share_out(chunks: Sequence[Chunk], parts: int) -> list[int]:
    """The part that each chunk goes to: largest chunk first, always to the part with least work."""
    load = [0] * parts
    out = [0] * len(chunks)
    for i in sorted(range(len(chunks)), key=lambda i: -chunks[i].flops):
        out[i] = load.index(min(load))
        load[out[i]] += chunks[i].flops
    return out


def iteration(settings: MuonSettings) -> tuple[Step, ...]:
    """Coefficients of every step that the settings ask for."""
    if settings.muon_method == "svd":
        return ((1.0, 0.0, 0.0),)
    return ns_coefficients(settings.muon_method, settings.muon_steps)


def describe(params: Sequence[Tensor], settings: MuonSettings) -> Plan:
    """The plan for these parameters, to print."""
    shapes = [flat_shape(p.shape) for p in params]
    device = params[0].device if params else torch.device("cpu")
    return make_plan(shapes, device, iteration(settings), settings.muon_precision)


def orthogonal_updates(batches: list[Tensor], kernel: Kernel, settings: MuonSettings) -> list[Tensor]:
    """Orthogonalise the batches (count, rows, columns) of one chunk; they are overwritten."""
    if settings.muon_method == "svd":
        return [svd_orthogonalize(batch).to(batch.dtype) for batch in batches]
    return newton_schulz(batches, iteration(settings), kernel.restarts, settings.muon_method == "cubic")


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
    grads: list[Tensor],
    buffers: list[Tensor],
    mu: float,
    betas: list[Any] | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """``m <- mu m + (1 - mu) g`` in place; returns the exact new momenta, which bf16 buffers hold only rounded.

    Args:
        grads: gradients, only read.
        buffers: momenta, changed in place.
        mu: momentum coefficient; 1 - mu is the gradient's weight.
        betas: coefficient of each old momentum, a number or a 0-d tensor on the device; ``mu`` if None.
        generator: random bits of the rounding.
    """
    exact = buffers
    if buffers[0].dtype != grads[0].dtype:
        exact = [b.to(g.dtype) for b, g in zip(buffers, grads, strict=True)]
    if betas is None:
        torch._foreach_lerp_(exact, grads, 1 - mu)
    else:
        torch._foreach_mul_(exact, betas)
        torch._foreach_add_(exact, grads, alpha=1 - mu)
    if exact is not buffers:
        torch._foreach_copy_(buffers, [stochastic_round(m, generator) for m in exact])
    return exact


def gather(
    part: Part,
    grads: list[Tensor],
    momenta: list[Tensor],
    mu: float,
    nesterov: bool,
    dtype: torch.dtype,
    betas: list[Any] | None = None,
) -> Tensor:
    """The updates to orthogonalise, (count, rows, columns), in the precision of the kernel."""
    if grads[0].dtype == torch.float64 and grads[0].device.type == "cpu":
        grads, momenta = _in_range_of_fp32(grads, momenta)
    batch = torch.empty(len(grads), *part.matrix, dtype=dtype, device=grads[0].device)
    slots = list(part.slots(batch))
    if not nesterov:
        torch._foreach_copy_(slots, momenta)
    elif betas is not None:
        ahead = torch._foreach_mul(momenta, betas)
        torch._foreach_add_(ahead, grads, alpha=1 - mu)
        torch._foreach_copy_(slots, ahead)
    elif dtype == grads[0].dtype and batch.device.type == "cpu":
        for g, m, slot in zip(grads, momenta, slots, strict=True):
            torch.lerp(g, m, mu, out=slot)
    else:
        torch._foreach_copy_(slots, torch._foreach_lerp(grads, momenta, mu))
    return batch


def _in_range_of_fp32(grads: list[Tensor], momenta: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Each matrix' gradient and momentum over the largest element of both, where fp32 would not hold that."""
    tops = [max(float(g.abs().max()), float(m.abs().max())) for g, m in zip(grads, momenta, strict=True)]
    tops = [top if top and not 1e-18 < top < 1e18 else 1.0 for top in tops]
    if all(top == 1 for top in tops):
        return grads, momenta
    return list(torch._foreach_div(grads, tops)), list(torch._foreach_div(momenta, tops))
