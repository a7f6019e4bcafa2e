"""Pictures of the optimizer's record."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.tables import BLUE, GREEN, GREY, LIGHT, ORANGE, PALETTE, plot_style, plot_text, whole_numbers, write_png
from yolo_musgd.train.records import ENTROPY_FILE, LAYERS_FILE, STEPS_FILE, read_steps, read_values

PICTURE = "optimizer.png"
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
    """Draw optimizer.png over steps: gradient norms, and where the optimizer has them beta_t and Muon's update RMS.

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

    panels = [_draw_norms]
    panels += [_draw_beta] * bool(np.isfinite(steps["beta_t"]).any())
    panels += [_draw_update] * bool(np.isfinite(steps.get("update_rms", np.nan)).any())  # older files have none
    n = len(steps["step"])
    bins = np.linspace(0, n, min(n, MAX_POINTS) + 1).astype(int)
    with plot_style():
        heights = [1.3, 1.0, 0.7][: len(panels)]
        figure = Figure(figsize=(10, 1.2 + 2.1 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, draw in zip(axes, panels, strict=True):
            draw(axis, steps, bins)
            axis.margins(x=0)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, borderaxespad=0.2)
        epochs = int(steps["epoch"].max())
        title = f"{optimizer}: {n} step{'s' * (n != 1)}, {epochs} epoch{'s' * (epochs != 1)}"
        figure.suptitle("\n".join(map(plot_text, [title, *findings(steps)])), x=0.01, ha="left", fontsize=11)
        _mark_epochs(axes, steps)
        axes[-1].set_xlabel("optimizer step (thin lines: epochs)")
        whole_numbers(axes[-1].xaxis)
        return write_png(figure, folder / PICTURE, dpi=150)


def _draw_norms(axis: Any, steps: dict[str, Any], bins: Any) -> None:
    x = steps["step"][bins[:-1]]
    norms = [medians(steps[c], bins) for c in ("grad_norm", "grad_norm_clipped")]
    raw, clipped = (np.where(n > 0, n, np.nan) for n in norms)  # a log axis has no zero
    if not np.isfinite(raw).any():
        axis.text(0.5, 0.5, "no step had a finite gradient", transform=axis.transAxes, ha="center", color=GREY)
    axis.plot(x, raw, color=BLUE, lw=1.2, label="before clipping")
    axis.plot(x, clipped, color=ORANGE, lw=1.2, ls="--", label="after clipping: what the optimizer sees")
    axis.set_yscale("log")
    axis.set_ylabel("gradient norm,\nall parameters")


def _draw_beta(axis: Any, steps: dict[str, Any], bins: Any) -> None:
    x = steps["step"][bins[:-1]]
    for low, high, alpha, label in (
        ("beta_t_min", "beta_t_max", 0.12, "lowest to highest tensor"),
        ("beta_t_p10", "beta_t_p90", 0.35, "10th to 90th percentile of the tensors"),
    ):
        band = medians(steps[low], bins), medians(steps[high], bins)
        axis.fill_between(x, *band, color=BLUE, alpha=alpha, lw=0, label=label)
    axis.plot(x, medians(steps["beta_t"], bins), color=BLUE, lw=1.4, label="mean")
    axis.set_ylim(0, 1)
    axis.set_ylabel(r"momentum $\beta_t$")


def _draw_update(axis: Any, steps: dict[str, Any], bins: Any) -> None:
    axis.plot(steps["step"][bins[:-1]], medians(steps["update_rms"], bins), color=GREEN, lw=1.2)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("RMS of the\nfilters' step")


def _short(value: float) -> str:
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def findings(steps: dict[str, Any]) -> list[str]:
    """What the curves say, a clause each: how the gradient fell, how much was clipped, what beta_t did."""
    lines = []
    norm, clipped = steps["grad_norm"], steps["grad_norm_clipped"]
    seen = norm[np.isfinite(norm)]
    if seen.size:
        part = max(1, len(seen) // 20)  # a twentieth at either end
        share = float(np.mean(clipped[np.isfinite(norm)] < 0.999 * seen))
        first, last = _short(np.median(seen[:part])), _short(np.median(seen[-part:]))
        lines.append(f"gradient norm {first} at the start, {last} at the end, clipped in {share:.0%} of the steps")
    if np.isfinite(steps["beta_t"]).any():
        lines.append(
            f"momentum {np.nanmean(steps['beta_t']):.3f} in the mean, {np.nanmin(steps['beta_t_min']):.2f} at the least"
        )
    counts = np.nan_to_num(steps["skipped_steps"])
    skipped = int(counts[-1] + counts[:-1][np.diff(counts) < 0].sum())  # a resumed run counts from 0 again
    if skipped:
        lines.append(f"{skipped} step{'s' * (skipped != 1)} skipped (non-finite gradient)")
    return lines


def _mark_epochs(axes: Any, steps: dict[str, Any]) -> None:
    """Thin lines where epochs begin, at most a dozen of them, named on the upper axis."""
    epochs, first = np.unique(steps["epoch"], return_index=True)
    every = max(1, int(np.ceil(len(epochs) / 12)))
    chosen = [(int(e), float(steps["step"][i])) for e, i in zip(epochs, first, strict=True) if (e - 1) % every == 0]
    for axis in axes:
        for _, step in chosen:
            axis.axvline(step, color=GREY, lw=0.6, alpha=0.5, zorder=0)
    for epoch, step in chosen:
        axes[-1].annotate(
            f"epoch {epoch}" if epoch == chosen[0][0] else str(epoch), (step, 1.0), xycoords=("data", "axes fraction"),
            fontsize=7, color=GREY, xytext=(2, -8), textcoords="offset points",
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
    axis.hlines(y, [min(values[k]) for k in lowest], [max(values[k]) for k in lowest], color=BLUE, alpha=0.35, lw=5)
    axis.plot(means, y, "o", color=BLUE, ms=5)
    axis.set_yticks(y, [plot_text(name) for name in lowest], fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_xlabel(r"$\beta_t$: mean over the run (dot), lowest to highest epoch (bar)")
    axis.set_title(f"The {len(lowest)} parameter tensors with the lowest momentum")
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
                order,
                values,
                color=PALETTE[named.index(name) % len(PALETTE)],
                lw=1.8,
                zorder=2,
                label=plot_text(name),
                marker=marker,
            )
        else:
            axis.plot(order, values, color=LIGHT, lw=0.8, zorder=1, marker=marker)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("singular-value entropy of the weights\n1: all directions alike, 0: rank one")
    axis.set_title(f"{len(layers)} layers; named: those that changed most")
    figure.legend(loc="outside right center", fontsize=8)
    file = folder / "optimizer_entropy.png"
    write_png(figure, file, dpi=150)
    return file
