"""What is sent of a difference between two models: all of it, half precision, few bits, or its largest entries.

What was not sent is not lost: the sender adds it to the next difference (error feedback, Seide et al. 2014; Karimireddy
et al. 2019, arXiv 1901.09847). Vectors (BatchNorm, biases), one part in thirty of a YOLO, always go in half precision.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.arrays import Arrays
from yolo_musgd.federated.quantization import CODES, STEP, STEPS, dequantize, quantize

DENSE, VALUES, GAPS, LAYOUT = "dense", "values", "gaps", "layout"
_LARGEST = float(np.finfo(np.float16).max)
_LONGEST = 255  # a gap that one byte holds


@dataclass(frozen=True)
class Compression:
    """How differences are sent.

    Attributes:
        kind: ``none``, ``half``, ``bits`` or ``topk``.
        ratio: share of the weights that ``topk`` sends.
        bits: that a weight takes with ``bits``.
    """

    kind: str = "none"
    ratio: float = 1.0
    bits: int = 0

    @classmethod
    def parse(cls, text: str) -> Compression:
        """From ``none``, ``half``, ``bits:2`` or ``topk:0.1``.

        Raises:
            UserError: something else.
        """
        kind, colon, number = text.partition(":")
        if text in ("none", "half"):
            return cls(text)
        if kind == "bits" and number in map(str, STEP):
            return cls("bits", bits=int(number))
        try:
            ratio = float(number) if kind == "topk" and colon else 0.0
        except ValueError:
            ratio = 0.0
        if not 0 < ratio <= 1:
            raise UserError(
                f"compress={text}: must be none, half, bits:N with N from 1 to {max(STEP)}, "
                "or topk:SHARE with SHARE in (0, 1]"
            )
        return cls("topk", ratio)

    def encode(self, difference: Mapping[str, np.ndarray]) -> Arrays:
        """Few large arrays in place of many named ones, which would be a request each; `decode` needs the shapes.

        A checksum of names, shapes and types goes with them: values of another order would fit, too.

        Args:
            difference: tensor name -> float32 array; with ``none`` the tensors themselves, which lose nothing.
        """
        dense, sparse = self._sides(difference)
        flat = _flat(difference, dense)
        packed = {LAYOUT: _checksum(difference), DENSE: flat if self.kind == "none" else _half(flat)}
        if sparse and self.kind == "bits":
            packed |= quantize([difference[name] for name in sparse], self.bits)
        elif sparse:
            flat = _flat(difference, sparse)
            count = max(1, round(self.ratio * flat.size))
            chosen = np.sort(np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :])
            packed |= _with_gaps(chosen, _half(flat[chosen]))
        return packed

    def decode(self, packed: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Arrays:
        """The difference that the receiver sees; the sender too, to know what is missing in it.

        Args:
            packed: from `encode`.
            reference: arrays of the names and shapes that both sides have.

        Raises:
            UserError: it cannot be of these shapes.
        """
        dense, sparse = self._sides(reference)
        plain: type = np.float32 if self.kind == "none" else np.float16
        kinds: dict[str, type] = {LAYOUT: np.uint32, DENSE: plain}
        if sparse:
            kinds |= {CODES: np.uint8, STEPS: np.float16} if self.bits else {VALUES: np.float16, GAPS: np.uint8}
        if packed.keys() != kinds.keys() or any(packed[k].dtype != t or packed[k].ndim != 1 for k, t in kinds.items()):
            raise UserError("a foreign model: the arrays are not packed as compress= says")
        found = _split(packed[DENSE].astype(np.float32), reference, dense)
        if sparse and self.kind == "bits":
            tensors = dequantize(packed, [reference[name] for name in sparse], self.bits)
            found |= dict(zip(sparse, tensors, strict=True))
        elif sparse:
            flat = np.zeros(sum(reference[name].size for name in sparse), np.float32)
            places = np.cumsum(packed[GAPS], dtype=np.int64)
            if places.size != packed[VALUES].size or (places.size and places[-1] >= flat.size):
                raise UserError("a foreign model: places beyond its weights")
            np.add.at(flat, places, packed[VALUES].astype(np.float32))  # a filler is 0 on top of whatever is there
            found |= _split(flat, reference, sparse)
        if not np.array_equal(packed[LAYOUT], _checksum(reference)):
            raise UserError("a foreign model: as many values, but its tensors have other names, shapes or types")
        return {name: found[name] for name in reference}

    def _sides(self, arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """The names that go dense, and those of which few bits or the largest entries go."""
        fewer = self.kind in ("bits", "topk")
        sparse = [name for name, value in arrays.items() if fewer and value.ndim > 1]
        return [name for name in arrays if name not in set(sparse)], sparse


def layout(arrays: Mapping[str, np.ndarray]) -> str:
    """Names and shapes as JSON, for a receiver that does not know the model yet."""
    return json.dumps([[name, list(value.shape)] for name, value in arrays.items()])


def _checksum(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    types = ",".join(str(value.dtype) for value in arrays.values())
    return np.array([zlib.crc32(f"{layout(arrays)}{types}".encode())], np.uint32)


def from_layout(text: str) -> Arrays:
    """A reference for `decode` from `layout`'s text; it takes no memory.

    Raises:
        UserError: it is no layout.
    """
    try:
        return {str(name): np.broadcast_to(np.float32(0), shape) for name, shape in json.loads(text)}
    except (TypeError, ValueError) as error:
        raise UserError(f"names and shapes cannot be read: {error}") from None


def _half(values: np.ndarray) -> np.ndarray:
    """Float16, clipped to what it can hold; NaN stays, so that the receiver sees it."""
    clipped: np.ndarray = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
    return clipped


def _flat(arrays: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *(arrays[name].ravel() for name in names)])


def _split(flat: np.ndarray, reference: Mapping[str, np.ndarray], names: list[str]) -> Arrays:
    sizes = [reference[name].size for name in names]
    if flat.size != sum(sizes):
        raise UserError(f"a foreign model: {flat.size} values where {sum(sizes)} belong")
    parts = np.split(flat, np.cumsum(sizes)[:-1]) if names else []
    return {name: part.reshape(reference[name].shape) for name, part in zip(names, parts, strict=True)}


def _with_gaps(places: np.ndarray, values: np.ndarray) -> Arrays:
    """Rising places as the steps between them, a byte each; a longer step passes over fillers of value 0."""
    steps = np.diff(places, prepend=0)
    fillers = np.maximum(steps - 1, 0) // _LONGEST
    ends = np.cumsum(fillers + 1) - 1  # where each value comes to lie among the fillers
    gaps = np.full(ends[-1] + 1, _LONGEST, np.uint8)
    gaps[ends] = steps - fillers * _LONGEST
    spread = np.zeros(gaps.size, np.float16)
    spread[ends] = values
    return {VALUES: spread, GAPS: gaps}
