"""The accuracy that an export reports.

Covers sensitivity.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.export.accuracy import Accuracy, agreement, as_dict, disagreement, paired
from yolo_musgd.export.sensitivity import Limits, Ranked, answer, search


def detections(seed: int, count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 200, (count, 2)), random.uniform(10, 60, (count, 2))
    rest = np.stack((random.uniform(0.3, 1, count), random.integers(0, 3, count)), axis=1)
    return np.concatenate((corner, corner + size, rest), axis=1).astype(np.float32)


@given(seed=st.integers(0, 1000), count=st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_a_model_agrees_with_itself(seed: int, count: int) -> None:
    found = [detections(seed, count)]
    both = agreement(found, found)
    assert both.count == count
    assert (both.matched, both.extra) == ((1.0, 0.0) if count else (None, None))
    assert disagreement(found, found) == pytest.approx(0.0, abs=1e-6)


@given(seed=st.integers(0, 1000), count=st.integers(1, 12), lost=st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_lost_and_extra_detections_are_counted(seed: int, count: int, lost: int) -> None:
    whole = detections(seed, count)
    whole[:, 0] += np.arange(count) * 1000  # far from each other
    whole[:, 2] += np.arange(count) * 1000
    part = whole[min(lost, count) :]
    assert agreement([whole], [part]).matched == pytest.approx(len(part) / count)
    assert disagreement([whole], [part]) == pytest.approx(1 - len(part) / count, abs=1e-6)
    if len(part):
        assert agreement([part], [whole]).extra == pytest.approx((count - len(part)) / len(part))


def test_disagreement_grows_smoothly() -> None:
    found = detections(1, 8)
    losses = []
    for shift in (0.0, 1.0, 2.0, 4.0, 40.0):
        moved = found.copy()
        moved[:, :4] += shift
        losses.append(disagreement([found], [moved]))
    assert losses == sorted(losses)
    assert 0 < losses[1] < 0.3
    lower = found.copy()
    lower[:, 4] *= 0.8
    assert disagreement([found], [lower]) == pytest.approx(0.2, abs=1e-6)


def test_classes_are_not_mixed_up() -> None:
    found = detections(2, 5)
    other = found.copy()
    other[:, 5] += 1
    assert paired(found, other) == [] or all(found[i, 5] == other[j, 5] for i, j, _ in paired(found, other))
    assert agreement([found], [other]).matched == 0.0 or len(set(found[:, 5])) > 1


def test_figures_keep_four_digits() -> None:
    record = as_dict(agreement([detections(3, 4)], [detections(3, 4)]))
    assert record["matched"] == 1.0
    assert record["count"] == 4


def accuracy(value: float) -> Accuracy:
    return Accuracy(value, value, 1, ())


@given(needed=st.integers(0, 40), groups=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_the_search_finds_the_fewest_groups(needed: int, groups: int) -> None:
    """Oracle: with a drop that falls step by step, the answer is the first count that holds; few counts are tried."""
    ranked = [Ranked(f"g{k}", (f"n{k}",), 1.0 / (k + 1)) for k in range(groups)]
    calls: list[int] = []

    def judge(layers: tuple[str, ...]) -> Accuracy:
        calls.append(len(layers) - 1)
        return accuracy(0.5 - (0.02 if len(layers) - 1 < needed else 0.001))

    steps = search(ranked, ["head"], judge, accuracy(0.5), Limits(0.01))
    chosen = answer(steps, Limits(0.01))
    assert len(calls) == len(set(calls)) <= 14
    assert chosen.float_layers[0] == "head"
    if needed <= groups:
        assert len(chosen.groups) == needed
        assert chosen.drop <= 0.01
    else:
        assert chosen.drop > 0.01
    assert [len(s.groups) for s in steps] == sorted(len(s.groups) for s in steps)
