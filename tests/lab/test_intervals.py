"""Statistics against textbooks, scipy and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from yolo_musgd.lab.intervals import (
    Reach,
    bootstrap,
    first_reach,
    mean_curve,
    median_reach,
    reach_ratio,
    share_near_best,
    survival,
    t_interval,
)

figures = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(figures)
@settings(deadline=None)
def test_t_interval_is_scipys(values):
    found = t_interval(values)
    if np.std(values) < 1e-14:  # SciPy divides by it
        assert found.low == pytest.approx(found.high)
        return
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_no_interval():
    found = t_interval([0.4])
    assert (found.value, found.low, found.high) == (0.4, None, None)
    assert bootstrap([0.4], np.mean).low is None


def test_a_mean_curve_ends_with_its_shortest_run():
    curve = mean_curve([[0.1, 0.2, 0.3], [0.3, 0.4]])
    assert [c.value for c in curve] == pytest.approx([0.2, 0.3])


def test_bootstrap_against_every_resample():
    """With four values there are 256 equally likely resamples: their quantiles are what the bootstrap estimates."""
    values = [0.01, 0.05, 0.02, -0.01]
    everything = [np.mean(x) for x in itertools.product(values, repeat=4)]
    found = bootstrap(values, lambda x: float(np.mean(x)))
    assert (found.low, found.high) == pytest.approx(np.quantile(everything, [0.025, 0.975]), abs=2.5e-3)
    assert found.value == pytest.approx(np.mean(values))


@given(figures)
@settings(deadline=None)
def test_bootstrap_stays_within_the_sample(values):
    found = bootstrap(values, lambda x: sum(x) / len(x))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_bootstrap_keeps_pairs_together():
    pairs = [(1.0, 0.9), (5.0, 4.9), (9.0, 8.9)]
    found = bootstrap(pairs, lambda x: sum(a - b for a, b in x) / len(x))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_first_reach():
    assert first_reach([0.1, 0.4, 0.3], 0.4, [10, 20, 30], [1, 2, 3]) == Reach(2, True, 20, 2)
    late = first_reach([0.1, 0.3], 0.4, [10, 20])
    assert late == Reach(2, False, 20, None)
    assert str(late) == ">2"


FREIREICH = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
"""Remission of 21 children on 6-MP, weeks (Freireich 1963); negative: censored."""


def test_kaplan_meier_on_the_textbook_data():
    steps = survival([Reach(abs(t), t > 0) for t in FREIREICH])
    assert [(t, round(s, 3)) for t, s in steps] == [
        (6, 0.857), (7, 0.807), (10, 0.753), (13, 0.690), (16, 0.627), (22, 0.538), (23, 0.448),
    ]  # fmt: skip
    assert median_reach([Reach(abs(t), t > 0) for t in FREIREICH]) == 23


def test_median_is_unknown_when_most_never_get_there():
    assert median_reach([Reach(20, True), Reach(30, False), Reach(30, False)]) is None


def epochs(reach):
    return float(reach.epoch)


def test_ratio_of_epochs_is_a_bound_when_runs_are_censored():
    base = [Reach(28, True), Reach(30, True)]
    fast = reach_ratio(list(zip([Reach(14, True), Reach(15, True)], base, strict=True)), epochs)
    assert fast.interval.value == pytest.approx(0.5)
    assert fast.bound == ""
    slow = reach_ratio(list(zip([Reach(14, True), Reach(30, False)], base, strict=True)), epochs)
    assert slow.interval.value == pytest.approx(44 / 58)
    assert slow.bound == ">="
    assert reach_ratio([(Reach(5, True), Reach(9, False))], epochs).bound == "<="
    assert reach_ratio([(Reach(5, False), Reach(9, False))], epochs).bound == "~"


def test_no_ratio_without_a_record():
    assert reach_ratio([], epochs) is None
    assert reach_ratio([(Reach(5, True), Reach(9, True))], lambda r: r.seconds) is None


def test_share_near_best():
    assert share_near_best([0.5, 0.46, 0.44, 0.1], best=0.5) == 0.5
