"""mAP on the board: YOLO labels, matching and average precision as Ultralytics computes them; and the ``val`` command.

Judging INT8 belongs on the hardware that runs it: kernels round differently, so mAP is measured with the same runtime,
threads and file as the speed.
"""

import json
import os
import sys
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from . import options
from .coco import read_coco
from .detect import MODEL_OPTIONS, require
from .errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from .files import Folder
from .labels import label_path, list_images, read_pair
from .pictures import boxes, images, library
from .pictures.letterbox import Letterbox, place_for_val
from .runtimes.artifact import Artifact, open_artifact
from .runtimes.base import Runtime
from .runtimes.open import open_runtime
from .stats import rounded

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU, COCO's ten
SHOWN = 5  # images left out that are named while it runs; the report names all
VAL_CONF = 0.001  # Ultralytics' lowest score in validation


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


def mean_ap(
    right: np.ndarray, scores: np.ndarray, predicted: np.ndarray, actual: np.ndarray
) -> Tuple[float, float, Dict[int, float]]:
    """Average precision over classes that occur in the labels.

    Args:
        right: bool (n, 10), see match.
        scores: (n,).
        predicted: Class of every detection, (n,).
        actual: Class of every label, (m,).

    Returns:
        mAP50-95, mAP50 and the AP50-95 of each class; all in [0, 1].
    """
    order = np.argsort(-scores, kind="stable")
    right, predicted = right[order], predicted[order]
    table: Dict[int, List[float]] = {}
    for index in np.unique(actual):
        hits = right[predicted == index].astype(np.float64).cumsum(axis=0)
        total = int((actual == index).sum())
        if not len(hits):
            table[int(index)] = [0.0] * len(THRESHOLDS)
            continue
        rank = np.arange(1, len(hits) + 1)
        table[int(index)] = [average_precision(hits[:, k] / total, hits[:, k] / rank) for k in range(len(THRESHOLDS))]
    if not table:
        return 0.0, 0.0, {}
    values = np.array(list(table.values()))
    return float(values.mean()), float(values[:, 0].mean()), {key: float(np.mean(row)) for key, row in table.items()}


class Evaluator:
    """Collects images one by one and gives mAP at any time.

    Attributes:
        images: how many were added.
        labels: in all of them.
        left_out: why others were not, a line each.
    """

    def __init__(self) -> None:
        self.images = self.labels = 0
        self.left_out: List[str] = []
        self._right: List[np.ndarray] = []
        self._found: List[np.ndarray] = []
        self._actual: List[np.ndarray] = []

    def add(self, detections: np.ndarray, targets: np.ndarray) -> None:
        """Add one image: detections (n, 6) by falling score, targets (m, 5) class and xyxy in the same pixels."""
        self.images += 1
        self.labels += len(targets)
        self._right.append(match(detections, targets))
        self._found.append(detections[:, 4:6])
        self._actual.append(targets[:, 0])

    def result(self, names: Dict[int, str]) -> Dict[str, Any]:
        """Return ``map50_95, map50, images, labels, classes`` so far."""
        if not self.images:
            return {"map50_95": None, "map50": None, "images": 0, "labels": 0, "classes": {}}
        found = np.concatenate(self._found)
        whole, half, classes = mean_ap(
            np.concatenate(self._right), found[:, 0], found[:, 1], np.concatenate(self._actual)
        )
        named = {names.get(key, str(key)): value for key, value in classes.items()}
        out = {"map50_95": whole, "map50": half, "images": self.images, "labels": self.labels, "classes": named}
        rounded_out: Dict[str, Any] = rounded(out, 5)
        return rounded_out


VAL_OPTIONS = dict(MODEL_OPTIONS)
VAL_OPTIONS.update(
    {
        "source": ("", options.text, "COCO file, or folder of images with YOLO labels (images/val -> labels/val)"),
        "labels": ("", options.text, "folder of the label files, where they are elsewhere"),
        "images": ("", options.text, "folder of a COCO file's images, where they are elsewhere"),
        "threads": (None, options.optional(options.number(1, 1024, int)), "CPU threads; auto takes every core"),
        "conf": (VAL_CONF, options.number(0.0, 1.0), "lowest score that counts"),
        "n": (None, options.optional(options.number(1, 1e9, int)), "only the first images"),
    }
)


def judge(
    pair: Tuple[np.ndarray, np.ndarray],
    artifact: Any,
    runtime: Any,
    letterbox: Letterbox,
    evaluator: Evaluator,
    chosen: Any,
) -> np.ndarray:
    """Run one labelled image, hand its detections to ``evaluator`` and return them.

    Args:
        pair: Image and labels, from read_pair.
        artifact: The model's facts.
        runtime: The loaded model.
        letterbox: Of the model's input size.
        evaluator: Collects detections and labels.
        chosen: Has ``conf``, ``iou`` and ``max_det``, as the val command's options do.

    Returns:
        float32 (n, 6), boxes in pixels of the network's input.
    """
    image, labels = pair
    blob, where = letterbox(image, place_for_val((image.shape[0], image.shape[1]), artifact.imgsz))
    output = runtime.infer(blob)
    found = boxes.decode(
        output, artifact.head, len(artifact.names), chosen.conf, chosen.iou, chosen.max_det, multi_label=True
    )
    centre = labels[:, 1:3] * [where.width, where.height] + [where.left, where.top]
    half = labels[:, 3:5] * [where.width, where.height] / 2
    evaluator.add(found, np.concatenate((labels[:, :1], centre - half, centre + half), axis=1))
    return found


