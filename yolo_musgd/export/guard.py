"""The accuracy guard: a quantized model is judged on val, and layers go back to float where it lost too much."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from yolo_musgd.data.reader import LabelledImage
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.export import sensitivity
from yolo_musgd.export.accuracy import Accuracy, evaluate
from yolo_musgd.export.loaded import Loaded
from yolo_musgd.export.scores import drop_interval, score_shift
from yolo_musgd.export.timing import race

log = logging.getLogger("yolo_musgd")

Make = Callable[[Sequence[str], Path], Path]
"""Makes a quantized model with these layers in float below the folder; returns the model file."""


@dataclasses.dataclass(frozen=True)
class Guarded:
    """A quantized model that passed, or came as near as it could.

    Attributes:
        loaded: it, open.
        float_layers: nodes in float.
        accuracy: on val, None where it was not judged.
        note: why a model beyond the limits was taken without a search; empty otherwise.
        steps: of the sensitivity search, empty without one.
        ranked: groups of layers by their harm, empty without a search.
    """

    loaded: Loaded
    float_layers: tuple[str, ...]
    accuracy: Accuracy | None
    steps: tuple[sensitivity.SearchStep, ...] = ()
    ranked: tuple[sensitivity.Ranked, ...] = ()
    note: str = ""


class Guard:
    """Judges quantized models of one FP32 graph; each that is tried is opened once, and the chosen one stays open.

    Args:
        make: makes one.
        open_model: opens it in the runtime that judges.
        runtime: that runtime's name.
        work: folder for the models that are tried.
        files: labelled val images; empty: nothing is judged.
        expected: accuracy of FP32 on them.
        limits: what may be lost against that.
        reference: FP32, loaded.
    """

    def __init__(
        self,
        make: Make,
        open_model: Callable[[Path], Loaded],
        runtime: str,
        work: Path,
        files: Sequence[LabelledImage],
        expected: Accuracy | None,
        limits: sensitivity.Limits,
        reference: Runtime,
    ) -> None:
        self.make, self.open_model, self.runtime, self.work = make, open_model, runtime, work
        self.files, self.expected, self.limits, self.reference = files, expected, limits, reference
        self._opened: dict[tuple[str, ...], Loaded] = {}
        self._judged: dict[tuple[str, ...], Accuracy] = {}

    def judge(self, layers: tuple[str, ...]) -> Accuracy:
        """Accuracy of the model with ``layers`` in float."""
        if layers not in self._judged:
            desc = f"{self.runtime} INT8, {len(layers)} float layers"
            self._judged[layers] = evaluate(*self._try(layers), self.files, desc)
        return self._judged[layers]

    def run(self, always: tuple[str, ...], rank: Callable[[], list[sensitivity.Ranked]] | None) -> Guarded:
        """Make the quantized model.

        Args:
            always: nodes that are in float in any case.
            rank: gives the groups of layers, worst first; None forbids the search.
        """
        chosen: Guarded | None = None
        try:
            chosen = self._choose(always, rank)
        finally:
            for loaded in self._opened.values():
                if chosen is None or loaded is not chosen.loaded:
                    loaded.close()
        return chosen

    def _choose(self, always: tuple[str, ...], rank: Callable[[], list[sensitivity.Ranked]] | None) -> Guarded:
        if self.expected is None or not self.files:
            return Guarded(self._try(always), always, None)
        accuracy = self.judge(always)
        lost = self._lost(accuracy)
        if not lost or rank is None:
            if lost:
                log.warning("%s INT8 %s", self.runtime, lost)
            return Guarded(self._try(always), always, accuracy)
        if noise := self._noise(accuracy):
            log.warning("%s INT8 %s, but %s", self.runtime, lost, noise)
            return Guarded(self._try(always), always, accuracy, note=f"{lost}, but {noise}")
        log.warning("%s INT8 %s: looking for the layers to blame", self.runtime, lost)
        ranked = rank()
        steps = self._timed(sensitivity.search(ranked, always, self.judge, self.expected, self.limits))
        layers = sensitivity.answer(steps, self.limits).float_layers
        best = self.judge(layers)
        if lost := self._lost(best):
            log.warning("no choice of float layers holds the limits; the best %s", lost)
        return Guarded(self._try(layers), layers, best, tuple(steps), tuple(ranked))

    def _lost(self, accuracy: Accuracy) -> str:
        """What is beyond the limits, for people; empty where nothing is."""
        assert self.expected is not None
        drop, shift = self.expected.map50_95 - accuracy.map50_95, score_shift(self.expected, accuracy).shift or 0.0
        parts = []
        if drop > self.limits.max_drop:
            parts.append(f"loses {drop:.4f} mAP50-95, more than max_drop={self.limits.max_drop:g}")
        if abs(shift) > self.limits.max_score_shift:
            allowed = f"max_score_shift={self.limits.max_score_shift:g}"
            parts.append(f"shifts the scores by {shift:+.4f} in the mean, more than {allowed}")
        return " and ".join(parts)

    def _noise(self, accuracy: Accuracy) -> str:
        """Why a drop may be chance; empty where it is real, or the scores have moved, which no chance does."""
        assert self.expected is not None
        shift = score_shift(self.expected, accuracy).shift or 0.0
        between = drop_interval(self.expected, accuracy)
        if abs(shift) > self.limits.max_score_shift or between is None or between[0] > 0:
            return ""
        return (
            f"on {accuracy.images} images that may be chance (90 % interval {between[0]:.4f} to {between[1]:.4f}): no "
            "layer goes back to float for it; more val images decide"
        )

    def _try(self, layers: tuple[str, ...]) -> Loaded:
        if layers not in self._opened:
            self._opened[layers] = self.open_model(self.make(layers, self.work / f"try{len(self._opened)}"))
        return self._opened[layers]

    def _timed(self, steps: Sequence[sensitivity.SearchStep]) -> list[sensitivity.SearchStep]:
        tried = {str(k): self._try(step.float_layers).runtime for k, step in enumerate(steps)}
        times = race({"fp32": self.reference, **tried}, seconds=1.0, desc="timing the steps")
        return [
            dataclasses.replace(step, latency_ms=times[str(k)], fp32_ms=times["fp32"]) for k, step in enumerate(steps)
        ]
