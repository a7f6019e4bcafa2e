"""Matching and average precision as Ultralytics computes them: what detections and labels make of mAP."""

from typing import Any, Dict, List, Tuple

import numpy as np

from .pictures import boxes
from .stats import rounded

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU, COCO's ten


def match(detections: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Decide which detections are right at each of the ten IoU thresholds.

    In the order of falling score each detection takes the best target of its class that none before it took.

    Args:
        detections: (n, 6) xyxy, score, class; by falling score.
        targets: (m, 5) class, xyxy in the same pixels.

    Returns:
        bool (n, 10).
    """
    right = np.zeros((len(detections), len(THRESHOLDS)), bool)
    if not len(detections) or not len(targets):
        return right
    overlap = boxes.iou_matrix(targets[:, 1:], detections[:, :4])
    overlap = overlap * (targets[:, :1] == detections[None, :, 5])
    columns = np.arange(len(THRESHOLDS))
    taken = np.zeros((len(targets), len(THRESHOLDS)), bool)
    for k in np.flatnonzero(overlap.max(axis=0) >= THRESHOLDS[0]):
        free = np.where(taken, 0.0, overlap[:, k : k + 1])
        best = free.argmax(axis=0)
        right[k] = free[best, columns] >= THRESHOLDS
        taken[best, columns] |= right[k]
    return right


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision envelope at COCO's 101 recalls, by trapezoids.

    Args:
        recall: Rising, shape (n,), one entry per detection by falling score.
        precision: Same shape.
    """
    r = np.concatenate(([0.0], recall, [recall[-1], 1.0]))
    p = np.concatenate(([1.0], precision, [0.0, 0.0]))
    envelope = np.maximum.accumulate(p[::-1])[::-1]
    sampled = np.interp(np.linspace(0, 1, 101), r, envelope)
    return float((sampled[:-1] + sampled[1:]).sum() / 200.0)


def mean_ap(right: np.ndarray, scores: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> List[Dict[str, Any]]:
    """Average precision, precision and recall of the classes that occur in the labels.

    Precision and recall are at IoU 0.5, at the one score that is best for the mean F1 of the classes (smoothed over a
    tenth of the scores), as Ultralytics prints them.

    Args:
        right: bool (n, 10), see match.
        scores: (n,).
        predicted: Class of every detection, (n,).
        actual: Class of every label, (m,).

    Returns:
        ``class, precision, recall, map50, map50_95`` of each class in rising order; all figures in [0, 1].
    """
    order = np.argsort(-scores, kind="mergesort")
    right, predicted, scores = right[order], predicted[order], scores[order]
    rows, curves = [], []
    for index in np.unique(actual):
        mine = predicted == index
        hits = right[mine].astype(np.float64).cumsum(axis=0)
        recall = hits / int((actual == index).sum())
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        values = [average_precision(r, p) for r, p in zip(recall.T, precision.T)] if len(hits) else [0.0]
        rows.append({"class": int(index), "map50": values[0], "map50_95": float(np.mean(values))})
        curves.append(_by_score(recall[:, 0], precision[:, 0], scores[mine]))
    if rows:
        both = np.array(curves)  # class, (recall, precision), score
        f1 = 2 * both.prod(axis=1) / np.maximum(both.sum(axis=1), 1e-16)
        best = _smoothed(f1.mean(axis=0)).argmax()
        for row, (recall_at, precision_at) in zip(rows, both[:, :, best]):
            row.update(precision=float(precision_at), recall=float(recall_at))
    return rows


def _by_score(recall: np.ndarray, precision: np.ndarray, scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Recall and precision at 1000 lowest scores from 0 to 1; ``scores`` (n,) fall."""
    lowest = np.linspace(0, 1, 1000)
    if not len(scores):
        return np.zeros(1000), np.zeros(1000)
    return np.interp(-lowest, -scores, recall, left=0), np.interp(-lowest, -scores, precision, left=1)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a tenth of the values, the ends held."""
    window = round(len(values) * 0.2) // 2 + 1
    padded = np.pad(values, window // 2, mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")


class Evaluator:
    """Collects images one by one and gives mAP at any time.

    Attributes:
        images: how many were added.
        labels: in all of them.
        left_out: why others were not, a line each.
        right, found, actual: of each image: see match; score and class of its detections; class of its labels.
    """

    def __init__(self) -> None:
        self.images = self.labels = 0
        self.left_out: List[str] = []
        self.right: List[np.ndarray] = []
        self.found: List[np.ndarray] = []
        self.actual: List[np.ndarray] = []

    def add(self, detections: np.ndarray, targets: np.ndarray) -> None:
        """Add one image: detections (n, 6) by falling score, targets (m, 5) class and xyxy in the same pixels."""
        self.images += 1
        self.labels += len(targets)
        self.right.append(match(detections, targets))
        self.found.append(detections[:, 4:6])
        self.actual.append(targets[:, 0])

    def result(self, names: Dict[int, str]) -> Dict[str, Any]:
        """Return the figures so far.

        Returns:
            ``precision, recall, map50, map50_95`` (means over the classes that have labels), ``images, labels``,
            ``classes`` (name -> mAP50-95) and ``per_class``, a list of all of these for each class.
        """
        empty = dict.fromkeys(("precision", "recall", "map50", "map50_95"))
        if not self.images:
            return dict(empty, images=0, labels=0, classes={}, per_class=[])
        found = np.concatenate(self.found)
        actual = np.concatenate(self.actual)
        rows = mean_ap(np.concatenate(self.right), found[:, 0], found[:, 1], actual)
        for row in rows:
            key = row["class"]
            row["name"] = names.get(key, str(key))
            row["images"] = sum(bool((classes == key).any()) for classes in self.actual)
            row["labels"] = int((actual == key).sum())
        out: Dict[str, Any] = {key: float(np.mean([row[key] for row in rows])) if rows else 0.0 for key in empty}
        out.update(images=self.images, labels=self.labels, classes={row["name"]: row["map50_95"] for row in rows})
        rounded_out: Dict[str, Any] = rounded(dict(out, per_class=rows), 5)
        return rounded_out
