"""Training of pruned models: their widths are in their modules, not in the YAML that Ultralytics would rebuild from."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn
from ultralytics.utils import LOGGER

from yolo_musgd.edge.errors import UserError

MARK = "pruned"
"""Key of ``model.yaml`` under which `yolo-musgd prune` notes what it did; Ultralytics ignores keys it does not know."""


def is_pruned(model: Any) -> bool:
    """Whether a model, or the YAML dictionary of one, was pruned by this package."""
    config = model if isinstance(model, dict) else getattr(model, "yaml", None)
    return isinstance(config, dict) and MARK in config


def trainable(weights: Any, data: dict[str, Any], dropout: float = 0.0) -> nn.Module:
    """A pruned model as it is, ready to train on ``data``: the counterpart of building it from its YAML.

    Args:
        weights: the pruned model.
        data: Ultralytics' description of the data set: ``nc``, and ``channels`` where images are not RGB.
        dropout: of the layers that have one, which are those of classification.

    Raises:
        UserError: other image channels or keypoints, or other classes on a head that cannot change them.
    """
    model: Any = copy.deepcopy(weights).float()
    model.criterion = model.class_weights = None  # of the training before
    inputs, channels = next(model.parameters()).shape[1], data.get("channels", 3)
    if inputs != channels:
        raise UserError(
            f"the pruned model takes {inputs}-channel images, the data set has {channels}; set channels: in its YAML"
        )
    points, wanted = (list(x or ()) for x in (getattr(model.model[-1], "kpt_shape", None), data.get("kpt_shape")))
    if points and points != wanted:
        raise UserError(
            f"the pruned model has keypoints of {points}, the data set of {wanted}: prune a model trained on this data"
        )
    if data.get("nc") and data["nc"] != _classes(model):
        _change_classes(model, data["nc"])
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl." not in name)
    LOGGER.info(f"pruned model: {sum(p.numel() for p in model.parameters()):,} parameters, kept as they are")
    result: nn.Module = model
    return result


def _classes(model: Any) -> int:
    head = model.model[-1]
    return int(head.linear.out_features if hasattr(head, "linear") else head.nc)


def _change_classes(model: Any, nc: int) -> None:
    """New last layers of the class branches, as Ultralytics makes them for a model of another number of classes."""
    head, old = model.model[-1], _classes(model)
    if hasattr(head, "linear"):
        head.linear = nn.Linear(head.linear.in_features, nc)
    elif any("semseg" in name for name, _ in head.named_modules()):
        raise UserError(f"the pruned model has {old} classes, the data set {nc}: prune a model trained on this data")
    else:
        for branch in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
            for stride, layers in zip(head.stride, branch, strict=True) if len(branch) else ():
                layers[-1] = nn.Conv2d(layers[-1].in_channels, nc, 1)
                layers[-1].bias.data[:] = math.log(5 / nc / (640 / float(stride)) ** 2)  # Detect.bias_init's prior
        head.no += nc - head.nc
        head.nc = nc
    model.yaml["nc"] = model.nc = nc
    LOGGER.info(f"pruned model: its {old} classes become {nc}; the last class layers start anew")


def warn_of_regrowth(built: nn.Module, weights: Any) -> None:
    """Warn loudly when a model built from YAML takes the weights of a pruned one, which it has more channels than."""
    source = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
    if is_pruned(source):
        pair: list[Any] = [source, built]
        count = [sum(p.numel() for p in m.parameters()) for m in pair]
        LOGGER.warning(
            f"this would REGROW a pruned model from {count[0]:,} to {count[1]:,} parameters and lose most of its "
            "weights: train it by `yolo train` or YOLO(...).train() with yolo-musgd installed, or with "
            "trainer=yolo_musgd.MuSGDTrainer"
        )
