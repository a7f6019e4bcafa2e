"""Pictures of a comparison over several data sets, each readable on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolo_musgd.lab.comparison_plots import draw_curves
from yolo_musgd.tables import INK, plot_style, plot_text

COLUMNS = 4


def plot_all_curves(groups: Sequence[Mapping[str, Any]], colour: Mapping[str, str], metric: str) -> Figure:
    """Metric over epochs, a panel a data set: the optimizers' curves and the baseline's final figure.

    Args:
        groups: the figures of each data set, of one start.
        colour: of the optimizers that are shown.
        metric: its name.
    """
    with plot_style():
        columns = min(COLUMNS, len(groups))
        rows = -(-len(groups) // columns)
        figure = Figure(figsize=(1.2 + 2.6 * columns, 0.6 + 2.7 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, group in zip(panels, groups, strict=False):
            for arm in group["arms"]:
                if arm["label"] in colour:
                    draw_curves(axis, arm, colour[arm["label"]], arm["label"])
            if group["target_mean"] is not None:
                axis.axhline(group["target_mean"], color=INK, lw=1, ls=":")
            axis.set_title(plot_text(group["data"]))
            axis.set_xlabel("epoch")
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.grid(alpha=0.25)
        for axis in panels[len(groups) :]:
            axis.remove()
        named = {text: h for a in figure.axes for h, text in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=COLUMNS)
        figure.supylabel(f"{plot_text(metric)} on the validation split", fontsize=10)
        return figure


def plot_profile(summary: Mapping[str, Any], colour: Mapping[str, str]) -> Figure | None:
    """Performance profile: share of the data sets on which each needs at most tau times the epochs of the fastest."""
    last = max((tau for arm in summary["arms"] for tau, _ in arm["profile"]), default=1.0)
    if not any(share for arm in summary["arms"] for _, share in arm["profile"]):
        return None
    with plot_style():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axis = figure.subplots()
        end = max(1.1 * last, 1.5)
        for arm in summary["arms"]:
            taus, shares = zip(*arm["profile"], strict=True)
            style: dict[str, Any] = {"color": colour[arm["label"]], "label": plot_text(arm["label"])}
            axis.step([*taus, end], [*shares, shares[-1]], where="post", lw=2.2, alpha=0.85, **style)
        axis.set_xlim(1, end)
        axis.set_ylim(-0.03, 1.05)
        axis.set_xlabel("tau: epochs to the target, as a multiple of the fastest optimizer's on the same data set")
        axis.set_ylabel("share of the data sets")
        axis.set_title(
            plot_text(f"How often is it nearly the fastest? (target: {summary['baseline']}'s final accuracy)")
        )
        axis.legend(loc="lower right", fontsize=9)
        axis.grid(alpha=0.25)
        return figure


def plot_sets(summary: Mapping[str, Any], colour: Mapping[str, str], metric: str) -> Figure:
    """Final metric on each data set: a row a set, a dot an optimizer."""
    with plot_style():
        names = list(reversed(summary["sets"]))
        figure = Figure(figsize=(7.2, 1.5 + 0.45 * len(names)), layout="constrained")
        axis = figure.subplots()
        for arm in summary["arms"]:
            style: dict[str, Any] = {"color": colour[arm["label"]], "label": plot_text(arm["label"])}
            axis.plot([arm["finals"][n] for n in names], range(len(names)), "o", ms=8, alpha=0.85, **style)
        axis.set_yticks(range(len(names)), [plot_text(n) for n in names])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlabel(plot_text(f"final {metric}, mean of the seeds (right: better)"))
        axis.set_title("Final accuracy on each data set")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=4, fontsize=9)
        axis.grid(alpha=0.25)
        return figure
