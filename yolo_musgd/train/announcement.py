"""What a training says of its optimizer before it starts: whose it is, how it is set, and what it ignores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from ultralytics.utils import LOGGER, colorstr

from yolo_musgd.optim import registry
from yolo_musgd.optim.state import picked
from yolo_musgd.train.settings import CpuSettings, ModelSettings, TelemetrySettings, plugin_keys


def announce(
    entry: registry.OptimizerInfo,
    optimizer: Optimizer,
    args: Mapping[str, Any],
    settled: Sequence[str],
    fine_tunes: bool,
) -> None:
    """Say in one line whose optimizer runs, where there could be a doubt, and how to get the other.

    Args:
        entry: of the registry.
        optimizer: as it was built.
        args: of the training.
        settled: arguments that the start of the weights decided.
        fine_tunes: it starts from trained weights.
    """
    _warn_of_idle_arguments(entry, optimizer, args)
    native = type(optimizer).__module__.startswith("ultralytics")
    if entry.name == "auto":
        text = _of_auto(optimizer, native)
    elif native:
        text = f"{type(optimizer).__name__} is Ultralytics' own (Muon + SGD); "
        text += "optimizer=MuSGD is the momentum-adaptive SGD of yolo-musgd"
    elif entry.build is not None:
        text = entry.name + _of_ours(entry, optimizer.param_groups[0], args, settled, fine_tunes)
    else:
        return
    LOGGER.info(f"{colorstr('optimizer:')} {text}")


def _of_ours(
    entry: registry.OptimizerInfo,
    group: Mapping[str, Any],
    args: Mapping[str, Any],
    settled: Sequence[str],
    fine_tunes: bool,
) -> str:
    shown = {"lr": args["lr0"]} | {k: group[k] for k in ("momentum", "adapt_factor") if k in group}
    shown |= {k: v for k, v in _changed(args).items() if k in entry.used(args) and k not in settled}
    start = "trained weights" if fine_tunes else "random weights"
    suited = f"; {', '.join(f'{k}={args[k]}' for k in settled)} as suits {start}" if settled else ""
    words = ", ".join(f"{k}={v}" for k, v in shown.items())
    other = "; for Ultralytics' Muon + SGD use optimizer=MuSGD-native" if entry.name == "MuSGD" else ""
    return f"({words}{suited}) from yolo-musgd: {entry.description}{other}"


def _of_auto(optimizer: Optimizer, native: bool) -> str:
    """What ``optimizer=auto`` picked, what it ignores, and how to get this plugin's optimizer."""
    found = picked(optimizer)
    own = " (Ultralytics' own, Muon + SGD)" if native else ""
    rates = ", ".join(f"{k}={found[k]:g}" for k in ("lr0", "momentum") if found[k] is not None)
    return (
        f"auto picked {found['optimizer']}{own} at {rates}, by the number of classes and "
        "steps; lr0= and momentum= are ignored; for the MuSGD of yolo-musgd use optimizer=MuSGD"
    )


def _warn_of_idle_arguments(entry: registry.OptimizerInfo, optimizer: Optimizer, args: Mapping[str, Any]) -> None:
    """Say which of the plugin's arguments do nothing with this optimizer; Ultralytics would take them in silence."""
    idle = {k: v for k, v in _changed(args).items() if k not in entry.used(args)}
    if idle:
        given = ", ".join(f"{k}={v}" for k, v in idle.items())
        users = [e.name for e in registry.REGISTRY.values() if not e.used(args).isdisjoint(idle)]
        hint = f"; add optimizer={' or '.join(users[:2])} to use it" if users else " with orthogonalize=False"
        LOGGER.warning(f"{type(optimizer).__name__} ignores {given}{hint}")


def _changed(args: Mapping[str, Any]) -> dict[str, Any]:
    """The plugin's arguments that are not their defaults, of those that are for the optimizer."""
    quiet = {*TelemetrySettings.names(), *CpuSettings.names(), *ModelSettings.names()}
    return {k: args[k] for k, (_, d) in plugin_keys().items() if args.get(k, d) != d and k not in quiet}
