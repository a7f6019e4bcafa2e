"""Pictures of the pipeline's report: SVG that takes its ink from the page, to be read on dark and on light."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolo_musgd.tables import BLUE, INK, ORANGE, PALETTE, plot_style, plot_text, to_svg
from yolo_musgd.train.optimizer_plots import medians

_THEME: dict[str, Any] = {"font.size": 10.5, "grid.color": INK}
_POINTS = 400  # more than a picture of this width can show
_IDS = re.compile(
    r' id="(?!p[0-9a-f]{10}|m[0-9a-f]{10})[^"]*"'
)  # clip paths and markers are referred to, the rest is not


def finish(figure: Figure, words: str) -> str:
    """A figure as SVG with its words for people who do not see it."""
    text = _IDS.sub("", to_svg(figure))
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(words, quote=True)}" ', 1)


def _figure(height: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.2, height), layout="constrained")
    return figure, figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]


def tradeoff(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], split: str) -> str:
    """Accuracy against latency here, from the base model to the final one."""
    with plot_style(**_THEME):
        figure, (axis,) = _figure(3.6)
        points = [(r["latency_ms_p50"], r["map50_95"]) for r in rows]
        for a, b in pairwise(points):
            axis.annotate(
                "", b, a, arrowprops={"arrowstyle": "->", "color": INK, "alpha": 0.5, "shrinkA": 8, "shrinkB": 8}
            )
        for k, (row, point) in enumerate(zip(rows, points, strict=True)):
            axis.plot(
                *point,
                "os^"[k % 3],
                ms=10,
                color=PALETTE[k],
                label=plot_text(f"{labels[row['role']]}, {row['size_bytes'] / 1e6:.1f} MB"),
            )
        axis.set_xlim(0, max(x for x, _ in points) * 1.15)
        axis.set_ylim(0, min(1.0, max(y for _, y in points) * 1.25 + 0.02))
        axis.set_xlabel("milliseconds a frame on this machine (p50, inference)")
        axis.set_ylabel(plot_text(f"mAP50-95 on {split}"))
        figure.legend(loc="outside upper left", ncols=2)
        axis.grid(alpha=0.15)
        words = "; ".join(f"{labels[r['role']]}: {r['map50_95']:.3f} at {r['latency_ms_p50']:.1f} ms" for r in rows)
        return finish(figure, f"Accuracy against latency. {words}")


def curves(parts: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> str | None:
    """MAP and losses over the epochs of training, and of fine-tuning behind them."""
    metric = "metrics/mAP50-95(B)"
    parts = [(name, c) for name, c in parts if c.get(metric)]
    if not parts:
        return None
    with plot_style(**_THEME):
        figure, (top, low) = _figure(4.8, 2)
        start = 0
        for (name, columns), colour in zip(parts, (BLUE, ORANGE), strict=False):
            x = np.arange(1, len(columns[metric]) + 1) + start
            marker = "." if len(x) < 3 else None
            top.plot(x, columns[metric], color=colour, lw=2, label=name, marker=marker)
            for kind, style in (("train", "-"), ("val", "--")):
                kinds = [k for k in columns if k.startswith(f"{kind}/") and k.endswith("_loss")]
                losses = [np.array(columns[k]) for k in kinds if k != f"{kind}/dis_loss"]  # a teacher's, in train only
                if losses:
                    low.plot(
                        x, np.sum(losses, axis=0), style, color=colour, lw=1.5, label=f"{name}, {kind}", marker=marker
                    )
            start += len(x)
            if name != parts[-1][0]:
                for axis in (top, low):
                    axis.axvline(start + 0.5, color=INK, lw=0.8, alpha=0.5)
        top.set_ylabel("mAP50-95 on val")
        top.set_ylim(bottom=0)
        low.set_ylabel("sum of the losses")
        low.set_yscale("log")
        low.xaxis.set_major_locator(MaxNLocator(integer=True))
        low.set_xlabel("epoch")
        figure.legend(*low.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
        for axis in (top, low):
            axis.grid(alpha=0.15)
        ends = "; ".join(f"{name} ends at {c[metric][-1]:.3f} after {len(c[metric])} epochs" for name, c in parts)
        return finish(figure, f"mAP50-95 and losses over epochs. {ends}")


def optimizer(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Gradient norm and beta_t over the optimizer's steps."""
    parts = [(name, s) for name, s in parts if s]
    if not parts:
        return None
    moved = any(np.isfinite(s["beta_t"]).any() for _, s in parts)
    with plot_style(**_THEME):
        figure, axes = _figure(4.4 if moved else 2.6, 2 if moved else 1)
        start = 0
        for (name, steps), colour in zip(parts, (BLUE, ORANGE), strict=False):
            count = len(steps["step"])
            bins = np.linspace(0, count, min(count, _POINTS) + 1).astype(int)
            x = start + bins[:-1]
            axes[0].plot(x, medians(steps["grad_norm"], bins), color=colour, lw=1.2, label=name)
            if moved and np.isfinite(steps["beta_t"]).any():
                axes[1].plot(x, medians(steps["beta_t"], bins), color=colour, lw=1.5, label=f"{name}: mean")
                low, high = (medians(steps[f"beta_t_{k}"], bins) for k in ("min", "max"))
                axes[1].fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            start += count
        axes[0].set_yscale("log")
        axes[0].set_ylabel("gradient norm")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if moved:
            axes[1].set_ylim(0, 1)
            axes[1].set_ylabel(r"momentum $\beta_t$")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1].set_xlabel("optimizer step (band: lowest to highest tensor)" if moved else "optimizer step")
        for axis in axes:
            axis.grid(alpha=0.15)
        return finish(
            figure, "Gradient norm" + (" and momentum beta_t" if moved else "") + " over the optimizer's steps"
        )


def layers(table: Sequence[Mapping[str, Any]]) -> str:
    """Output channels of every convolution before and after pruning."""
    with plot_style(**_THEME):
        figure, (axis,) = _figure(2.9)
        places = np.arange(len(table))
        axis.bar(places, [x["before"] for x in table], width=1.0, color=INK, alpha=0.2, label="before")
        axis.bar(places, [x["after"] for x in table], width=1.0, color=BLUE, label="after")
        axis.set_xlabel("convolutions, from the input to the head")
        axis.set_ylabel("output channels")
        axis.set_xlim(-0.6, len(table) - 0.4)
        figure.legend(loc="outside upper left", ncols=2)
        narrowed = sum(x["after"] < x["before"] for x in table)
        return finish(
            figure, f"Channels before and after pruning: {narrowed} of {len(table)} convolutions are narrower"
        )


def search(steps: Sequence[Mapping[str, Any]]) -> str:
    """What moving layers to float buys: drop and latency."""
    with plot_style(**_THEME):
        figure, (top, low) = _figure(3.8, 2)
        x = [len(s["float_layers"]) for s in steps]
        top.plot(x, [s["drop"] for s in steps], "o-", color=BLUE)
        top.set_ylabel("drop of mAP50-95")
        low.plot(x, [s["latency_ms"] or np.nan for s in steps], "s-", color=ORANGE)
        low.set_ylabel("ms here")
        low.set_ylim(0, 1.15 * max((s["latency_ms"] or 0.0 for s in steps), default=1.0) or 1.0)
        low.set_xlabel("layers left in float")
        for axis in (top, low):
            axis.grid(alpha=0.15)
        return finish(figure, f"Sensitivity search over {len(steps)} choices of float layers")
