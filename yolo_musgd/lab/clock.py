"""Time, kernels and memory of a short piece of work on a CPU or a GPU."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = {"cuda": 10}  # untimed calls: a GPU loads its kernels, picks algorithms and raises its clock
WARM_UP_CPU = 2


def device_name(device: str) -> str:
    """Name of a device for torch: ``0`` is ``cuda:0``, as Ultralytics has it."""
    return f"cuda:{device}" if device.isdigit() else device


def warm_up(device: str) -> int:
    """Calls that are not timed."""
    return WARM_UP.get(device.split(":")[0], WARM_UP_CPU)


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of one call, from an idle device to an idle device.

    On a GPU between two events of its stream: waiting of the host for itself counts, its waiting for the result not.
    """
    if not device.startswith("cuda"):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def median_seconds(work: Callable[[], Any], device: str, times: int) -> float:
    """Median of so many calls after the untimed ones."""
    seconds = [timed(work, device) for _ in range(warm_up(device) + times)]
    return statistics.median(seconds[-times:])


def launches(work: Callable[[], Any], device: str) -> int | None:
    """What one call starts: kernels, copies and fills on a GPU, operators on a CPU; None where torch does not tell."""
    activity = torch.profiler.ProfilerActivity
    on_gpu = device.startswith("cuda")
    try:
        with _profile([activity.CPU, activity.CUDA] if on_gpu else [activity.CPU]) as trace:
            work()
            if on_gpu:
                torch.cuda.synchronize(device)
        events = trace.events() or []
        if on_gpu:
            return sum(1 for e in events if e.device_type.name == "CUDA")
        return sum(1 for e in _without_frames(events) if e.name.startswith("aten::") and e.cpu_parent is None)
    except (AttributeError, RuntimeError):  # a driver without its tracing library
        return None


def _without_frames(events: Any) -> list[Any]:
    """The events, each as if torch's marks round a step and its hooks were not there."""
    for event in events:
        while event.cpu_parent is not None and not event.cpu_parent.name.startswith("aten::"):
            event.cpu_parent = event.cpu_parent.cpu_parent
    return list(events)


def transient_bytes(work: Callable[[], Any], device: str) -> int | None:
    """Most memory that one call holds beyond what it found, in bytes; None where torch does not tell."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device != "cpu":
        return None
    try:
        with _profile([torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
            work()
        events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
    except (AttributeError, RuntimeError):  # the profiler's raw events are not a public interface
        return None
    return peak


def _profile(activities: list[Any], **options: Any) -> Any:
    os.environ["KINETO_LOG_LEVEL"] = "99"  # Ultralytics sets 5, at which the profiler prints lines of its own
    return torch.profiler.profile(activities=activities, **options)
