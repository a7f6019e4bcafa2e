"""From the network's output to detections: both YOLO heads, per-class NMS, in numpy.

A detection is a row ``x1, y1, x2, y2, score, class`` in pixels. The arithmetic follows Ultralytics' (same thresholds,
order and float32), so that the same boxes survive.
"""

from typing import List, Optional, Tuple

import numpy as np

from ..errors import UserError

CLASS_OFFSET = 7680  # pixels between classes, so that one NMS pass keeps classes apart; Ultralytics' max_wh
MAX_CANDIDATES = 30000  # Ultralytics' max_nms


def head_of(shape: Tuple[int, int], classes: int) -> str:
    """Tell the head from an output's shape (rows, columns): ``raw`` (4 + classes, anchors) or ``nms_free`` (n, 6).

    Raises:
        UserError: Rows of six numbers that may also be four and a score for each of two classes.
    """
    if shape[1] != 6 or shape[0] == 4 + classes:
        return "raw"
    if classes in (0, 2):
        raise UserError(
            "the output is {} x 6, and the file does not say whether a row is a box with its score and class, or with "
            "the scores of two classes; export it again with Ultralytics 8.3 or newer, which writes it".format(shape[0])
        )
    return "nms_free"


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes xyxy (n, 4) and (m, 4); shape (n, m), 0 for empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)
    result: np.ndarray = inter / np.maximum(area_a[:, None] + area_b[None, :] - inter, 1e-7)
    return result


def nms(boxes: np.ndarray, scores: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        boxes: xyxy, shape (n, 4), float32.
        scores: Shape (n,).
        iou: A box is dropped when its IoU with a kept one is above this.
        limit: Stop after this many kept boxes.

    Returns:
        Indices of the kept boxes by falling score; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="mergesort")  # "stable" is its name since NumPy 1.15; JetPack 4 brings 1.13
    x1, y1, x2, y2 = boxes[order].T
    area = (x2 - x1) * (y2 - y1)
    left = np.arange(len(order))
    kept: List[int] = []
    while len(left) > 0 and len(kept) < limit:
        first, left = left[0], left[1:]
        kept.append(int(order[first]))
        width = np.minimum(x2[first], x2[left]) - np.maximum(x1[first], x1[left])
        height = np.minimum(y2[first], y2[left]) - np.maximum(y1[first], y1[left])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[~(inter > np.float32(iou) * (area[first] + area[left] - inter))]
    return np.array(kept, dtype=np.int64)


