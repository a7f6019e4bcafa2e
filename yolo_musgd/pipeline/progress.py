"""How far a step is and how long the pipeline may still take: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from yolo_musgd.lab.store import read_results
from yolo_musgd.pipeline.step import Step

EVERY = 60.0  # seconds between lines where there is no terminal
METRIC = "metrics/mAP50-95(B)"


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Bar:
    """The bar of one step.

    Args:
        step: what runs.
        results: results.csv of a training, which tells its epochs.
        later: seconds that the steps after it are expected to take.
        hidden: show nothing.
    """

    def __init__(self, step: Step, results: Path, later: float, hidden: bool = False) -> None:
        self.step, self.results, self.later, self.hidden = step, results, later, hidden
        self._began = self._said = time.monotonic()
        self._first = self._rows = len(read_results(results).get("epoch", [])) if step.epochs else 0
        self._seen = 0.0
        self._accuracy: float | None = None
        self._bar = tqdm(
            total=100, leave=False, disable=hidden or sys.stderr is None or not sys.stderr.isatty(), file=sys.stderr,
            bar_format="    |{bar:24}| {postfix}", dynamic_ncols=True,
        )  # fmt: skip

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self) -> None:
        """Look at what there is and show it."""
        if self.hidden:
            return
        now = time.monotonic()
        share, left = self.estimate(now - self._began)
        text = f"{share:.0%}"
        if self.step.epochs:
            text = f"epoch {self._rows}/{self.step.epochs}"
            text += f", mAP50-95 {self._accuracy:.3f}" if self._accuracy is not None else ""
        text += f", about {in_words(left)} left in this step, {in_words(left + self.later)} in all"
        if not self._bar.disable:
            self._bar.n = 100 * share
            self._bar.set_postfix_str(text, refresh=True)
        elif now - self._said > EVERY:
            self._said = now
            print(f"    {text}", flush=True)

    def estimate(self, elapsed: float) -> tuple[float, float]:
        """Share that is done, and the seconds that are left.

        Epochs that are finished tell; without them the first guess is shown until it is outlived.
        """
        if self.step.epochs:
            self._look(elapsed)
        if self._rows > self._first:
            per_epoch = self._seen / (self._rows - self._first)
            return self._rows / self.step.epochs, max(per_epoch * (self.step.epochs - self._first) - elapsed, 1.0)
        expected = max(self.step.seconds, elapsed * 1.05)
        return min(elapsed / expected, 0.95), expected - elapsed

    def _look(self, elapsed: float) -> None:
        columns = read_results(self.results)
        rows = len(columns.get("epoch", []))
        if rows != self._rows:
            self._rows, self._seen = rows, elapsed
            self._accuracy = columns[METRIC][-1] if columns.get(METRIC) else None
