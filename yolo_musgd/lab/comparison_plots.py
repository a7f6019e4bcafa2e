"""Pictures of a comparison, each readable on its own: what is shown, in which unit, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from yolo_musgd.tables import GREY, INK, PALETTE, plot_style, plot_text, whole_numbers


def colours(labels: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each optimizer, the same in every picture; the baseline is grey."""
    others = [x for x in labels if x != baseline]
    return {baseline: GREY} | {x: PALETTE[i % len(PALETTE)] for i, x in enumerate(others)}


def plot_curves(group: Mapping[str, Any], colour: Mapping[str, str], metric: str) -> Figure:
    """Metric over epochs: the median of the seeds, each seed as a thin line, and the target."""
    with plot_style():
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axis = figure.subplots()
        for arm in group["arms"]:
            seeds = len(arm["curves"])
            draw_curves(axis, arm, colour[arm["label"]], f"{arm['label']} ({seeds} seed{'s' * (seeds > 1)})")
        if group["target_mean"] is not None:
            axis.axhline(group["target_mean"], color=INK, lw=1, ls=":")
            axis.annotate(
                f"target {group['target_mean']:.3f}", (0.01, group["target_mean"]), xycoords=("axes fraction", "data"),
                xytext=(0, 3), textcoords="offset points", fontsize=9,
            )  # fmt: skip
        axis.set_xlabel("epoch")
        whole_numbers(axis.xaxis)
        axis.set_ylabel(f"{plot_text(metric)} on the validation split")
        top = max(max(c) for a in group["arms"] for c in a["curves"].values())
        axis.set_ylim(0, max(1.15 * top, 1e-3))
        axis.set_title("How accuracy grows (thick: median of the seeds, thin: each seed)")
        figure.legend(loc="outside lower center", ncols=3)
        axis.grid(alpha=0.25)
        axis.margins(x=0.01)
        return figure


def draw_curves(axis: Axes, arm: Mapping[str, Any], colour: str, name: str) -> None:
    """One optimizer's curves: each seed thin, their median thick and named; nothing without a finished run."""
    curves = list(arm["curves"].values())
    if not curves:
        return
    length = min(map(len, curves))
    style: dict[str, Any] = {"color": colour, "marker": _marker(length)}
    for curve in curves if len(curves) > 1 else ():
        axis.plot(np.arange(1, len(curve) + 1), curve, lw=0.7, alpha=0.45, **style)
    median = np.median([c[:length] for c in curves], axis=0)
    axis.plot(np.arange(1, length + 1), median, lw=2.2, label=plot_text(name), **style)


def _marker(points: int) -> str | None:
    """A dot where there are too few points for a line to be seen."""
    return "." if points < 3 else None


def plot_reach(group: Mapping[str, Any], colour: Mapping[str, str]) -> Figure | None:
    """Epochs to the target: a dot for each seed, an arrow where the run ended before it."""
    arms = [a for a in group["arms"] if a["reach"]["of"]]
    if not arms:
        return None
    with plot_style():
        figure = Figure(figsize=(7.2, 1.1 + 0.5 * len(arms)), layout="constrained")
        axis = figure.subplots()
        for y, arm in enumerate(reversed(arms)):
            axis.barh(y, arm["epochs"], color=GREY, alpha=0.12, height=0.62, zorder=0)
            texts = list(arm["reach"]["seeds"].values())
            for i, text in enumerate(texts):
                late = text.startswith(">")
                at, dy = int(text.lstrip(">")), (i - (len(texts) - 1) / 2) * min(0.16, 0.5 / len(texts))
                style: dict[str, Any] = {"marker": ">", "mfc": "none"} if late else {"marker": "o"}
                axis.plot(at, y + dy, ms=7, color=colour[arm["label"]], zorder=3, clip_on=False, **style)
            mean = arm["reach"]["mean_epochs"]
            axis.plot([mean, mean], [y - 0.31, y + 0.31], color=colour[arm["label"]], lw=2.5, alpha=0.6, zorder=2)
        axis.set_yticks(range(len(arms)), [plot_text(a["label"]) for a in reversed(arms)])
        axis.set_xlim(0)
        axis.set_xlabel("epoch (grey bar: the epochs that were trained)")
        whole_numbers(axis.xaxis)
        axis.set_title("When each seed first reached the target (bar: mean; hollow arrow: it never did)")
        return figure


def plot_difference(group: Mapping[str, Any], colour: Mapping[str, str], metric: str) -> Figure | None:
    """Final metric against the baseline's of the same seed."""
    arms = [a for a in group["arms"] if a["difference"]["seeds"] and a["label"] != group["baseline"]]
    if not arms:
        return None
    with plot_style():
        figure = Figure(figsize=(7.2, 1.1 + 0.45 * len(arms)), layout="constrained")
        axis = figure.subplots()
        axis.axvline(0, color=GREY, lw=1.2)
        for y, arm in enumerate(reversed(arms)):
            d, c = arm["difference"], colour[arm["label"]]
            if d["low"] is not None:
                axis.plot([d["low"], d["high"]], [y, y], color=c, lw=6, alpha=0.3, solid_capstyle="butt")
            axis.plot(list(d["seeds"].values()), [y] * len(d["seeds"]), "o", color=c, ms=4, alpha=0.6)
            axis.plot(d["value"], y, "D", color=c, ms=8)
        axis.set_yticks(range(len(arms)), [plot_text(a["label"]) for a in reversed(arms)])
        axis.set_ylim(-0.6, len(arms) - 0.4)
        axis.set_xlabel(
            plot_text(f"final {metric} minus that of {group['baseline']} with the same seed (right: better)")
        )
        axis.set_title("Final accuracy (diamond: mean, dots: seeds, band: 95 % bootstrap)")
        axis.grid(axis="x", alpha=0.25)
        return figure


