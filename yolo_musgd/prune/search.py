"""From a target to widths: by arithmetic for FLOPs and parameters, by measuring for latency.

``latency=0.7 table=[...]`` reads reports of a board: between two cuts its time is interpolated along their FLOPs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.schedule import Removal, meet

_NAME = re.compile(r"flops-(\d\.\d{3})")
FLOPS_TOLERANCE = 0.01
"""A FLOPs or parameter target is met within one point of the model's own."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class PruningTarget:
    """What is wanted: ``share`` of the model's own ``kind`` (flops, params or latency) is to be left."""

    kind: str
    share: float


def by_arithmetic(
    graph: PruneGraph, removals: Sequence[Removal], target: PruningTarget, base: float | None = None
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
    make: Callable[[], PruneGraph],
    scores: Sequence[Tensor],
    removals: Sequence[Removal],
    times: Callable[[Any], dict[str, float]],
    target: float,
    tolerance: float,
    say: Say,
) -> list[int]:
    """Widths whose measured latency is ``target`` of the model's own, by bisection along the schedule.

    Args:
        make: a fresh graph of the model.
        scores: importance of every group's channels.
        removals: the schedule.
        times: measures a cut model: milliseconds of ``base`` and ``pruned``, see `measuring.times`.
        target: wanted latency over the model's own.
        tolerance: allowed difference as a share of the target.
        say: takes a line a measurement.

    Raises:
        UserError: it cannot be met; the nearest measured is named.
    """
    graph = make()
    whole = graph.cost().flops
    low, high, guess = 0.05, 1.0, target
    best, nearest = [u.channels for u in graph.units], 1.0
    for _ in range(9):
        kept = meet(graph, removals, lambda k: graph.cost(k).flops, guess * whole)
        spent = make()
        found = times(spent.apply(spent.removed(kept, scores)))
        ratio = found["pruned"] / found["base"]
        say(
            f"{graph.cost(kept).flops / whole:.3f} of the FLOPs take {ratio:.3f} of the time "
            f"({found['pruned']:.1f} against {found['base']:.1f} ms)"
        )
        if abs(ratio - target) < abs(nearest - target):
            best, nearest = kept, ratio
        if abs(ratio - target) <= 0.6 * tolerance * target:  # leaves room for the noise of a later measurement
            break
        low, high = (low, guess) if ratio > target else (guess, high)
        if high - low < 0.005:
            break
        guess = min(max(guess * target / ratio, low + 0.15 * (high - low)), high - 0.15 * (high - low))
    if abs(nearest - target) > tolerance * target:
        raise UserError(
            f"latency={target:g} cannot be met within {tolerance:.0%}: the nearest measured is {nearest:.3f}; "
            "choose that, or a smaller round_to"
        )
    return best


def read_report(path: str) -> tuple[float, float]:
    """FLOPs share of the model in a bench report, and its median inference time in milliseconds.

    Args:
        path: bench.json or its folder.

    Raises:
        UserError: not a report, or of a model that is not called ``flops-0.600`` as the ladder has it.
    """
    file = Path(path) / "bench.json" if Path(path).is_dir() else Path(path)
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        names = (report["model"]["file"], report.get("label"), report["settings"].get("model"))
        time = float(report["runs"][0]["latency_ms"]["infer"]["p50"])
        if not 0 < time < math.inf:
            raise ValueError(time)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"table: {file} is not a bench report with a run in it ({type(error).__name__})") from error
    found = next((m for n in names if n and (m := _NAME.search(str(n)))), None)
    if found is None:
        raise UserError(
            f"table: {file} is of a model called {names[0]}; measure the flops-*.onnx that ladder=True writes"
        )
    return float(found[1]), time


def flops_for(reports: Sequence[str], share: float) -> float:
    """Share of the FLOPs that takes ``share`` of the unpruned model's time on the board.

    Args:
        reports: bench.json files or folders, of the unpruned model and at least one cut.
        share: wanted time over the unpruned model's.

    Raises:
        UserError: too few reports, or a target that they do not reach.
    """
    points = sorted({read_report(path) for path in reports})
    if len(points) < 2 or points[-1][0] < 0.9995:
        raise UserError(
            "table= needs the bench reports of flops-1.000 and of at least one cut; ladder=True makes the models"
        )
    flops, times = np.array(points).T
    ratios = np.minimum.accumulate((times / times[-1])[::-1])[::-1]  # noise must not make more FLOPs faster
    if share < ratios[0]:
        raise UserError(
            f"latency={share:g} lies below the fastest model of the table, {ratios[0]:.3f}: measure a deeper cut"
        )
    return float(np.interp(share, ratios, flops))
