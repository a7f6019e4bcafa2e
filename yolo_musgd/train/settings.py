"""Settings of a training run: its record, layout and precision on a CPU, and every key that Ultralytics gets from here.

This module imports neither torch nor ultralytics, so that the plugin can read its keys at no cost.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container
from typing import Any

from yolo_musgd.optim.settings import ExclusionSettings, MuonSettings, MuSGDSettings
from yolo_musgd.resources import host_folder
from yolo_musgd.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class TelemetrySettings(Settings):
    """What is recorded about the optimizer while a model trains."""

    telemetry: bool | None = setting(
        None, "record gradient norms and beta_t; by default with this plugin's optimizers only", kind=bool
    )
    telemetry_layers: bool = setting(False, "also record the mean beta_t of every layer and plot the lowest")
    telemetry_entropy: str | None = setting(
        None, "also record the singular-value entropy of these layers' weights: model.2,model.8 or all", kind=str
    )


@dataclasses.dataclass(frozen=True)
class CpuSettings(Settings):
    """Layout and precision of training on a CPU, where Ultralytics has one of each."""

    channels_last: bool | None = setting(
        None, "filters in channels_last memory order. On a CPU, None is a probe at the start of a longer run with "
        "MuSGD, MuonSGD or MuonAdamW, and off for other optimizers; on a GPU Ultralytics decides", kind=bool,
    )  # fmt: skip
    cpu_amp: bool = setting(
        False, "train in bf16 autocast on a CPU that multiplies in bf16 (AVX512_BF16, AMX, Arm's BF16); weights, "
        "validation and the optimizer stay in fp32"
    )  # fmt: skip


ACTIVATIONS = ("relu", "relu6", "hardswish", "silu")  # those of activations.KINDS


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """What of the model is changed before it trains."""

    activation: str | None = setting(
        None, "replace the model's activations: relu is the fastest in INT8, and what NPUs want", kind=str,
        choices=ACTIVATIONS,
    )  # fmt: skip
    bn_momentum: float | None = setting(
        None, "weight of a batch in BatchNorm's running statistics. None is 0.1 for a pruned model and one whose "
        "activations were replaced, which move fast, and Ultralytics' 0.03 for others", kind=float, low=0.001, high=1.0,
    )  # fmt: skip


PLUGIN_SETTINGS: tuple[type[Settings], ...] = (
    MuSGDSettings,
    MuonSettings,
    ExclusionSettings,
    ModelSettings,
    TelemetrySettings,
    CpuSettings,
)
HOSTS_OWN = frozenset({"channels_last"})
"""Keys that Ultralytics' later releases have themselves; only where one is missing the plugin adds it."""


def plugin_keys() -> dict[str, tuple[type, Any]]:
    """Every key that the plugin adds to Ultralytics' configuration: name -> (type, default)."""
    return {name: key for name, key in _keys().items() if name not in HOSTS_OWN}


def missing_keys(known: Container[str]) -> dict[str, tuple[type, Any]]:
    """The keys among ``HOSTS_OWN`` that a configuration does not know: name -> (type, default)."""
    return {name: key for name, key in _keys().items() if name in HOSTS_OWN and name not in known}


def argument_names() -> tuple[str, ...]:
    """Every argument of ``yolo train``, the installed Ultralytics' and the plugin's, read without importing either."""
    text = (host_folder() / "cfg" / "default.yaml").read_text(encoding="utf-8")
    return tuple(dict.fromkeys((*re.findall(r"^(\w+):", text, re.MULTILINE), *_keys())))


def _keys() -> dict[str, tuple[type, Any]]:
    fields = [f for cls in PLUGIN_SETTINGS for f in dataclasses.fields(cls)]
    return {f.name: (f.metadata["kind"], f.default) for f in fields}
