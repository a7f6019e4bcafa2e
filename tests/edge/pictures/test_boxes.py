"""pictures/boxes.py and average_precision.py: heads, NMS, matching and mAP against Ultralytics; label files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge import average_precision, labels
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures import boxes


@pytest.fixture(scope="module")
def torch(oracle: list[str]) -> Any:
    """PyTorch, where Ultralytics is there to be asked."""
    return pytest.importorskip("torch")


def raw_output(seed: int, classes: int, anchors: int) -> np.ndarray:
    """A raw head's output with clusters of overlapping boxes."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(20, 300, (max(1, anchors // 6), 2))
    out = np.zeros((4 + classes, anchors), np.float32)
    out[:2] = (centres[rng.integers(0, len(centres), anchors)] + rng.normal(0, 4, (anchors, 2))).T
    out[2:4] = rng.uniform(15, 60, (2, anchors))
    out[4:] = rng.uniform(0, 1, (classes, anchors)) ** 3
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 80]), st.sampled_from([1, 30, 400]), st.booleans())
def test_raw_head_is_ultralytics(torch: Any, seed: int, classes: int, anchors: int, multi_label: bool) -> None:
    from ultralytics.utils.nms import non_max_suppression

    out = raw_output(seed, classes, anchors)
    for conf, iou in ((0.25, 0.7), (0.05, 0.45)):
        got = boxes.decode(out, "raw", classes, conf, iou, 100, multi_label)
        expected = non_max_suppression(
            torch.from_numpy(out[None].copy()), conf, iou, nc=classes, multi_label=multi_label, max_det=100
        )[0].numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_nms_free_head() -> None:
    out = np.array([[1, 2, 3, 4, 0.9, 5], [1, 2, 3, 4, 0.25, 5], [5, 6, 7, 8, 0.3, 1]], np.float32)
    np.testing.assert_array_equal(boxes.decode(out, None, 80), out[[0, 2]])  # above, not at, the threshold
    assert len(boxes.decode(out, "nms_free", 80, max_det=1)) == 1


@pytest.mark.parametrize(
    ("shape", "classes", "head"),
    [
        ((84, 8400), 80, "raw"),
        ((300, 6), 80, "nms_free"),
        ((6, 2100), 2, "raw"),
        ((6, 6), 2, "raw"),
        ((5, 6), 1, "raw"),
    ],
)
def test_heads_are_told_apart(shape: tuple[int, int], classes: int, head: str) -> None:
    assert boxes.head_of(shape, classes) == head


@pytest.mark.parametrize("head", ["nms_free", "nms", "rtdetr"])
@pytest.mark.parametrize("strange", [3, 57, -1])
def test_a_class_without_a_name_is_an_error(head: str, strange: int) -> None:
    """An NMS-free model of 80 classes whose metadata names three would say nothing of the other 77."""
    out = np.array([[0.1, 0.2, 0.3, 0.4, 0.9, 2], [0.1, 0.2, 0.3, 0.4, 0.8, strange]], np.float32)
    with pytest.raises(UserError, match=rf"sixth column is no class of 3 \({strange}\)"):
        boxes.decode(out, head, 3)
    assert len(boxes.decode(out, head, 3, conf=0.85)) == 1
    assert len(boxes.decode(out, head, 0)) == 2  # a model that names none


def test_wrong_shapes_are_explained() -> None:
    with pytest.raises(UserError, match="84 rows; 3 class names need 7"):
        boxes.decode(np.zeros((84, 100), np.float32), "raw", 3)
    with pytest.raises(UserError, match="NMS-free"):
        boxes.decode(np.zeros((84, 100), np.float32), "nms_free", 80)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_nms_keeps_no_overlap_and_drops_nothing_alone(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (40, 2))
    xyxy = np.concatenate((corner, corner + rng.uniform(5, 40, (40, 2))), 1).astype(np.float32)
    scores = rng.uniform(0, 1, 40).astype(np.float32)
    kept = boxes.nms(xyxy, scores, iou, 1000)
    overlaps = boxes.iou_matrix(xyxy[kept], xyxy[kept]) - np.eye(len(kept))
    assert overlaps.max(initial=0) <= iou + 1e-5
    assert (np.diff(scores[kept]) <= 0).all()
    dropped = np.setdiff1d(np.arange(40), kept)
    if len(dropped):
        assert (boxes.iou_matrix(xyxy[dropped], xyxy[kept]).max(1) > iou - 1e-5).all()


