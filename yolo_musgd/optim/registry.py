"""Every optimizer by name: what it is, where it comes from, and how to build it from Ultralytics' param groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from yolo_musgd.optim.musgd import MuSGD
from yolo_musgd.settings import MuSGDSettings, SettingsError, nearest

Groups = list[dict[str, Any]]
Build = Callable[[Groups, Mapping[str, Any], nn.Module], Optimizer]


@dataclass(frozen=True)
class OptimizerInfo:
    """One entry of the registry.

    Attributes:
        name: what people type after ``optimizer=``, in any case.
        description: what it is good for, in a line.
        source: paper, article or library.
        state: optimizer state as a multiple of the parameters' memory, as text.
        lr0: recommended initial learning rate.
        host_name: Ultralytics' name for it, if Ultralytics builds it.
        build: makes it from (param groups, arguments of the run, model), if we do.
    """

    name: str
    description: str
    source: str
    state: str
    lr0: float | None
    host_name: str | None = None
    build: Build | None = None


def _musgd(groups: Groups, args: Mapping[str, Any], model: nn.Module) -> Optimizer:
    return MuSGD(groups, **MuSGDSettings.from_mapping(args, ignore_unknown=True).to_dict())


_HOST = "Ultralytics / torch.optim"
_ENTRIES = (
    OptimizerInfo(
        "MuSGD", "momentum-adaptive SGD: beta_t falls where the gradient is large",
        "article 'MuSGD optimizer', 2026-02-12", "1x", 0.01, build=_musgd,
    ),
    OptimizerInfo(
        "MuSGD-native", "Ultralytics' own MuSGD: Muon + SGD on the same filters", "Ultralytics 8.4", "2x", 0.01, "MuSGD"
    ),
    OptimizerInfo("auto", "Ultralytics' choice by the length of the run", "Ultralytics", "1-2x", None, "auto"),
    OptimizerInfo("SGD", "Nesterov momentum", _HOST, "1x", 0.01, "SGD"),
    OptimizerInfo("Adam", "adaptive, coupled decay", _HOST, "2x", 0.001, "Adam"),
    OptimizerInfo("AdamW", "adaptive, decoupled decay", _HOST, "2x", 0.001, "AdamW"),
    OptimizerInfo("Adamax", "Adam with the infinity norm", _HOST, "2x", 0.002, "Adamax"),
    OptimizerInfo("NAdam", "Adam with Nesterov momentum", _HOST, "2x", 0.002, "NAdam"),
    OptimizerInfo("RAdam", "Adam with a rectified warm-up", _HOST, "2x", 0.001, "RAdam"),
    OptimizerInfo("RMSprop", "second moment only", _HOST, "2x", 0.001, "RMSprop"),
)  # fmt: skip
REGISTRY: dict[str, OptimizerInfo] = {e.name: e for e in _ENTRIES}


def find(name: str) -> OptimizerInfo:
    """The entry of this name, in any case.

    Raises:
        SettingsError: there is none; the message suggests the nearest name.
    """
    for entry in REGISTRY.values():
        if entry.name.lower() == str(name).lower():
            return entry
    guess = nearest(str(name), REGISTRY)
    hint = f"; did you mean {guess}?" if guess else ""
    raise SettingsError(f"optimizer={name} is unknown{hint} Known: {', '.join(REGISTRY)}")
