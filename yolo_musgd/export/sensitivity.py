"""Which layers lose the accuracy: each is quantized alone, then the worst ones go back to float until the drop holds.

Ranking needs no labels: a few train images, the FP32 graph's own detections as the reference. Only the search after it
looks at mAP, so that its cost does not grow with the number of layers.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolo_musgd.edge.runtimes.artifact import Artifact, open_artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.accuracy import Accuracy, decode_all, disagreement
from yolo_musgd.export.calibration import Ranges
from yolo_musgd.export.onnx_graph import layer_groups
from yolo_musgd.export.quantize import QuantizationPlan, quantize
from yolo_musgd.export.scores import score_shift
from yolo_musgd.tables import GREY, INK, write_png


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A group of layers and how much of the detections is lost when it alone is quantized (0 to 1)."""

    group: str
    layers: tuple[str, ...]
    loss: float


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """One point of the search.

    Attributes:
        groups: names of the groups in float, worst first.
        float_layers: names of all nodes in float.
        map50_95: of this graph.
        drop: mAP50-95 of FP32 minus this.
        latency_ms: p50 here, filled in afterwards for all steps together.
        fp32_ms: the same of FP32, measured in turns with the steps.
        score_shift: mean of matched scores minus FP32's.
    """

    groups: tuple[str, ...]
    float_layers: tuple[str, ...]
    map50_95: float
    drop: float
    latency_ms: float | None = None
    fp32_ms: float | None = None
    score_shift: float | None = None


class Limits(NamedTuple):
    """What a quantized model may lose.

    Attributes:
        max_drop: of mAP50-95.
        max_score_shift: of matched scores, up or down, in the mean.
    """

    max_drop: float
    max_score_shift: float = 1.0

    def excess(self, drop: float, shift: float | None) -> float:
        """How far a model is beyond the limit that it exceeds most; not above 0 where it holds both."""
        return max(drop - self.max_drop, abs(shift or 0.0) - self.max_score_shift)


def rank_groups(
    plan: QuantizationPlan, artifact: Artifact, reference: Runtime, ranges: Ranges, variant: str, files: Sequence[str]
) -> list[Ranked]:
    """Groups of layers by what is lost when each is quantized alone, worst first.

    Args:
        plan: nodes that may be quantized.
        artifact: facts of the FP32 graph.
        reference: the FP32 graph, loaded.
        ranges: of the calibration.
        variant: of the graph that will be made.
        files: a few images of the train split.
    """
    import onnx
    from ultralytics.utils import TQDM

    groups = layer_groups(onnx.load(str(plan.model)).graph, plan.candidates)
    expected = decode_all(artifact, reference, files)
    ranked = []
    with tempfile.TemporaryDirectory(dir=plan.model.parent) as folder:
        for name in TQDM(groups, desc="ranking layers"):
            others = [node for node in plan.candidates if node not in set(groups[name])]
            path = quantize(plan, Path(folder) / "one.onnx", ranges, variant, others)
            runtime = open_runtime(open_artifact(str(path)), "onnxruntime", reference.threads)
            loss = disagreement(expected, decode_all(artifact, runtime, files))
            runtime.close()
            ranked.append(Ranked(name, tuple(groups[name]), loss))
    return sorted(ranked, key=lambda r: -r.loss)


def search(
    ranked: Sequence[Ranked],
    always: Sequence[str],
    judge: Callable[[tuple[str, ...]], Accuracy],
    expected: Accuracy,
    limits: Limits,
) -> list[SearchStep]:
    """Move the worst groups to float, more each time, until the limits hold; then take back what was too much.

    The number of groups grows as 1, 2, 4, ...; the smallest number that holds is then found by bisection, so a network
    of 40 groups costs about ten evaluations.

    Args:
        ranked: of :func:`rank_groups`.
        always: layers that are in float in any case.
        judge: evaluates the graph that has these layers in float.
        expected: accuracy of FP32.
        limits: that are accepted.

    Returns:
        Every step that was tried, by the number of groups; the first that holds is the answer, none may hold.
    """
    tried: dict[int, SearchStep] = {}

    def attempt(count: int) -> bool:
        if count not in tried:
            chosen = ranked[:count]
            layers = tuple(dict.fromkeys([*always, *(node for r in chosen for node in r.layers)]))
            accuracy = judge(layers)
            drop, shift = expected.map50_95 - accuracy.map50_95, score_shift(expected, accuracy).shift
            groups = tuple(r.group for r in chosen)
            tried[count] = SearchStep(groups, layers, accuracy.map50_95, drop, score_shift=shift)
        return limits.excess(tried[count].drop, tried[count].score_shift) <= 0

    count = 1
    if not attempt(0):
        while count < len(ranked) and not attempt(count):
            count *= 2
        count = min(count, len(ranked))
        low, high = count // 2, count
        while attempt(count) and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if attempt(middle) else (middle, high)
    return [tried[k] for k in sorted(tried)]


def answer(steps: Sequence[SearchStep], limits: Limits) -> SearchStep:
    """The step with the fewest float layers that holds; where none does, the one that is nearest to it."""
    excess = [limits.excess(step.drop, step.score_shift) for step in steps]
    return next((step for step, over in zip(steps, excess, strict=True) if over <= 0), steps[int(np.argmin(excess))])


def draw(steps: Sequence[SearchStep], limits: Limits, path: Path) -> None:
    """Picture of drop against latency, one point a step, with the number of groups in float beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.add_subplot(
        title="What accuracy costs: layers moved back to float",
        xlabel="latency here, ms (p50, one image)",
        ylabel="drop of mAP50-95 against FP32",
    )
    points = [(step.latency_ms or 0.0, step.drop, len(step.groups)) for step in steps]
    axis.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o")
    for x, y, count in points:
        axis.annotate(
            f"{count} group{'s' * (count != 1)}", (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8
        )
    axis.plot([steps[0].fp32_ms or 0.0], [0.0], marker="s", linestyle="none", color=INK, label="FP32")
    axis.axhline(limits.max_drop, color=GREY, linestyle=":", label=f"max_drop={limits.max_drop:g}")
    chosen = answer(steps, limits)
    axis.plot([chosen.latency_ms or 0.0], [chosen.drop], marker="o", markersize=14, fillstyle="none", color="C1",
              linestyle="none", label="taken")  # fmt: skip
    axis.margins(0.12)
    axis.legend()
    write_png(figure, path, dpi=150)
