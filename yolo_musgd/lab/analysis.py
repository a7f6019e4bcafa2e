"""From finished runs to the figures of the report: plain dictionaries, which are the JSON file as well."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolo_musgd.lab.arms import Arm, Failed
from yolo_musgd.lab.intervals import (
    Interval,
    Reach,
    bootstrap,
    first_reach,
    mean_curve,
    median_reach,
    reach_ratio,
    share_near_best,
    survival,
    t_interval,
)
from yolo_musgd.lab.over_sets import over_sets
from yolo_musgd.lab.protocol import Protocol
from yolo_musgd.lab.runs import RunSpec
from yolo_musgd.lab.store import Record, Store
from yolo_musgd.lab.tuning import Point

TRACES = ("optim/grad_norm", "optim/beta_t", "optim/beta_t_p10", "optim/beta_t_p90")
Runs = dict[int, Record]


def analyse(plan: Sequence[Arm], store: Store, name: str, failures: Mapping[str, str]) -> dict[str, Any]:
    """Every figure of the report.

    Args:
        plan: the arms of the protocol.
        store: their finished runs; what is missing is left out and counted.
        name: of the comparison.
        failures: key of a run -> why it has no result.
    """
    protocol = plan[0].protocol

    def failed(spec: RunSpec) -> bool:
        return spec.key in failures

    places = list(dict.fromkeys((a.data.label, a.start.label) for a in plan))
    groups = [_group([a for a in plan if (a.data.label, a.start.label) == p], store, failed) for p in places]
    records = [r for a in plan for s in a.finished(store.find, failed) if (r := store.find(s)) is not None]
    return {
        "name": name,
        "protocol": protocol.to_dict(),
        "runs": {"asked": sum(a.total_runs() for a in plan), "finished": len(records)},
        "failures": dict(failures),
        "conditions": _conditions(records),
        "groups": groups,
        "over_sets": over_sets(groups),
    }


def _group(arms: Sequence[Arm], store: Store, failed: Failed) -> dict[str, Any]:
    """All that happened on one data set from one start."""
    first, protocol = arms[0], arms[0].protocol
    runs = {id(a): _runs(a, store, failed) for a in arms if not a.contender.grid}
    baseline = next((a for a in arms if id(a) in runs and a.contender.label == protocol.baseline), None)
    base = runs[id(baseline)] if baseline else {}
    if protocol.goal:
        targets = dict.fromkeys(protocol.seeds, protocol.goal)
    else:  # a baseline that learnt nothing sets no target
        targets = {s: final for s, r in base.items() if (final := r.final(protocol.metric)) > 0}
    rows = [_row(a, runs[id(a)], base, targets, _tuning(a, store, failed)) for a in arms if id(a) in runs]
    return {
        "data": first.data.label,
        "start": first.start.label,
        "baseline": protocol.baseline,
        "targets": targets,
        "own_target": protocol.goal is None,
        "target_mean": float(np.mean(list(targets.values()))) if targets else None,
        "arms": rows,
        "maps": _maps([a for a in arms if a.contender.grid], store, failed),
    }


def _runs(arm: Arm, store: Store, failed: Failed, point: Point | None = None) -> Runs:
    """Finished evaluation runs by seed."""
    chosen = arm.chosen(store.find, failed)
    if chosen is None:
        return {}
    found = {s: store.find(arm.spec({**(point or {}), **chosen}, s)) for s in arm.protocol.seeds}
    return {s: r for s, r in found.items() if r is not None and r.curve(arm.protocol.metric)}


def _row(
    arm: Arm, runs: Runs, base: Runs, targets: Mapping[int, float], tuning: dict[str, Any] | None
) -> dict[str, Any]:
    """One optimizer on one data set from one start."""
    protocol, metric = arm.protocol, arm.protocol.metric
    finals = {s: r.final(metric) for s, r in runs.items()}
    curves = [r.curve(metric) for r in runs.values()]
    row: dict[str, Any] = {
        "label": arm.contender.label,
        "optimizer": arm.contender.optimizer,
        "settings": dict(arm.contender.settings),
        "epochs": arm.epochs,
        "seeds": list(runs),
        "missing": len(protocol.seeds) - len(runs),
        "diverged": sum(r.diverged for r in runs.values()),
        "imported": sum("imported_from" in r.facts for r in runs.values()),
        "tuning": tuning,
        "curve": [dataclasses.asdict(i) for i in mean_curve(curves)],
        "curves": {s: r.curve(metric) for s, r in runs.items()},
        "final": {"seeds": finals, **_share(t_interval(list(finals.values())))},
        "picked": _picked(runs) if arm.contender.optimizer == "auto" else None,
        "best": {"seeds": {s: max(r.curve(metric)) for s, r in runs.items()}},
        "difference": _difference(finals, {s: r.final(metric) for s, r in base.items()}),
        "reach": _reach(arm, runs, base, targets, protocol),
        "cost": _cost(runs),
        "traces": {c: t for c in TRACES if (t := _trace(runs, c))},
    }
    row["best"] |= _share(t_interval(list(row["best"]["seeds"].values())))
    return row


def _picked(runs: Runs) -> dict[str, Any] | None:
    """What ``optimizer=auto`` trained with, see `yolo_musgd.lab.recorder.picked`; the same for every seed."""
    return next((p for r in runs.values() if (p := r.facts.get("picked"))), None)


def _interval(interval: Interval | None) -> dict[str, float | None]:
    """As a dictionary; NaN (no value) as None, which JSON can say."""
    if interval is None or math.isnan(interval.value):
        return {"value": None, "low": None, "high": None}
    return dataclasses.asdict(interval)


def _share(interval: Interval | None) -> dict[str, float | None]:
    """As `_interval`, of a figure that lies in [0, 1]: Student's t knows nothing of that."""
    found = _interval(interval)
    return {key: None if value is None else min(1.0, max(0.0, value)) for key, value in found.items()}


