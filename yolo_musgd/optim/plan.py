"""Which kernel orthogonalises which matrices, decided once per set of shapes.

Matrices of exactly the same shape share batched products; nothing is padded. For every shape the cheapest kernel that
is numerically safe is taken, by counting floating-point operations and dividing by the rate that the device reaches at
that size.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from yolo_musgd.optim.orthogonalize import QUINTIC, Kernel, Step

PRECISIONS = ("auto", "float32", "bfloat16")
CHUNK_ELEMENTS = 1 << 20  # elements of a batch on a CPU: more buys no speed and costs memory and cache
MIN_BF16_SIDE = 65  # below, bf16 products are bound by their set-up, and fp32 is as fast


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

    def floor_seconds(self, fp32_rate: float, bf16_rate: float) -> float:
        """Time of the products alone at the given rates in FLOP/s: no step can be faster with these kernels."""
        return sum(b.flops / (bf16_rate if b.kernel.dtype == torch.bfloat16 else fp32_rate) for b in self.buckets)

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
        precision: see :func:`choose_kernel`.
    """
    counts: dict[tuple[int, int], int] = {}
    for shape in shapes:
        counts[shape] = counts.get(shape, 0) + 1
    device = torch.device(device)
    buckets = []
    for (rows, columns), count in counts.items():
        kernel = choose_kernel(rows, columns, device, tuple(coefficients), precision)
        flops = count * iteration_flops(rows, columns, coefficients, kernel.restarts)
        buckets.append(Bucket(rows, columns, count, kernel, flops))
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


@lru_cache(maxsize=4096)
def choose_kernel(
    rows: int, columns: int, device: torch.device, coefficients: tuple[Step, ...], precision: str = "auto"
) -> Kernel:
    """The fastest safe kernel for one matrix shape.

    Args:
        rows: rows of the matrix.
        columns: columns of the matrix.
        device: where it lives; a CPU takes bf16 only if it multiplies in bf16.
        coefficients: the iteration. Restarts in bf16 are safe for the quintic one alone.
        precision: ``auto``, or ``float32`` / ``bfloat16`` to insist.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    bf16 = precision == "bfloat16" or (precision == "auto" and has_fast_bf16(device))
    if device.type != "cpu":  # few launches matter more than few operations
        return Kernel(torch.bfloat16 if bf16 else torch.float32)
    small = min(rows, columns)
    steps = len(coefficients)
    candidates = []
    if precision != "bfloat16":
        candidates += [Kernel(torch.float32), Kernel(torch.float32, (steps,))]
    if bf16 and (small >= MIN_BF16_SIDE or precision == "bfloat16"):
        candidates.append(Kernel(torch.bfloat16))
        if all(step == QUINTIC for step in coefficients) and steps > 2:
            candidates.append(Kernel(torch.bfloat16, _pairs(steps)))
    rate = {torch.float32: 1.0, torch.bfloat16: 2.2 * small / (small + 32)}  # measured on AVX512_BF16, one thread
    return min(candidates, key=lambda k: iteration_flops(rows, columns, coefficients, k.restarts) / rate[k.dtype])


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
