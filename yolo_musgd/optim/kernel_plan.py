"""Which kernel orthogonalises which matrices, decided once per set of shapes.

Matrices of exactly the same shape share batched products; what is padded for a GPU stands in
:mod:`yolo_musgd.optim.stacks`. For every shape the cheapest kernel that is numerically safe is taken, by counting
floating-point operations and dividing by the rate that the device reaches at that size.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from yolo_musgd.optim.kernels import runs_ahead
from yolo_musgd.optim.orthogonalize import QUINTIC, Kernel, Step

PRECISIONS = ("auto", "float32", "bfloat16")
CHUNK_ELEMENTS = 1 << 20  # elements of a batch on a CPU: more buys no speed and costs memory and cache
# One thread of a CPU with AVX512_BF16: seconds per batched product, FLOP/s beyond that, and the side at which half of
# that rate is reached.
CPU_COST = {torch.float32: (4e-6, 98e9, 0), torch.bfloat16: (14e-6, 215e9, 24)}


@dataclass(frozen=True)
class Bucket:
    """Matrices of one shape that are orthogonalised together.

    Attributes:
        rows: rows of each matrix (output channels).
        columns: the product of the other dimensions.
        count: number of matrices.
        kernel: how they are orthogonalised.
        flops: floating-point operations for all of them.
    """

    rows: int
    columns: int
    count: int
    kernel: Kernel
    flops: int


@dataclass(frozen=True)
class Plan:
    """The buckets of one set of shapes; ``str(plan)`` is a table."""

    device: str
    buckets: tuple[Bucket, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations per step."""
        return sum(b.flops for b in self.buckets)

    def __str__(self) -> str:
        lines = [f"{'rows x columns':>15}  {'count':>5}  {'kernel':<24} {'GFLOP':>8}  share   ({self.device})"]
        total = max(self.flops, 1)
        for b in sorted(self.buckets, key=lambda b: -b.flops):
            shape = f"{b.rows} x {b.columns}"
            lines.append(f"{shape:>15}  {b.count:>5}  {b.kernel!s:<24} {b.flops / 1e9:>8.3f}  {b.flops / total:>5.1%}")
        count = sum(b.count for b in self.buckets)
        lines.append(f"{'total':>15}  {count:>5}  {'':<24} {total / 1e9:>8.3f}")
        return "\n".join(lines)


def make_plan(
    shapes: Iterable[tuple[int, int]],
    device: torch.device | str,
    coefficients: Sequence[Step],
    precision: str = "auto",
) -> Plan:
    """Group the shapes (rows, columns) and choose a kernel for each.

    Args:
        shapes: one entry per matrix; trailing dimensions of filters are already flattened.
        device: where they live.
        coefficients: the iteration, from :func:`~yolo_musgd.optim.orthogonalize.ns_coefficients`.
        precision: see :func:`choose_kernels`.
    """
    counts = dict(Counter(shapes))
    kernels = choose_kernels(counts, torch.device(device), coefficients, precision)
    buckets = []
    for shape, count in counts.items():
        flops = count * iteration_flops(*shape, coefficients, kernels[shape].restarts)
        buckets.append(Bucket(*shape, count, kernels[shape], flops))
    return Plan(str(device), tuple(buckets))


def iteration_flops(rows: int, columns: int, coefficients: Sequence[Step], restarts: Sequence[int] = ()) -> int:
    """Floating-point operations to orthogonalise one matrix (products only, two operations per multiply-add)."""
    s, n = min(rows, columns), max(rows, columns)
    total, done = 0, 0
    for length in restarts or (1,) * len(coefficients):
        squares = sum(1 for _, _, c in coefficients[done : done + length] if c)
        total += 4 * s * s * n + 2 * s**3 * squares + 6 * s**3 * (length - 1)
        done += length
    return total


def choose_kernels(
    counts: Mapping[tuple[int, int], int],
    device: torch.device,
    coefficients: Sequence[Step],
    precision: str = "auto",
) -> dict[tuple[int, int], Kernel]:
    """The fastest safe kernel for each shape.

    Shapes with the same smaller side and the same kernel share their small products. For each side this takes the
    better of two: the best kernel of every shape, or the one kernel that is best for all of them.

    Args:
        counts: number of matrices of each shape (rows, columns).
        device: where they live; a CPU takes bf16 only if it multiplies in bf16.
        coefficients: the iteration. Restarts in bf16 are safe for the quintic one alone.
        precision: ``auto``, or ``float32`` / ``bfloat16`` to insist; ``float32`` also insists on exactness.

    Raises:
        ValueError: unknown precision.
    """
    candidates = _candidates(device, tuple(coefficients), precision)
    out: dict[tuple[int, int], Kernel] = {}
    for side in sorted({min(shape) for shape in counts}):
        family = [shape for shape in counts if min(shape) == side]

        def seconds(kernel: Kernel, members: Sequence[tuple[int, int]], side: int = side) -> float:
            per_product, peak, half = CPU_COST[kernel.dtype]
            rate = peak * side / (side + half)
            flops = sum(counts[m] * iteration_flops(*m, coefficients, kernel.restarts) for m in members)
            restarts = kernel.restarts or (1,) * len(coefficients)
            products = sum(2 * len(members) + 4 * length - 3 for length in restarts)
            return per_product * products + flops / rate

        own = {shape: min(candidates, key=lambda k: seconds(k, [shape])) for shape in family}
        mixed = sum(seconds(k, [m for m in family if own[m] == k]) for k in set(own.values()))
        common = min(candidates, key=lambda k: seconds(k, family))
        out.update(dict.fromkeys(family, common) if seconds(common, family) < mixed else own)
    return out


def _candidates(device: torch.device, coefficients: tuple[Step, ...], precision: str) -> list[Kernel]:
    """Kernels that are safe for this iteration on this device."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    bf16 = precision == "bfloat16" or (precision == "auto" and has_fast_bf16(device))
    if runs_ahead(device):  # few launches matter more than few operations
        return [Kernel(torch.bfloat16 if bf16 else torch.float32)]
    steps = len(coefficients)
    found = []
    if precision != "bfloat16":  # restarts keep fp32 as exact as the standard kernel: 3e-6 on real gradients
        found += [Kernel(torch.float32), Kernel(torch.float32, _pairs(steps))]
    if precision == "auto":  # one Gram matrix for all steps: 1e-4, far below what the iteration itself leaves
        found.append(Kernel(torch.float32, (steps,)))
    if bf16:
        found.append(Kernel(torch.bfloat16))
        if steps > 2 and all(step == QUINTIC for step in coefficients):
            found.append(Kernel(torch.bfloat16, _pairs(steps)))
    return found


def _pairs(steps: int) -> tuple[int, ...]:
    """Restart after every second step; an odd one out comes first, where the matrix is least rounded."""
    return (1,) * (steps % 2) + (2,) * (steps // 2)


@lru_cache(maxsize=8)
def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix units. Emulated bf16 is several times slower than fp32."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    """AVX512_BF16 or AMX on x86, FEAT_BF16 on Arm, as the Linux kernel tells it; elsewhere no."""
    if platform.system() != "Linux":
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
