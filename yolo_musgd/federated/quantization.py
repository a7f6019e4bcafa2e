"""Weights in one to four bits each and a step a filter: Max's uniform quantizer for normally distributed values.

What it loses of a filter's squared length is 36, 12, 3.7 and 1.2 % (J. Max, Quantizing for minimum distortion, 1960).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.arrays import Arrays

CODES, STEPS = "codes", "steps"
STEP = {1: 1.596, 2: 0.9957, 3: 0.5860, 4: 0.3352}
"""Bits -> width of a step in standard deviations, from Max's table of equal steps."""
_LARGEST = float(np.finfo(np.float16).max)


def quantize(tensors: Sequence[np.ndarray], bits: int) -> Arrays:
    """Pack tensors; a filter with NaN gets a step of NaN, so that the receiver sees it.

    Args:
        tensors: float32, (filters, ...) each.
        bits: a weight, 1 to 4.

    Returns:
        `CODES`, uint8, all weights' bits in a row; `STEPS`, float16, one a filter.
    """
    rows = [tensor.reshape(len(tensor), -1) for tensor in tensors]
    steps = [_step(row, bits) for row in rows]
    codes = np.concatenate([_codes(row, step, bits) for row, step in zip(rows, steps, strict=True)])
    spread = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
    return {CODES: np.packbits(spread), STEPS: np.concatenate(steps)}


def dequantize(packed: Mapping[str, np.ndarray], reference: Sequence[np.ndarray], bits: int) -> list[np.ndarray]:
    """The tensors that the receiver sees.

    Args:
        packed: from `quantize`.
        reference: arrays of the shapes.
        bits: as they were packed with.

    Raises:
        UserError: it cannot be of these shapes.
    """
    sizes, filters = [tensor.size for tensor in reference], [len(tensor) for tensor in reference]
    count = sum(sizes)
    if packed[CODES].size != -(-count * bits // 8) or packed[STEPS].size != sum(filters):
        raise UserError(f"a foreign model: no {bits} bits for each of {count} weights")
    spread = np.unpackbits(packed[CODES], count=count * bits).reshape(count, bits)
    levels = np.packbits(spread, axis=1, bitorder="little")[:, 0].astype(np.float32) - ((1 << bits - 1) - 0.5)
    found = []
    for tensor, level, step in zip(reference, _cut(levels, sizes), _cut(packed[STEPS], filters), strict=True):
        found.append((level.reshape(len(tensor), -1) * step.astype(np.float32)[:, None]).reshape(tensor.shape))
    return found


def _cut(flat: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(sizes)[:-1])


def _step(rows: np.ndarray, bits: int) -> np.ndarray:
    spread = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=1))
    clipped: np.ndarray = np.minimum(STEP[bits] * spread, _LARGEST).astype(np.float16)
    return clipped


def _codes(rows: np.ndarray, step: np.ndarray, bits: int) -> np.ndarray:
    """Which step each weight lies in, from 0 to 2^bits - 1."""
    half, wide = 1 << bits - 1, np.broadcast_to(step.astype(np.float32)[:, None], rows.shape)
    scaled = np.divide(rows, wide, out=np.zeros(rows.shape, np.float32), where=wide > 0)
    codes: np.ndarray = (np.clip(np.floor(scaled), -half, half - 1) + half).astype(np.uint8)
    return codes.ravel()