def _list_labelled(chosen: Any, names: Dict[int, str]) -> List[Tuple[str, Optional[np.ndarray]]]:
    """List the images to judge, with their boxes where a COCO file has them.

    Raises:
        UserError: No image, or not one with labels.
    """
    if chosen.source.lower().endswith(".json"):
        found = read_coco(chosen.source, names, chosen.images)[: chosen.n]
        if not any(len(targets) for _, targets in found):
            raise UserError("source={}: no box in any of {} images".format(chosen.source, len(found)))
        return list(found)
    paths = list_images(chosen.source)[: chosen.n]
    if not any(os.path.isfile(label_path(path, chosen.labels)) for path in paths):
        raise UserError(
            "no label file for any of {} images; looked for {}; give labels=".format(
                len(paths), label_path(paths[0], chosen.labels)
            )
        )
    return [(path, None) for path in paths]


def _evaluate(
    labelled: List[Tuple[str, Optional[np.ndarray]]], chosen: Any, artifact: Any, runtime: Any, evaluator: Evaluator
) -> None:
    """Judge the images one by one.

    Raises:
        UserError: Not one of them, or of their labels, can be read; or the runtime fails.
    """
    letterbox = Letterbox(artifact.imgsz, artifact.channels)
    for count, (path, targets) in enumerate(labelled, 1):
        try:
            if targets is None:
                pair = read_pair(path, len(artifact.names), chosen.labels, artifact.channels)
            else:
                pair = images.read_image(path, artifact.channels), targets
        except UserError as error:  # Ultralytics leaves such images out too, and one must not cost the others
            evaluator.left_out.append(str(error))
            if len(evaluator.left_out) <= SHOWN:
                print("left out: {}".format(error), file=sys.stderr)
            continue
        judge(pair, artifact, runtime, letterbox, evaluator, chosen)
        if count % max(1, len(labelled) // 10) == 0:
            print("{}/{} images".format(count, len(labelled)), file=sys.stderr)
    if not evaluator.images:
        raise UserError("none of {} images can be judged: {}".format(len(labelled), evaluator.left_out[0]))


def main(args: List[str]) -> int:
    """Run ``val model= source=``: prints mAP and writes val.json; Ctrl-C gives the mAP of the images so far.

    Raises:
        UserError: Bad input; or more than a tenth of the images cannot be used, of which val.json names each.
    """
    chosen = options.parse_args(args, VAL_OPTIONS, "val")
    require(chosen.source, "source", "val")
    library.require()
    artifact = open_artifact(require(chosen.model, "model", "val"), chosen.imgsz)
    labelled = _list_labelled(chosen, artifact.names)
    runtime = open_runtime(artifact, chosen.runtime, chosen.threads, chosen.engine, chosen.precision)
    evaluator, partial = Evaluator(), False
    with Folder("val", chosen.project, chosen.name) as folder:
        try:
            _evaluate(labelled, chosen, artifact, runtime, evaluator)
        except KeyboardInterrupt:
            partial = True
        finally:
            runtime.close()
        content = _report(chosen, artifact, runtime, evaluator, partial)
        path = folder.write_text("val.json", json.dumps(content, indent=1))
    result, left_out = content["result"], len(evaluator.left_out)
    print(
        "mAP50-95 {map50_95}  mAP50 {map50}  on {images} images, {labels} labels".format(**result)
        + (", {} images left out".format(left_out) if left_out else "")
        + (", partial" if partial else "")
        + " -> {}".format(path)
    )
    if partial:
        return EXIT_INTERRUPTED
    images.tolerate(evaluator.left_out, len(labelled))
    return EXIT_DONE


def _report(chosen: Any, artifact: Artifact, runtime: Runtime, evaluator: Evaluator, partial: bool) -> Dict[str, Any]:
    return {
        "schema": "yolo-musgd/val/1",
        "partial": partial,
        "model": {
            "file": os.path.basename(artifact.model),
            "sha256": artifact.sha256,
            "precision": artifact.precision,
            "imgsz": list(artifact.imgsz),
        },
        "runtime": {
            "name": runtime.name,
            "version": runtime.version,
            "threads": runtime.threads,
            "detail": runtime.detail,
        },
        "source": chosen.source,
        "conf": chosen.conf,
        "iou": chosen.iou,
        "left_out": evaluator.left_out,
        "result": evaluator.result(artifact.names),
    }
