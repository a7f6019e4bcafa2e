"""What Torch-Pruning must be told about Ultralytics' modules, and how it is taken back afterwards.

C2f, C3k2 and C2PSA split the output of their first convolution into equal halves: while a graph stands, that layer
is two, and `merge_halves` makes it one again. Attention couples heads, their widths and the residual stream: it is one
opaque node with a pruner of its own. Heads decode boxes, and releases differ in what they detach: a raw forward returns
every branch's maps instead. No class of ours is left in the model when it is saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from ultralytics.nn.modules import block, conv, head

from yolo_musgd.edge.errors import UserError
from yolo_musgd.train import activations

REFUSED: dict[str, str] = {
    "RepNCSPELAN4": "YOLOv9's re-parameterised blocks split their channels unequally",
    "ELAN1": "YOLOv9's re-parameterised blocks split their channels unequally",
    "ADown": "YOLOv9's ADown splits its input, whose halves other layers own",
    "SPPELAN": "YOLOv9's re-parameterised blocks split their channels unequally",
    "v10Detect": "YOLOv10's head and PSA blocks have no adapter",
    "A2C2f": "YOLO12's area attention reshapes channels across areas, which has no adapter",
    "RTDETRDecoder": "RT-DETR's transformer decoder is not made of prunable convolutions",
    "YOLOEDetect": "YOLOE's text branch fixes the embedding width",
    "YOLOESegment": "YOLOE's text branch fixes the embedding width",
    "YOLOESegment26": "YOLOE's text branch fixes the embedding width",
    "WorldDetect": "YOLO-World's text branch fixes the embedding width",
    "SemanticSegment": "semantic segmentation heads have no adapter",
    "Depth": "depth heads have no adapter",
}
"""Class name -> why a model that holds it is refused."""

_KNOWN = (
    conv.Conv, conv.Concat, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Upsample, nn.MaxPool2d, nn.ModuleList,
    nn.Sequential, nn.Identity, *activations.KINDS.values(), nn.LeakyReLU, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Linear,
    block.Bottleneck, block.C2f, block.C3, block.C2PSA, block.PSABlock, block.Attention, block.SPPF, block.DFL,
    block.Proto, head.Detect, head.Classify,
)  # fmt: skip


def check_supported(model: nn.Module) -> None:
    """Refuse architectures without adapters, by name and with the reason.

    Raises:
        UserError: a module whose channels cannot be followed.
    """
    layers = list(model.modules())
    for layer in layers:
        name = type(layer).__name__
        if name in REFUSED:
            raise UserError(f"{name} cannot be pruned: {REFUSED[name]}; YOLOv8, YOLO11 and YOLO26 can")
    training_only = {id(m) for part in ("flow_model", "semseg") for m in _named_parts(model, part)}
    for layer in layers:
        if layer is model or id(layer) in training_only or isinstance(layer, _KNOWN):
            continue
        raise UserError(f"{type(layer).__name__} has no adapter for pruning; YOLOv8, YOLO11 and YOLO26 have")
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
        raise UserError("the model is fused (no BatchNorm left): prune the checkpoint that training wrote")


def _named_parts(model: nn.Module, part: str) -> Iterator[nn.Module]:
    for name, layer in model.named_modules():
        if part in name.split("."):
            yield layer


class Halves(tuple[Tensor, Tensor]):
    """What a halved convolution returns: C2f chunks it, C2PSA splits it, and both get the halves."""

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, Tensor]:
        """As ``Tensor.chunk(2, 1)``."""
        return self[0], self[1]

    def split(self, size: Any, dim: int = 0) -> tuple[Tensor, Tensor]:
        """As ``Tensor.split((c, c), 1)``."""
        return self[0], self[1]


class HalvedConv(nn.Module):
    """A Conv as two Convs of half its output channels, for as long as a graph stands."""

    def __init__(self, whole: nn.Module, channels: int) -> None:
        super().__init__()
        object.__setattr__(self, "whole", whole)  # not a child: its parameters are the halves' now
        self.a = _output_part(whole, range(channels))
        self.b = _output_part(whole, range(channels, 2 * channels))

    def forward(self, x: Tensor) -> Halves:
        """Both halves of the output, shape (batch, channels, height, width) each."""
        return Halves((self.a(x), self.b(x)))


def _output_part(whole: Any, keep: range) -> nn.Module:
    part = copy.deepcopy(whole)
    drop = [i for i in range(part.conv.out_channels) if i not in keep]
    tp.prune_conv_out_channels(part.conv, drop)
    tp.prune_batchnorm_out_channels(part.bn, drop)
    result: nn.Module = part
    return result


def halve(model: nn.Module) -> list[HalvedConv]:
    """Replace the first convolution of every block that splits its output into equal halves."""
    halved = []
    for layer in model.modules():
        if isinstance(layer, (block.C2f, block.C2PSA)):
            stand_in = HalvedConv(layer.cv1, layer.c)
            layer.cv1 = stand_in
            halved.append(stand_in)
    return halved


def merge_halves(model: nn.Module) -> None:
    """Undo `halve`: one stock Conv again, with the channels that are left."""
    for layer in model.modules():
        if isinstance(layer, (block.C2f, block.C2PSA)) and isinstance(layer.cv1, HalvedConv):
            stand_in: Any = layer.cv1
            whole, a, b = stand_in.whole, stand_in.a, stand_in.b
            whole.conv.weight = nn.Parameter(torch.cat([a.conv.weight.detach(), b.conv.weight.detach()]))
            whole.conv.out_channels, whole.conv.in_channels = 2 * a.conv.out_channels, a.conv.in_channels
            for name in ("weight", "bias"):
                setattr(whole.bn, name, nn.Parameter(torch.cat([getattr(h.bn, name).detach() for h in (a, b)])))
            for name in ("running_mean", "running_var"):
                setattr(whole.bn, name, torch.cat([getattr(h.bn, name) for h in (a, b)]))
            whole.bn.num_features = 2 * a.bn.num_features
            layer.cv1, layer.c = whole, a.conv.out_channels


def attention_widths(channels: int, layer: Any) -> tuple[int, int]:
    """Key and value width of a head when ``channels`` of the stream are left; the key keeps its share.

    Args:
        channels: a multiple of ``layer.num_heads``.
        layer: the Attention before pruning.
    """
    head_dim = channels // layer.num_heads
    return max(1, round(layer.key_dim * head_dim / layer.head_dim)), head_dim


class AttentionPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Prunes channels of the residual stream through an Attention, and every head's inner widths by the same share."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Remove the stream's channels ``idxs``; how many are left must be a multiple of the number of heads."""
        old = copy.copy(layer)
        channels = layer.qkv.conv.in_channels - len(idxs)
        if channels % layer.num_heads:
            raise ValueError(f"{channels} channels do not divide into {layer.num_heads} heads")
        key_dim, head_dim = attention_widths(channels, layer)
        rows, values = _inner_channels(layer, key_dim, head_dim)
        tp.prune_conv_in_channels(layer.qkv.conv, list(idxs))
        tp.prune_conv_out_channels(layer.qkv.conv, rows)
        tp.prune_batchnorm_out_channels(layer.qkv.bn, rows)
        tp.prune_depthwise_conv_out_channels(layer.pe.conv, values)
        tp.prune_batchnorm_out_channels(layer.pe.bn, values)
        tp.prune_conv_in_channels(layer.proj.conv, values)
        tp.prune_conv_out_channels(layer.proj.conv, list(idxs))
        tp.prune_batchnorm_out_channels(layer.proj.bn, list(idxs))
        layer.key_dim, layer.head_dim = key_dim, head_dim
        layer.scale = old.scale  # the keys that are left keep their products' size
        result: nn.Module = layer
        return result

    prune_in_channels = prune_out_channels  # one stream runs through it

    def get_out_channels(self, layer: Any) -> int:
        """Channels of the stream."""
        return int(layer.qkv.conv.in_channels)

    get_in_channels = get_out_channels


