"""The rules that edge/ follows where Ultralytics 8.4.0 had older ones, written for the oracle's side.

The host is the oracle of these tests. Releases differ in three places; edge/ does what the newest does:

- average precision: 8.4.0 lets precision fall on a straight line from the last recall to 1, now it falls at once;
- matching: a detection whose best label is taken gets none in 8.4.0, now the best of those still free (as in COCO);
- boxes back to the image: 8.4.0 divides both axes by one gain, now each by its own, after the letterbox's rounding.

Each rule is put into the host only where a probe shows that the host still has the older one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch


def average_precision(recall: np.ndarray, precision: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Sample the envelope at recalls 0, .01, ... 1 one by one: the best precision from there on, on straight lines."""
    recall, precision = np.asarray(recall, float), np.asarray(precision, float)
    r, p = [0.0, *recall, recall[-1], 1.0], [1.0, *precision, 0.0, 0.0]
    envelope = np.array([max(p[k:]) for k in range(len(p))])
    sampled = np.interp(np.linspace(0, 1, 101), r, envelope)
    return float(np.mean((sampled[1:] + sampled[:-1]) / 2)), envelope, np.array(r)


def match_predictions(
    self: object, pred_classes: torch.Tensor, true_classes: torch.Tensor, iou: torch.Tensor, use_scipy: bool = False
) -> torch.Tensor:
    """Give each detection, by falling score, the label of its class it overlaps most among those still free."""
    thresholds = self.iouv.tolist()  # type: ignore[attr-defined]
    right = torch.zeros(len(pred_classes), len(thresholds), dtype=torch.bool)
    for column, threshold in enumerate(thresholds):
        free = set(range(len(true_classes)))
        for row in range(len(pred_classes)):
            own = [k for k in free if true_classes[k] == pred_classes[row]]
            best = max(own, key=lambda k: (float(iou[k, row]), -k), default=None)
            if best is not None and float(iou[best, row]) >= np.float32(threshold):
                right[row, column] = True
                free.remove(best)
    return right


def scale_boxes(
    img1_shape: tuple[int, int], boxes: torch.Tensor, img0_shape: tuple[int, int],
    ratio_pad: tuple | None = None, padding: bool = True, xywh: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Move boxes from the letterboxed input to the image with the gain that each axis really had."""
    if ratio_pad is None:
        ratio = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
        sides = [max(round(side * ratio), 1) for side in img0_shape[:2]]
        gains = [side / whole for side, whole in zip(sides, img0_shape[:2], strict=True)]
        pads = [round((outer - side) / 2 - 0.1) for outer, side in zip(img1_shape, sides, strict=True)][::-1]
    else:
        gains, pads = ratio_pad[0], ratio_pad[1]
    for axis in range(2):  # x, then y
        for column in (axis, axis + 2):
            if padding and not (xywh and column > 1):
                boxes[..., column] -= pads[axis]
            boxes[..., column] /= gains[1 - axis]
            if not xywh:
                boxes[..., column] = boxes[..., column].clip(0, img0_shape[1 - axis])
    return boxes


def install(patch: pytest.MonkeyPatch) -> list[str]:
    """Put into the host what its release lacks; return the names of the rules replaced."""
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils import metrics, ops

    replaced = []
    half = np.array([0.5]), np.array([1.0])  # one of two labels found, by the only detection
    if abs(metrics.compute_ap(*map(list, half))[0] - average_precision(*half)[0]) > 0.01:
        patch.setattr(metrics, "compute_ap", average_precision)
        replaced.append("compute_ap")
    validator = BaseValidator.__new__(BaseValidator)
    validator.iouv = torch.tensor([0.5])
    overlap = torch.tensor([[0.9, 0.8], [0.6, 0.7]])  # both detections like the first label best
    if not validator.match_predictions(torch.zeros(2), torch.zeros(2), overlap).all():
        patch.setattr(BaseValidator, "match_predictions", match_predictions)
        replaced.append("match_predictions")
    theirs, ours = (scale((320, 320), np.full((1, 4), 200.0), (333, 500)) for scale in (ops.scale_boxes, scale_boxes))
    if not np.allclose(theirs, ours, atol=1e-3):
        patch.setattr(ops, "scale_boxes", scale_boxes)
        replaced.append("scale_boxes")
    return replaced
