"""Settings of a training run: telemetry, and every key that the plugin adds to Ultralytics' configuration.

This module imports neither torch nor ultralytics, so that the plugin can read its keys at no cost.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from yolo_musgd.optim.settings import ExclusionSettings, MuonSettings, MuSGDSettings
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


PLUGIN_SETTINGS: tuple[type[Settings], ...] = (
    MuSGDSettings,
    MuonSettings,
    ExclusionSettings,
    TelemetrySettings,
)


def plugin_keys() -> dict[str, tuple[type, Any]]:
    """Every key that the plugin adds to Ultralytics' configuration: name -> (type, default)."""
    fields = [f for cls in PLUGIN_SETTINGS for f in dataclasses.fields(cls)]
    return {f.name: (f.metadata["kind"], f.default) for f in fields}
