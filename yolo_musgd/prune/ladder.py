"""A latency target on a board that is not here: models to measure there, and from the reports to a FLOPs target.

``yolo-musgd prune ladder=True`` writes the model at a few cuts. Each is measured on the board (``edge.pyz bench``), and
``latency=0.7 table=[...]`` reads the reports: between two cuts the board's time is interpolated along their FLOPs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_musgd.prune import checkpoint, latency
from yolo_musgd.prune.data import recalibrate
from yolo_musgd.prune.importance import score
from yolo_musgd.prune.schedule import schedule
from yolo_musgd.prune.search import Target, by_arithmetic
from yolo_musgd.settings import UserError

if TYPE_CHECKING:
    from yolo_musgd.prune.run import Run

CUTS = (0.0, 0.2, 0.4, 0.6)
_NAME = re.compile(r"flops-(\d\.\d{3})")


def write_ladder(run: Run, folder: Path) -> Path:
    """Write the model at several cuts, as ``flops-0.600.pt`` and ``.onnx``; the number is the share of FLOPs left."""
    graph = run.graph(run.model)
    base = graph.cost().flops
    scores = score(graph, run.settings.importance, run.images, run.settings.seed)
    removals = schedule(graph, scores, run.settings.chosen_allocation)
    for cut in CUTS:
        kept = by_arithmetic(graph, removals, Target("flops", 1 - cut)) if cut else [u.channels for u in graph.units]
        share = graph.cost(kept).flops / base
        model = run.graph(run.model).apply(graph.removed(kept, scores))
        if cut:
            recalibrate(model, run.images)
        name = f"flops-{share:.3f}"
        checkpoint.save(model, folder / f"{name}.pt", run.saved, {"flops": round(share, 4), "times": 1} if cut else {})
        latency.export(model, folder, "onnx", run.imgsz).rename(folder / f"{name}.onnx")
    return folder


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
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
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
        raise UserError("table needs the reports of flops-1.000 and of at least one cut")
    flops, times = np.array(points).T
    ratios = np.minimum.accumulate((times / times[-1])[::-1])[::-1]  # noise must not make more FLOPs faster
    if share < ratios[0]:
        raise UserError(
            f"latency={share:g} lies below the fastest model of the table, {ratios[0]:.3f}: measure a deeper cut"
        )
    return float(np.interp(share, ratios, flops))
