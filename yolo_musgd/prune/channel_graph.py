"""A model as units of channels that can only be removed together, what they cost, and the removal itself.

Torch-Pruning's dependency graph finds the groups of coupled channels. Groups that must keep equally many channels (the
two halves of a split, the two branches of a head) form a unit. FLOPs and parameters of any choice of widths follow from
the groups by arithmetic, so that a search never has to prune a model to know what it would cost.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from ultralytics.nn.modules import block, head

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune import adapters

Kept = Sequence[int]
"""Channels kept in each unit, in the order of ``PruneGraph.units``."""


@dataclass(frozen=True)
class Cost:
    """Of the model that runs: batch 1, BatchNorm folded, the head's unused branch gone.

    Attributes:
        flops: two a multiply-add, of convolutions, linear layers and attention products.
        params: weights and biases.
    """

    flops: float
    params: float


@dataclass(frozen=True)
class Group:
    """Coupled channels: removing one removes it from every layer that the group names.

    Attributes:
        name: of the convolution whose outputs they are.
        channels: how many.
        layers: names of all layers that lose outputs.
        tp_group: Torch-Pruning's group with every index.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    tp_group: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Unit:
    """Groups that keep equally many channels.

    Attributes:
        groups: their positions in ``PruneGraph.groups``.
        channels: of each group.
        levels: widths that may be chosen, from all channels downwards.
    """

    name: str
    groups: tuple[int, ...]
    channels: int
    levels: tuple[int, ...]


@dataclass(frozen=True)
class _Layer:
    """Cost of one layer: ``area * taps * outputs * inputs`` multiply-adds; widths by (unit, channels for one of it)."""

    taps: float
    area: float
    outputs: int
    inputs: int
    out_units: tuple[tuple[int, float], ...]
    in_units: tuple[tuple[int, float], ...]
    depthwise: bool
    deployed: bool
    biased: bool


