"""NCNN's two files: ``.param`` lists one layer a line, ``.bin`` holds their weights in the same order.

Sources: ncnn, docs/developer-guide/param-and-model-file-structure.md and src/modelbin.cpp. Only the layers of a YOLO
are known here; a layer with other weights is refused, since without them all that follows would be read wrongly.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolo_musgd.edge.errors import UserError

TAG_FLOAT, TAG_HALF, TAG_INT8 = 0, 0x01306B47, 0x000D4B38
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_MAGIC = "7767517"
# Parameter numbers of NCNN's layers.
OUTPUTS, BIAS, WEIGHTS, GROUPS, INT8 = 0, 5, 6, 7, 8


class Layer(NamedTuple):
    """One line of the .param file, and its weights and bias where it has some."""

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: dict[int, str]
    line: str
    weights: np.ndarray | None = None
    bias: np.ndarray | None = None

    def number(self, key: int, default: int = 0) -> int:
        """An integer parameter."""
        return int(self.params.get(key, default))


class _Reader:
    """Takes weights out of a .bin file in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def floats(self, count: int) -> np.ndarray:
        if count < 0:
            raise ValueError(f"{count} weights")
        values = np.frombuffer(self.data, "<f4", count, self.at)
        self.at += 4 * count
        return values

    def tagged(self, count: int) -> np.ndarray:
        (tag,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        if tag == TAG_FLOAT:
            return self.floats(count)
        if tag != TAG_HALF:
            raise ValueError(f"weights of an unknown kind (tag {tag:#x}); is it quantized already?")
        if count < 0:
            raise ValueError(f"{count} weights")
        values = np.frombuffer(self.data, "<f2", count, self.at).astype(np.float32)
        self.at += (2 * count + 3) // 4 * 4  # padded to four bytes
        return values


def read_network(folder: Path) -> list[Layer]:
    """Read ``model.ncnn.param`` and ``model.ncnn.bin``.

    Raises:
        UserError: not an NCNN folder, damaged, quantized already, or with weights in layers that no YOLO has.
    """
    try:
        lines = (folder / "model.ncnn.param").read_text(encoding="utf-8").splitlines()
        reader = _Reader((folder / "model.ncnn.bin").read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model={folder} is not a folder that yolo export format=ncnn made: {error}") from error
    layers = []
    try:
        if lines[0].strip() != _MAGIC:
            raise ValueError(f"the first line is {lines[0]!r}, not {_MAGIC}")
        for line in filter(None, map(str.strip, lines[2:])):
            layer = _with_weights(_parse(line), reader)
            if layer.kind in CONVOLUTIONS and layer.number(INT8):
                raise ValueError(f"{layer.name} is quantized already")
            layers.append(layer)
        if reader.at != len(reader.data):
            raise ValueError(f"{len(reader.data) - reader.at} bytes of the weights belong to no layer")
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise UserError(
            f"model={folder} cannot be quantized: {error}; export it again: yolo export format=ncnn"
        ) from error
    return layers


def _parse(line: str) -> Layer:
    words = line.split()
    inputs, outputs = int(words[2]), int(words[3])
    blobs, pairs = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    params = {int(key): value for key, _, value in (pair.partition("=") for pair in pairs)}
    return Layer(words[0], words[1], tuple(blobs[:inputs]), tuple(blobs[inputs:]), params, line)


def _with_weights(layer: Layer, reader: _Reader) -> Layer:
    """Take what belongs to a layer out of the .bin file; each kind that has weights must be known here."""
    if layer.kind in CONVOLUTIONS:
        weights = reader.tagged(layer.number(WEIGHTS))
        return layer._replace(
            weights=weights, bias=reader.floats(layer.number(OUTPUTS)) if layer.number(BIAS) else None
        )
    if layer.kind == "MemoryData" and layer.number(21, 1) == 1:
        sides = [layer.number(key) for key in (0, 1, 11, 2)]
        return layer._replace(bias=reader.floats(int(np.prod([side or 1 for side in sides]))))
    if layer.kind in (
        "InnerProduct",
        "Deconvolution",
        "BatchNorm",
        "Scale",
        "Gemm",
        "PReLU",
        "MemoryData",
        "LayerNorm",
    ):
        raise ValueError(f"layer {layer.name} ({layer.kind}) has weights that are not read here")
    return layer
