"""What a model finds on real images: mAP on the val split, and how far its detections agree with another model's.

Boxes, NMS and mAP are those of :mod:`yolo_musgd.edge`, which the board runs and which equal Ultralytics' own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from yolo_musgd.data.reader import LabelledImage, read_image, tolerate
from yolo_musgd.edge.average_precision import Evaluator
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.evaluate import VAL_CONF, judge
from yolo_musgd.edge.pictures.boxes import decode, iou_matrix
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.edge.runtimes.artifact import Artifact
from yolo_musgd.edge.runtimes.base import Runtime

CONF = 0.25  # lowest score of a detection that people would see
SLACK = 0.05  # of a score at that border
_OPTIONS = SimpleNamespace(conf=VAL_CONF, iou=0.7, max_det=300)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """mAP on labelled images, and the detections behind it (boxes in pixels of the network's input).

    Attributes:
        map50_95: mean average precision over IoU thresholds .50 to .95.
        map50: at .50.
        images: how many judged.
        detections: of each of them.
        left_out: why others did not judge, a line each.
        outcomes: of each image: right at each IoU (n, 10), score and class (n, 2), classes of its labels (m,).
    """

    map50_95: float
    map50: float
    images: int
    detections: tuple[np.ndarray, ...]
    left_out: tuple[str, ...] = ()
    outcomes: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...] = ()


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far one model's detections are another's.

    Attributes:
        matched: share of the reference's detections that the other has too: same class, IoU of at least one half.
        extra: detections that only the other has, as a share of the reference's.
        mean_iou: of the matched ones.
        mean_score_difference: of the matched ones, absolute.
        count: detections of the reference.
    """

    matched: float | None
    extra: float | None
    mean_iou: float | None
    mean_score_difference: float | None
    count: int


def evaluate(artifact: Artifact, runtime: Runtime, images: Sequence[LabelledImage], desc: str = "") -> Accuracy:
    """MAP of a loaded model on labelled images; one whose pixels cannot be read is left out, as Ultralytics does.

    Args:
        artifact: the model's facts.
        runtime: the loaded model.
        images: from :func:`yolo_musgd.data.reader.read_split`.
        desc: text before the progress bar; empty shows none.

    Raises:
        UserError: the model cannot be run, or no image can judge it.
    """
    from ultralytics.utils import TQDM

    evaluator, letterbox = Evaluator(), Letterbox(artifact.imgsz, artifact.channels)
    found = []
    for image in TQDM(images, desc=desc, disable=not desc):
        try:
            pixels = read_image(image.file, artifact.channels)
        except UserError as error:
            evaluator.left_out.append(str(error))
            continue
        found.append(judge((pixels, image.labels), artifact, runtime, letterbox, evaluator, _OPTIONS))
    tolerate(evaluator.left_out, len(images), "images")
    result = evaluator.result(artifact.names)
    outcomes = tuple(zip(evaluator.right, evaluator.found, evaluator.actual, strict=True))
    return Accuracy(
        result["map50_95"] or 0.0, result["map50"] or 0.0, result["images"], tuple(found), tuple(evaluator.left_out),
        outcomes,
    )  # fmt: skip


def decode_all(artifact: Artifact, runtime: Runtime, files: Sequence[str], conf: float = 0.05) -> list[np.ndarray]:
    """Detections above ``conf`` in each of ``files``, which need no labels; boxes in pixels of the network's input."""
    letterbox = Letterbox(artifact.imgsz, artifact.channels)
    outputs = (runtime.infer(letterbox(read_image(file, artifact.channels))[0]) for file in files)
    return [decode(output, artifact.head, len(artifact.names), conf) for output in outputs]


def paired(reference: np.ndarray, other: np.ndarray) -> list[tuple[int, int, float]]:
    """Pair detections of the same class by falling IoU, each at most once.

    Args:
        reference: float32 (n, 6) xyxy, score, class.
        other: float32 (m, 6).

    Returns:
        (index in reference, index in other, IoU) of every pair with an IoU of at least one half.
    """
    overlap = iou_matrix(reference[:, :4], other[:, :4]) * (reference[:, 5:6] == other[None, :, 5])
    pairs: list[tuple[int, int, float]] = []
    while overlap.size and overlap.max() >= 0.5:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(i), int(j), float(overlap[i, j])))
        overlap[i, :] = overlap[:, j] = 0.0
    return pairs


def agreement(reference: Sequence[np.ndarray], other: Sequence[np.ndarray], conf: float = CONF) -> Agreement:
    """Compare two models' detections of the same images; only those above ``conf`` count.

    A match may be :data:`SLACK` below ``conf``, so that a score which moves from .251 to .249 is a small difference and
    not a lost object.
    """
    count = matched = extra = 0
    ious, scores = [], []
    for a, b in zip(reference, other, strict=True):
        sure, near = a[a[:, 4] > conf], b[b[:, 4] > conf - SLACK]
        pairs = paired(sure, near)
        count, matched = count + len(sure), matched + len(pairs)
        new = b[b[:, 4] > conf + SLACK]
        extra += len(new) - len(paired(sure, new))
        ious += [iou for _, _, iou in pairs]
        scores += [abs(float(sure[i, 4] - near[j, 4])) for i, j, _ in pairs]
    if not count:
        return Agreement(None, None, None, None, 0)
    mean = (float(np.mean(ious)), float(np.mean(scores))) if ious else (None, None)
    return Agreement(matched / count, extra / count, mean[0], mean[1], count)


def disagreement(reference: Sequence[np.ndarray], other: Sequence[np.ndarray], conf: float = 0.1) -> float:
    """How much of the reference's detections is lost, from 0 (all there, same boxes and scores) to 1.

    Each detection above ``conf`` loses one minus the product of its IoU and the ratio of the two scores. Smooth, unlike
    mAP, so that it can rank layers by a few images.
    """
    losses: list[float] = []
    for a, b in zip(reference, other, strict=True):
        sure, near = a[a[:, 4] > conf], b[b[:, 4] > conf / 2]
        kept = dict.fromkeys(range(len(sure)), 0.0)
        for i, j, iou in paired(sure, near):
            low, high = sorted((float(sure[i, 4]), float(near[j, 4])))
            kept[i] = iou * low / high
        losses += [1.0 - value for value in kept.values()]
    return float(np.mean(losses)) if losses else 0.0


def as_dict(value: Any) -> dict[str, Any]:
    """A dataclass of numbers for a report, to four significant digits."""
    return {k: _short(v) for k, v in dataclasses.asdict(value).items()}


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
