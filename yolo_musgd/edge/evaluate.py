"""The ``val`` command: mAP on the board.

Judging INT8 belongs on the hardware that runs it: kernels round differently, so mAP is measured with the same runtime,
threads and file as the speed.
"""

import json
import os
import sys
from shlex import quote
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import options
from .average_precision import Evaluator
from .choice import apply_choice
from .coco import open_coco, read_coco
from .detect import MODEL_OPTIONS, require
from .errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from .files import Folder
from .labels import label_path, list_images, read_pair
from .pictures import boxes, images, library
from .pictures.letterbox import Letterbox, place_for_val
from .power import system
from .predictions import read_predictions
from .result import Result, typed
from .runtimes.artifact import Artifact, open_artifact, sha256_of
from .runtimes.base import Runtime
from .runtimes.open import open_runtime
from .text import one_line

SHOWN = 5  # images left out that are named while it runs; the report names all
VAL_CONF = 0.001  # Ultralytics' lowest score in validation


VAL_OPTIONS = dict(MODEL_OPTIONS)
VAL_OPTIONS.update(
    {
        "source": (
            options.REQUIRED,
            options.text,
            "COCO file, or folder of images with YOLO labels (images/val -> labels/val)",
        ),
        "labels": ("", options.text, "folder of the label files, where they are elsewhere"),
        "images": ("", options.text, "folder of a COCO file's images, where they are elsewhere"),
        "threads": (None, options.optional(options.number(1, 1024, int)), "CPU threads; auto takes every core"),
        "conf": (VAL_CONF, options.number(0.0, 1.0), "lowest score that counts"),
        "n": (None, options.optional(options.number(1, 1e9, int)), "only the first images"),
        "predictions": ("", options.text, "COCO results that something else detected on them, instead of model="),
        "label": ("", options.text, "what detected the predictions, for the table: Hailo-8L"),
        "latency_ms": (None, options.optional(options.number(1e-6, 1e9)), "and how long it took for an image there"),
    }
)
VAL_OPTIONS.update(options.PLACE)


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
    output = runtime.answer(blob)
    found = boxes.decode(
        output,
        artifact.head,
        len(artifact.names),
        chosen.conf,
        chosen.iou,
        chosen.max_det,
        multi_label=True,
        size=artifact.imgsz,
    )
    evaluator.add(found, _in_pixels(labels, (where.width, where.height), (where.left, where.top)))
    return found


