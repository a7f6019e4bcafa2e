"""The figures of a comparison as the text of tables, which the HTML page and the Markdown file lay out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

RATIOS = ("epochs_ratio", "seconds_ratio", "cpu_ratio")


def metric_name(column: str) -> str:
    """``mAP50-95`` for ``metrics/mAP50-95(B)``."""
    return column.removeprefix("metrics/").removesuffix("(B)")


def view(figures: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The figures as the text of tables, which both templates lay out."""
    return {
        "name": figures["name"],
        "metric": metric,
        "runs": figures["runs"],
        "failures": figures["failures"],
        "warnings": figures["conditions"]["warnings"],
        "conditions": {k: ", ".join(v) for k, v in figures["conditions"]["values"].items() if v},
        "protocol": figures["protocol"],
        "groups": [_group_view(g, metric) for g in figures["groups"]],
    }


def _group_view(group: Mapping[str, Any], metric: str) -> dict[str, Any]:
    arms = group["arms"]
    tables = [_accuracy(group, metric), _speed(group, metric)] if any(a["curve"] for a in arms) else []
    tables += [_tuning(arms, metric), _costs(arms), _maps(group["maps"], metric)]
    return {
        "title": f"{group['data']}, {group['start']}",
        "headline": headline(group),
        "tables": [t for t in tables if t["rows"]],
    }


def headline(group: Mapping[str, Any]) -> list[str]:
    """What a hurried reader should take away, one line an optimizer."""
    lines = []
    for arm in group["arms"]:
        ratio, difference, reach = arm["reach"]["epochs_ratio"], arm["difference"], arm["reach"]
        if arm["label"] == group["baseline"] or ratio is None or difference["value"] is None:
            continue
        target = f"{group['baseline']}'s final accuracy" if group["own_target"] else "the target"
        if not reach["reached"]:
            speed = f"never reached {target} in its {arm['epochs']} epochs"
        elif reach["reached"] < reach["of"]:
            some = f"{reach['reached']} of {reach['of']} seeds"
            speed = f"reached {target} with {some}, in {ratio_text(ratio)} times its epochs"
        else:
            speed = f"reached {target} in {ratio_text(ratio)} times its epochs"
        end = f"ended {abs(difference['value']):.3f} {'higher' if difference['value'] >= 0 else 'lower'}"
        lines.append(f"{'' if _sure(arm) else 'May be chance: '}{arm['label']} {speed} and {end}.")
    return lines


def _sure(arm: Mapping[str, Any]) -> bool:
    """Whether the difference to the baseline is more than chance explains: by a paired t interval, of three or more."""
    low, high = arm["difference"]["t_low"], arm["difference"]["t_high"]
    return low is not None and len(arm["difference"]["seeds"]) >= 3 and (low > 0 or high < 0)


def summary(figures: Mapping[str, Any]) -> str:
    """The comparison in a sentence: who ended how much higher than the baseline, and whether it may be chance."""
    groups = [g for g in figures["groups"] if g["arms"]]
    if len(groups) == 1:
        return (
            " ".join(headline(groups[0])) or f"{groups[0]['arms'][0]['label']} is measured, and nothing beside it yet"
        )
    lines = []
    base = groups[0]["baseline"] if groups else ""
    for label in dict.fromkeys(a["label"] for g in groups for a in g["arms"] if a["label"] != g["baseline"]):
        arms = [a for g in groups for a in g["arms"] if a["label"] == label and a["difference"]["value"] is not None]
        higher = sum(a["difference"]["value"] > 0 for a in arms)
        sure = sum(a["difference"]["value"] > 0 and _sure(a) for a in arms)
        lines.append(
            f"{label} ended higher than {base} in {higher} of {len(arms)} comparisons, in {sure} by more than chance."
        )
    return " ".join(lines) or "nothing can be compared yet"


def winner(figures: Mapping[str, Any]) -> str:
    """The arguments of ``yolo train`` of what ended highest in the first comparison; empty without one."""
    arms = [a for g in figures["groups"][:1] for a in g["arms"] if a["final"]["value"] is not None]
    if not arms:
        return ""
    best = max(arms, key=lambda a: a["final"]["value"])
    chosen = {**best["settings"], **((best["tuning"] or {}).get("chosen") or {})}
    return shlex.join([f"optimizer={best['optimizer']}", *(f"{key}={value}" for key, value in chosen.items())])


def _table(title: str, note: str, head: list[str], rows: list[list[str]]) -> dict[str, Any]:
    return {"title": title, "note": note, "head": head, "rows": rows}


def _accuracy(group: Mapping[str, Any], metric: str) -> dict[str, Any]:
    rows, base = [], group["baseline"]
    for a in group["arms"]:
        remarks = [f"{a['missing']} missing"] * bool(a["missing"]) + [f"{a['diverged']} diverged"] * bool(a["diverged"])
        rows.append(
            [
                a["label"],
                _settings(a),
                str(a["epochs"]),
                ", ".join([str(len(a["seeds"])), *remarks]),
                interval_text(a["final"], 3),
                number_text(a["best"]["value"], 3),
                "" if a["label"] == base else interval_text(a["difference"], 3, sign=True),
            ]
        )
    note = (
        "Mean and 95 % t interval over seeds, after the last epoch; best: mean of each run's best epoch. Differences "
        "are paired by seed, with a 95 % bootstrap interval, which is too narrow for three seeds or fewer; what may be "
        "chance is judged by the paired t interval in report.json. A run that diverged counts as 0."
    )
    head = ["optimizer", "settings", "epochs", "seeds", f"final {metric}", "best", f"final - {base}"]
    return _table("Final accuracy", note, head, rows)


