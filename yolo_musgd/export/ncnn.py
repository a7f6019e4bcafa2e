"""INT8 for NCNN: reads an exported folder, measures its activations, writes the same network with 8-bit convolutions.

NCNN's own quantizer (ncnn2table, ncnn2int8) is a C++ program outside its Python package; the package's runtime has the
INT8 kernels. A convolution in INT8 is marked ``8=2`` (``8=1`` when depthwise); its weights are int8 under the tag
0x000D4B38, and after the bias follow one scale for each output channel (each group when depthwise) and one for the
input: ``int8 = round(x * scale)`` (ncnn, src/layer/convolution.cpp).
"""

from __future__ import annotations

import errno
import re
import shutil
import struct
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.data.reader import tolerate
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures.images import list_images, read_image
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.export.ncnn_files import CONVOLUTIONS, GROUPS, INT8, OUTPUTS, TAG_FLOAT, TAG_INT8, Layer, read_network
from yolo_musgd.export.settings import NcnnSettings
from yolo_musgd.export.splits import spread
from yolo_musgd.export.staging import staging
from yolo_musgd.settings import parse


def _is_expectation(layer: Layer) -> bool:
    """Whether a convolution is the head's fixed sum over box bins (weights 0, 1, 2, ...) and not a learnt layer."""
    weights = layer.weights
    return weights is not None and weights.size > 1 and bool((weights == np.arange(weights.size)).all())


def last_convolutions(layers: Sequence[Layer]) -> set[str]:
    """Names of the convolutions that stay in float: after them no learnt one comes that could even out their errors."""
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        for blob in layer.bottoms:
            readers.setdefault(blob, []).append(layer)
    last = set()
    for start in layers:
        if start.kind not in CONVOLUTIONS:
            continue
        queue, seen, found = deque(start.tops), set(start.tops), False
        while queue and not found:
            for layer in readers.get(queue.popleft(), []):
                found = found or (layer.kind in CONVOLUTIONS and not _is_expectation(layer))
                queue.extend(set(layer.tops) - seen)
                seen |= set(layer.tops)
        if not found:
            last.add(start.name)
    return last


def measure(folder: Path, blobs: Sequence[str], images: Sequence[str], percentile: float) -> dict[str, float]:
    """Run the float network and return for each blob the largest, over the images, of the ``percentile`` of its values.

    Args:
        folder: The exported folder.
        blobs: Names of the convolutions' inputs.
        images: Paths.
        percentile: Of the absolute values, in [50, 100].

    Raises:
        UserError: the package ncnn is missing, or it cannot run the network.
    """
    try:
        import ncnn
    except ImportError as error:
        raise UserError("ncnn is not installed: pip install ncnn") from error
    from ultralytics.utils import TQDM

    artifact = open_artifact(str(folder))
    net = ncnn.Net()
    net.opt.num_threads = 1  # several wait for each other by spinning: on a busy machine that takes minutes an image
    net.opt.lightmode = False  # blobs are kept, so that each is computed once
    for switch in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, switch, False)
    if net.load_param(str(folder / "model.ncnn.param")) or net.load_model(str(folder / "model.ncnn.bin")):
        raise UserError(f"model={folder}: NCNN cannot load it; export it again: yolo export format=ncnn")
    letterbox, highest = Letterbox(artifact.imgsz, artifact.channels), dict.fromkeys(blobs, 0.0)
    left_out: list[str] = []
    for path in TQDM(images, desc="activations"):
        try:
            pixels = read_image(path, artifact.channels)
        except UserError as error:
            left_out.append(str(error))
            continue
        extractor = net.create_extractor()
        extractor.set_light_mode(False)
        extractor.input(net.input_names()[0], ncnn.Mat(letterbox(pixels)[0][0]))
        for blob in blobs:
            code, values = extractor.extract(blob)
            if code:
                raise UserError(f"model={folder}: NCNN fails at {blob} (code {code})")
            highest[blob] = max(highest[blob], float(np.percentile(np.abs(np.array(values)), percentile)))
    tolerate(left_out, len(images), "images")
    return highest


