"""A protocol says what is compared: data sets x starts x optimizers x seeds, all else equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.tuning import Search

METRIC = "metrics/mAP50-95(B)"
"""The column of results.csv that decides."""


@dataclass(frozen=True)
class Data:
    """A data set: its label, its YAML file, and arguments of ``yolo train`` that go with it (``imgsz``, say)."""

    label: str
    data: str
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        label: its name in tables and pictures.
        model: a model YAML (random weights) or a checkpoint.
        epochs: None takes the protocol's.
        train: arguments of ``yolo train`` that go with it.
        data: labels of the data sets it is tried on; empty for all.
    """

    label: str
    model: str
    epochs: int | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """An optimizer with its settings.

    Attributes:
        label: its name in tables and pictures.
        optimizer: its name for ``optimizer=``.
        settings: further arguments of ``yolo train``.
        epochs: its whole budget and schedule; None takes the start's.
        epochs_share: the same as a share of the start's epochs.
        tune: settings to be tuned on the tuning seed.
        grid: settings to be mapped: name -> values.
        starts: labels of the starts it takes part in; empty for all.
    """

    label: str
    optimizer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    epochs_share: float | None = None
    tune: Search | None = None
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """A whole comparison.

    Attributes:
        data: data sets.
        starts: initial weights.
        optimizers: what is compared.
        seeds: evaluation seeds; every optimizer gets the same ones.
        epochs: budget of a run unless the start or the optimizer has its own.
        baseline: label of the optimizer that the others are measured against.
        train: arguments of ``yolo train`` for every run.
        goal: mAP whose first epoch counts; None takes the baseline's own final figure of the same seed.
        metric: column of results.csv.

    Raises:
        UserError: parts that do not fit together.
    """

    data: tuple[Data, ...]
    starts: tuple[Start, ...]
    optimizers: tuple[Contender, ...]
    seeds: tuple[int, ...]
    epochs: int
    baseline: str
    train: Mapping[str, Any] = field(default_factory=dict)
    goal: float | None = None
    metric: str = METRIC

    def __post_init__(self) -> None:
        _unique("data", (d.label for d in self.data))
        _unique("starts", (s.label for s in self.starts))
        sets = [d.label for d in self.data]
        for s in self.starts:
            for name in s.data:
                if name not in sets:
                    raise UserError(f"start {s.label}: data has {name!r}, the protocol has {', '.join(sets)}")
        known = [s.label for s in self.starts]
        for c in self.optimizers:
            for start in c.starts:
                if start not in known:
                    raise UserError(f"optimizer {c.label}: starts has {start!r}, the protocol has {', '.join(known)}")
            if c.tune is not None and c.tune.seed in self.seeds:
                seeds = ", ".join(map(str, self.seeds))
                raise UserError(f"tune: seed={c.tune.seed} is one of the evaluation seeds {seeds}; choose another")
        _unique("optimizers", (f"{c.label} from {s}" for c in self.optimizers for s in (c.starts or known)))
        labels = list(dict.fromkeys(c.label for c in self.optimizers))
        if self.baseline not in labels:
            raise UserError(f"baseline={self.baseline} is none of the optimizers {', '.join(labels)}")
        budgets = {c.label: c.tune.budget for c in self.optimizers if c.tune is not None}
        if len(set(budgets.values())) > 1:
            text = ", ".join(f"{label}: {n}" for label, n in budgets.items())
            raise UserError(f"tune: every optimizer must get the same number of trials, got {text}")

    def epochs_of(self, start: Start, contender: Contender) -> int:
        """Epochs of an optimizer from a start."""
        base = start.epochs or self.epochs
        if contender.epochs_share is not None:
            return max(1, round(contender.epochs_share * base))
        return contender.epochs or base

    def to_dict(self) -> dict[str, Any]:
        """The protocol in full, as plain YAML types; equal for equal protocols."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _unique(what: str, labels: Iterable[str]) -> None:
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            raise UserError(f"{what}: {label!r} stands there twice; give each its own label")
        seen.add(label)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
