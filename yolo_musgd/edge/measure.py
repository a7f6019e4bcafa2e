"""The measuring loop: warm up until steady, then time every frame, step by step, dropping none."""

import time
from array import array
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from .detect import Detector
from .sources.base import Source
from .stats import drift, is_steady, slope_per_minute, summarize

_COLUMNS = 6  # start, read, pre, infer, post, detections
# Frames written one by one into the report; longer runs are thinned there, never in the statistics.
SERIES_LIMIT = 20000


class Floors(NamedTuple):
    """When to stop: after ``frames`` frames and ``seconds`` seconds, whichever is later."""

    frames: int
    seconds: float
    warmup_seconds: float = 10.0


class Timings:
    """What was timed: one row a frame; ``start`` and ``end`` of the whole span in perf_counter seconds."""

    def __init__(self) -> None:
        self._rows = array("d")
        self.start = self.end = 0.0
        self.partial = False
        self.ended: Optional[str] = None

    def add(self, start: float, read: float, detector: Detector, found: int) -> None:
        """Add a frame in one call, so that Ctrl-C never leaves half a row."""
        times = detector.times
        self._rows.extend((start, read, times.pre, times.infer, times.post, found))

    @property
    def table(self) -> np.ndarray:
        """Columns start, read, pre, infer, post (seconds) and detections; shape (frames, 6)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, _COLUMNS)

    def __len__(self) -> int:
        return len(self._rows) // _COLUMNS


def warm_up(detector: Detector, source: Source, floors: Floors) -> Dict[str, Any]:
    """Run until the medians of two windows of ten frames agree within 5 %, or ``warmup_seconds`` are over."""
    times: List[float] = []
    begin = time.perf_counter()
    while not is_steady(times) and time.perf_counter() - begin < floors.warmup_seconds:
        frame = source.read()
        if frame is None:
            break
        detector(frame[1])
        times.append(sum(detector.times))
    return {"frames": len(times), "seconds": time.perf_counter() - begin, "steady": is_steady(times)}


def measure(detector: Detector, source: Source, floors: Floors, timings: Timings) -> None:
    """Time frames into ``timings`` until the floors are reached, the source ends, or Ctrl-C (marked partial)."""
    clock = time.perf_counter
    timings.start = begin = clock()
    try:
        while len(timings) < floors.frames or begin - timings.start < floors.seconds:
            frame = source.read()
            if frame is None:
                timings.ended = "the source ended"
                timings.partial = True
                break
            ready = clock()
            found = detector(frame[1])
            timings.add(begin, ready - begin, detector, len(found))
            begin = clock()
    except KeyboardInterrupt:
        timings.partial, timings.ended = True, "interrupted"
    timings.end = clock()


def summarize_timings(timings: Timings, live: bool) -> Dict[str, Any]:
    """Turn timings into the report's figures.

    Args:
        timings: At least one frame.
        live: Whether reading a frame (camera, video) is part of the work; a folder's images lie in memory.

    Returns:
        ``latency_ms`` (total = pre + infer + post, and each step; read only for live sources), ``fps`` (end to end by
        the wall clock of the loop, and inference only), ``own_overhead_ms`` (median over the frames of what passes
        between two frames' steps; a mean would blame the benchmark for every moment that another program took the
        processor), ``drift_ms``, ``series``.
    """
    table = timings.table
    total = table[:, 2:5].sum(axis=1)
    span = timings.end - timings.start
    steps = {"total": total, "pre": table[:, 2], "infer": table[:, 3], "post": table[:, 4]}
    latency: Dict[str, Any] = {name: summarize(values * 1e3) for name, values in steps.items()}
    latency["read"] = summarize(table[:, 1] * 1e3) if live else None
    ends = table[:, 0] + table[:, 1:5].sum(axis=1)
    frames = np.diff(np.append(table[:, 0], timings.end))
    overhead = frames - total - (table[:, 1] if live else 0.0)
    stride = -(-len(table) // SERIES_LIMIT)
    return {
        "frames": len(table),
        "seconds": span,
        "partial": timings.partial,
        "ended": timings.ended,
        "latency_ms": latency,
        "fps": {"end_to_end": len(table) / span, "inference_only": len(table) / float(table[:, 3].sum())},
        "own_overhead_ms": float(np.median(overhead)) * 1e3,
        "detections_per_frame": float(table[:, 5].mean()),
        "drift_ms": drift(ends.tolist(), (total * 1e3).tolist()),
        "series": {
            "every": stride,
            "t_s": np.round(ends[::stride] - timings.start, 3).tolist(),
            "total_ms": np.round(total[::stride] * 1e3, 3).tolist(),
            "infer_ms": np.round(table[::stride, 3] * 1e3, 3).tolist(),
        },
    }


def summarize_watch(samples: Any, start: float, end: float, peak_mb: Optional[float]) -> Dict[str, Any]:
    """Condense the watcher's samples of a span: hottest value of each zone, memory and its growth, clocks' means."""
    inside = [sample for sample in samples if start <= sample["t"] <= end] or samples[-1:]
    zones = sorted({zone for sample in inside for zone in sample["temperatures_c"]})
    clocks = sorted({name for sample in inside for name in sample["clocks"]})
    memory = [(sample["t"], sample["rss_mb"]) for sample in inside if sample["rss_mb"] is not None]
    growth = slope_per_minute([t for t, _ in memory], [mb for _, mb in memory]) if end - start >= 60 else None
    return {
        "max_c": {
            zone: max(s["temperatures_c"][zone] for s in inside if zone in s["temperatures_c"]) for zone in zones
        },
        "mean_clocks": {name: _mean([s["clocks"].get(name) for s in inside]) for name in clocks},
        "rss_mb": {
            "start": memory[0][1] if memory else None,
            "end": memory[-1][1] if memory else None,
            "peak": peak_mb,
            "growth_mb_per_minute": growth,
        },
        "series": {
            "t_s": [round(sample["t"] - start, 2) for sample in inside],
            "hottest_c": [max(sample["temperatures_c"].values(), default=None) for sample in inside],
            "rss_mb": [sample["rss_mb"] and round(sample["rss_mb"], 1) for sample in inside],
        },
    }


def _mean(values: Any) -> Optional[float]:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
