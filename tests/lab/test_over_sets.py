"""Figures over several data sets, on runs written by hand whose answer is known beforehand.

Covers over_sets_view.py and over_sets_plots.py.
"""

import itertools
import json
import math

import numpy as np
import pytest
from browser import look
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from yolo_musgd.lab.analysis import analyse
from yolo_musgd.lab.comparison_report import write_report
from yolo_musgd.lab.intervals import first_reach, nested_bootstrap
from yolo_musgd.lab.over_sets import mean_ranks, over_sets, performance_profiles
from yolo_musgd.lab.over_sets_view import draw, headline

BASE = {"a.yaml": [0.1, 0.2, 0.3, 0.4], "b.yaml": [0.2, 0.4, 0.5, 0.6]}
MINE = {"a.yaml": [0.1, 0.42, 0.39, 0.5], "b.yaml": [0.3, 0.4, 0.5, 0.58]}
PICKED = {"optimizer": "AdamW", "lr0": 0.00143, "momentum": 0.9}


def mean(values):
    return sum(values) / len(values)


@pytest.fixture
def two_sets(bench, make):
    """`auto` as the baseline, MuSGD, and an SGD that has been run on one set only."""
    arms = make.arms(data=["a.yaml", "b.yaml"], optimizers=["auto", "MuSGD", "SGD"])
    for arm, seed in itertools.product(arms, (0, 1)):
        name = arm.contender.label
        if name == "SGD" and arm.data.label == "b":
            continue
        curve = (BASE if name == "auto" else MINE)[arm.data.data]
        bench.add(arm, seed, [v + 0.01 * seed for v in curve], picked=PICKED if name == "auto" else None)
    return arms, bench.store()


def test_known_figures_over_two_sets(two_sets):
    arms, store = two_sets
    (found,) = analyse(arms, store, "x", {})["over_sets"]
    assert (found["sets"], found["baseline"], found["left_out"]) == (["a", "b"], "auto", ["SGD"])
    auto, musgd = found["arms"]
    assert (auto["label"], musgd["label"]) == ("auto", "MuSGD")
    assert (musgd["mean_rank"], musgd["wins"], auto["wins"]) == (1.5, 1, 1)
    assert musgd["difference"]["value"] == pytest.approx((0.1 - 0.02) / 2)
    assert musgd["worst"] == {"data": "b", "value": pytest.approx(-0.02)}
    ratio = musgd["epochs_ratio"]  # set a at epoch 2 of 4; set b never: its whole budget counts
    assert (ratio["value"], ratio["bound"]) == (pytest.approx(math.sqrt(0.5 * 1)), ">=")
    assert musgd["epochs_ratio_for_good"]["by_set"] == pytest.approx([1.0, 1.0])  # it fell below the target once more
    assert auto["profile"] == [(1.0, 0.5), (2.0, 1.0)]
    assert musgd["profile"] == [(1.0, 0.5), (2.0, 0.5)]


def test_one_set_alone_has_no_summary(bench, make):
    arms = make.arms()
    bench.add(arms[0], 0, BASE["a.yaml"])
    assert analyse(arms, bench.store(), "x", {})["over_sets"] == []


def test_what_auto_picked_is_told(two_sets, tmp_path):
    arms, store = two_sets
    page, markdown, figures = write_report(arms, store, tmp_path, "mine", {})
    assert "picked AdamW, lr0=0.00143, momentum=0.9" in markdown.read_text()
    assert json.loads(figures.read_text())["groups"][0]["arms"][0]["picked"] == PICKED
    assert page.read_text().index("Over 2 data sets") < page.read_text().index("Final accuracy</h3>")
    assert (tmp_path / "plots/all_data_sets-yolo26n_scratch-profile.png").is_file()


def test_every_set_has_a_panel_with_the_curves_of_those_that_ran_on_all(two_sets):
    arms, store = two_sets
    found = analyse(arms, store, "x", {})
    (summary,) = found["over_sets"]
    picture = draw(summary, found["groups"], "mAP")["curves"]
    assert [a.get_title(loc="left") for a in picture.axes] == ["a", "b"]
    assert [t.get_text() for t in picture.legends[0].get_texts()] == ["auto", "MuSGD"]
    thick = [line.get_ydata() for line in picture.axes[1].lines if line.get_linewidth() > 2]
    np.testing.assert_allclose(thick, np.array([BASE["b.yaml"], MINE["b.yaml"]]) + 0.005)


