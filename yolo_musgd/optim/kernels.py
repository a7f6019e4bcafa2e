"""Momentum-SGD updates with one momentum coefficient per tensor: single-tensor, foreach, fused, and flat for a device.

All of them compute, for parameter p, gradient g, velocity v and momentum beta,

    g += weight_decay * p                          (coupled decay; decoupled: p *= 1 - lr * weight_decay)
    v  = beta * v + g            p -= lr * v       (lr outside; with Nesterov p -= lr * (g + beta * v))
    v  = beta * v + lr * g       p -= v            (lr inside;  with Nesterov p -= lr * g + beta * v)

without ever writing to the gradient. They follow torch.optim.SGD operation by operation, so that equal coefficients
give equal bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from yolo_musgd.optim.flat import flatten, spread, unflatten

BACKENDS = ("auto", "single", "foreach", "fused")
Coefficients = list[float] | Tensor  # one a tensor: on the host, or on the device where a copy would be a sync


@dataclasses.dataclass(frozen=True)
class Hyper:
    """Hyper-parameters of one update of one param group."""

    lr: float
    weight_decay: float = 0.0
    nesterov: bool = False
    lr_in_velocity: bool = False
    decoupled_decay: bool = False


def runs_ahead(device: torch.device) -> bool:
    """Whether the host goes on while the device computes, so that asking for a value would mean waiting."""
    return device.type != "cpu"


def squared_norms(tensors: list[Tensor]) -> Tensor:
    """Squared L2 norm of each tensor, shape (len(tensors),), in fp64 (fp32 on MPS), without a host sync.

    On the CPU vectors go through one concatenation: a network has twice as many of them as of matrices, and a kernel
    launch each costs more than their arithmetic. A tensor's norm does not depend on what else is in the list.
    """
    device = tensors[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    flat = [n == 1 for n in map(Tensor.dim, tensors)] if device.type == "cpu" else [False]
    if all(flat):
        values = torch.cat(tensors).to(wide).square_()
        lengths = torch.tensor([t.numel() for t in tensors], device=device)
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    if any(flat):
        out = torch.empty(len(tensors), dtype=wide, device=device)
        for kind in (True, False):
            places = [i for i, f in enumerate(flat) if f is kind]
            out[places] = squared_norms([tensors[i] for i in places])
        return out
    if device.type not in ("cpu", "mps"):
        return wide_squared_norms(tensors)
    return torch.stack(torch._foreach_norm([_at_least_fp32(t) for t in tensors])).to(wide).square_()


def wide_squared_norms(tensors: list[Tensor]) -> Tensor:
    """As :func:`squared_norms`, summed in fp64: no square of an fp32 number leaves its range, and nothing waits.

    For devices: a GPU reads the gradients just as fast, a CPU would take four times as long.
    """
    return torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).square_()


def in_layout_of(like: Tensor, t: Tensor) -> Tensor:
    """The tensor with the strides of another of its shape, or those that ``empty_like`` gives where that has gaps."""
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether every element is finite, of tensors on the CPU; squares that overflow do not count."""
    return bool(squared_norms(tensors).isfinite().all() or scaled_squared_norms(tensors).isfinite().all())


def scaled_squared_norms(tensors: list[Tensor]) -> Tensor:
    """As :func:`squared_norms`, where a square or a sum of them leaves the range of its type; on the CPU.

    ``||t||^2 = max^2 * ||t/max||^2`` in fp64, at most 1e300 (of which a sum is still finite); not finite only if an
    element is not.
    """
    peaks = torch.stack([t.abs().max() if t.numel() else t.new_zeros(()) for t in tensors]).double()
    tiny = torch.finfo(torch.float64).tiny
    scaled = [t.double() / peak.clamp_min(tiny) for t, peak in zip(tensors, peaks, strict=True)]
    values = (peaks * torch.stack(torch._foreach_norm(scaled))).square()
    return torch.where(peaks.isfinite(), values.clamp_max(1e300), peaks)