class PruneGraph:
    """The channels of a model and how to remove them.

    Args:
        model: DetectionModel or a sibling as training left it, not fused. It is not changed.
        imgsz: side of the image that FLOPs are counted for, pixels.
        round_to: channels come in multiples of this where a layer has more than that.
        keep: names of layers, or beginnings of them (``model.23``), that stay whole.
        max_ratio: largest share of a layer's channels that may go.
        whole: from `widths` of the model whose channels ``max_ratio`` is a share of; by default this one's.

    Raises:
        UserError: an architecture without adapters, or a name in ``keep`` that fits no layer.
    """

    def __init__(
        self,
        model: Any,
        imgsz: int,
        round_to: int = 16,
        keep: Sequence[str] = (),
        max_ratio: float = 0.9,
        whole: Mapping[str, int] | None = None,
    ) -> None:
        adapters.check_supported(model)
        self.model = copy.deepcopy(model).float().cpu().eval()
        self._requires_grad = {name: p.requires_grad for name, p in self.model.named_parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.halved = adapters.halve(self.model)
        self.names = {layer: name for name, layer in self.model.named_modules()}
        image = torch.zeros(1, next(self.model.parameters()).shape[1], imgsz, imgsz)
        areas, self._attention_area = self._areas(image)
        with adapters.traceable(self.model):
            self._dg = tp.DependencyGraph().build_dependency(
                self.model,
                torch.rand(1, image.shape[1], 128, 128),
                customized_pruners={block.Attention: adapters.AttentionPruner()},
                verbose=False,
            )
        self.groups = self._find_groups()
        self.units = self._find_units(round_to, tuple(keep), max_ratio, whole or {})
        self._layers = self._find_layers(areas)

    def _areas(self, image: Tensor) -> tuple[dict[nn.Module, float], dict[nn.Module, float]]:
        """Pixels of the map that each layer computes (of the input, for a transposed convolution)."""
        areas: dict[nn.Module, float] = {}
        attention: dict[nn.Module, float] = {}

        def note(layer: nn.Module, inputs: Any, output: Any) -> None:
            seen = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
            areas[layer] = float(seen.shape[-1] * seen.shape[-2]) if seen.ndim == 4 else 1.0

        def note_attention(layer: nn.Module, inputs: Any, output: Any) -> None:
            attention[layer] = float(inputs[0].shape[-1] * inputs[0].shape[-2])

        hooks = []
        for layer in self.model.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                hooks.append(layer.register_forward_hook(note))
            elif isinstance(layer, block.Attention):
                hooks.append(layer.register_forward_hook(note_attention))
        with torch.no_grad():
            self.model(image)
        for hook in hooks:
            hook.remove()
        return areas, attention

    def _find_groups(self) -> list[Group]:
        found = []
        for group in self._dg.get_all_groups(root_module_types=[nn.Conv2d, nn.ConvTranspose2d]):
            if any(dep.target.type == tp.ops.OPTYPE.OUTPUT for dep, _ in group):
                continue  # what the head hands out keeps its shape
            root = group[0][0].target.module
            losing = [d.target.module for d, _ in group if self._dg.is_out_channel_pruning_fn(d.handler)]
            layers = tuple(self.names[m] for m in losing if m in self.names)
            found.append(Group(self.names[root], len(group[0][1]), layers, group))
        return found

    def widths(self) -> dict[str, int]:
        """Channels of every group, by its name."""
        return {group.name: group.channels for group in self.groups}

    def _find_units(
        self, round_to: int, keep: tuple[str, ...], max_ratio: float, whole: Mapping[str, int]
    ) -> list[Unit]:
        for name in keep:
            if not any(_within(layer, name) for layer in self.names.values()):
                raise UserError(f"keep={name} names no layer; layers are called model.0, model.1, ...")
        position = {layer: i for i, group in enumerate(self.groups) for layer in group.layers}
        parent = list(range(len(self.groups)))

        def root(i: int) -> int:
            while parent[i] != i:
                i = parent[i]
            return i

        pairs = [(self.names[h.a.get_submodule("conv")], self.names[h.b.get_submodule("conv")]) for h in self.halved]
        pairs += [(n, n.replace("one2one_", "")) for n in position if "one2one_" in n]
        for one, other in pairs:
            if one in position and other in position:
                parent[root(position[one])] = root(position[other])
        fixed = {h for pair in pairs for h in pair if not all(p in position for p in pair)}
        units = []
        for first in range(len(self.groups)):
            members = [i for i in range(len(self.groups)) if root(i) == root(first)]
            if members[0] != first or len({self.groups[i].channels for i in members}) > 1:
                continue
            channels, layers = self.groups[first].channels, [n for i in members for n in self.groups[i].layers]
            if any(_within(n.replace(".cv1.a.", ".cv1.").replace(".cv1.b.", ".cv1."), k) for n in layers for k in keep):
                continue
            if fixed.intersection(layers):  # its other half is an output of the head
                continue
            modules = [d.target.module for i in members for d, _ in self.groups[i].tp_group]
            step = adapters.channel_step(modules, round_to)
            least = max(step, whole.get(self.groups[first].name, channels) * (1 - max_ratio))
            levels = (channels, *(w for w in range(channels - 1, 0, -1) if w % step == 0 and w >= least))
            if len(levels) > 1:
                units.append(Unit(self.groups[first].name, tuple(members), channels, levels))
        return units

    def _find_layers(self, areas: Mapping[nn.Module, float]) -> list[_Layer]:
        outs: dict[nn.Module, list[tuple[int, float]]] = {}
        ins: dict[nn.Module, list[tuple[int, float]]] = {}
        for number, unit in enumerate(self.units):
            for group in (self.groups[i] for i in unit.groups):
                for dep, idxs in group.tp_group:
                    side = outs if self._dg.is_out_channel_pruning_fn(dep.handler) else ins
                    side.setdefault(dep.target.module, []).append((number, len(idxs) / group.channels))
        self._attention = [
            (layer, outs[layer][0][0] if layer in outs else None)
            for layer in self.model.modules()
            if isinstance(layer, block.Attention)
        ]
        inside = {m for layer, _ in self._attention for m in layer.modules()}
        idle = self._idle_parts()
        layers = []
        for layer, area in areas.items():
            if layer in inside:
                continue
            name, depthwise = self.names[layer], getattr(layer, "groups", 1) > 1
            if isinstance(layer, nn.Linear):
                taps, outputs, inputs = 1, layer.out_features, layer.in_features
            else:
                conv: Any = layer
                taps, outputs, inputs = conv.weight[0, 0].numel(), conv.out_channels, conv.in_channels
                if depthwise and conv.groups != outputs:
                    raise UserError(
                        f"{name} is a convolution of {conv.groups} groups, which cannot be pruned; depthwise ones can"
                    )
            deployed = not any(_within(name, part) for part in idle)
            both = tuple(outs.get(layer, [])), tuple(ins.get(layer, []))
            biased = ".dfl." not in name  # a folded BatchNorm leaves a bias everywhere else
            layers.append(_Layer(taps, area, outputs, inputs, *both, depthwise, deployed, biased))
        return layers

    def _idle_parts(self) -> list[str]:
        """Names of the parts that only training uses, which fusing drops."""
        idle = []
        for name, layer in self.model.named_modules():
            if isinstance(layer, head.Detect) and getattr(layer, "one2one_cv2", None) is not None:
                for part in [n for n, _ in layer.named_children() if n.startswith("one2one_")]:
                    idle.append(f"{name}.{part.removeprefix('one2one_') if layer.end2end else part}")
            if name.rpartition(".")[2] in ("semseg", "flow_model", "cv4_sigma", "one2one_cv4_sigma"):
                idle.append(name)
        return idle

    def cost(self, kept: Kept | None = None) -> Cost:
        """FLOPs and parameters with the given widths; of the whole model without."""
        gone = (
            [0] * len(self.units) if kept is None else [u.channels - k for u, k in zip(self.units, kept, strict=True)]
        )
        flops = params = 0.0
        for layer in self._layers:
            if not layer.deployed:
                continue
            outputs = layer.outputs - sum(gone[u] * times for u, times in layer.out_units)
            inputs = 1.0 if layer.depthwise else layer.inputs - sum(gone[u] * times for u, times in layer.in_units)
            flops += 2 * layer.area * layer.taps * outputs * inputs
            params += layer.taps * outputs * inputs + outputs * layer.biased
        for attention, unit in self._attention:
            one = attention_cost(attention, self._attention_area[attention], gone[unit] if unit is not None else 0)
            flops, params = flops + one.flops, params + one.params
        return Cost(flops, params)

    def removed(self, kept: Kept, scores: Sequence[Tensor]) -> dict[str, list[int]]:
        """Channels to remove, by the name of their group: the least important ones.

        Args:
            kept: widths of the units.
            scores: importance of every group's channels, shape (channels,) each.
        """
        gone = {}
        for unit, width in zip(self.units, kept, strict=True):
            for i in unit.groups:
                order = torch.argsort(scores[i], stable=True)
                gone[self.groups[i].name] = sorted(order[: unit.channels - width].tolist())
        return {name: idxs for name, idxs in gone.items() if idxs}

    def apply(self, removed: Mapping[str, Sequence[int]]) -> nn.Module:
        """Remove channels for good and return the model, in stock classes only. The graph is spent afterwards.

        Args:
            removed: as `removed` returns it, also of another graph of the same model.
        """
        for group in self.groups:
            idxs = removed.get(group.name)
            if idxs:
                dep = group.tp_group[0][0]
                self._dg.get_pruning_group(dep.target.module, dep.handler, list(idxs)).prune()
        adapters.merge_halves(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._requires_grad.get(name, True))
            parameter.grad = None
        result: nn.Module = self.model
        return result


def attention_cost(layer: Any, area: float, gone: int = 0) -> Cost:
    """Cost of an Attention: its three convolutions and two products, ``gone`` channels of the stream removed."""
    channels, heads = layer.qkv.conv.in_channels - gone, layer.num_heads
    key_dim, head_dim = adapters.attention_widths(channels, layer)
    rows, taps = heads * (2 * key_dim + head_dim), layer.pe.conv.weight[0, 0].numel()
    weights = channels * rows + heads * head_dim * (taps + channels)
    products = heads * area * area * (key_dim + head_dim)
    return Cost(2 * (area * weights + products), weights + rows + heads * head_dim + channels)


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")
