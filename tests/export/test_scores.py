"""Scores that quantizing moves: seen, refused, and answered with a threshold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from detectors import alter, boxes, detector
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.data.reader import LabelledImage
from yolo_musgd.edge.average_precision import mean_ap
from yolo_musgd.edge.pictures.images import write_image
from yolo_musgd.export import sensitivity
from yolo_musgd.export.accuracy import Accuracy, as_dict, evaluate
from yolo_musgd.export.guard import Guard
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.scores import CUTS, best_cut, drop_interval, f1_and_recall, score_shift

RIGHT, WRONG = [4.0, 4.0, 14.0, 14.0], [20.0, 20.0, 30.0, 30.0]  # xyxy in 32 x 32 pixels


def outcomes(seed: int, images: int, keep: float = 1.0) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """Random outcomes of a detector of two classes; ``keep`` is the share of its right detections that stays right."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        actual = random.integers(0, 2, random.integers(1, 5)).astype(float)
        hit = random.random(len(actual)) < 0.8
        scores = np.where(hit, random.uniform(0.4, 1, len(actual)), random.uniform(0, 0.6, len(actual)))
        right = np.repeat((hit & (random.random(len(actual)) < keep))[:, None], 10, axis=1)
        made.append((right, np.stack((scores, actual), axis=1), actual))
    return tuple(made)


def accuracy_of(found: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]) -> Accuracy:
    right, score, actual = (np.concatenate(column) for column in zip(*found, strict=True))
    rows = mean_ap(right, score[:, 0], score[:, 1], actual)
    whole, half = (float(np.mean([row[key] for row in rows])) for key in ("map50_95", "map50"))
    return Accuracy(whole, half, len(found), (), (), found)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_f1_and_recall_are_those_of_a_naive_count(seed: int) -> None:
    found = outcomes(seed, 6)
    right, score, actual = (np.concatenate(column) for column in zip(*found, strict=True))
    f1, recall = f1_and_recall(accuracy_of(found))
    for at in (0, 250, 500, 777, 1000):
        rows = []
        for index in np.unique(actual):
            shown = (score[:, 1] == index) & (score[:, 0] >= CUTS[at])
            hits, total = (shown & right[:, 0]).sum(), (actual == index).sum()
            precision = hits / shown.sum() if shown.any() else 0.0
            share = hits / total
            rows.append((2 * precision * share / (precision + share) if hits else 0.0, share))
        assert (f1[at], recall[at]) == pytest.approx(np.mean(rows, axis=0))


def test_the_best_cut_parts_right_from_wrong() -> None:
    image = (
        np.repeat([[True], [False]], 10, axis=1),
        np.array([[0.8, 0.0], [0.3, 0.0]]),
        np.array([0.0]),
    )
    cut = best_cut(accuracy_of((image,) * 4))
    assert cut is not None
    assert 0.3 < cut.conf <= 0.8
    assert cut.f1 == 1.0
    nothing = (np.zeros((1, 10), bool), np.array([[0.8, 0.0]]), np.array([0.0]))
    assert best_cut(accuracy_of((nothing,) * 4)) is None
    assert best_cut(None) is None


def test_the_interval_of_a_drop_knows_chance_from_loss() -> None:
    base = accuracy_of(outcomes(1, 40))
    same = drop_interval(base, base)
    assert same == (0.0, 0.0)
    worse = accuracy_of(outcomes(1, 40, keep=0.7))
    low, high = drop_interval(base, worse)
    assert 0 < low < base.map50_95 - worse.map50_95 < high
    few = [outcomes(2, 8), list(outcomes(2, 8))]
    few[1][3] = (np.zeros_like(few[1][3][0]), *few[1][3][1:])  # one image went wrong
    low, high = drop_interval(accuracy_of(few[0]), accuracy_of(tuple(few[1])))
    assert low <= 0 < high
    assert drop_interval(Accuracy(0.5, 0.5, 1, ()), base) is None