def _at_least_fp32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def decayed(grads: list[Tensor], params: list[Tensor], weight_decay: float) -> list[Tensor]:
    """``grad + weight_decay * param`` as new tensors, or the gradients themselves without decay."""
    return list(torch._foreach_add(grads, params, alpha=weight_decay)) if weight_decay else grads


def update(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    betas: Coefficients,
    hyper: Hyper,
    finite: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """One step of these tensors by the back end that is asked for, or by the fastest; arguments of the functions below.

    On a device there is one way only, the one that can skip a step without waiting.
    """
    dtypes = {p.dtype for p in params}
    if finite is not None and len(dtypes) == 1:
        update_flat(params, grads, buffers, betas, hyper, finite)
        return
    if finite is not None:
        single = isinstance(betas, Tensor) and betas.ndim == 0
        for dtype in dtypes:
            here = [i for i, p in enumerate(params) if p.dtype == dtype]
            own = betas if single else torch.stack([torch.as_tensor(betas[i]) for i in here])
            ps, gs, vs = ([x[i] for i in here] for x in (params, grads, buffers))
            update_flat(ps, gs, vs, own, hyper, finite)
        return
    if backend in ("auto", "fused"):
        fused = not hyper.lr_in_velocity and all(fused_available(params[0].device.type, d) for d in dtypes)
        backend = "fused" if fused else "single"
    if backend == "single" or len(dtypes) > 1:
        update_single(params, grads, buffers, betas, hyper)
    elif backend == "foreach":
        update_foreach(params, grads, buffers, betas, hyper)
    else:
        update_fused(params, grads, buffers, cast("list[float]", betas), hyper)


def update_single(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], betas: Coefficients, hyper: Hyper
) -> None:
    """One tensor after the other; betas (len(params),), numbers or a tensor."""
    lr, wd = hyper.lr, hyper.weight_decay
    for p, g, v, beta in zip(params, grads, buffers, betas, strict=True):
        if wd and hyper.decoupled_decay:
            p.mul_(1 - lr * wd)
        elif wd:
            g = g.add(p, alpha=wd)
        v.mul_(beta).add_(g, alpha=lr if hyper.lr_in_velocity else 1)
        if hyper.nesterov and isinstance(beta, Tensor):
            g = torch.addcmul(g.mul(lr) if hyper.lr_in_velocity else g, v, beta.to(v.dtype))
        elif hyper.nesterov:
            g = (g.mul(lr) if hyper.lr_in_velocity else g).add(v, alpha=beta)
        else:
            g = v
        p.add_(g, alpha=-1 if hyper.lr_in_velocity else -lr)


def update_foreach(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], betas: Coefficients, hyper: Hyper
) -> None:
    """All tensors at once; betas (len(params),), numbers or a tensor."""
    lr, wd = hyper.lr, hyper.weight_decay
    if wd and hyper.decoupled_decay:
        torch._foreach_mul_(params, 1 - lr * wd)
    elif wd:
        grads = list(torch._foreach_add(grads, params, alpha=wd))
    scale = lr if hyper.lr_in_velocity else 1
    factors = _factors(betas, buffers[0].dtype)
    torch._foreach_mul_(buffers, factors)
    torch._foreach_add_(buffers, grads, alpha=scale)
    if not hyper.nesterov:
        updates = buffers
    elif isinstance(factors, float):  # in torch.optim.SGD's order of operations
        scaled = grads if scale == 1 else list(torch._foreach_mul(grads, scale))
        updates = list(torch._foreach_add(scaled, buffers, alpha=factors))
    else:
        updates = list(torch._foreach_mul(buffers, factors))
        torch._foreach_add_(updates, grads, alpha=scale)
    torch._foreach_add_(params, updates, alpha=-1.0 if hyper.lr_in_velocity else -lr)