def _tuning(arm: Arm, store: Store, failed: Failed) -> dict[str, Any] | None:
    tune = arm.contender.tune
    if tune is None:
        return None
    done, missing = arm.trials(store.find, failed)
    chosen = arm.chosen(store.find, failed)
    return {
        "seed": tune.seed,
        "epochs": tune.epochs or arm.epochs,
        "trials": [{**p, "value": None if math.isnan(v) else v} for p, v in done],
        "missing": len(missing),
        "chosen": chosen,
        "at_the_edge": tune.at_the_edge(chosen) if chosen else [],
    }


def _difference(finals: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any]:
    """Final metric minus the baseline's of the same seed: mean, bootstrap interval and t interval."""
    pairs = {s: finals[s] - base[s] for s in finals if s in base}
    values = list(pairs.values())
    if not values:
        return {"seeds": {}, **_interval(None), "t_low": None, "t_high": None}
    student = t_interval(values)
    boot = bootstrap(values, lambda x: sum(x) / len(x))
    return {"seeds": pairs, **_interval(boot), "t_low": student.low, "t_high": student.high}


def _reach(arm: Arm, runs: Runs, base: Runs, targets: Mapping[int, float], protocol: Protocol) -> dict[str, Any]:
    """Epochs and seconds to the target: by seed, and as a multiple of the baseline's."""
    mine, theirs = (_reaches(r, targets, protocol.metric) for r in (runs, base))
    pairs = [(mine[s], theirs[s]) for s in mine if s in theirs]
    budget = max((len(r.curve(protocol.metric)) for r in base.values()), default=0)
    all_mine = list(mine.values())
    mean = sum(r.epoch for r in all_mine) / len(all_mine) if all_mine else None
    return {
        "seeds": {s: str(r) for s, r in mine.items()},
        "reached": sum(r.reached for r in all_mine),
        "of": len(all_mine),
        "mean_epochs": mean,
        "median_epochs": median_reach(all_mine) if all_mine else None,
        "survival": survival(all_mine),
        "budget_share": mean / budget if mean and budget else None,
        "epochs_ratio": _ratio(pairs, lambda r: float(r.epoch)),
        "seconds": {s: r.seconds for s, r in mine.items()},
        "seconds_ratio": _ratio(pairs, lambda r: r.seconds),
        "cpu_seconds": {s: r.cpu_seconds for s, r in mine.items()},
        "cpu_ratio": _ratio(pairs, lambda r: r.cpu_seconds),
        "for_good": _for_good(runs, base, targets, protocol.metric),
    }


def _for_good(runs: Runs, base: Runs, targets: Mapping[int, float], metric: str) -> dict[str, Any]:
    """Epochs until the metric stays at the target to the end: by seed, and as a multiple of the baseline's."""
    mine, theirs = (_reaches(r, targets, metric, for_good=True) for r in (runs, base))
    return {
        "seeds": {s: str(r) for s, r in mine.items()},
        "reached": sum(r.reached for r in mine.values()),
        "epochs_ratio": _ratio([(mine[s], theirs[s]) for s in mine if s in theirs], lambda r: float(r.epoch)),
    }