@pytest.fixture
def planted(tmp_path: Path):
    """FP32 graph, its accuracy, images, and a maker of graphs whose scores are ``factor`` times as high."""
    files = []
    for k in range(8):
        file = write_image(str(tmp_path / f"{k}.png"), np.full((32, 32, 3), 30 * k, np.uint8))
        centre = [(RIGHT[0] + RIGHT[2]) / 64, (RIGHT[1] + RIGHT[3]) / 64, 10 / 32, 10 / 32]
        files.append(LabelledImage(file, np.array([[1.0, *centre]]), (32, 32)))

    def made(path: Path, factor: float) -> Path:
        rows = ([*RIGHT, 0.9 * factor, 1], [*WRONG, 0.3 * factor, 1])
        return alter(detector(path), answer=boxes(*rows), metadata={"end2end": "True"})

    def opened(model: Path) -> Loaded:
        return load(model, "onnxruntime", 1)

    reference = opened(made(tmp_path / "fp32.onnx", 1.0))
    yield files, evaluate(*reference, files), reference, made, opened
    reference.close()


def guard_over(planted, tmp_path: Path, factor, **limits: float) -> Guard:
    files, expected, reference, made, opened = planted

    def make(layers, folder: Path) -> Path:
        folder.mkdir()
        return made(folder / "model.onnx", factor(layers))

    return Guard(
        make, opened, "onnxruntime", tmp_path, files, expected, sensitivity.Limits(**limits), reference.runtime
    )


def test_shrunk_scores_with_an_equal_map_are_refused(planted, tmp_path: Path, caplog) -> None:
    ranked = [sensitivity.Ranked(f"g{k}", (f"n{k}",), 1.0) for k in range(2)]
    guard = guard_over(planted, tmp_path, lambda layers: 0.5, max_drop=0.01, max_score_shift=0.05)
    result = guard.run(("head",), lambda: ranked)
    assert result.accuracy.map50_95 == planted[1].map50_95 > 0.9
    assert "shifts the scores by -0.3000 in the mean, more than max_score_shift=0.05" in caplog.text
    assert "no choice of float layers holds the limits" in caplog.text
    assert [step.score_shift for step in result.steps] == pytest.approx([-0.3] * 3, abs=1e-6)


def test_layers_go_back_to_float_for_the_scores(planted, tmp_path: Path) -> None:
    ranked = [sensitivity.Ranked(f"g{k}", (f"n{k}",), 1.0) for k in range(3)]
    guard = guard_over(
        planted, tmp_path, lambda layers: 0.98 if "n1" in layers else 0.5, max_drop=1, max_score_shift=0.05
    )
    result = guard.run(("head",), lambda: ranked)
    assert result.float_layers == ("head", "n0", "n1")


def test_it_is_taken_where_shifted_scores_are_allowed(planted, tmp_path: Path) -> None:
    guard = guard_over(planted, tmp_path, lambda layers: 0.5, max_drop=0.01, max_score_shift=0.5)
    assert guard.run(("head",), lambda: pytest.fail("nothing to search")).steps == ()


def test_the_shift_says_where_to_cut_instead(planted, tmp_path: Path) -> None:
    files, expected, _, made, opened = planted
    other = opened(made(tmp_path / "shrunk.onnx", 0.5))
    found = score_shift(expected, evaluate(*other, files))
    other.close()
    assert (found.matched, found.shift) == (16, pytest.approx(-0.3))
    assert 0.3 < found.conf[0] <= 0.9
    assert 0.15 < found.conf[1] <= 0.45
    assert found.f1 == (1.0, 1.0)
    assert as_dict(dataclasses.replace(found, f1=(1 / 3, 2 / 3)))["f1"] == [0.3333, 0.6667]
    assert found.recall[0] == 1.0
    assert found.recall[1] == (1.0 if found.conf[0] <= 0.45 else 0.0)


def test_a_drop_that_may_be_chance_sets_off_no_search(planted, tmp_path: Path, caplog) -> None:
    """FP32 is a little better on one image of eight: what eight images say is no reason to look for layers."""
    expected = planted[1]
    first = expected.outcomes[0]
    worse = (np.zeros_like(first[0]), first[1], first[2])
    drop = expected.map50_95 - accuracy_of((worse, *expected.outcomes[1:])).map50_95
    assert drop > 0.01
    guard = guard_over(planted, tmp_path, lambda layers: 1.0, max_drop=0.01)
    guard._judged[("head",)] = Accuracy(
        expected.map50_95 - drop, expected.map50, 8, expected.detections, (), (worse, *expected.outcomes[1:])
    )
    result = guard.run(("head",), lambda: pytest.fail("nothing to search"))
    assert result.steps == ()
    assert "on 8 images that may be chance (90 % interval" in result.note
    assert result.note in caplog.text