def _candidates(output: np.ndarray, conf: float, multi_label: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the anchors above ``conf``: indices, classes, scores; several classes per anchor when ``multi_label``."""
    scores = output[4:]
    best = scores.max(axis=0)
    anchors = np.flatnonzero(best > conf)
    if multi_label and scores.shape[0] > 1:
        row, classes = np.nonzero(conf < scores[:, anchors].T)
        anchors = anchors[row]
        return anchors, classes, scores[classes, anchors]
    return anchors, scores[:, anchors].argmax(axis=0), best[anchors]


def decode_raw(output: np.ndarray, conf: float, iou: float, max_det: int, multi_label: bool = False) -> np.ndarray:
    """Decode the raw head: rows cx, cy, w, h, then one score per class; columns are anchors.

    Args:
        output: Shape (4 + classes, anchors), boxes in input pixels.
        conf: Scores must be above this.
        iou: NMS threshold within a class.
        max_det: Most detections kept.
        multi_label: Let one anchor give several classes, as validation does.

    Returns:
        Detections, shape (n, 6), float32, by falling score.
    """
    anchors, classes, scores = _candidates(output, conf, multi_label)
    if len(anchors) > MAX_CANDIDATES:
        top = np.argsort(-scores, kind="mergesort")[:MAX_CANDIDATES]
        anchors, classes, scores = anchors[top], classes[top], scores[top]
    centre, half = output[:2, anchors], output[2:4, anchors] / np.float32(2)
    xyxy = np.concatenate((centre - half, centre + half)).T
    offset = (classes.astype(np.float32) * np.float32(CLASS_OFFSET))[:, None]
    keep = nms(xyxy + offset, scores, iou, max_det)
    out = np.empty((len(keep), 6), np.float32)
    out[:, :4], out[:, 4], out[:, 5] = xyxy[keep], scores[keep], classes[keep]
    return out


def decode_nms_free(output: np.ndarray, conf: float, max_det: int) -> np.ndarray:
    """Decode the NMS-free head, shape (n, 6) with rows xyxy, score, class: only the threshold is left to apply."""
    kept: np.ndarray = output[output[:, 4] > conf][:max_det].astype(np.float32)
    return kept


def decode_rtdetr(output: np.ndarray, classes: int, conf: float, max_det: int, size: Tuple[int, int]) -> np.ndarray:
    """Decode RT-DETR: rows of cx, cy, w, h in fractions of the input, then the score and the class.

    Older releases of Ultralytics write one score per class in place of these two. With two classes both are rows of
    six; then it is a class if all of that column are whole numbers.

    Args:
        output: Shape (queries, 6) or (queries, 4 + classes).
        classes: Number of class names, 0 if unknown.
        conf: Scores must be above this.
        max_det: Most detections kept.
        size: (height, width) of the input in pixels.

    Raises:
        UserError: The rows are neither.
    """
    columns = output.shape[1]
    if columns == 6 and (classes != 2 or (output[:, 5] == np.rint(output[:, 5])).all()):
        scores, found = output[:, 4], output[:, 5]
    elif classes and columns == 4 + classes:
        scores, found = output[:, 4:].max(axis=1), output[:, 4:].argmax(axis=1)
    else:
        raise UserError("an RT-DETR of {} classes gives rows of 6 or {}, not {}".format(classes, 4 + classes, columns))
    order = np.argsort(-scores, kind="mergesort")
    order = order[scores[order] > conf][:max_det]
    centre, half = output[order, :2], output[order, 2:4] / np.float32(2)
    xyxy = np.concatenate((centre - half, centre + half), axis=1) * np.array((size[1], size[0]) * 2, np.float32)
    return np.concatenate((xyxy, scores[order, None], found[order, None]), axis=1).astype(np.float32)


def decode(
    output: np.ndarray,
    head: Optional[str],
    classes: int,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    multi_label: bool = False,
    size: Tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Decode any head; see decode_raw, decode_nms_free and decode_rtdetr.

    Args:
        output: One image's output, 2-D.
        head: ``raw``, ``nms_free``, ``nms`` (done in the graph), ``rtdetr``, or None to tell it from the shape.
        classes: Number of class names, 0 if unknown.
        conf: Lowest score.
        iou: NMS threshold (raw head only).
        max_det: Most detections kept.
        multi_label: See decode_raw.
        size: (height, width) of the network's input in pixels (RT-DETR only).

    Raises:
        UserError: The shape fits neither head, or not the number of class names; or a class has no name.
    """
    rows, columns = output.shape
    chosen = head or head_of((rows, columns), classes)
    if chosen == "rtdetr":
        return _named(_finite(decode_rtdetr(output, classes, conf, max_det, size)), classes)
    if chosen in ("nms_free", "nms"):
        if columns != 6:
            raise UserError("an NMS-free head gives (detections, 6), this output is {} x {}".format(rows, columns))
        return _named(_finite(decode_nms_free(output, conf, max_det)), classes)
    if rows < 5 or (classes and rows != 4 + classes):
        raise UserError(
            "the output has {} rows; {} class names need {} (4 + classes): wrong names or not a detection model".format(
                rows, classes, 4 + classes
            )
        )
    return _finite(decode_raw(output, conf, iou, max_det, multi_label))


def _finite(found: np.ndarray) -> np.ndarray:
    """Leave out detections that hold NaN or an infinity, as a network that overflowed in FP16 gives."""
    kept: np.ndarray = found[np.isfinite(found).all(axis=1)]
    return kept


def _named(found: np.ndarray, classes: int) -> np.ndarray:
    """The detections; an error where one is of a class that the model has no name for."""
    if classes and len(found) and not (found[:, 5].min() > -0.5 and found[:, 5].max() < classes - 0.5):
        strange = found[np.abs(found[:, 5] - (classes - 1) / 2).argmax(), 5]
        raise UserError("its sixth column is no class of {} ({:g}): are these its names?".format(classes, strange))
    return found
