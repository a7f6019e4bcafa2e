"""How long models take here, side by side: in turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import numpy as np

from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.stats import summarize


def race(
    runtimes: Mapping[str, Runtime],
    seconds: float = 4.0,
    least: int = 15,
    desc: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median inference time of each runtime on the same random image.

    Args:
        runtimes: name -> loaded model; all take one image of the same size.
        seconds: stop after this much time a model, but not before ``least`` rounds.
        least: rounds.
        desc: text before the progress bar; empty shows none.
        clock: ``time.process_time`` counts the CPU time of one-thread runtimes only: on a machine with more work than
            cores, a wall clock counts the waiting too, and not alike for long and short runs.

    Returns:
        Name -> milliseconds, p50. The ratio of two of them is what can be trusted on a shared machine.
    """
    from ultralytics.utils import TQDM

    blob = np.random.default_rng(0).random(next(iter(runtimes.values())).input_shape, dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    order = random.Random(0)
    for runtime in runtimes.values():  # the first runs allocate memory
        runtime.infer(blob)
        runtime.infer(blob)
    deadline = time.perf_counter() + seconds * len(runtimes)
    for count in TQDM(range(40), desc=desc, disable=not desc):
        if count >= least and time.perf_counter() > deadline:
            break
        for name in order.sample(list(runtimes), len(runtimes)):
            start = clock()
            runtimes[name].infer(blob)
            times[name].append((clock() - start) * 1e3)
    return {name: float((summarize(values) or {})["p50"]) for name, values in times.items()}
