"""Which matrices a device orthogonalises together: padded with zeros to one shape where that saves launches.

Starting a kernel costs a GPU as much as ten million multiplications, and a small network has a hundred matrices of
thirty shapes. So matrices of several shapes are put into one batch wherever that saves more launches than it adds
work: zero rows and columns stay zero in every product, so padding changes no result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from yolo_musgd.optim.flat import is_nhwc
from yolo_musgd.optim.kernel_plan import CHUNK_ELEMENTS, choose_kernels, iteration_flops
from yolo_musgd.optim.muon_update import Chunk, Part, flat_shape, iteration, share_out
from yolo_musgd.optim.orthogonalize import Kernel, Step
from yolo_musgd.optim.settings import MuonSettings

LIMIT = 16 * CHUNK_ELEMENTS  # elements of a batch, and of the vectors that are worked on at a time
LAUNCH = 5e-6  # seconds that one costs the host, which is what a small network waits for
# FLOP/s of large products, and the side at which half of that is reached: those of an A100, to be measured.
RATE: dict[torch.dtype, tuple[float, float]] = {torch.float32: (15e12, 64), torch.bfloat16: (100e12, 256)}
Shape = tuple[int, int]  # smaller side, larger side


@dataclass
class Stack(Chunk):
    """Matrices that are padded to one shape and orthogonalised together.

    Attributes:
        side: rows of the batch.
        width: columns of the batch, at least as many; higher matrices lie on their side in it.
        graph: its iteration as a CUDA graph, with the batch that it reads and the one that it writes.
    """

    side: int = 0
    width: int = 0
    graph: tuple[Callable[[], None], Tensor, Tensor] | None = None

    @property
    def elements(self) -> int:
        """Elements of the matrices themselves."""
        return sum(len(part.index) * part.shape.numel() for part in self.parts)

    def slots(self, batch: Tensor) -> list[Tensor]:
        """The places of each part's matrices in the batch (count, side, width), as views (count, rows, columns)."""
        out, start = [], 0
        for part in self.parts:
            rows, columns = part.matrix
            piece = batch[start : start + len(part.index)]
            out.append(piece[:, :rows, :columns] if rows <= columns else piece[:, :columns, :rows].mT)
            start += len(part.index)
        return out


def plan_stacks(params: Sequence[Tensor], settings: MuonSettings, ranks: int = 1) -> list[Stack]:
    """Put the parameters into stacks and share them out; the arguments are those of ``plan_chunks``."""
    coefficients, stacks = iteration(settings), []
    kinds: dict[tuple[Any, ...], dict[tuple[torch.Size, bool], list[int]]] = {}
    for i, p in enumerate(params):
        kinds.setdefault((p.device, p.dtype), {}).setdefault((p.shape, is_nhwc(p)), []).append(i)
    for (device, _), parts in kinds.items():
        counts = Counter({lying(key[0]): 0 for key in parts})
        for key, index in parts.items():
            counts[lying(key[0])] += len(index)
        kernel = next(iter(choose_kernels(counts, device, coefficients, settings.muon_precision).values()))
        exact = settings.muon_method == "svd"  # which costs what it costs, and more for every zero
        groups = [[shape] for shape in counts] if exact else join(counts, coefficients, kernel)
        for group in groups:
            members = {key: index for key, index in parts.items() if lying(key[0]) in group}
            side, width = (max(sizes) for sizes in zip(*group, strict=True))
            if exact:  # a wide and a high matrix are two shapes to it
                stacks += [b for key, index in members.items() for b in _fill({key: index}, side, width, kernel)]
            else:
                stacks += _fill(members, side, width, kernel)
    for stack in stacks:
        stack.flops = len(stack.index) * iteration_flops(stack.side, stack.width, coefficients)
    for stack, owner in zip(stacks, share_out(stacks, ranks), strict=True):
        stack.owner = owner
    for stack, turn in zip(stacks, share_out(stacks, settings.muon_every), strict=True):
        stack.turn = turn
    return stacks


def lying(shape: Sequence[int]) -> Shape:
    """Smaller and larger side of a flattened tensor."""
    rows, columns = flat_shape(shape)
    return min(rows, columns), max(rows, columns)


def join(counts: Mapping[Shape, int], coefficients: Sequence[Step], kernel: Kernel) -> list[list[Shape]]:
    """Shapes in groups, each padded to its largest sides: the two that gain most are joined until none gain.

    Args:
        counts: number of matrices of each shape.
        coefficients: the iteration.
        kernel: its precision decides what an operation costs.
    """

    def seconds(group: Sequence[Shape]) -> float:
        side, width = (max(sizes) for sizes in zip(*group, strict=True))
        peak, half = RATE[kernel.dtype]
        flops: int = sum(counts[shape] for shape in group) * iteration_flops(side, width, coefficients)
        rate: float = peak * side / (side + half)
        return LAUNCH * (5 + 3 * len(coefficients)) + flops / rate

    groups = [[shape] for shape in counts]
    while len(groups) > 1:
        gains = [(seconds(a) + seconds(b) - seconds(a + b), a, b) for a, b in combinations(groups, 2)]
        gain, a, b = max(gains, key=lambda g: g[0])
        if gain <= 0:
            break
        groups = [g for g in groups if g is not a and g is not b] + [a + b]
    return groups


def _fill(members: dict[tuple[torch.Size, bool], list[int]], side: int, width: int, kernel: Kernel) -> list[Stack]:
    """Stacks of at most ``LIMIT`` elements or of one matrix."""
    most = max(1, LIMIT // (side * width))
    everything = [(key, i) for key, index in members.items() for i in index]
    stacks = []
    for start in range(0, len(everything), most):
        found: dict[tuple[torch.Size, bool], list[int]] = {}
        for key, i in everything[start : start + most]:
            found.setdefault(key, []).append(i)
        parts = tuple(Part(tuple(index), shape, nhwc) for (shape, nhwc), index in found.items())
        stacks.append(Stack(parts, kernel, 0, side=side, width=width))
    return stacks


def blocks(stacks: Sequence[Stack]) -> list[list[Stack]]:
    """Runs of stacks, of at most ``LIMIT`` elements or of one stack, that are worked on as one vector."""
    out: list[list[Stack]] = []
    room = 0
    for stack in stacks:
        if stack.elements > room or not out:
            out.append([])
            room = LIMIT
        out[-1].append(stack)
        room -= stack.elements
    return out
