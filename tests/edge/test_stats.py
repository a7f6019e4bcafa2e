"""stats.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge import stats

finite = st.floats(0.0, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=60))
def test_summary_is_numpys(values: list[float]) -> None:
    summary = stats.summarize(values)
    assert summary is not None
    for p in (50, 90, 95, 99):
        assert summary[f"p{p}"] == pytest.approx(np.percentile(values, p))
    assert summary["max"] == max(values)  # nothing is clipped
    assert summary["n"] == len(values)


def test_nothing_measured_is_none() -> None:
    assert stats.summarize([]) is None
    assert stats.energy_joules([], [], 0, 1) is None
    assert stats.energy_joules([0.0], [5.0], 1, 1) is None
    assert stats.counter_joules([0.0, 1.0], [0.0, 5.0], 0.0, 2.0) is None
    assert stats.drift([0.0, 100.0], [1.0, 1.0]) is None


@pytest.mark.parametrize(
    ("times", "watts", "start", "end", "joules"),
    [
        ([0, 1, 2], [2, 4, 6], 0, 2, 8.0),  # (2+4)/2 + (4+6)/2
        ([0, 1, 2], [2, 4, 6], 0.5, 1.5, 4.0),  # 3.5*.5 + 4.5*.5
        ([0, 1, 2], [2, 4, 6], -1, 0, 2.0),  # held at the first sample
        ([0, 10], [5, 5], 2, 4, 10.0),
        ([1], [7], 0, 3, 21.0),
    ],
)
def test_energy_by_hand(times: list[float], watts: list[float], start: float, end: float, joules: float) -> None:
    assert stats.energy_joules(times, watts, start, end) == pytest.approx(joules)


@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 100)), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_energy_is_additive_and_bounded(steps: list[tuple[float, float]], cut: float) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    watts = [w for _, w in steps]
    end = times[-1] + 1.0
    middle = cut * end
    whole = stats.energy_joules(times, watts, 0, end)
    parts = [stats.energy_joules(times, watts, *span) for span in ((0, middle), (middle, end))]
    assert whole is not None
    assert None not in parts
    assert sum(p for p in parts if p is not None) == pytest.approx(whole, rel=1e-6, abs=1e-6)
    assert min(watts) * end - 1e-6 <= whole <= max(watts) * end + 1e-6


def test_counter_energy_interpolates() -> None:
    assert stats.counter_joules([0.0, 1.0, 3.0], [10.0, 12.0, 20.0], 0.5, 2.0) == pytest.approx(16.0 - 11.0)


def test_steady_and_drift() -> None:
    assert not stats.is_steady([1.0] * 19)
    assert stats.is_steady([5.0] * 10 + [1.0] * 20)
    assert not stats.is_steady([2.0] * 10 + [1.0] * 10)
    ends = [float(k) for k in range(181)]
    drift = stats.drift(ends, [10.0] * 90 + [20.0] * 91)
    assert drift == {"window_s": 60.0, "first_p50": 10.0, "last_p50": 20.0, "ratio": 2.0}
    assert stats.slope_per_minute(ends, [0.5 * t for t in ends]) == pytest.approx(30.0)
