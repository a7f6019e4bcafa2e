"""Tuning with the same small budget for every optimizer: a grid, or a range that Optuna searches.

The search is replayed from the finished runs each time it is asked what comes next, so an interrupted search goes on
where it was without a file of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.resources import install

Point = dict[str, Any]
TUNING_SEED = 100
TRIALS = 4


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, searched on a logarithmic scale unless ``log`` is false."""

    low: float
    high: float
    log: bool = True

    def position(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Search:
    """What is tuned: name -> values (a grid), or name -> Range with a number of trials.

    Attributes:
        space: setting -> values or Range; all of one kind.
        trials: runs that a range may cost; a grid costs its size.
        seed: training seed of the trials, which no evaluation uses.
        epochs: of a trial; None takes those of the evaluation.
    """

    space: Mapping[str, tuple[Any, ...] | Range]
    trials: int = TRIALS
    seed: int = TUNING_SEED
    epochs: int | None = None

    def __post_init__(self) -> None:
        kinds = {isinstance(v, Range) for v in self.space.values()}
        if len(kinds) != 1:
            names = ", ".join(self.space) or "nothing"
            raise UserError(f"tune needs lists of values or ranges for at least one setting, not both, got {names}")

    @property
    def _grid(self) -> bool:
        return not any(isinstance(v, Range) for v in self.space.values())

    @property
    def budget(self) -> int:
        """Number of trials."""
        return len(self._points()) if self._grid else self.trials

    def _points(self) -> list[Point]:
        values: list[tuple[Any, ...]] = [v for v in self.space.values() if not isinstance(v, Range)]
        return [dict(zip(self.space, point, strict=True)) for point in itertools.product(*values)]

    def replay(self, value_of: Callable[[Point], float | None]) -> tuple[list[tuple[Point, float]], list[Point]]:
        """The trials so far and the points to be run next; the search is over when there are none.

        Args:
            value_of: final metric at a point, None where it has not been run; NaN where the run failed.
        """
        if not self._grid:
            return self._replay_range(value_of)
        done, missing = [], []
        for point in self._points():
            value = value_of(point)
            if value is None:
                missing.append(point)
            else:
                done.append((point, value))
        return done, missing

    def _replay_range(self, value_of: Callable[[Point], float | None]) -> tuple[list[tuple[Point, float]], list[Point]]:
        """Ask and tell in order: the sampler is seeded, so the same answers lead to the same questions."""
        try:
            import optuna
        except ImportError:
            raise UserError(f"a range in tune needs Optuna: {install('lab')}, or give a list") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=max(2, self.trials // 2))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        ranges = {n: r for n, r in self.space.items() if isinstance(r, Range)}
        done: list[tuple[Point, float]] = []
        for _ in range(self.trials):
            trial = study.ask()
            # Five digits: the point must survive the way through YAML and back.
            point: Point = {
                n: float(f"{trial.suggest_float(n, r.low, r.high, log=r.log):.5g}") for n, r in ranges.items()
            }
            value = value_of(point)
            if value is None:
                return done, [point]
            failed = math.isnan(value)
            study.tell(trial, None if failed else value, state=optuna.trial.TrialState.FAIL if failed else None)
            done.append((point, value))
        return done, []

    def at_the_edge(self, point: Point) -> list[str]:
        """Settings of a point that lie at the end of what was searched, where the best may lie beyond."""
        edges = []
        for name, space in self.space.items():
            if isinstance(space, Range):
                if not 0.05 < space.position(point[name]) < 0.95:
                    edges.append(name)
            else:
                numbers = [v for v in space if isinstance(v, (int, float)) and not isinstance(v, bool)]
                if len(numbers) > 1 and point[name] in (min(numbers), max(numbers)):
                    edges.append(name)
        return edges


def best(trials: list[tuple[Point, float]]) -> Point | None:
    """The point with the highest value, the earliest of equals; None where every trial failed."""
    finite = [(p, v) for p, v in trials if not math.isnan(v)]
    return max(finite, key=lambda t: t[1])[0] if finite else None
