"""From a protocol to its runs. What comes next is worked out from what is finished, so there is no state to lose."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab import identify, tuning
from yolo_musgd.lab.protocol import Contender, Data, Protocol, Start
from yolo_musgd.lab.runs import FIXED, RunSpec
from yolo_musgd.lab.store import Record
from yolo_musgd.lab.tuning import Point, Range

Find = Callable[[RunSpec], "Record | None"]
Failed = Callable[[RunSpec], bool]


def none_failed(spec: RunSpec) -> bool:
    """For who asks before any run was tried."""
    return False


@dataclass(frozen=True)
class Arm:
    """One optimizer on one data set from one start: its tuning trials, then a run for each seed.

    Attributes:
        protocol: the comparison it is part of.
        data: data set.
        start: initial model.
        contender: optimizer and settings.
        data_id: fingerprint of the data set.
        model_id: fingerprint of the initial model.
    """

    protocol: Protocol
    data: Data
    start: Start
    contender: Contender
    data_id: str
    model_id: str

    @property
    def label(self) -> str:
        """Short name for messages."""
        return f"{self.contender.label} on {self.data.label}, {self.start.label}"

    @property
    def epochs(self) -> int:
        """Epochs of an evaluation run."""
        return self.protocol.epochs_of(self.start, self.contender)

    def spec(self, point: Mapping[str, Any], seed: int, epochs: int | None = None) -> RunSpec:
        """The run at a point of the search or grid ({} for neither)."""
        args: dict[str, Any] = {
            **FIXED,
            **self.protocol.train,
            **self.data.train,
            **self.start.train,
            **self.contender.settings,
            **point,
            "optimizer": self.contender.optimizer,
            "epochs": epochs or self.epochs,
            "seed": seed,
        }
        for key in ("pretrained", "distill_model"):  # a run is trained in its own folder
            if isinstance(args.get(key), str):
                args[key] = identify.locate(args[key])
        where = (identify.locate(self.data.data), identify.locate(self.start.model))
        return RunSpec(*where, args, self.data_id, self.model_id)

    def points(self) -> list[Point]:
        """The points of the grid, in order; one empty point without a grid."""
        grid = self.contender.grid
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]

    def trial_spec(self, point: Point) -> RunSpec:
        """A tuning trial."""
        tune = self.contender.tune
        assert tune is not None
        return self.spec(point, tune.seed, tune.epochs)

    def trials(self, find: Find, failed: Failed) -> tuple[list[tuple[Point, float]], list[Point]]:
        """Finished tuning trials with their final metric (NaN: failed), and the points to be run next."""
        tune = self.contender.tune
        if tune is None:
            return [], []

        def value_of(point: Point) -> float | None:
            spec = self.trial_spec(point)
            record = find(spec)
            if record is not None:
                return record.final(self.protocol.metric)
            return float("nan") if failed(spec) else None

        return tune.replay(value_of)

    def chosen(self, find: Find, failed: Failed) -> Point | None:
        """The tuned settings ({} where nothing is tuned); None while tuning goes on, or where every trial failed."""
        if self.contender.tune is None:
            return {}
        done, missing = self.trials(find, failed)
        return None if missing else tuning.best(done)

    def evaluations(self, chosen: Point) -> list[RunSpec]:
        """The evaluation runs, seed by seed, at every point of the grid."""
        return [self.spec({**p, **chosen}, seed) for seed in self.protocol.seeds for p in self.points()]

    def next_runs(self, find: Find, failed: Failed) -> list[RunSpec]:
        """Runs that can be started now: the next trials, or the evaluations that are missing."""
        trials = [self.trial_spec(p) for p in self.trials(find, failed)[1]]
        if trials:
            return trials
        chosen = self.chosen(find, failed)
        specs = [] if chosen is None else self.evaluations(chosen)
        return [s for s in specs if find(s) is None and not failed(s)]

    def finished(self, find: Find, failed: Failed) -> list[RunSpec]:
        """Its runs that are finished: trials, then evaluations."""
        trials = [self.trial_spec(p) for p, _ in self.trials(find, failed)[0]]
        chosen = self.chosen(find, failed)
        return [s for s in trials + (self.evaluations(chosen) if chosen is not None else []) if find(s)]

    def total_epochs(self) -> int:
        """Epochs of all its runs together."""
        tune = self.contender.tune
        trials = tune.budget * (tune.epochs or self.epochs) if tune else 0
        return trials + len(self.points()) * len(self.protocol.seeds) * self.epochs

    def total_runs(self) -> int:
        """Number of all its runs."""
        tune = self.contender.tune
        return (tune.budget if tune else 0) + len(self.points()) * len(self.protocol.seeds)


def arms(protocol: Protocol) -> list[Arm]:
    """Every arm of a protocol, the baseline's first, after its data sets and models have been looked at.

    Raises:
        UserError: a data set or model that is not there.
    """
    data_ids = {d.label: identify.data_id(identify.locate(d.data)) for d in protocol.data}
    model_ids = {s.label: identify.model_id(identify.locate(s.model)) for s in protocol.starts}
    found = [
        Arm(protocol, data, start, contender, data_ids[data.label], model_ids[start.label])
        for data in protocol.data
        for start in protocol.starts
        for contender in protocol.optimizers
        if (not contender.starts or start.label in contender.starts) and (not start.data or data.label in start.data)
    ]
    for arm in found:
        _check_values(arm)
    return sorted(found, key=lambda a: a.contender.label != protocol.baseline)


def _check_values(arm: Arm) -> None:
    """Let Ultralytics and the plugin look at every argument before the first run.

    Raises:
        UserError: a value that cannot be.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.utils.checks import check_imgsz

    from yolo_musgd.train.trainer import check_arguments

    space = arm.contender.tune.space if arm.contender.tune else arm.contender.grid
    between = 0.37  # not whole where both ends are: a setting of whole numbers would fail in every trial
    values = {
        k: (v.low, v.low + between * (v.high - v.low), v.high) if isinstance(v, Range) else v for k, v in space.items()
    }
    for point in itertools.product(*values.values()):
        args = dict(arm.spec(dict(zip(values, point, strict=True)), 0).args)
        try:
            check_arguments(args)
            imgsz = get_cfg(overrides=args).imgsz
        except UserError as error:
            raise UserError(f"{arm.contender.label}: {error}") from None
        except Exception as error:  # Ultralytics raises TypeError, ValueError or SyntaxError, in several lines
            raise UserError(f"{arm.contender.label}: {' '.join(str(error).split())[:300]}") from None
        try:
            check_imgsz(imgsz, max_dim=1)
        except Exception as error:  # its words name the argument or not, by release
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{arm.contender.label}: imgsz={imgsz} is no side of an image: {reason}") from None