def _speed(group: Mapping[str, Any], metric: str) -> dict[str, Any]:
    rows, base = [], group["baseline"]
    for a in group["arms"]:
        reach = a["reach"]
        if reach["of"]:
            rows.append(
                [
                    a["label"],
                    ", ".join(reach["seeds"].values()),
                    number_text(reach["mean_epochs"], 1),
                    number_text(reach["median_epochs"], 1) or "not reached",
                    _percent(reach["budget_share"]),
                    *("1" if a["label"] == base and reach[k] else ratio_text(reach[k]) for k in RATIOS),
                ]
            )
    targets = ", ".join(dict.fromkeys(f"{t:.4f}" for t in group["targets"].values()))
    whose = f"{base}'s own final {metric} of the same seed" if group["own_target"] else "set by the protocol"
    note = (
        f"Target: {targets} ({whose}). >30: not reached in 30 epochs; such a run enters the mean with its whole "
        "budget, and a ratio is then a bound (≥). The median is Kaplan and Meier's. Ratios: mean over mean, with a "
        "95 % bootstrap interval over pairs of the same seed. Time is the clock's, validation included, and suffers "
        "from whatever else the machine was doing; CPU time less so."
    )
    head = ["optimizer", "epochs to target", "mean", "median", f"mean / {base}'s budget", f"epochs / {base}",
            f"time / {base}", f"CPU time / {base}"]  # fmt: skip
    return _table("Speed", note, head, rows)


def _settings(arm: Mapping[str, Any]) -> str:
    chosen = (arm["tuning"] or {}).get("chosen") or {}
    text = [f"{k}={v}" for k, v in arm["settings"].items()] + [f"{k}={v} (tuned)" for k, v in chosen.items()]
    if arm["picked"]:
        picked = arm["picked"]
        text.append(f"picked {picked['optimizer']}, " + ", ".join(f"{k}={picked[k]:g}" for k in ("lr0", "momentum")))
    return ", ".join(text) or "defaults"


def _tuning(arms: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    rows = []
    for a in arms:
        t = a["tuning"]
        if t is None:
            continue
        trials = "; ".join(
            ", ".join(f"{k}={v}" for k, v in x.items() if k != "value")
            + f": {'failed' if x['value'] is None else format(x['value'], '.3f')}"
            for x in t["trials"]
        )
        edge = f"{', '.join(t['at_the_edge'])} at the edge of the search" if t["at_the_edge"] else ""
        chosen = ", ".join(f"{k}={v}" for k, v in (t["chosen"] or {}).items()) or f"{t['missing']} trials missing"
        rows.append([a["label"], trials, chosen, edge])
    note = f"Final {metric} of each trial, on a seed of its own that no evaluation uses; the same number for each."
    return _table("Tuning", note, ["optimizer", "trials", "chosen", "remark"], rows)


def _costs(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for a in arms:
        c = a["cost"]
        cells = [
            number_text(c["step_ms"], 2),
            number_text(c["step_cpu_ms"], 2),
            number_text(c["iteration_ms"], 0),
            number_text(c["state_bytes"], 2, 2**20),
            number_text(c["state_per_parameter"], 2),
            number_text(c["peak_rss_bytes"], 2, 2**30),
            number_text(c["cuda_peak_bytes"], 2, 2**30),
            number_text(c["seconds"], 1, 60),
        ]
        if any(cells):
            rows.append([a["label"], *cells])
    head = ["optimizer", "step, ms", "step, CPU ms", "iteration, ms", "state, MiB", "state / parameters",
            "peak RSS, GiB", "peak GPU, GiB", "run, min"]  # fmt: skip
    note = (
        "Medians over seeds. step: optimizer.step() alone; iteration: a whole training step with data loading. Times "
        "are comparable only where the machine was equally busy; `yolo-musgd steptime` measures steps side by side."
    )
    return _table("Time and memory", note, head, rows)


def _maps(maps: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    rows = []
    for m in maps:
        finite = [p for p in m["points"] if p["value"] is not None]
        top = max(finite, key=lambda p: p["value"]) if finite else None
        at = ", ".join(f"{k}={v}" for k, v in top["at"].items()) if top else ""
        rows.append(
            [m["label"], " x ".join(f"{k} ({len(v)})" for k, v in m["axes"].items()), number_text(m["best"], 3), at,
             _percent(m["near_own_best"]), _percent(m["near_overall_best"]), str(m["missing"] or "")]
        )  # fmt: skip
    note = f"Share of the grid points whose final {metric} is at least 90 % of the best; missing points are left out."
    head = ["optimizer", "grid", "best", "at", "near its own best", "near the best of all", "missing"]
    return _table("Sensitivity", note, head, rows)


def number_text(value: float | None, digits: int, unit: float = 1.0) -> str:
    """A figure in units of ``unit``; empty where nothing was measured."""
    return "" if value is None else f"{value / unit:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def interval_text(x: Mapping[str, Any], digits: int, sign: bool = False) -> str:
    """An estimate with its interval, where it has one."""
    form = f"{'+' if sign else ''}.{digits}f"
    if x["value"] is None:
        return ""
    text = format(x["value"], form)
    return text if x["low"] is None else f"{text} [{format(x['low'], form)}, {format(x['high'], form)}]"


def ratio_text(x: Mapping[str, Any] | None) -> str:
    """A ratio of times with its interval, and ≥ or ≤ where it is a bound."""
    if x is None or x["value"] is None:
        return ""
    bound = {">=": "≥ ", "<=": "≤ ", "~": "~ "}.get(x["bound"], "")
    return bound + interval_text(x, 2)