def random_set(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images with labels and detections near them."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(12):
        count = int(rng.integers(0, 7))
        corner = rng.uniform(0, 200, (count, 2))
        target = np.concatenate((rng.integers(0, 4, (count, 1)), corner, corner + rng.uniform(20, 80, (count, 2))), 1)
        shaken = np.repeat(target, 2, axis=0)
        shaken[:, 1:] += rng.normal(0, 6, (2 * count, 4))
        found = np.concatenate((shaken[:, 1:], rng.uniform(0, 1, (2 * count, 1)), shaken[:, :1]), 1)
        found = found[np.argsort(-found[:, 4])].astype(np.float32)
        out.append((found, target.astype(np.float32)))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_map_is_ultralytics(seed: int, torch: Any) -> None:
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import ap_per_class, box_iou

    evaluator, right, found_all, actual = average_precision.Evaluator(), [], [], []
    validator = BaseValidator.__new__(BaseValidator)
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    for found, target in random_set(seed):
        evaluator.add(found, target)
        f, t = torch.from_numpy(found), torch.from_numpy(target)
        right.append(validator.match_predictions(f[:, 5], t[:, 0], box_iou(t[:, 1:], f[:, :4])).numpy())
        found_all.append(found)
        actual.append(target[:, 0])
        np.testing.assert_array_equal(average_precision.match(found, target), right[-1])
    every = np.concatenate(found_all)
    theirs = ap_per_class(np.concatenate(right), every[:, 4], every[:, 5], np.concatenate(actual))
    ap, result = theirs[5], evaluator.result({})
    for key, expected in (("precision", theirs[2]), ("recall", theirs[3]), ("map50", ap[:, 0])):
        assert [row[key] for row in result["per_class"]] == pytest.approx(list(expected), abs=1e-4)
        assert result[key] == pytest.approx(expected.mean(), abs=1e-4)
    assert result["map50_95"] == pytest.approx(ap.mean(), abs=1e-4)
    assert result["map50"] == pytest.approx(ap[:, 0].mean(), abs=1e-4)


def test_the_newest_rules_are_the_hosts(oracle: list[str], torch: Any) -> None:
    """What newest_rules.py puts into an old host gives what a new host does by itself."""
    import newest_rules
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils import metrics, ops

    if oracle:
        pytest.skip(f"this release has older rules: {', '.join(oracle)} were replaced")
    rng = np.random.default_rng(0)
    validator = BaseValidator.__new__(BaseValidator)
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    for _ in range(50):
        recall = np.sort(rng.uniform(0, 0.9, 12))
        precision = rng.uniform(0, 1, 12)
        expected = metrics.compute_ap(list(recall), list(precision))[0]
        assert newest_rules.average_precision(recall, precision)[0] == pytest.approx(expected, abs=1e-12)
        found, labels = torch.from_numpy(rng.integers(0, 3, 9)), torch.from_numpy(rng.integers(0, 3, 6))
        overlap = torch.from_numpy(rng.uniform(0.3, 1, (6, 9)).astype(np.float32))
        got = newest_rules.match_predictions(validator, found, labels, overlap)
        assert torch.equal(got, validator.match_predictions(found, labels, overlap))
        shape = tuple(int(side) for side in rng.integers(20, 900, 2))
        corners = torch.from_numpy(rng.uniform(-5, 330, (7, 4)))
        for pads in (None, ((0.5, 0.4), (3, 7))):
            scaled = (
                scale((320, 256), corners.clone(), shape, pads) for scale in (ops.scale_boxes, newest_rules.scale_boxes)
            )
            assert torch.allclose(*scaled, atol=1e-4)


def test_perfect_empty_and_absent() -> None:
    evaluator = average_precision.Evaluator()
    assert evaluator.result({})["map50_95"] is None  # nothing measured
    target = np.array([[2, 10, 10, 50, 50]], np.float32)
    evaluator.add(np.array([[10, 10, 50, 50, 0.9, 2]], np.float32), target)
    assert evaluator.result({2: "bird"})["classes"] == {"bird": pytest.approx(0.995, abs=0.006)}
    evaluator = average_precision.Evaluator()
    evaluator.add(np.zeros((0, 6), np.float32), target)
    assert evaluator.result({})["map50_95"] == 0.0


def test_labels(tmp_path: object) -> None:
    path = f"{tmp_path}/a.txt"
    with Path(path).open("w") as file:
        file.write("1 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n\n0 0.2 0.3 0.2 0.4\n")
    np.testing.assert_allclose(labels.read_labels(path), [[1, 0.5, 0.5, 0.2, 0.4], [0, 0.2, 0.3, 0.2, 0.4]], atol=1e-6)
    Path(path).write_text("0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n")
    np.testing.assert_allclose(labels.read_labels(path), [[0, 0.2, 0.3, 0.2, 0.4]], atol=1e-6)
    for bad in ("1 0.5 0.5 0.2", "x 0 0 0 0", "1 0.5 0.5 2.2 0.4", "1.5 .1 .1 .1 .1"):
        with Path(path).open("w") as file:
            file.write("0 0.5 0.5 0.1 0.1\n" + bad + "\n")
        with pytest.raises(UserError, match=r"a\.txt:2"):
            labels.read_labels(path)
    Path(path).write_bytes("\ufeff1 -0.01 0.5 0.2 0.4\n".encode())  # Windows' mark; the hundredth that is tolerated
    np.testing.assert_allclose(labels.read_labels(path), [[1, -0.01, 0.5, 0.2, 0.4]], atol=1e-6)
    for bad in (
        b"1 -0.02 0.5 0.2 0.4\n",
        b"1 0.5 0.5 -0.01 0.4\n",
        b"-1 0.5 0.5 0.2 0.4\n",
        "1 .5 .5 .2 .4".encode("utf-16"),
    ):
        Path(path).write_bytes(bad)
        with pytest.raises(UserError, match=r"a\.txt:1"):
            labels.read_labels(path)
    assert labels.label_path("/d/images/val/x.jpg") == "/d/labels/val/x.txt"
    assert len(labels.read_labels(f"{tmp_path}/absent.txt")) == 0
