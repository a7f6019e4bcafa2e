"""Muon's step on a device that runs ahead of the host: few launches instead of few operations.

Momentum is advanced on one vector of all gradients (:mod:`yolo_musgd.optim.flat`), and matrices are orthogonalised in
the batches that :mod:`yolo_musgd.optim.stacks` makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from yolo_musgd.optim.checks import wide_dtype
from yolo_musgd.optim.flat import flatten, spread, unflatten
from yolo_musgd.optim.kernels import in_layout_of
from yolo_musgd.optim.muon_update import Part, iteration, orthogonal_updates, update_scale
from yolo_musgd.optim.orthogonalize import few_launches
from yolo_musgd.optim.settings import MuonSettings
from yolo_musgd.optim.stacks import Stack
from yolo_musgd.optim.state import stochastic_round


def advance(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    betas: Tensor | None,
    settings: MuonSettings,
    mu: float,
    finite: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Advance the momenta in place and return what is to be orthogonalised, as one vector in their order.

    The formulas are those of :mod:`yolo_musgd.optim.muon_update`.

    Args:
        params: parameters, whose memory order the vector has.
        grads: their gradients, only read.
        momenta: changed in place, unless ``finite`` is 0.
        betas: coefficient of each old momentum (n,) or of all (0-d); ``mu`` if None.
        settings: of Muon.
        mu: momentum coefficient; 1 - mu is the gradient's weight.
        finite: 0-d, 1 or 0.
        generator: random bits for momenta in bf16.
    """
    wide, sizes = wide_dtype(params[0].dtype), [p.numel() for p in params]
    g = flatten([in_layout_of(p, g) for p, g in zip(params, grads, strict=True)]).to(wide)
    m = flatten([in_layout_of(p, m) for p, m in zip(params, momenta, strict=True)]).to(wide)
    kept = torch.where(finite > 0, mu if betas is None else betas, 1.0).to(wide)
    past = spread(kept, torch.tensor(sizes).to(g.device, non_blocking=True), sum(sizes))
    g = torch.where(finite > 0, g, g.new_zeros(()))
    m.mul_(past).add_(g, alpha=1 - mu)
    held = stochastic_round(m, generator) if settings.muon_state == "bfloat16" else m
    torch._foreach_copy_(momenta, unflatten(held, params))
    return torch.addcmul(g.mul_(1 - mu), m, past) if settings.muon_nesterov else m


def orthogonalized(stack: Stack, vector: Tensor, start: int, settings: MuonSettings) -> Tensor:
    """The stack's matrices, which begin at ``start`` in the vector, orthogonalised: (count, side, width)."""
    shape = (len(stack.index), stack.side, stack.width)
    other = settings.muon_method in ("svd", "cubic")
    if settings.muon_graph and can_record(vector.device) and not other:
        if stack.graph is None:
            batch = torch.zeros(shape, dtype=stack.kernel.dtype, device=vector.device)
            stack.graph = (*recorded(partial(few_launches, batch, iteration(settings))), batch)
        replay, result, batch = stack.graph
        fill(stack, batch.zero_(), vector, start)
        replay()
        return result
    batch = torch.zeros(shape, dtype=stack.kernel.dtype, device=vector.device)
    fill(stack, batch, vector, start)
    return orthogonal_updates([batch], stack.kernel, settings)[0] if other else few_launches(batch, iteration(settings))


def fill(stack: Stack, batch: Tensor, vector: Tensor, start: int) -> None:
    """Copy the stack's matrices into their places."""
    for slot, piece in zip(stack.slots(batch), pieces(stack, vector, start), strict=True):
        slot.copy_(piece)


def can_record(device: torch.device) -> bool:
    """Whether the device has graphs."""
    return device.type == "cuda"


def recorded(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A CUDA graph of some work: what runs it again, and the tensor that then holds its result.

    The work is done once before, on a stream of its own: libraries set themselves up outside of a graph.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


def pieces(stack: Stack, vector: Tensor, start: int) -> list[Tensor]:
    """Views (count, rows, columns) of each part's matrices in the vector."""
    out = []
    for part in stack.parts:
        count, (rows, columns) = len(part.index), part.matrix
        end = start + count * rows * columns
        out.append(vector[start:end].view(count, rows, columns))
        start = end
    return out


def orthogonalize_block(
    block: Sequence[Stack],
    vector: Tensor,
    settings: MuonSettings,
    step: int,
    ranks: int,
    even: Callable[[Stack, Part, Tensor], Tensor] | None = None,
) -> list[int]:
    """Replace the updates in a block's vector by orthogonalised ones, of the matrices whose turn it is.

    Args:
        block: stacks, in the order of the vector.
        vector: from :func:`advance`; changed in place.
        settings: of Muon.
        step: number of this step, from 1.
        ranks: processes, each of which does its own stacks and sends them to the others.
        even: NorMuon's normalisation of a part's orthogonalised matrices.

    Returns:
        Their places among the block's matrices.
    """
    due: list[int] = []
    results, start, place = [], 0, 0
    for stack in block:
        if step % settings.muon_every == stack.turn:
            if ranks == 1 or stack.owner == dist.get_rank():
                result = orthogonalized(stack, vector, start, settings)
            else:
                shape = (len(stack.index), stack.side, stack.width)
                result = torch.empty(shape, dtype=stack.kernel.dtype, device=vector.device)
            results.append((stack, start, result))
            due += range(place, place + len(stack.index))
        place += len(stack.index)
        start += stack.elements
    for stack, start, result in results:
        if ranks > 1:
            dist.broadcast(result, stack.owner)
        for part, slot, piece in zip(stack.parts, stack.slots(result), pieces(stack, vector, start), strict=True):
            piece.copy_(even(stack, part, slot) if even else slot)
    return due


def walk(
    params: list[Tensor],
    vector: Tensor,
    due: Sequence[int],
    settings: MuonSettings,
    lr: float,
    decay: float,
    finite: Tensor,
) -> Tensor:
    """Step a block's parameters at the places ``due`` along the orthogonalised updates in the vector.

    Args:
        params: of the block, in the order of the vector.
        vector: from :func:`orthogonalize_block`.
        due: from there.
        settings: of Muon.
        lr: learning rate of matrices.
        decay: what a step takes off them.
        finite: 0-d, 0 to leave them as they are.

    Returns:
        RMS of each step, fp32.
    """
    steps = unflatten(torch.where(finite > 0, vector, vector.new_zeros(())), params)
    chosen, targets = ([x[i] for i in due] for x in (steps, params))
    torch._foreach_mul_(
        chosen, [lr * settings.muon_share * update_scale(p.shape, settings.muon_scale) for p in targets]
    )
    lengths = list(torch._foreach_norm(chosen))
    torch._foreach_div_(lengths, [p.numel() ** 0.5 for p in targets])
    if decay:
        torch._foreach_mul_(targets, (1 - decay * finite).to(targets[0].dtype))
    torch._foreach_add_(targets, chosen, alpha=-1)
    return torch.stack(lengths).float()
