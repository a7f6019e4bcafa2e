"""Every optimizer by name: what it is, where it comes from, how to build it from Ultralytics' param groups.

``yolo-musgd optimizers`` prints it. PyTorch is imported when one is built: a wrong name is told without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from yolo_musgd.edge.options import nearest
from yolo_musgd.optim.settings import ExclusionSettings, MuonSettings, MuSGDSettings, flat
from yolo_musgd.resources import host_folder
from yolo_musgd.settings import Settings, SettingsError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from yolo_musgd.optim.hybrid import Hybrid

    Build = Callable[[list[dict[str, Any]], Mapping[str, Any], nn.Module], Optimizer]

Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]


def builder(name: str) -> Build:
    """``yolo_musgd.optim.zoo.build`` in the form that the registry calls: (groups, arguments of the run, model)."""

    def build(groups: list[dict[str, Any]], args: Mapping[str, Any], model: nn.Module) -> Optimizer:
        from yolo_musgd.optim import zoo

        return zoo.build(name, groups, args)

    return build


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
        cls: ``module:class`` below yolo_musgd.optim, if it is one of this package.
        arguments: what a run's arguments mean to that class.
        make: makes it from (param groups, arguments of the run, model), if another library has the class.
        by_start: settings whose ``None`` means what suits the weights that training starts from.
    """

    name: str
    description: str
    source: str
    state: str
    lr0: float | None
    host_name: str | None = None
    cls: str = ""
    arguments: Arguments = dict
    make: Build | None = None
    by_start: tuple[str, ...] = ()

    @property
    def known(self) -> set[str]:
        """Names of the plugin's arguments that this optimizer knows."""
        if self.cls:
            known: tuple[type[Settings], ...] = (MuSGDSettings, MuonSettings, ExclusionSettings)
        else:
            from yolo_musgd.optim.zoo import RECIPES

            recipe = RECIPES.get(self.name)
            known = (recipe.settings,) if recipe and recipe.settings else ()
        return {name for settings in known for name in settings.names()}

    def used(self, args: Mapping[str, Any]) -> set[str]:
        """Those of them that have an effect beside the other arguments of a run."""
        found = self.known
        if self.name == "MuonAdamW":
            found -= {*MuSGDSettings.names(), "muon_rest", "muon_adapt"}
        if self.name == "MuonSGD" and not _adapts(args):
            found -= _OF_BETA
        if self.cls and not ExclusionSettings.from_mapping(args, ignore_unknown=True).orthogonalize:
            found -= _OF_MATRICES
        return found

    @property
    def build(self) -> Build | None:
        """Makes it from (param groups, arguments of the run, model); None if Ultralytics does."""
        return self._build if self.cls else self.make

    def _build(self, groups: list[dict[str, Any]], args: Mapping[str, Any], model: nn.Module) -> Optimizer:
        from yolo_musgd.optim.param_groups import muon_exclusions, with_rates

        module, _, name = self.cls.partition(":")
        cls: type[Hybrid] = getattr(import_module(f"yolo_musgd.optim.{module}"), name)
        use = ExclusionSettings.from_mapping(args, ignore_unknown=True)
        excluded = muon_exclusions(
            model, stem=not use.muon_stem, head=not use.muon_head, depthwise=not use.muon_depthwise
        )
        given = resolved(args) if use.orthogonalize and "head_lr" in self.by_start else args
        body, head = (1.0 if given.get(k) is None else float(given[k]) for k in ("body_lr", "head_lr"))
        return cls(with_rates(groups, model, body, head), **self.arguments(args), exclude=excluded)


