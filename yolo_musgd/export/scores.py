"""What quantizing does to the scores, which mAP does not see: it only ranks detections.

A user cuts at a fixed score. Where all scores shrink alike, mAP holds and that cut drops objects.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from yolo_musgd.edge.average_precision import mean_ap
from yolo_musgd.export.accuracy import CONF, Accuracy, paired

CUTS = np.linspace(0.0, 1.0, 1001)
WINDOW = 51  # of CUTS: the mean over .05, so that single detections do not pick the best one
LEAST_F1 = 0.1  # below it no cut is worth recommending
LEAST_MATCHED = 10  # fewer detections have no mean worth acting on
GROUPS = 20


class BestCut(NamedTuple):
    """The score at which a model's F1, a mean over classes at an IoU of one half, is best."""

    conf: float
    f1: float


@dataclasses.dataclass(frozen=True)
class ScoreShift:
    """Scores of a model against those of the FP32 graph on the same images.

    Attributes:
        matched: detections of FP32 above :data:`CONF` that the other has too, at whatever score.
        shift: mean of the other's score minus FP32's over them; None of fewer than :data:`LEAST_MATCHED`.
        conf: best-F1 cut of FP32 and of the other.
        f1: there.
        recall: of both at FP32's best cut, a mean over classes.
    """

    matched: int
    shift: float | None
    conf: tuple[float, float] | None
    f1: tuple[float, float] | None
    recall: tuple[float, float] | None


def f1_and_recall(found: Accuracy) -> tuple[np.ndarray, np.ndarray]:
    """F1 and recall at every cut of :data:`CUTS`, means over the classes that occur; an IoU of one half."""
    right, scores, predicted, actual = joined(found)
    curves = []
    for index in np.unique(actual):
        mine = predicted == index
        hits = np.sort(scores[mine & right[:, 0]])
        every = np.sort(scores[mine])
        above = len(hits) - np.searchsorted(hits, CUTS)
        shown = len(every) - np.searchsorted(every, CUTS)
        total = int((actual == index).sum())
        curves.append((2 * above / np.maximum(shown + total, 1), above / total))
    if not curves:
        return np.zeros_like(CUTS), np.zeros_like(CUTS)
    f1, recall = np.mean(curves, axis=0)
    return f1, recall


def best_cut(found: Accuracy | None) -> BestCut | None:
    """Where F1 is best; None without labels or where it is nowhere worth anything."""
    if found is None or not found.outcomes:
        return None
    f1, _ = f1_and_recall(found)
    padded = np.pad(f1, WINDOW // 2, mode="edge")
    at = int(np.convolve(padded, np.ones(WINDOW) / WINDOW, mode="valid").argmax())
    return BestCut(round(float(CUTS[at]), 3), float(f1[at])) if f1[at] >= LEAST_F1 else None


def score_shift(expected: Accuracy, other: Accuracy) -> ScoreShift:
    """Compare the scores of two models on the same images."""
    differences: list[float] = []
    for a, b in zip(expected.detections, other.detections, strict=True):
        sure = a[a[:, 4] > CONF]
        differences += [float(b[j, 4] - sure[i, 4]) for i, j, _ in paired(sure, b)]
    shift = float(np.mean(differences)) if len(differences) >= LEAST_MATCHED else None
    cuts = best_cut(expected), best_cut(other)
    if cuts[0] is None or cuts[1] is None:
        return ScoreShift(len(differences), shift, None, None, None)
    at = int(np.searchsorted(CUTS, cuts[0].conf))
    recall = [float(f1_and_recall(model)[1][at]) for model in (expected, other)]
    return ScoreShift(
        len(differences), shift, (cuts[0].conf, cuts[1].conf), (cuts[0].f1, cuts[1].f1), (recall[0], recall[1])
    )


def joined(found: Accuracy, without: range = range(0)) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of :func:`yolo_musgd.edge.average_precision.mean_ap`, from all images but ``without``."""
    parts = [outcome for k, outcome in enumerate(found.outcomes) if k not in without]
    right, score, actual = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return right, score[:, 0], score[:, 1], actual


def whole_map(parts: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> float:
    """mAP50-95, a mean over the classes that have labels."""
    return float(np.mean([row["map50_95"] for row in mean_ap(*parts)] or [0.0]))


def drop_interval(expected: Accuracy, other: Accuracy) -> tuple[float, float] | None:
    """A 90 % interval of the drop of mAP50-95, by leaving out a twentieth of the images at a time.

    The delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001): both models lose the same images, so
    what is hard for both does not count. None where the images' outcomes are not known, or are fewer than four.
    """
    count = len(expected.outcomes)
    if count != len(other.outcomes) or count < 4:
        return None
    groups = min(GROUPS, count)
    drops = []
    for k in range(groups):
        out = range(k, count, groups)
        drops.append(whole_map(joined(expected, out)) - whole_map(joined(other, out)))
    error = float(np.sqrt((groups - 1) * np.var(drops)))
    drop = expected.map50_95 - other.map50_95
    return drop - 1.645 * error, drop + 1.645 * error