def _inner_channels(layer: Any, key_dim: int, head_dim: int) -> tuple[list[int], list[int]]:
    """Rows of qkv and value channels to remove so that every head keeps its strongest ``key_dim`` and ``head_dim``."""
    conv_, bn = layer.qkv.conv, layer.qkv.bn
    norm = conv_.weight.detach().flatten(1).norm(dim=1) * (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().abs()
    width = 2 * layer.key_dim + layer.head_dim
    rows: list[int] = []
    values: list[int] = []
    for number in range(layer.num_heads):
        start = number * width
        query, key, value = norm[start : start + width].split([layer.key_dim, layer.key_dim, layer.head_dim])
        weak_keys = (query * key).argsort()[: layer.key_dim - key_dim].tolist()
        weak_values = value.argsort()[: layer.head_dim - head_dim].tolist()
        rows += [start + i for i in weak_keys] + [start + layer.key_dim + i for i in weak_keys]
        rows += [start + 2 * layer.key_dim + i for i in weak_values]
        values += [number * layer.head_dim + i for i in weak_values]
    return sorted(rows), sorted(values)


def channel_step(modules: Sequence[nn.Module], round_to: int) -> int:
    """Channels of a group come in multiples of this: ``round_to`` and every Attention's number of heads."""
    return math.lcm(round_to, *(m.num_heads for m in modules if isinstance(m, block.Attention)))


def _raw_forward(self: Any, x: list[Tensor]) -> list[Tensor]:
    """Every map that a head computes from its inputs, both branches, nothing decoded and nothing detached."""
    branches = [self.one2many]
    if getattr(self, "one2one_cv2", None) is not None:
        branches.append(self.one2one)
    asking = [self, *([self.proto] if hasattr(self, "proto") else [])]
    for layer in asking:  # not their children: they hand out what only training uses, and BatchNorm stays as it is
        layer.training = True
    maps = [v for b in branches for k, v in self.forward_head(x, **b).items() if k != "feats" and torch.is_tensor(v)]
    if hasattr(self, "proto"):
        proto = self.proto(x if type(self.proto).__name__ == "Proto26" else x[0])
        maps += list(proto) if isinstance(proto, (tuple, list)) else [proto]
    for layer in asking:
        layer.training = False
    return maps


def _pass_through(self: nn.Module, x: Tensor) -> Tensor:
    return x * 1.0  # one elementwise node, which stands for the whole Attention


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """While it lasts, heads return raw maps and Attention is one node, so that a trace sees what couples channels."""
    changed: list[Any] = []
    for layer in model.modules():
        if isinstance(layer, head.Detect):
            layer.forward = MethodType(_raw_forward, layer)
            changed.append(layer)
        elif isinstance(layer, block.Attention):
            layer.forward = MethodType(_pass_through, layer)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward
