"""Time, launches and memory; the branches of a GPU with a stand-in for it, since no GPU may be there."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from yolo_musgd.lab import clock


class Gpu:
    """What the clock asks of ``torch.cuda``; notes the calls in their order."""

    def __init__(self):
        self.calls = []
        self.now = 0.0
        self.allocated = 100
        self.peak = 100

    def work(self):
        self.calls.append("work")
        self.now += 5.0
        self.peak = self.allocated + 50

    def Event(self, enable_timing):  # noqa: N802 it is torch's name
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda: (self.calls.append("record"), setattr(event, "at", self.now))
        event.synchronize = lambda: self.calls.append("wait")
        event.elapsed_time = lambda other: other.at - event.at
        return event

    def synchronize(self, device=None):
        self.calls.append("synchronize")

    def device(self, name):
        self.calls.append(name)
        return contextlib.nullcontext()

    def reset_peak_memory_stats(self, device):
        self.peak = self.allocated

    def memory_allocated(self, device):
        return self.allocated

    def max_memory_allocated(self, device):
        return self.peak


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    for name in (
        "Event",
        "synchronize",
        "device",
        "reset_peak_memory_stats",
        "memory_allocated",
        "max_memory_allocated",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    return gpu


def test_a_gpu_is_timed_by_its_own_events_from_idle_to_idle(gpu):
    assert clock.timed(gpu.work, "cuda:1") == pytest.approx(0.005)
    assert gpu.calls == ["cuda:1", "synchronize", "record", "work", "record", "wait"]


def test_median_of_the_timed_calls_after_the_untimed(gpu):
    assert clock.median_seconds(gpu.work, "cuda:0", 3) == pytest.approx(0.005)
    assert gpu.calls.count("work") == clock.WARM_UP["cuda"] + 3


def test_memory_of_a_gpu_is_what_its_allocator_says(gpu):
    assert clock.transient_bytes(gpu.work, "cuda:0") == 50


def test_launches_of_a_gpu_are_its_own_events(gpu, monkeypatch):
    kinds = [SimpleNamespace(device_type=SimpleNamespace(name=n)) for n in ("CPU", "CUDA", "CUDA", "CPU", "CUDA")]

    @contextlib.contextmanager
    def profile(activities, **options):
        assert [a.name for a in activities] == ["CPU", "CUDA"]
        yield SimpleNamespace(events=lambda: kinds)

    monkeypatch.setattr(torch.profiler, "profile", profile)
    assert clock.launches(gpu.work, "cuda:0") == 3
    assert gpu.calls == ["work", "synchronize"]


def test_what_cannot_be_traced_is_none(monkeypatch):
    def profile(**options):
        raise RuntimeError("CUPTI is missing")

    monkeypatch.setattr(torch.profiler, "profile", profile)
    assert clock.launches(lambda: None, "cpu") is None
    assert clock.transient_bytes(lambda: None, "cpu") is None
    assert clock.transient_bytes(lambda: None, "mps") is None


def test_a_cpu_is_timed_by_the_clock():
    assert clock.median_seconds(lambda: sum(range(1000)), "cpu", 3) > 0
