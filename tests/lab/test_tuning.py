"""Tuning: a search replayed from its finished trials goes on exactly where it was."""

import math

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.tuning import Range, Search, best

GRID = Search({"lr0": (0.005, 0.01, 0.02), "momentum": (0.9, 0.95)})


def quality(point):
    return 1 - abs(math.log(point["lr0"] / 0.01))


def finish(search, order=lambda missing: missing):
    """Run a search to its end; returns its trials and every point that was asked for."""
    finished, asked = {}, []
    while True:
        done, missing = search.replay(lambda p: finished.get(tuple(p.items())))
        if not missing:
            return done, asked
        point = order(missing)[0]
        asked.append(point)
        finished[tuple(point.items())] = quality(point)


def test_a_grid_asks_for_everything_at_once_and_nothing_twice():
    done, asked = finish(GRID)
    assert len(done) == len(asked) == GRID.budget == 6
    assert best(done) == {"lr0": 0.01, "momentum": 0.9}


def test_the_order_in_which_trials_finish_does_not_matter():
    assert finish(GRID)[0] == finish(GRID, order=lambda missing: missing[::-1])[0]


def test_a_range_is_searched_by_optuna_and_can_be_interrupted():
    pytest.importorskip("optuna", reason="the extra lab is not installed")
    search = Search({"lr0": Range(0.001, 0.1)}, trials=8)
    done, asked = finish(search)
    assert len(done) == 8
    assert len({p["lr0"] for p in asked}) == 8
    assert all(0.001 <= p["lr0"] <= 0.1 for p in asked)
    known = {tuple(p.items()): v for p, v in done[:3]}
    replayed, following = search.replay(lambda p: known.get(tuple(p.items())))
    assert replayed == done[:3]
    assert following == [asked[3]]


def test_failed_trials_use_up_the_budget_and_never_win():
    pytest.importorskip("optuna", reason="the extra lab is not installed")
    done, missing = Search({"lr0": Range(0.001, 0.1)}, trials=3).replay(lambda p: math.nan)
    assert len(done) == 3
    assert not missing
    assert best(done) is None


def test_the_edge_of_a_search():
    assert GRID.at_the_edge({"lr0": 0.01, "momentum": 0.9}) == ["momentum"]
    assert GRID.at_the_edge({"lr0": 0.02, "momentum": 0.95}) == ["lr0", "momentum"]
    wide = Search({"lr0": Range(0.001, 0.1)})
    assert wide.at_the_edge({"lr0": 0.00105}) == ["lr0"]
    assert wide.at_the_edge({"lr0": 0.01}) == []
    linear = Search({"momentum": Range(0.0, 1.0, log=False)})
    assert linear.at_the_edge({"momentum": 0.5}) == []
    assert linear.at_the_edge({"momentum": 0.02}) == ["momentum"]
    words = Search({"muon_scale": ("rms", "keller"), "nesterov": (True, False), "telemetry": (None, 1.0, 2.0)})
    assert words.at_the_edge({"muon_scale": "rms", "nesterov": True, "telemetry": 2.0}) == ["telemetry"]
    assert words.at_the_edge({"muon_scale": "rms", "nesterov": True, "telemetry": None}) == []


def test_lists_and_ranges_do_not_mix():
    with pytest.raises(UserError, match="lists of values or ranges"):
        Search({"lr0": (0.1,), "momentum": Range(0.8, 0.9)})