def plot_traces(group: Mapping[str, Any], colour: Mapping[str, str]) -> Figure | None:
    """Gradient norm and beta_t over epochs, mean of the seeds."""
    traced = [a for a in group["arms"] if a["traces"].get("optim/grad_norm")]
    if not traced:
        return None
    moved = [a for a in traced if a["traces"].get("optim/beta_t")]
    with plot_style():
        figure = Figure(figsize=(7.2, 5.4 if moved else 3.2), layout="constrained")
        axes = figure.subplots(2 if moved else 1, 1, sharex=True, squeeze=False)[:, 0]
        for arm in traced:
            values = _floats(arm["traces"]["optim/grad_norm"])
            style: dict[str, Any] = {"color": colour[arm["label"]], "lw": 1.8, "marker": _marker(len(values))}
            axes[0].plot(np.arange(1, len(values) + 1), values, label=plot_text(arm["label"]), **style)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes[0].set_ylabel("gradient norm")
        axes[0].set_title("Gradient norm before clipping (median of each epoch's steps)")
        axes[0].legend(fontsize=9)
        for arm in moved:
            t = {k.rsplit("/", 1)[-1]: _floats(v) for k, v in arm["traces"].items()}
            x = np.arange(1, len(t["beta_t"]) + 1)
            style = {"color": colour[arm["label"]], "lw": 1.8, "marker": _marker(len(x))}
            axes[1].plot(x, t["beta_t"], label=plot_text(arm["label"]), **style)
            if "beta_t_p10" in t and "beta_t_p90" in t:
                axes[1].fill_between(x, t["beta_t_p10"], t["beta_t_p90"], color=colour[arm["label"]], alpha=0.18, lw=0)
        if moved:
            axes[1].set_ylim(0, 1)
            axes[1].set_ylabel(r"momentum $\beta_t$")
            axes[1].set_title("Momentum (line: mean over the tensors, band: 10th to 90th percentile)")
        axes[-1].set_xlabel("epoch")
        whole_numbers(axes[-1].xaxis)
        for axis in axes:
            axis.grid(alpha=0.25)
        return figure


def _floats(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def plot_costs(group: Mapping[str, Any], colour: Mapping[str, str]) -> Figure | None:
    """Time of a step, optimizer state and peak memory, as far as they were measured."""
    panels = [
        ("step_ms", 1.0, "optimizer step, ms"),
        ("iteration_ms", 1.0, "whole iteration, ms"),
        ("state_bytes", 2.0**-20, "optimizer state, MiB"),
        ("peak_rss_bytes", 2.0**-30, "peak memory of the process, GiB"),
        ("cuda_peak_bytes", 2.0**-30, "peak GPU memory, GiB"),
    ]
    arms = list(reversed(group["arms"]))
    panels = [p for p in panels if any(a["cost"][p[0]] is not None for a in arms)]
    if not panels:
        return None
    with plot_style():
        height = 0.55 + 0.28 * len(arms)
        figure = Figure(figsize=(7.2, height * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axis, (key, scale, title) in zip(axes, panels, strict=True):
            values = [np.nan if a["cost"][key] is None else a["cost"][key] * scale for a in arms]
            bars = axis.barh(
                [plot_text(a["label"]) for a in arms], values, color=[colour[a["label"]] for a in arms], height=0.65
            )
            axis.bar_label(bars, [_short(v) for v in values], padding=4)
            axis.set_title(title)
            axis.set_xticks([])
            axis.spines["bottom"].set_visible(False)
            axis.margins(x=0.12)
        return figure


def _short(value: float) -> str:
    if not np.isfinite(value):
        return "not measured"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot_map(found: Mapping[str, Any], metric: str, best: float) -> Figure | None:
    """Final metric over a grid: a line for one setting, a table of colours for two."""
    axes = list(found["axes"].items())
    values = {tuple(p["at"].values()): p["value"] for p in found["points"]}
    if all(v is None for v in values.values()):
        return None
    with plot_style():
        rows = axes[1][1] if len(axes) > 1 else [None]
        figure = Figure(figsize=(7.2, 1.6 + 0.5 * len(rows)), layout="constrained")
        axis = figure.subplots()
        table = _floats([values[(x,) if y is None else (x, y)] for y in rows for x in axes[0][1]])
        table = table.reshape(len(rows), len(axes[0][1]))
        axis.imshow(table, cmap="viridis", vmin=0, vmax=best, aspect="auto", origin="lower")
        for (i, j), v in np.ndenumerate(table):
            known = np.isfinite(v)
            axis.text(
                j, i, f"{v:.3f}" if known else "missing", ha="center", va="center", fontsize=9,
                weight="bold" if known and v >= 0.9 * best else "normal",
                color=GREY if not known else "black" if v > 0.6 * best else "white",
            )  # fmt: skip
        axis.set_xticks(
            range(len(axes[0][1])), [f"{x:g}" if isinstance(x, float) else plot_text(x) for x in axes[0][1]]
        )
        axis.set_xlabel(plot_text(axes[0][0]))
        if len(axes) > 1:
            axis.set_yticks(range(len(rows)), [plot_text(y) for y in rows])
            axis.set_ylabel(plot_text(axes[1][0]))
        else:
            axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set_title(
            plot_text(f"{found['label']}: final {metric} (bold: within 90 % of the best of all, {best:.3f})")
        )
        return figure
