"""The figures over several data sets as text and pictures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from yolo_musgd.lab import over_sets_plots
from yolo_musgd.lab.comparison_plots import colours
from yolo_musgd.lab.comparison_tables import interval_text, number_text, ratio_text

Summary = Mapping[str, Any]


def view(summary: Summary, metric: str) -> dict[str, Any]:
    """Title, headline and table of one summary, as the templates lay them out."""
    title = f"Over {len(summary['sets'])} data sets, {summary['start']}"
    return {"title": title, "headline": headline(summary), "tables": [_table(summary, metric)]}


def headline(summary: Summary) -> list[str]:
    """What a hurried reader should take away, one line an optimizer."""
    lines, base, count = [], summary["baseline"], len(summary["sets"])
    for arm in summary["arms"]:
        difference, ratio = arm["difference"], arm["epochs_ratio"]
        if arm["label"] == base or difference is None:
            continue
        value, low, high = difference["value"], difference["low"], difference["high"]
        sure = low is not None and (low > 0 or high < 0)
        line = (
            f"{arm['label']} ended {abs(value):.3f} {'higher' if value >= 0 else 'lower'} than {base} on average over "
            f"{count} data sets ({'' if sure else 'which may be chance, '}95 % interval {low:+.3f} to {high:+.3f})"
        )
        if ratio is not None:
            line += f", and reached {base}'s final accuracy in {ratio_text(ratio)} times its epochs"
        worst = arm["worst"]
        if worst["value"] < 0:
            line += f"; it was worst on {worst['data']}, where it ended {-worst['value']:.3f} lower"
        lines.append(f"{line}.")
    if summary["left_out"]:
        lines.append(f"Not on every data set yet, so not counted here: {', '.join(summary['left_out'])}.")
    return lines


def _table(summary: Summary, metric: str) -> dict[str, Any]:
    rows, base = [], summary["baseline"]
    for a in summary["arms"]:
        is_base = a["label"] == base
        rows.append(
            [
                a["label"],
                "searched" if a["searched"] else "none",
                *(number_text(v, 3) for v in a["finals"].values()),
                number_text(a["mean_rank"], 2),
                f"{a['wins']} of {len(summary['sets'])}",
                "" if is_base or a["difference"] is None else interval_text(a["difference"], 3, sign=True),
                "1" if is_base else ratio_text(a["epochs_ratio"]),
                "1" if is_base else ratio_text(a["epochs_ratio_for_good"]),
            ]
        )
    note = (
        f"Mean final {metric} over seeds on each data set. Rank 1 is the highest; wins counts the sets where it is. "
        f"Differences from {base} are the mean over sets, with a 95 % interval from a bootstrap over sets and, within "
        f"each, seeds. Epochs: to {base}'s own final accuracy, geometric mean over sets of the ratio to its epochs, "
        "at first touch and until the curve stays there; ≥ where some run never got there."
    )
    head = ["optimizer", "search", *summary["sets"], "mean rank", "wins", f"final - {base}", f"epochs / {base}",
            "for good"]  # fmt: skip
    return {"title": "Over the data sets", "note": note, "head": head, "rows": rows}


def draw(summary: Summary, groups: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Figure]:
    """Name -> picture, of a summary and the figures of each data set and start."""
    colour = colours([a["label"] for a in summary["arms"]], summary["baseline"])
    sets = [g for g in groups if g["start"] == summary["start"]]
    found = {
        "curves": over_sets_plots.plot_all_curves(sets, colour, metric),
        "profile": over_sets_plots.plot_profile(summary, colour),
        "sets": over_sets_plots.plot_sets(summary, colour, metric),
    }
    return {k: f for k, f in found.items() if f is not None}
