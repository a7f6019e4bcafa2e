"""Activations by name: what a built model computes after its convolutions, replaced in Ultralytics' own classes.

SiLU is two element-wise operators to every INT8 runtime, each with its rescaling; ReLU is a part of the convolution
before it. The new modules are torch's own, and the model's YAML says so under ``activation``, the key that Ultralytics
builds by: a checkpoint loads, and is built anew, without this package.
"""

from __future__ import annotations

from typing import Any

from torch import nn

KINDS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "silu": nn.SiLU}
KEY = "activation"
"""Of ``model.yaml``: Ultralytics' own key, whose value it evaluates."""
_KNOWN = {f"{home}.{kind.__name__}()": name for name, kind in KINDS.items() for home in ("nn", "torch.nn")}


def told(config: Any) -> str | None:
    """The name of the activation that a model YAML's content asks for; None where it asks for none, or another."""
    text = config.get(KEY) if isinstance(config, dict) else None
    return _KNOWN.get(text) if isinstance(text, str) else None


def without(config: Any) -> Any:
    """A model YAML's content without an activation that is known here.

    Older releases of Ultralytics never put back what they build by: every later model of the process would get it.
    """
    return {k: v for k, v in config.items() if k != KEY} if told(config) else config


def replace(model: Any, name: str) -> int:
    """Replace the activations of a model of Ultralytics in place, and note it in ``model.yaml``.

    Args:
        model: any task's; gates such as sigmoids, and what is not activated, stay as they are.
        name: a key of :data:`KINDS`.

    Returns:
        How many convolutions got another one.
    """
    new, changed = KINDS[name](inplace=True), 0  # in place, and one for all, as Ultralytics has it
    for module in model.modules():
        for child_name, child in list(module._modules.items()):
            if isinstance(child, (*KINDS.values(), nn.LeakyReLU)):
                changed += type(child) is not type(new)
                setattr(module, child_name, new)
    if changed or told(model.yaml):
        model.yaml = {**model.yaml, KEY: f"torch.nn.{KINDS[name].__name__}()"}
    return changed
