"""Pictures of the optimizer's record."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.tables import plot_text, write_png
from yolo_musgd.train.records import ENTROPY_FILE, LAYERS_FILE, STEPS_FILE, read_steps, read_values

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9730d", "#8a8f98"
MAX_POINTS = 1500  # more than a picture of this width can show


def medians(values: Any, bins: Any) -> Any:
    """Median of the values in each bin, NaN where a bin has none."""
    out = np.full(len(bins) - 1, np.nan)
    for i, (a, b) in enumerate(pairwise(bins)):
        seen = values[a:b][np.isfinite(values[a:b])]
        if seen.size:
            out[i] = np.median(seen)
    return out


def plot_steps(folder: Path, optimizer: str) -> Path | None:
    """Draw optimizer.png: gradient norms on a log axis and beta_t, over steps, with the epochs marked.

    Args:
        folder: run folder with the step file.
        optimizer: name for the title.

    Returns:
        the picture's path, or None without any recorded step.
    """
    steps = read_steps(folder / STEPS_FILE)
    if not steps:
        return None
    from matplotlib.figure import Figure

    n = len(steps["step"])
    bins = np.linspace(0, n, min(n, MAX_POINTS) + 1).astype(int)
    x = steps["step"][bins[:-1]]
    has_beta = bool(np.isfinite(steps["beta_t"]).any())
    figure = Figure(figsize=(10, 6.5 if has_beta else 3.8), layout="constrained")
    axes = figure.subplots(2 if has_beta else 1, 1, sharex=True, squeeze=False)[:, 0]

    top = axes[0]
    norms = [medians(steps[c], bins) for c in ("grad_norm", "grad_norm_clipped")]
    raw, clipped = (np.where(n > 0, n, np.nan) for n in norms)  # a log axis has no zero
    if not np.isfinite(raw).any():
        top.text(0.5, 0.5, "no step had a finite gradient", transform=top.transAxes, ha="center", color=_GREY)
    top.plot(x, raw, color=_BLUE, lw=1.2, label="raw")
    top.plot(x, clipped, color=_ORANGE, lw=1.2, ls="--", label="after clipping (what the optimizer sees)")
    top.set_yscale("log")
    top.set_ylabel("gradient norm, all parameters")
    top.legend(loc="upper right", frameon=False)
    skipped = int(np.nanmax(steps["skipped_steps"]))
    title = f"{plot_text(optimizer)}: {n} steps, {int(steps['epoch'].max())} epochs"
    top.set_title(title + (f", {skipped} steps skipped (non-finite gradient)" if skipped else ""), loc="left", pad=18)

    if has_beta:
        low = axes[1]
        low.fill_between(
            x, medians(steps["beta_t_min"], bins), medians(steps["beta_t_max"], bins), color=_BLUE, alpha=0.12, lw=0,
            label="min to max over tensors",
        )  # fmt: skip
        low.fill_between(
            x, medians(steps["beta_t_p10"], bins), medians(steps["beta_t_p90"], bins), color=_BLUE, alpha=0.3, lw=0,
            label="10th to 90th percentile",
        )  # fmt: skip
        low.plot(x, medians(steps["beta_t"], bins), color=_BLUE, lw=1.4, label="mean")
        low.set_ylim(0, 1)
        low.set_ylabel(r"momentum $\beta_t$")
        low.legend(loc="lower right", frameon=False, ncols=3)
    _mark_epochs(axes, steps)
    axes[-1].set_xlabel("optimizer step")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    file = folder / "optimizer.png"
    write_png(figure, file, dpi=150)
    return file


def _mark_epochs(axes: Any, steps: dict[str, Any]) -> None:
    """Thin lines where epochs begin, at most a dozen of them, named on the upper axis."""
    epochs, first = np.unique(steps["epoch"], return_index=True)
    every = max(1, int(np.ceil(len(epochs) / 12)))
    chosen = [(int(e), float(steps["step"][i])) for e, i in zip(epochs, first, strict=True) if (e - 1) % every == 0]
    for axis in axes:
        for _, step in chosen:
            axis.axvline(step, color=_GREY, lw=0.6, alpha=0.5, zorder=0)
    for epoch, step in chosen:
        axes[0].annotate(
            f"epoch {epoch}" if epoch == chosen[0][0] else str(epoch), (step, 1.0), xycoords=("data", "axes fraction"),
            fontsize=8, color=_GREY, xytext=(0, 3), textcoords="offset points",
        )  # fmt: skip


def plot_layers(folder: Path, count: int = 25) -> Path | None:
    """Draw optimizer_layers.png: the parameter tensors with the lowest beta_t, averaged over the run."""
    layers = read_values(folder / LAYERS_FILE)
    if not layers:
        return None
    from matplotlib.figure import Figure

    values = {name: list(epochs.values()) for name, epochs in layers.items()}
    lowest = sorted(values, key=lambda k: float(np.mean(values[k])))[:count]
    figure = Figure(figsize=(10, 1.4 + 0.24 * len(lowest)), layout="constrained")
    axis = figure.subplots()
    y = np.arange(len(lowest))[::-1]
    means = [float(np.mean(values[k])) for k in lowest]
    axis.hlines(y, [min(values[k]) for k in lowest], [max(values[k]) for k in lowest], color=_BLUE, alpha=0.35, lw=5)
    axis.plot(means, y, "o", color=_BLUE, ms=5)
    axis.set_yticks(y, [plot_text(name) for name in lowest], fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_xlabel(r"$\beta_t$: mean over the run (dot), lowest to highest epoch (bar)")
    axis.set_title(f"The {len(lowest)} parameter tensors with the lowest momentum", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    file = folder / "optimizer_layers.png"
    write_png(figure, file, dpi=150)
    return file


def plot_entropy(folder: Path, count: int = 8) -> Path | None:
    """Draw optimizer_entropy.png: singular-value entropy of the weights over epochs.

    All recorded layers are drawn; the ``count`` that changed most are named.
    """
    layers = read_values(folder / ENTROPY_FILE)
    if not layers:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    change = {name: max(e.values()) - min(e.values()) for name, e in layers.items()}
    named = sorted(change, key=change.__getitem__, reverse=True)[:count]
    for name, epochs in layers.items():
        order = sorted(epochs)
        values = [epochs[e] for e in order]
        marker = "." if len(order) < 3 else None
        if name in named:
            axis.plot(
                order, values, color=f"C{named.index(name)}", lw=1.8, zorder=2, label=plot_text(name), marker=marker
            )
        else:
            axis.plot(order, values, color="#c9ccd1", lw=0.8, zorder=1, marker=marker)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("singular-value entropy of the weights\n1: all directions alike, 0: rank one")
    axis.set_title(f"{len(layers)} layers; named: those that changed most", loc="left")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    file = folder / "optimizer_entropy.png"
    write_png(figure, file, dpi=150)
    return file
