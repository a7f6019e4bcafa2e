"""A latency target on a board that is not here: models to measure there, and from the reports to a FLOPs target.

``yolo-musgd prune ladder=True`` writes the model at a few cuts. Each is measured on the board (``edge.pyz bench``), and
``latency=0.7 table=[...]`` reads the reports: between two cuts the board's time is interpolated along their FLOPs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yolo_musgd.prune import measuring, stock_checkpoint
from yolo_musgd.prune.importance import score
from yolo_musgd.prune.schedule import schedule
from yolo_musgd.prune.search import PruningTarget, by_arithmetic
from yolo_musgd.prune.training_images import recalibrate

if TYPE_CHECKING:
    from yolo_musgd.prune.run import Run

CUTS = (0.0, 0.2, 0.4, 0.6)


def write_ladder(run: Run, folder: Path) -> Path:
    """Write the model at several cuts, as ``flops-0.600.pt`` and ``.onnx``; the number is the share of FLOPs left."""
    graph = run.graph(run.model)
    base = graph.cost().flops
    scores = score(graph, run.settings.importance, run.images, run.settings.seed)
    removals = schedule(graph, scores, run.settings.chosen_allocation)
    for cut in CUTS:
        target = PruningTarget("flops", 1 - cut)
        kept = by_arithmetic(graph, removals, target) if cut else [u.channels for u in graph.units]
        share = graph.cost(kept).flops / base
        model = run.graph(run.model).apply(graph.removed(kept, scores))
        if cut:
            model = run.activated(model)
            recalibrate(model, run.augmented)
        name = f"flops-{share:.3f}"
        stock_checkpoint.save(
            model, folder / f"{name}.pt", run.saved, {"flops": round(share, 4), "times": 1} if cut else {}
        )
        measuring.export(model, folder, "onnx", run.imgsz).rename(folder / f"{name}.onnx")
    return folder
