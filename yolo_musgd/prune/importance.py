"""How much a channel matters: Torch-Pruning's group importances, and Taylor's averaged over batches of real images."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.utils import TQDM

from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.training_images import Images


def score(graph: PruneGraph, kind: str, images: Images | None = None, seed: int = 0) -> list[Tensor]:
    """Importance of every channel of every group, shape (channels,) each; larger is more important.

    Args:
        graph: the model.
        kind: ``taylor`` (|weight * gradient| of the training loss: Molchanov et al. 2019), ``magnitude`` (L2 of the
            group's weights), ``bn`` (scale of BatchNorm: Liu et al. 2017) or ``random``, the control.
        images: what the loss is computed on; only taylor needs them.
        seed: of the random importance.

    Raises:
        ValueError: taylor without images.
    """
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(g.channels, generator=generator) for g in graph.groups]
    if kind == "taylor":
        if images is None:
            raise ValueError("Taylor importance needs images")
        return _taylor(graph, images)
    magnitude = tp.importance.GroupMagnitudeImportance(p=2, normalizer="mean")
    if kind == "magnitude":
        return [magnitude(g.tp_group).cpu() for g in graph.groups]
    scale = tp.importance.BNScaleImportance()
    scores = [scale(g.tp_group) for g in graph.groups]  # None for a group without BatchNorm
    return [magnitude(g.tp_group).cpu() if s is None else s.cpu() for g, s in zip(graph.groups, scores, strict=True)]


def _taylor(graph: PruneGraph, images: Images) -> list[Tensor]:
    estimate = tp.importance.GroupTaylorImportance(group_reduction="mean", normalizer=None)
    model: Any = graph.model
    model.args, model.criterion = get_cfg(overrides={"task": model.task}), None
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # the statistics that inference will use
    total = [torch.zeros(g.channels) for g in graph.groups]
    for batch in TQDM(images, desc="Taylor importance", total=len(images)):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # parts without a gradient count as unimportant
        loss, _ = model.loss(batch)
        loss.sum().backward()
        for sum_, group in zip(total, graph.groups, strict=True):
            sum_ += estimate(group.tp_group).cpu()
    model.eval()
    model.criterion = None
    for parameter in model.parameters():
        parameter.grad = None
    return [t / len(images) for t in total]