FINE_TUNING = {"muon_lr": 0.3, "second_moment": 0.99}
SCRATCH = {"muon_lr": 2.0, "second_moment": 0.0}
NEW_HEAD = {"body_lr": 0.5, "head_lr": 1.5}
SAME_HEAD = {"body_lr": 1.0, "head_lr": 1.0}
"""What ``None`` stands for in these settings. A Muon step that suits random weights undoes what pretrained ones know,
and the new head beside those learns faster from normalised gradients, which cost accuracy from scratch. A head for
another number of classes is all new: it takes longer steps, and the rest, which is good already, shorter ones. The runs
behind this are in docs/research.md."""
FINE_TUNES = "fine_tunes"
"""Key that the trainer adds to a run's arguments: whether the weights were learned before. They do not tell it
themselves: ``YOLO("yolo26n.yaml").load("mine.pt")`` names no checkpoint, ``pretrained=False`` names one it ignores."""

NEW_CLASSES = "new_classes"
"""The same for whether their head was made for another number of classes than the data set has."""


def resolved(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run with settings that depend on where its weights come from filled in."""
    chosen = FINE_TUNING if args.get(FINE_TUNES) else SCRATCH
    chosen = chosen | (NEW_HEAD if args.get(FINE_TUNES) and args.get(NEW_CLASSES) else SAME_HEAD)
    return {**args, **{k: v for k, v in chosen.items() if args.get(k) is None}}


def _muon(args: Mapping[str, Any]) -> MuonSettings:
    return MuonSettings.from_mapping(resolved(args), ignore_unknown=True)


def _of_musgd(args: Mapping[str, Any]) -> dict[str, Any]:
    """beta_t on every momentum; what no run decides, such as ``second_moment`` of the article's rule, stays off."""
    orthogonalize = ExclusionSettings.from_mapping(args, ignore_unknown=True).orthogonalize
    given = resolved(args) if orthogonalize else args
    rule = MuSGDSettings.from_mapping(given, ignore_unknown=True).to_dict()
    return {"orthogonalize": orthogonalize, **rule, **flat(_muon(given)), "muon_adapt": True}


_OF_BETA = {"adapt_factor", "beta_min", "norm_scope", "norm_source", "norm_mode", "norm_decay"}
_OF_MATRICES = {*MuonSettings.names(), "muon_stem", "muon_head", "muon_depthwise"} - {"muon_rest", "muon_adapt"}


def _adapts(args: Mapping[str, Any]) -> bool:
    """Whether MuonSGD has a beta_t anywhere."""
    muon = MuonSettings.from_mapping(args, ignore_unknown=True)
    return muon.muon_adapt or muon.muon_rest == "musgd"


def _of_muonsgd(args: Mapping[str, Any]) -> dict[str, Any]:
    orthogonalize = ExclusionSettings.from_mapping(args, ignore_unknown=True).orthogonalize
    rule = MuSGDSettings.from_mapping(args, ignore_unknown=True).to_dict()
    rule |= {} if _adapts(args) else {"adapt_factor": 0.0}
    return {"orthogonalize": orthogonalize, **flat(_muon(args)), **rule}


def _of_muonadamw(args: Mapping[str, Any]) -> dict[str, Any]:
    orthogonalize = ExclusionSettings.from_mapping(args, ignore_unknown=True).orthogonalize
    return {"orthogonalize": orthogonalize, **flat(_muon(args))}


_HOST = "Ultralytics / torch.optim"
_ZOO = "pytorch_optimizer (extra zoo)"
_ENTRIES = (
    OptimizerInfo(
        "MuSGD", "beta_t falls where the gradient is large; orthogonalised steps on filters",
        "article 'MuSGD optimizer', 2026-02-12; Keller Jordan's Muon", "1-1.1x", 0.01, cls="musgd:MuSGD",
        arguments=_of_musgd, by_start=("muon_lr", "second_moment", "body_lr", "head_lr"),
    ),
    OptimizerInfo(
        "MuSGD-native", "Ultralytics' own MuSGD: Muon + SGD on the same filters", "Ultralytics 8.4", "2x", 0.01, "MuSGD"
    ),
    OptimizerInfo(
        "MuonSGD", "orthogonalised updates for filters, Nesterov SGD for the rest",
        "Keller Jordan's Muon; RMS of a step as AdamW's", "1x", 0.01, cls="muon:MuonSGD", arguments=_of_muonsgd,
        by_start=("muon_lr",),
    ),
    OptimizerInfo(
        "MuonAdamW", "orthogonalised updates for filters, AdamW for the rest",
        "Keller Jordan's Muon; RMS of a step as AdamW's", "1.1x", 0.002, cls="muon:MuonAdamW", arguments=_of_muonadamw,
        by_start=("muon_lr",),
    ),
    OptimizerInfo("auto", "Ultralytics' choice by the length of the run", "Ultralytics", "1-2x", None, "auto"),
    OptimizerInfo("SGD", "Nesterov momentum", _HOST, "1x", 0.01, "SGD"),
    OptimizerInfo("Adam", "adaptive, coupled decay", _HOST, "2x", 0.001, "Adam"),
    OptimizerInfo("AdamW", "adaptive, decoupled decay", _HOST, "2x", 0.001, "AdamW"),
    OptimizerInfo("Adamax", "Adam with the infinity norm", _HOST, "2x", 0.002, "Adamax"),
    OptimizerInfo("NAdam", "Adam with Nesterov momentum", _HOST, "2x", 0.002, "NAdam"),
    OptimizerInfo("RAdam", "Adam with a rectified warm-up", _HOST, "2x", 0.001, "RAdam"),
    OptimizerInfo("RMSprop", "second moment only", _HOST, "2x", 0.001, "RMSprop"),
    OptimizerInfo("Adagrad", "sum of squared gradients; the rate only falls", "torch.optim", "1x", 0.01,
                  make=builder("Adagrad")),
    OptimizerInfo("LARS", "SGD with a trust ratio a layer, for very large batches", _ZOO, "1x", 0.1,
                  make=builder("LARS")),
    OptimizerInfo("LAMB", "Adam with a trust ratio a layer, for large batches; use warmup_bias_lr=0", _ZOO, "2x", 0.002,
                  make=builder("LAMB")),
    OptimizerInfo("Adafactor", "Adam with a factored second moment", _ZOO, "<1.9x", 0.001,
                  make=builder("Adafactor")),
    OptimizerInfo("Lion", "sign of the momentum; weight_decay 3 to 10 times AdamW's", _ZOO, "1x", 0.0002,
                  make=builder("Lion")),
    OptimizerInfo("Sophia", "clipped, preconditioned by squared gradients", _ZOO, "3x", 0.06,
                  make=builder("Sophia")),
    OptimizerInfo("Shampoo", "preconditioned on every dimension, in blocks", _ZOO, "3-4x", 0.01,
                  make=builder("Shampoo")),
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
    if _host_knows(str(name)):
        return OptimizerInfo(str(name), "known to this Ultralytics", _HOST, "?", None, str(name))
    guess = nearest(str(name), REGISTRY)
    hint = f"; did you mean {guess}?" if guess else ""
    raise SettingsError(f"optimizer={name} is unknown{hint} Known: {', '.join(REGISTRY)}")


def _host_knows(name: str) -> bool:
    """Whether the installed Ultralytics names this optimizer of torch.optim; releases to come may add some."""
    source = (host_folder() / "engine" / "trainer.py").read_text(encoding="utf-8")
    method = re.search(r"    def build_optimizer\(.*?(?=\n    def |\Z)", source, re.DOTALL)
    quoted = re.findall(r'"(\w+)"', method[0]) if method else []
    if not (found := [q for q in quoted if q.lower() == name.lower()]):
        return False
    from torch import optim

    return any(hasattr(optim, q) for q in found)


def table() -> str:
    """The registry as aligned text, one optimizer a line."""
    head = ("optimizer=", "state", "lr0", "what it is", "source")
    rows = [(e.name, e.state, f"{e.lr0:g}" if e.lr0 else "-", e.description, e.source) for e in REGISTRY.values()]
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows])


def main(args: Mapping[str, str]) -> int:
    """Print the table."""
    print(table())
    print("\nstate: optimizer memory as a multiple of the parameters'. Names in any case: yolo train optimizer=musgd")
    return 0
