"""The accuracy guard: a quantized model is judged on val, and layers go back to float where it lost too much."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export import sensitivity
from yolo_musgd.export.accuracy import Accuracy, evaluate
from yolo_musgd.export.timing import race

log = logging.getLogger("yolo_musgd")

Make = Callable[[Sequence[str], Path], Path]
"""Makes a quantized model with these layers in float below the folder; returns the model file."""


@dataclasses.dataclass(frozen=True)
class Guarded:
    """A quantized model that passed, or came as near as it could.

    Attributes:
        model: its file.
        float_layers: nodes in float.
        accuracy: on val, None where it was not judged.
        steps: of the sensitivity search, empty without one.
        ranked: groups of layers by their harm, empty without a search.
    """

    model: Path
    float_layers: tuple[str, ...]
    accuracy: Accuracy | None
    steps: tuple[sensitivity.Step, ...] = ()
    ranked: tuple[sensitivity.Ranked, ...] = ()


class Guard:
    """Judges quantized models of one FP32 graph.

    Args:
        make: makes one.
        runtime: name of the runtime that judges.
        work: folder for the models that are tried.
        files: labelled val images; empty: nothing is judged.
        expected: accuracy of FP32 on them.
        max_drop: largest accepted drop of mAP50-95.
        reference: FP32, loaded; its threads are the judge's.
    """

    def __init__(
        self,
        make: Make,
        runtime: str,
        work: Path,
        files: Sequence[str],
        expected: Accuracy | None,
        max_drop: float,
        reference: Runtime,
    ) -> None:
        self.make, self.runtime, self.work = make, runtime, work
        self.files, self.expected, self.max_drop, self.reference = files, expected, max_drop, reference
        self._made: dict[tuple[str, ...], tuple[Path, Accuracy]] = {}

    def judge(self, layers: tuple[str, ...]) -> Accuracy:
        """Accuracy of the model with ``layers`` in float."""
        if layers not in self._made:
            model = self.make(layers, self.work / f"try{len(self._made)}")
            artifact = open_artifact(str(model))
            runtime = open_runtime(artifact, self.runtime, self.reference.threads)
            try:
                accuracy = evaluate(artifact, runtime, self.files, f"{self.runtime} INT8, {len(layers)} float layers")
            finally:
                runtime.close()
            self._made[layers] = (model, accuracy)
        return self._made[layers][1]

    def run(self, always: tuple[str, ...], rank: Callable[[], list[sensitivity.Ranked]] | None) -> Guarded:
        """Make the quantized model.

        Args:
            always: nodes that are in float in any case.
            rank: gives the groups of layers, worst first; None forbids the search.
        """
        if self.expected is None or not self.files:
            return Guarded(self.make(always, self.work / "only"), always, None)
        accuracy = self.judge(always)
        drop = self.expected.map50_95 - accuracy.map50_95
        if drop <= self.max_drop or rank is None:
            if drop > self.max_drop:
                log.warning("%s INT8 loses %.4f mAP50-95, more than max_drop=%g", self.runtime, drop, self.max_drop)
            return Guarded(self._made[always][0], always, accuracy)
        log.warning(
            "%s INT8 loses %.4f mAP50-95, more than max_drop=%g: looking for the layers to blame",
            self.runtime, drop, self.max_drop,
        )  # fmt: skip
        ranked = rank()
        steps = self._timed(sensitivity.search(ranked, always, self.judge, self.expected, self.max_drop))
        chosen = sensitivity.answer(steps, self.max_drop)
        if chosen.drop > self.max_drop:
            log.warning("no choice of float layers holds max_drop=%g; the best loses %.4f", self.max_drop, chosen.drop)
        model, accuracy = self._made[chosen.float_layers]
        return Guarded(model, chosen.float_layers, accuracy, tuple(steps), tuple(ranked))

    def _timed(self, steps: Sequence[sensitivity.Step]) -> list[sensitivity.Step]:
        runtimes = {
            str(k): open_runtime(
                open_artifact(str(self._made[step.float_layers][0])), self.runtime, self.reference.threads
            )
            for k, step in enumerate(steps)
        }
        times = race({"fp32": self.reference, **runtimes}, seconds=1.0, desc="timing the steps")
        for runtime in runtimes.values():
            runtime.close()
        return [
            dataclasses.replace(step, latency_ms=times[str(k)], fp32_ms=times["fp32"]) for k, step in enumerate(steps)
        ]