def _in_pixels(labels: np.ndarray, size: Tuple[float, float], corner: Tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return (m, 5) class and xyxy of YOLO labels (m, 5) on an image of this size and place."""
    centre, half = labels[:, 1:3] * size + corner, labels[:, 3:5] * size / 2
    return np.concatenate((labels[:, :1], centre - half, centre + half), axis=1)


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


def judge_each(
    labelled: Sequence[Tuple[str, Optional[np.ndarray]]],
    chosen: Any,
    artifact: Any,
    runtime: Any,
    evaluator: Evaluator,
) -> None:
    """Judge the images one by one.

    Raises:
        UserError: Not one of them, or of their labels, can be read; or the runtime fails.
    """
    letterbox = Letterbox(artifact.imgsz, artifact.channels, artifact.head)
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
    if labelled and not evaluator.images:
        raise UserError("none of {} images can be judged: {}".format(len(labelled), evaluator.left_out[0]))


def main(args: List[str]) -> Result:
    """Run ``val model= source=``: prints a table, writes val.json; Ctrl-C gives the figures of the images so far.

    Raises:
        UserError: Bad input; or more than a tenth of the images cannot be used, of which val.json names each.
    """
    chosen = options.parse_args(args, VAL_OPTIONS, "val")
    require(chosen.source, "source", "val")
    if chosen.predictions:
        return _judge_predictions(chosen)
    library.require()
    given = chosen.model
    apply_choice(chosen, system.board_name())
    artifact = open_artifact(require(chosen.model, "model", "val"), chosen.imgsz)
    labelled = _list_labelled(chosen, artifact.names)
    runtime = open_runtime(artifact, chosen.runtime, chosen.threads, chosen.engine, chosen.precision)
    evaluator, partial = Evaluator(), False
    with Folder("val", *options.place(chosen)) as folder:
        try:
            judge_each(labelled, chosen, artifact, runtime, evaluator)
        except KeyboardInterrupt:
            partial = True
        finally:
            runtime.close()
        content = _report(chosen, artifact, runtime, evaluator, partial)
        path = folder.write_text("val.json", json.dumps(content, indent=1))
    if not partial:
        said = _say(content["result"], evaluator.left_out, "")
        if evaluator.left_out:  # told also where there are too many of them
            print(said)
        images.tolerate(evaluator.left_out, len(labelled))
    else:
        said = _say(content["result"], evaluator.left_out, ", partial")
    following = typed("bench", "model=" + given)
    code = EXIT_INTERRUPTED if partial else EXIT_DONE
    return Result("val", said, folder.path, {"val": path}, content["result"], following, code)


def _say(result: Dict[str, Any], left_out: List[str], rest: str) -> str:
    """Print the table; returns the sentence below it."""
    print(as_table(result))
    words = "mAP50-95 {map50_95}  mAP50 {map50}  on {images} images, {labels} labels".format(**result)
    return words + (", {} images left out".format(len(left_out)) if left_out else "") + rest


def _judge_predictions(chosen: Any) -> Result:
    """Score what something else detected; the report is val's, so that compare-bench shows it beside our artifacts.

    Raises:
        UserError: A model is given too, the labels are no COCO file, or the predictions are none.
    """
    if chosen.model:
        raise UserError("val: give model= or predictions=, not both")
    if not chosen.source.lower().endswith(".json"):
        raise UserError("val predictions=: source= must be a COCO file, such as the val.json that export writes")
    coco = open_coco(chosen.source, {})
    found, notes = read_predictions(chosen.predictions, coco, chosen.conf, chosen.max_det)
    evaluator = Evaluator()
    for rows, (_, labels), size in list(zip(found, coco.labelled, coco.sizes))[: chosen.n]:
        evaluator.add(rows, _in_pixels(labels, size))
    content = {
        "schema": "yolo-musgd/val/1",
        "partial": False,
        "model": {
            "file": os.path.basename(chosen.predictions),
            "sha256": sha256_of(chosen.predictions),
            "precision": None,
            "imgsz": None,
        },
        "runtime": {"name": chosen.label or "predictions", "version": "", "threads": None, "detail": {}},
        "stated": {"latency_ms": chosen.latency_ms},
        "source": chosen.source,
        "conf": chosen.conf,
        "iou": None,
        "left_out": [],
        "result": evaluator.result(coco.names),
    }
    with Folder("val", *options.place(chosen)) as folder:
        path = folder.write_text("val.json", json.dumps(content, indent=1))
    said = _say(content["result"], [], "".join("; " + note for note in notes))
    following = "yolo-musgd compare-bench bench.json {}".format(quote(path))
    return Result("val", said, folder.path, {"val": path}, content["result"], following)


def as_table(result: Dict[str, Any]) -> str:
    """Return precision, recall and mAP as Ultralytics prints them: of all classes, then of each."""
    width = max([len(one_line(row["name"])) for row in result["per_class"]] + [5])
    line = "{:>{}}" + "{:>11}" * 6
    lines = [line.format("Class", width, "Images", "Instances", "P", "R", "mAP50", "mAP50-95")]
    each = result["per_class"] if len(result["per_class"]) > 1 else []
    for row in [dict(result, name="all")] + each:
        figures = [row[key] for key in ("precision", "recall", "map50", "map50_95")]
        shown = ["-" if value is None else "{:.3g}".format(value) for value in figures]
        lines.append(line.format(one_line(row["name"]), width, row["images"], row["labels"], *shown))
    return "\n".join(lines)


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
