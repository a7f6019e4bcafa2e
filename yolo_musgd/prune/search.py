"""From a target to widths: by arithmetic for FLOPs and parameters, by measuring for latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from yolo_musgd.export.latency import race
from yolo_musgd.prune.graph import PruneGraph
from yolo_musgd.prune.latency import Exported
from yolo_musgd.prune.schedule import Removal, meet
from yolo_musgd.settings import UserError

FLOPS_TOLERANCE = 0.01
"""A FLOPs or parameter target is met within one point of the model's own."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """What is wanted: ``share`` of the model's own ``kind`` (flops, params or latency) is to be left."""

    kind: str
    share: float


def by_arithmetic(
    graph: PruneGraph, removals: Sequence[Removal], target: Target, base: float | None = None
) -> list[int]:
    """Widths that leave the target's share of FLOPs or parameters.

    Args:
        graph: the model.
        removals: its schedule.
        target: flops or params.
        base: what the share is of; by default the graph's own.

    Raises:
        UserError: it cannot be met; the nearest is named.
    """

    def measure(kept: list[int]) -> float:
        return float(getattr(graph.cost(kept), target.kind))

    whole = float(getattr(graph.cost(), target.kind)) if base is None else base
    kept = meet(graph, removals, measure, target.share * whole)
    reached = measure(kept) / whole
    if abs(reached - target.share) > FLOPS_TOLERANCE:
        raise UserError(
            f"{target.kind}={target.share - 1:+.2f} cannot be met, the nearest is {reached - 1:+.3f}: "
            "choose that, a smaller round_to, a larger max_ratio or fewer layers in keep"
        )
    return kept


def by_latency(
    model: Any,
    make: Callable[[], PruneGraph],
    scores: Sequence[Tensor],
    removals: Sequence[Removal],
    runtime: str,
    imgsz: int,
    data: str,
    share: float,
    tolerance: float,
    say: Say,
) -> list[int]:
    """Widths whose measured latency is ``share`` of the model's own, by bisection along the schedule.

    Args:
        model: before pruning.
        make: a fresh graph of it.
        scores: importance of every group's channels.
        removals: the schedule.
        runtime: onnx-fp32, onnx-int8 or ncnn.
        imgsz: side, pixels.
        data: data set that gives INT8 graphs their ranges.
        share: wanted latency over the model's own.
        tolerance: allowed difference as a share of the target.
        say: takes a line a measurement.

    Raises:
        UserError: it cannot be met; the nearest measured is named.
    """
    base = Exported(model, runtime, imgsz, data)
    graph = make()
    base_flops = graph.cost().flops

    def measured(kept: list[int]) -> float:
        spent = make()
        trial = Exported(spent.apply(spent.removed(kept, scores)), runtime, imgsz, data)
        try:
            times = race(
                {"base": base.runtime, "pruned": trial.runtime}, seconds=6.0, desc="timing", clock=time.process_time
            )
        finally:
            trial.close()
        ratio = times["pruned"] / times["base"]
        say(
            f"{runtime}: {graph.cost(kept).flops / base_flops:.3f} of the FLOPs take {ratio:.3f} of the time "
            f"({times['pruned']:.1f} against {times['base']:.1f} ms)"
        )
        return ratio

    try:
        low, high, nearest = 0.05, 1.0, (float("inf"), 1.0, [u.channels for u in graph.units])
        guess = share
        for _ in range(9):
            kept = meet(graph, removals, lambda k: graph.cost(k).flops, guess * base_flops)
            ratio = measured(kept)
            if abs(ratio - share) < nearest[0]:
                nearest = abs(ratio - share), ratio, kept
            if abs(ratio - share) <= 0.6 * tolerance * share:  # leaves room for the noise of a later measurement
                return kept
            low, high = (low, guess) if ratio > share else (guess, high)
            guess = min(max(guess * share / ratio, low + 0.15 * (high - low)), high - 0.15 * (high - low))
            if high - low < 0.005:
                break
        if nearest[0] <= tolerance * share:
            return nearest[2]
        raise UserError(
            f"latency={share:g} on {runtime} cannot be met within {tolerance:.0%}: the nearest measured is "
            f"{nearest[1]:.3f}; choose that, or a smaller round_to"
        )
    finally:
        base.close()