def test_the_page_with_two_sets_in_a_browser(two_sets, tmp_path):
    arms, store = two_sets
    seen = look(write_report(arms, store, tmp_path, "mine", {})[0], 390)
    assert seen["scrolls"] <= 390, "the page scrolls sideways"
    assert [seen[k] for k in ("pale", "small", "broken", "errors") if seen[k]] == []


def test_the_headline_over_two_sets(two_sets):
    arms, store = two_sets
    (found,) = analyse(arms, store, "x", {})["over_sets"]
    first, last = headline(found)
    assert first.startswith("MuSGD ended 0.040 higher than auto on average over 2 data sets (which may be chance")
    assert "in ≥ 0.71 times its epochs" in first
    assert first.endswith("it was worst on b, where it ended 0.020 lower.")
    assert last == "Not on every data set yet, so not counted here: SGD."


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_mean_ranks_are_scipys(values):
    assert mean_ranks(values) == pytest.approx(list(rankdata([-v for v in values])))


TIMES = st.one_of(st.integers(1, 12).map(float), st.just(math.inf))


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TIMES, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_performance_profiles_against_their_definition(times):
    found = performance_profiles(times)
    for arm, steps in enumerate(found):
        assert [tau for tau, _ in steps] == sorted({tau for tau, _ in steps})
        for tau, share in steps:
            within = [row[arm] < math.inf and row[arm] <= tau * min(row) * (1 + 1e-12) for row in times]
            assert share == pytest.approx(sum(within) / len(times))
        assert steps[-1][1] == pytest.approx(mean([row[arm] < math.inf for row in times]))
    at_one = [steps[0][1] for steps in found]
    reached = mean([min(row) < math.inf for row in times])
    assert sum(at_one) >= reached - 1e-9, "on each set somebody is the fastest"


def test_nested_bootstrap_against_every_resample():
    sets = [[0.0, 0.02], [0.1, 0.14]]
    of_set = [[mean(x) for x in itertools.product(s, repeat=2)] for s in sets]
    everything = [
        mean(pair)
        for picks in itertools.product((0, 1), repeat=2)
        for pair in itertools.product(*(of_set[p] for p in picks))
    ]
    found = nested_bootstrap(sets, mean)
    assert found.value == pytest.approx(0.065)
    assert (found.low, found.high) == pytest.approx(np.quantile(everything, [0.025, 0.975]), abs=0.011)


def test_more_sets_with_the_same_answer_give_a_narrower_interval():
    few, many = (nested_bootstrap([[0.0, 0.02], [0.1, 0.12]] * n, mean) for n in (1, 6))
    assert few.value == pytest.approx(many.value)
    assert many.high - many.low < 0.6 * (few.high - few.low)
    assert nested_bootstrap([[0.1, 0.2]], mean).low is None


CURVES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(CURVES, st.floats(0, 1))
@settings(max_examples=200)
def test_for_good_is_never_before_the_first_touch(curve, target):
    first, good = first_reach(curve, target), first_reach(curve, target, for_good=True)
    assert good.epoch >= first.epoch
    if good.reached:
        assert min(curve[good.epoch - 1 :]) >= target
        assert good.epoch == 1 or curve[good.epoch - 2] < target
    else:
        assert curve[-1] < target


def test_nothing_finished_gives_no_summary_of_figures():
    assert over_sets([]) == []


def test_a_start_that_the_baseline_was_not_tried_from(bench, make, tmp_path):
    """Nothing to compare with is said by empty cells, not by an error."""
    arms = make.arms(data=["a.yaml", "b.yaml"], optimizers=["auto", "MuSGD"], seeds=[0])
    arms = [a for a in arms if a.contender.label == "MuSGD"]
    for arm in arms:
        bench.add(arm, 0, BASE[arm.data.data])
    _, markdown, figures = write_report(arms, bench.store(), tmp_path, "x", {})
    (found,) = json.loads(figures.read_text())["over_sets"]
    assert [(a["label"], a["difference"], a["wins"]) for a in found["arms"]] == [("MuSGD", None, 2)]
    assert "| MuSGD | none | 0.400 | 0.600 | 1.00 | 2 of 2 |  |  |  |" in markdown.read_text()