def _reaches(runs: Runs, targets: Mapping[int, float], metric: str, for_good: bool = False) -> dict[int, Reach]:
    found = {}
    for seed, run in runs.items():
        if seed in targets:
            times = run.columns.get("time", ())
            reach = first_reach(run.curve(metric), targets[seed], times, run.cpu_seconds, for_good)
            if run.diverged and not reach.reached:  # it had its whole budget, and no use for it
                reach = dataclasses.replace(reach, epoch=int(run.identity["args"]["epochs"]))
            found[seed] = reach
    return found


def _ratio(pairs: Sequence[tuple[Reach, Reach]], of: Any) -> dict[str, Any] | None:
    ratio = reach_ratio(pairs, of)
    return None if ratio is None else {**_interval(ratio.interval), "bound": ratio.bound}


def _cost(runs: Runs) -> dict[str, float | None]:
    """Medians over seeds; None where nothing was measured."""

    def median(key: str) -> float | None:
        values = [v for r in runs.values() if (v := r.facts.get(key)) is not None]
        return float(np.median(values)) if values else None

    epochs = [e["train_s"] / e["batches"] for r in runs.values() for e in r.facts.get("epochs", ()) if e.get("batches")]
    state, parameters = median("state_bytes"), median("parameter_bytes")
    return {
        "step_ms": median("step_ms_p50"),
        "step_cpu_ms": median("step_cpu_ms_p50"),
        "iteration_ms": float(np.median(epochs)) * 1e3 if epochs else None,
        "seconds": median("seconds"),
        "cpu_seconds": median("cpu_seconds"),
        "state_bytes": state,
        "state_per_parameter": state / parameters if state is not None and parameters else None,
        "peak_rss_bytes": median("peak_rss_bytes"),
        "cuda_peak_bytes": median("cuda_peak_bytes"),
    }


def _trace(runs: Runs, column: str) -> list[float | None]:
    """Mean over seeds of a column of results.csv, epoch by epoch."""
    columns = [c for r in runs.values() if (c := r.columns.get(column))]
    means = [float(np.nanmean(x)) if np.isfinite(x).any() else None for x in map(np.array, zip(*columns))]  # noqa: B905
    return means if any(m is not None for m in means) else []


def _maps(arms: Sequence[Arm], store: Store, failed: Failed) -> list[dict[str, Any]]:
    """Final metric over each arm's grid, and the share of it near the best."""
    maps: list[dict[str, Any]] = []
    for arm in arms:
        points = []
        for point in arm.points():
            finals = {s: r.final(arm.protocol.metric) for s, r in _runs(arm, store, failed, point).items()}
            points.append({"at": point, "seeds": finals, **_interval(t_interval(list(finals.values())))})
        maps.append({"label": arm.contender.label, "axes": {k: list(v) for k, v in arm.contender.grid.items()},
                     "points": points})  # fmt: skip
    tops = [max(v) for m in maps if (v := [p["value"] for p in m["points"] if p["value"] is not None])]
    for m in maps:
        values = [p["value"] for p in m["points"] if p["value"] is not None]
        m["best"] = max(values, default=None)
        m["missing"] = len(m["points"]) - len(values)
        m["near_own_best"] = share_near_best(values, max(values)) if values else None
        m["near_overall_best"] = share_near_best(values, max(tops)) if values else None
    return maps


def _conditions(records: Sequence[Record]) -> dict[str, Any]:
    """Versions and machines of the runs, and what was not equal among them."""

    def seen(of: Any) -> list[str]:
        return sorted({str(v) for r in records if (v := of(r)) is not None})

    named = {
        "ultralytics": lambda r: r.identity["versions"]["ultralytics"],
        "torch": lambda r: r.identity["versions"]["torch"],
        "optimizer code": lambda r: r.facts.get("code"),
        "processor": lambda r: r.facts.get("machine", {}).get("board"),
        "cuda": lambda r: r.facts.get("machine", {}).get("cuda"),
        "threads": lambda r: r.facts.get("machine", {}).get("threads"),
    }
    values = {k: seen(of) for k, of in named.items()}
    imported = sum("imported_from" in r.facts for r in records)
    warnings = [f"{k} differs between runs: {', '.join(v)}" for k, v in values.items() if len(v) > 1]
    if imported:
        warnings.append(f"{imported} of {len(records)} runs were imported; what they did not record is left empty")
    return {"values": values, "warnings": warnings}
