"""Statistics for few seeds: intervals, paired bootstrap, and times to a target that some runs never reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; low and high are None where the sample allows none."""

    value: float
    low: float | None = None
    high: float | None = None


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean with Student's t interval.

    Args:
        values: one figure a seed, taken as normal and independent.
        level: coverage.
    """
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        return Interval(float(data.mean()) if data.size else math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, data.size - 1) * data.std(ddof=1) / math.sqrt(data.size))
    mean = float(data.mean())
    return Interval(mean, mean - half, mean + half)


def mean_curve(curves: Sequence[Sequence[float]], level: float = 0.95) -> list[Interval]:
    """`t_interval` at each epoch, up to the shortest curve's last."""
    return [t_interval(column, level) for column in zip(*curves)] if curves else []  # noqa: B905  the shortest ends it


def bootstrap(
    samples: Sequence[Any], statistic: Callable[[Sequence[Any]], float], level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap over seeds.

    Args:
        samples: one entry a seed; an entry may be a pair, which is then resampled as one.
        statistic: of a list of such entries.
        level: coverage.
        seed: of the resampling.

    Returns:
        the statistic of the samples as they are, and its interval; none for fewer than two samples. With three seeds
        there are but ten different resamples, so the interval is narrower than it claims.
    """
    value = statistic(samples)
    if len(samples) < 2:
        return Interval(value)
    found = _resampled(samples, statistic, np.random.default_rng(seed), RESAMPLES)
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high))


def _resampled(
    samples: Sequence[Any], statistic: Callable[[Sequence[Any]], float], rng: np.random.Generator, count: int
) -> Any:
    """The statistic of ``count`` resamples with replacement, in the order in which they were drawn."""
    draws = np.sort(rng.integers(0, len(samples), (count, len(samples))), axis=1)  # the order in one does not matter
    rows, places = np.unique(draws, axis=0, return_inverse=True)
    return np.array([statistic([samples[i] for i in row]) for row in rows])[places.reshape(-1)]


def nested_bootstrap(
    sets: Sequence[Sequence[Any]], statistic: Callable[[Sequence[Any]], float], level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean over data sets of a statistic of each set's seeds; sets are resampled, and seeds within each.

    Args:
        sets: data set -> its samples, one entry a seed, none empty.
        statistic: of the samples of one set.
        level: coverage.
        seed: of the resampling.

    Returns:
        the mean, and its percentile interval; none for fewer than two sets, whose like cannot be told from one.
    """
    value = float(np.mean([statistic(samples) for samples in sets]))
    n = len(sets)
    if n < 2:
        return Interval(value)
    rng = np.random.default_rng(seed)
    table = np.stack([_resampled(samples, statistic, rng, RESAMPLES * n).reshape(RESAMPLES, n) for samples in sets])
    picks = rng.integers(0, n, (RESAMPLES, n))
    found = table[picks, np.arange(RESAMPLES)[:, None], np.arange(n)].mean(axis=1)
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Reach:
    """When a run reached its target: the first epoch at or above it, or the last epoch it had (censored)."""

    epoch: int
    reached: bool
    seconds: float | None = None
    cpu_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.epoch}" if self.reached else f">{self.epoch}"


def first_reach(
    curve: Sequence[float],
    target: float,
    seconds: Sequence[float] = (),
    cpu_seconds: Sequence[float] = (),
    for_good: bool = False,
) -> Reach:
    """First epoch (from 1) at which the curve is at or above the target.

    Args:
        curve: metric after each epoch, not empty.
        target: value to reach.
        seconds: by the clock since training began, after each epoch; empty if not on record.
        cpu_seconds: of the process' CPU time, likewise.
        for_good: the first epoch from which the curve never falls below the target again.
    """
    reached = [i for i, value in enumerate(curve) if (min(curve[i:]) if for_good else value) >= target]
    at = reached[0] if reached else None
    last = len(curve) - 1 if at is None else at

    def of(times: Sequence[float]) -> float | None:
        return float(times[last]) if len(times) > last else None

    return Reach(last + 1, at is not None, of(seconds), of(cpu_seconds))


def survival(reaches: Sequence[Reach]) -> list[tuple[int, float]]:
    """Kaplan-Meier: share of runs that have not reached the target after each epoch at which one did.

    A run that never reached it counts as being at risk up to its last epoch.
    """
    share, steps = 1.0, []
    for epoch in sorted({r.epoch for r in reaches if r.reached}):
        at_risk = sum(r.epoch >= epoch for r in reaches)
        events = sum(r.reached and r.epoch == epoch for r in reaches)
        share *= 1 - events / at_risk
        steps.append((epoch, share))
    return steps


def median_reach(reaches: Sequence[Reach]) -> float | None:
    """Kaplan-Meier median of the epochs to the target; None where fewer than half of the runs got there."""
    return next((float(e) for e, share in survival(reaches) if share <= 0.5), None)


@dataclass(frozen=True)
class Ratio:
    """A ratio of epochs or seconds to the target.

    ``bound`` is ``>=`` or ``<=`` where censored runs make it one-sided, ``~`` where both sides have them.
    """

    interval: Interval
    bound: str = ""


def reach_ratio(pairs: Sequence[tuple[Reach, Reach]], of: Callable[[Reach], float | None]) -> Ratio | None:
    """Mean epochs (or seconds) to the target over the baseline's, with a paired bootstrap interval.

    A run that never got there enters with its whole budget: a lower bound of what it would have needed, and the mean
    is then the restricted mean of survival analysis.

    Args:
        pairs: (run, baseline's run) of each seed.
        of: what is compared, e.g. ``lambda r: r.epoch``.

    Returns:
        None without a pair, or where what is compared is not on record.
    """
    samples = [(of(mine), of(base)) for mine, base in pairs]
    if not samples or any(x is None for pair in samples for x in pair):
        return None

    def ratio(sample: Sequence[tuple[float, float]]) -> float:
        mine, base = zip(*sample, strict=True)
        return float(sum(mine) / sum(base))

    late, base_late = (any(not pair[i].reached for pair in pairs) for i in (0, 1))
    return Ratio(bootstrap(samples, ratio), "~" if late and base_late else ">=" if late else "<=" if base_late else "")


def share_near_best(values: Sequence[float], best: float, within: float = 0.9) -> float:
    """Share of the grid points whose value is at least ``within`` times ``best``."""
    return sum(v >= within * best for v in values) / len(values)