def update_flat(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    betas: Coefficients,
    hyper: Hyper,
    finite: Tensor,
) -> None:
    """All tensors as one vector, a few launches however many there are, and no value asked for.

    Args:
        params: parameters of one type, changed in place.
        grads: gradients, only read.
        buffers: velocities, changed in place.
        betas: (len(params),), numbers or a tensor, or a 0-d tensor for all.
        hyper: hyper-parameters.
        finite: 0-d, 1 to update and 0 to leave parameters and velocities as they are, decided on the device.
    """
    lr, wd, dtype, sizes = hyper.lr, hyper.weight_decay, params[0].dtype, [p.numel() for p in params]
    g = flatten(grads)
    if wd and hyper.decoupled_decay:
        torch._foreach_mul_(params, (1 - lr * wd * finite).to(dtype))
    elif wd:
        g.add_(flatten(params), alpha=wd)
    # A skipped step keeps the velocity: beta is 1 and every gradient counts as 0.
    g = torch.where(finite > 0, g, g.new_zeros(()))
    kept = torch.where(finite > 0, torch.as_tensor(betas, device=g.device), 1.0).to(dtype)
    past = spread(kept, torch.tensor(sizes).to(g.device, non_blocking=True), sum(sizes))
    if hyper.lr_in_velocity:
        g.mul_(lr)
    v = flatten(buffers).mul_(past).add_(g)
    torch._foreach_copy_(buffers, unflatten(v, buffers))
    step = (torch.addcmul(g, v, past) if hyper.nesterov else v).mul_(finite.to(dtype))
    torch._foreach_add_(params, unflatten(step, params), alpha=-1.0 if hyper.lr_in_velocity else -lr)


def _factors(betas: Coefficients, dtype: torch.dtype) -> Any:
    """The coefficients in the form that torch._foreach_mul takes: a number, a 0-d tensor, or a list of either."""
    if isinstance(betas, Tensor):
        betas = betas.to(dtype)
        return betas if betas.ndim == 0 else list(betas.unbind())
    return betas[0] if len(set(betas)) == 1 else betas


def update_fused(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], betas: list[float], hyper: Hyper
) -> None:
    """Torch's fused SGD kernel: one pass over memory and no temporary; lr outside the velocity only.

    The kernel walks raw memory: parameter, gradient and velocity must have the same strides.
    """
    if 0.0 in betas:  # for which the kernel refuses to have velocities
        update_single(params, grads, buffers, betas, hyper)
        return
    wd = hyper.weight_decay
    if wd and hyper.decoupled_decay:
        torch._foreach_mul_(params, 1 - hyper.lr * wd)
        wd = 0.0
    kernel: Callable[..., None] = torch._fused_sgd_
    fixed = {"lr": hyper.lr, "dampening": 0.0, "nesterov": hyper.nesterov, "maximize": False, "is_first_step": False}
    if len(set(betas)) == 1:
        kernel(params, grads, buffers, momentum=betas[0], weight_decay=wd, **fixed)
        return
    for p, g, v, beta in zip(params, grads, buffers, betas, strict=True):
        kernel((p,), (g,), (v,), momentum=beta, weight_decay=wd, **fixed)


@cache
def fused_available(device_type: str, dtype: torch.dtype) -> bool:
    """Whether torch's fused SGD kernel runs, and rightly, for this dtype on the CPU.

    Only the CPU's is of use: it takes its momentum from the host, which on a GPU would mean waiting for the norms.
    It is tried on a vector, since torch 2.4 writes wrong velocities in bf16 and fp16 where it computes eight at a time.
    """
    if device_type != "cpu":
        return False
    try:
        p, g, v = (torch.ones(100, dtype=dtype, device=device_type) for _ in range(3))
        update_fused([p], [g], [v], [0.5], Hyper(lr=0.5))
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return bool((v == 1.5).all() and (p == 0.25).all())
