"""Who is timed, by the names of the step-time table: optimizers as a trainer makes them, ours and those of others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Builder = Callable[[nn.Module], list[Any]]


def ultralytics_groups(model: nn.Module, lr: float = 0.01, momentum: float = 0.9) -> list[dict[str, Any]]:
    """The three param groups that Ultralytics' trainer makes: weights with decay, normalisation weights, biases."""
    norms = tuple(v for k, v in nn.__dict__.items() if "Norm" in k)
    groups: dict[str, list[Tensor]] = {"weight": [], "bn": [], "bias": []}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            kind = "bias" if "bias" in name else "bn" if isinstance(module, norms) else "weight"
            groups[kind].append(p)
    return [
        {
            "params": params,
            "lr": lr,
            "momentum": momentum,
            "nesterov": True,
            "weight_decay": 5e-4 if kind == "weight" else 0.0,
            "param_group": kind,
        }
        for kind, params in groups.items()
    ]


def as_trained(name: str, model: nn.Module, **args: Any) -> Optimizer:
    """The optimizer that ``yolo train optimizer=<name>`` makes from the plugin's defaults and these arguments."""
    from yolo_musgd.optim.registry import find

    build = find(name).build
    assert build is not None, f"{name} is the host's"
    return build(ultralytics_groups(model), args, model)


def contenders() -> dict[str, Builder]:
    """Name -> function from a model to the optimizers whose steps make one step; what is not installed is left out."""
    from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
    from yolo_musgd.optim.musgd import MuSGD
    from yolo_musgd.optim.param_groups import muon_exclusions
    from yolo_musgd.optim.settings import MuonSettings

    def torch_optimizer(cls: Any, **options: Any) -> Builder:
        """As the trainer would make it: with decay on the weights, which costs a pass over memory."""

        def build(model: nn.Module) -> list[Optimizer]:
            groups = [{k: g[k] for k in ("params", "weight_decay")} for g in ultralytics_groups(model)]
            return [cls(groups, **options)]

        return build

    table: dict[str, Builder] = {
        "torch SGD foreach": torch_optimizer(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=True),
        "torch SGD fused": torch_optimizer(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, fused=True),
        "torch AdamW foreach": torch_optimizer(torch.optim.AdamW, lr=1e-3, foreach=True),
        "torch AdamW fused": torch_optimizer(torch.optim.AdamW, lr=1e-3, fused=True),
        "MuSGD": lambda m: [as_trained("MuSGD", m)],
        "MuSGD graph": lambda m: [as_trained("MuSGD", m, muon_graph=True)],
        "MuSGD recorded": lambda m: [_Recorded(as_trained("MuSGD", m), m)],
        "MuSGD article": lambda m: [MuSGD(ultralytics_groups(m), orthogonalize=False)],
        "MuSGD article global": lambda m: [MuSGD(ultralytics_groups(m), orthogonalize=False, norm_scope="global")],
        "MuonSGD": lambda m: [MuonSGD(ultralytics_groups(m), exclude=muon_exclusions(m))],
        "MuonSGD all filters": lambda m: [MuonSGD(ultralytics_groups(m))],
        "MuonSGD + SGD branch": lambda m: [MuonSGD(ultralytics_groups(m), muon=MuonSettings.native())],
        "MuonAdamW": lambda m: [MuonAdamW(ultralytics_groups(m), exclude=muon_exclusions(m))],
        "MuSGD-native": _native,
    }
    if hasattr(torch.optim, "Muon"):
        table["torch Muon + SGD"] = _torch_muon
    if importlib.util.find_spec("pytorch_optimizer"):
        table["pytorch_optimizer Muon"] = _pytorch_optimizer_muon
    return table


class _Recorded:
    """An optimizer whose steps telemetry records, as a trainer has it."""

    def __init__(self, optimizer: Optimizer, model: nn.Module):
        from yolo_musgd.train.telemetry import Monitor

        self._optimizer, self.state = optimizer, optimizer.state
        self._monitor = Monitor(Path(), model, optimizer)

    def step(self) -> None:
        """One step and its record."""
        with self._monitor.step():
            self._optimizer.step()


def _by_dimension(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    params = list(model.parameters())
    return [p for p in params if p.ndim >= 2], [p for p in params if p.ndim < 2]


def _native(model: nn.Module) -> list[Optimizer]:
    """Ultralytics' MuSGD with the factors its trainer passes."""
    from ultralytics.optim import MuSGD as Native

    matrices, rest = _by_dimension(model)
    common = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
    groups = [
        {"params": matrices, "use_muon": True, "weight_decay": 5e-4, **common},
        {"params": rest, "use_muon": False, "weight_decay": 0.0, **common},
    ]
    return [Native(groups, muon=0.2, sgd=1.0)]


def _torch_muon(model: nn.Module) -> list[Optimizer]:
    """torch.optim.Muon takes 2-D parameters only: filters are given to it as views."""
    matrices, rest = _by_dimension(model)
    views = []
    for p in matrices:
        view = nn.Parameter(p.detach().flatten(1))
        view.grad = None if p.grad is None else p.grad.flatten(1)
        views.append(view)
    muon = torch.optim.Muon(views, lr=0.01, momentum=0.9, weight_decay=0.0)
    return [muon, torch.optim.SGD(rest, lr=0.01, momentum=0.9, nesterov=True, foreach=True)]


def _pytorch_optimizer_muon(model: nn.Module) -> list[Optimizer]:
    from pytorch_optimizer import Muon

    matrices, rest = _by_dimension(model)
    groups = [{"params": matrices, "use_muon": True, "lr": 0.01}, {"params": rest, "use_muon": False, "lr": 1e-3}]
    return [Muon(groups)]
