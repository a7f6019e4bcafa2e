"""What a comparison says over several data sets: ranks, wins, mean differences and performance profiles.

The input is what `yolo_musgd.lab.analysis` found on each data set. Performance profiles: Dolan and Moré, "Benchmarking
optimization software with performance profiles" (2002), as AlgoPerf draws them for training algorithms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from yolo_musgd.lab.intervals import Interval, nested_bootstrap

Arm = Mapping[str, Any]


def over_sets(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One summary for each start that was tried on more than one data set.

    An optimizer takes part if it has a finished run on every set; ``left_out`` names the others.

    Args:
        groups: the figures of each data set and start.
    """
    starts = dict.fromkeys(g["start"] for g in groups)
    found = [[g for g in groups if g["start"] == s and g["arms"]] for s in starts]
    return [_summary(sets) for sets in found if len(sets) > 1]


def _summary(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    finished = [{a["label"]: a for a in g["arms"] if a["final"]["value"] is not None} for g in sets]
    labels = list(dict.fromkeys(a["label"] for g in sets for a in g["arms"]))
    complete = [x for x in labels if all(x in arms for arms in finished)]
    finals = [[arms[x]["final"]["value"] for x in complete] for arms in finished]
    ranks = [mean_ranks(values) for values in finals]
    profiles = performance_profiles([[_time(arms[x]) for x in complete] for arms in finished])
    names = [g["data"] for g in sets]
    arms = [
        {
            "label": label,
            "searched": any(arms[label]["tuning"] for arms in finished),
            "finals": {n: values[i] for n, values in zip(names, finals, strict=True)},
            "mean_rank": sum(r[i] for r in ranks) / len(ranks),
            "wins": sum(values[i] == max(values) for values in finals),
            "profile": profiles[i],
            **_against_baseline([arms[label] for arms in finished], names),
        }
        for i, label in enumerate(complete)
    ]
    return {
        "start": sets[0]["start"],
        "sets": names,
        "baseline": sets[0]["baseline"],
        "arms": arms,
        "left_out": [x for x in labels if x not in complete],
    }


def _against_baseline(arms: Sequence[Arm], names: Sequence[str]) -> dict[str, Any]:
    """Mean difference in final accuracy, the set where it is worst, and the geometric mean of the ratios of epochs."""
    paired = [(n, a) for n, a in zip(names, arms, strict=True) if a["difference"]["seeds"]]
    nothing: dict[str, Any] = {"difference": None, "worst": None, "epochs_ratio": None, "epochs_ratio_for_good": None}
    if len(paired) < len(names):
        return nothing
    difference = nested_bootstrap([list(a["difference"]["seeds"].values()) for _, a in paired], _mean)
    worst = min(paired, key=lambda p: p[1]["difference"]["value"])
    return {
        "difference": dataclasses.asdict(difference),
        "worst": {"data": worst[0], "value": worst[1]["difference"]["value"]},
        "epochs_ratio": _joint_ratio([a["reach"]["epochs_ratio"] for _, a in paired]),
        "epochs_ratio_for_good": _joint_ratio([a["reach"]["for_good"]["epochs_ratio"] for _, a in paired]),
    }


def _joint_ratio(ratios: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Geometric mean of the sets' ratios; a bound where one of them is."""
    values = [r["value"] for r in ratios if r is not None and r["value"]]
    if len(values) < len(ratios):
        return None
    bounds = {r["bound"] for r in ratios if r is not None} - {""}
    return {
        **dataclasses.asdict(Interval(math.exp(_mean([math.log(v) for v in values])))),
        "by_set": values,
        "bound": "" if not bounds else bounds.pop() if len(bounds) == 1 else "~",
    }


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value, 1 for the highest; equal values share the mean of their ranks."""
    return [1 + sum(v > x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def performance_profiles(times: Sequence[Sequence[float]]) -> list[list[tuple[float, float]]]:
    """Share of the data sets on which each optimizer is within a factor tau of the fastest.

    Args:
        times: data set -> time to the target of each optimizer; infinite where it was not reached. A set whose target
            nobody reached counts for no one.

    Returns:
        for each optimizer the steps (tau, share) of its profile, tau rising from 1.
    """
    ratios = []
    for row in times:
        best = min(row, default=math.inf)
        ratios.append([t / best if math.isfinite(best) else math.inf for t in row])
    taus = sorted({1.0} | {r for row in ratios for r in row if math.isfinite(r)})
    count = len(times[0]) if times else 0
    return [[(tau, _mean([float(row[i] <= tau) for row in ratios])) for tau in taus] for i in range(count)]


def _time(arm: Arm) -> float:
    """Median epochs to the target; infinite where fewer than half of the seeds got there."""
    median = arm["reach"]["median_epochs"]
    return math.inf if median is None else float(median)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