def quantize_weights(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric INT8 of a convolution's weights, one scale for each output channel (each group when depthwise).

    Returns:
        int8 of the weights' shape, and float32 scales with ``int8 = round(weight * scale)`` in [-127, 127].
    """
    assert layer.weights is not None
    rows = layer.weights.reshape(layer.number(GROUPS if layer.kind == CONVOLUTIONS[1] else OUTPUTS), -1)
    scales = (127 / np.maximum(np.abs(rows).max(axis=1), 1e-12)).astype(np.float32)
    return np.clip(np.rint(rows * scales[:, None]), -127, 127).astype(np.int8).reshape(-1), scales


def _packed(layer: Layer, highest: dict[str, float], keep: set[str]) -> tuple[str, bytes]:
    """A layer's line and bytes in the quantized network."""
    bias = b"" if layer.bias is None else layer.bias.tobytes()
    if layer.kind not in CONVOLUTIONS or layer.weights is None:
        return layer.line, bias
    if layer.name in keep:
        return layer.line, struct.pack("<I", TAG_FLOAT) + layer.weights.tobytes() + bias
    values, scales = quantize_weights(layer)
    packed = values.tobytes() + b"\0" * (-values.size % 4)
    around = np.float32(127 / max(highest[layer.bottoms[0]], 1e-12)).tobytes()
    mark = f" {INT8}={1 if layer.kind == CONVOLUTIONS[1] else 2}"
    return layer.line + mark, struct.pack("<I", TAG_INT8) + packed + bias + scales.tobytes() + around


def _place(ready: Path, target: Path) -> None:
    """Rename the finished folder; another process may have made the target meanwhile.

    Raises:
        UserError: it is there already.
    """
    try:
        ready.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise UserError(f"{target} is there already: remove it or give another name=") from error


class FloatNetwork:
    """An exported network in float, from which INT8 ones are made; its activations are measured once.

    Args:
        source: folder that ``yolo export format=ncnn`` made.
        images: training images that the activations are measured on.
        percentile: see :func:`measure`.

    Raises:
        UserError: see ``read_network``.
    """

    def __init__(self, source: Path, images: Sequence[str], percentile: float = 99.99) -> None:
        self.source, self.images, self.percentile = source, images, percentile
        self.layers = read_network(source)
        self.last = last_convolutions(self.layers)
        self.convolutions = [layer for layer in self.layers if layer.kind in CONVOLUTIONS]

    @cached_property
    def highest(self) -> dict[str, float]:
        """See :func:`measure`."""
        blobs = list(dict.fromkeys(c.bottoms[0] for c in self.convolutions if c.name not in self.last))
        return measure(self.source, blobs, self.images, self.percentile)

    def paired(self, model: Path) -> dict[str, str]:
        """Convolution of the ONNX graph of the same model -> the layer that has the same weights.

        The two exporters name and order them each in its own way.
        """
        import onnx

        graph = onnx.load(str(model)).graph
        constants = {constant.name: constant for constant in graph.initializer}
        left = {layer.name: layer.weights for layer in self.convolutions if layer.weights is not None}
        pairs: dict[str, str] = {}
        for node in graph.node:
            if node.op_type != "Conv" or node.input[1] not in constants:
                continue
            values = onnx.numpy_helper.to_array(constants[node.input[1]]).ravel()
            apart = {k: float(np.abs(values - own).max()) for k, own in left.items() if own.size == values.size}
            best = min(apart, key=lambda name: apart[name], default=None)
            if best is not None and apart[best] <= 1e-2 * float(np.abs(values).max()):  # FP16 storage is far nearer
                pairs[node.name] = best
                del left[best]
        return pairs

    def quantize(self, target: Path, keep: Collection[str] = ()) -> dict[str, Any]:
        """Write the network with INT8 convolutions as the new folder ``target``, whole or not at all.

        Args:
            target: folder to make.
            keep: layers that stay in float, beside the head's last ones.

        Returns:
            ``convolutions``, ``convolutions_int8``, ``float_layers`` (names), ``images``, ``bytes`` of the new weights.
        """
        floats = self.last | set(keep)
        lines, parts = zip(*(_packed(layer, self.highest, floats) for layer in self.layers), strict=True)
        head = (self.source / "model.ncnn.param").read_text(encoding="utf-8").splitlines()[:2]
        with staging(target.parent, "quantize") as folder:
            part = folder / target.name
            part.mkdir()
            for file in filter(Path.is_file, self.source.iterdir()):  # no folder: PNNX leaves one, or the target is one
                shutil.copyfile(file, part / file.name)
            (part / "model.ncnn.param").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
            (part / "model.ncnn.bin").write_bytes(b"".join(parts))
            note = part / "metadata.yaml"
            text = re.sub(r"^precision:.*\n", "", note.read_text(encoding="utf-8"), flags=re.MULTILINE)
            note.write_text(f"{text.rstrip()}\nprecision: int8\n", encoding="utf-8")
            _place(part, target)
        return {
            "convolutions": len(self.convolutions),
            "convolutions_int8": len(self.convolutions) - len(floats),
            "float_layers": sorted(floats),
            "images": len(self.images),
            "bytes": sum(map(len, parts)),
        }


def quantize_ncnn(source: Path, target: Path, images: Sequence[str], percentile: float = 99.99) -> dict[str, Any]:
    """Write ``source`` with INT8 convolutions, the head's last ones kept in float, as the new folder ``target``.

    Args:
        source: Folder that ``yolo export format=ncnn`` made.
        target: Folder to make; it appears whole or not at all.
        images: Training images that the activations are measured on.
        percentile: See ``measure``.

    Returns:
        See :meth:`FloatNetwork.quantize`.

    Raises:
        UserError: see ``read_network`` and ``measure``; or the target is there already.
    """
    if target.exists():
        raise UserError(f"{target} is there already: remove it or give another name=")
    if (source / "manifest.json").exists():
        raise UserError(f"model={source} is a finished artifact, its hashes are fixed: quantize the exported folder")
    return FloatNetwork(source, images, percentile).quantize(target)


def main(args: Mapping[str, str]) -> int:
    """Run ``yolo-musgd quantize-ncnn model= source=``; 0 done.

    Raises:
        UserError: bad input, see ``quantize_ncnn``.
    """
    settings = parse(NcnnSettings, args)
    if settings.model is None or settings.source is None:
        raise UserError("quantize-ncnn needs model=<folder of yolo export format=ncnn> and source=<training images>")
    source = Path(settings.model)
    home = source if source.name not in ("", "..") else source.resolve()
    stem = home.name.removesuffix("_ncnn_model")
    target = Path(settings.name) if settings.name else home.with_name(f"{stem}_int8_ncnn_model")
    images = list_images(settings.source)
    done = quantize_ncnn(source, target, spread(images, settings.images), settings.percentile)
    before = (source / "model.ncnn.bin").stat().st_size
    print(
        f"{done['convolutions_int8']} of {done['convolutions']} convolutions in INT8, {before / 1e6:.1f} -> "
        f"{done['bytes'] / 1e6:.1f} MB, measured on {done['images']} images -> {target}\n"
        f"Judge it where it will run: yolo-musgd val {target} source=<validation images>"
    )
    return 0
