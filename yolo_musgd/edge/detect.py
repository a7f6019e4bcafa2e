"""Detection without torch: a picture in, boxes out, with the time of each step; and the ``detect`` command."""

import itertools
import json
import os
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from . import options
from .choice import apply_choice
from .errors import UserError
from .files import Folder
from .pictures import boxes, draw, images, library
from .pictures.letterbox import Letterbox, to_image
from .power import system
from .result import Result, typed
from .runtimes.artifact import Artifact, open_artifact, usual_conf
from .runtimes.base import Runtime
from .runtimes.open import NAMES, open_runtime
from .sources import kinds
from .sources.base import Source, WatchedFolder
from .sources.devices import shown


class Times(NamedTuple):
    """Seconds of one frame: letterbox and blob, runtime call, decode and NMS."""

    pre: float
    infer: float
    post: float


class Detector:
    """Runs one model on images.

    Args:
        artifact: The model's facts.
        runtime: The loaded model.
        conf: Lowest score that is kept.
        iou: NMS threshold within a class.
        max_det: Most detections an image.
    """

    def __init__(
        self, artifact: Artifact, runtime: Runtime, conf: float = 0.25, iou: float = 0.7, max_det: int = 300
    ) -> None:
        self.artifact, self.runtime = artifact, runtime
        self.conf, self.iou, self.max_det = conf, iou, max_det
        self._letterbox = Letterbox(artifact.imgsz, artifact.channels, artifact.head)
        self.times = Times(0.0, 0.0, 0.0)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Detect objects in uint8 BGR (h, w, 3), or grey (h, w).

        Returns:
            float32 (n, 6): x1, y1, x2, y2 in the image's pixels, score, class; by falling score. ``times`` has the
            split.
        """
        start = time.perf_counter()
        blob, where = self._letterbox(image)
        ready = time.perf_counter()
        output = self.runtime.answer(blob)
        answered = time.perf_counter()
        head, size = self.artifact.head, self.artifact.imgsz
        found = boxes.decode(output, head, len(self.artifact.names), self.conf, self.iou, self.max_det, size=size)
        found[:, :4] = to_image(found[:, :4], where, (image.shape[0], image.shape[1]))
        self.times = Times(ready - start, answered - ready, time.perf_counter() - answered)
        return found


def as_records(detections: np.ndarray, names: Dict[int, str]) -> List[Dict[str, Any]]:
    """Turn detections into JSON-ready records; boxes in pixels, rounded to 0.01."""
    return [
        {
            "class": int(row[5]),
            "name": names.get(int(row[5]), str(int(row[5]))),
            "score": round(float(row[4]), 5),
            "box": [round(float(value), 2) for value in row[:4]],
        }
        for row in detections
    ]


MODEL_OPTIONS = {
    "model": (options.REQUIRED, options.text, "model file, exported folder or artifact folder"),
    "runtime": (
        None,
        options.optional(options.one_of(*NAMES)),
        "one of {}; auto takes the best".format(", ".join(NAMES)),
    ),
    "imgsz": (None, options.optional(options.number(32, 4096, int)), "input side, for a model that does not say"),
    "engine": (None, options.text, "where a TensorRT engine built here is kept and found again"),
    "precision": (None, options.optional(options.one_of("fp32", "fp16", "int8")), "of a TensorRT build"),
    "iou": (0.7, options.number(0.0, 1.0), "NMS threshold"),
    "max_det": (300, options.number(1, 30000, int), "most detections an image"),
}  # type: options.Spec

DETECT_OPTIONS = dict(MODEL_OPTIONS)
DETECT_OPTIONS.update(
    {
        "source": (options.REQUIRED, options.text, kinds.KINDS),
        **kinds.SOURCE_OPTIONS,
        "watch": (False, options.flag, "go on with the images that appear in the folder later"),
        "threads": (None, options.optional(options.number(1, 1024, int)), "CPU threads; auto takes every core"),
        "conf": (None, options.optional(options.number(0.0, 1.0)), "lowest score; auto is the artifact's, else 0.25"),
        "n": (None, options.optional(options.number(1, 1e9, int)), "stop after this many frames"),
        "save": (True, options.flag, "write annotated pictures beside the JSON"),
    }
)
DETECT_OPTIONS.update(options.PLACE)


def require(value: str, key: str, command: str) -> str:
    """Return ``value``, or raise the error that says which key is missing."""
    if not value:
        raise UserError(
            "{}: {}= is required, for example {}".format(
                command, key, {"model": "model=best.onnx", "source": "source=photos/"}.get(key, key + "=...")
            )
        )
    return value


class Written:
    """``detections.json`` as it grows: one record after the other goes to the disk, so memory stays as it is.

    Until ``close`` the file is called ``detections.json.part``; that has all that was detected, whatever ended the run.
    """

    def __init__(self, folder: Folder, head: Dict[str, Any]) -> None:
        self.count = 0
        self._folder, self._path = folder, folder.join("detections.json.part")
        self._head = json.dumps(head, indent=1)[:-2]
        self._file: Any = None

    def add(self, record: Dict[str, Any]) -> None:
        """Write a record.

        Raises:
            UserError: The disk is full.
        """
        try:
            if self._file is None:
                self._file = open(self._path, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
                self._file.write(self._head + ',\n "images": [')
            self._file.write(("," if self.count else "") + "\n  " + json.dumps(record))
            self._file.flush()
        except OSError as error:
            raise UserError("cannot write {}: {}".format(self._path, error.strerror))
        self.count += 1

    def close(self, tail: Dict[str, Any]) -> str:
        """Finish the file and give it its name; returns its path, empty where nothing was added.

        Raises:
            UserError: The disk is full.
        """
        if self._file is None:
            return ""
        path = self._folder.join("detections.json")
        try:
            self._file.write("\n ],\n" + json.dumps(tail, indent=1)[2:] + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._path, path)
        except OSError as error:
            raise UserError("cannot write {}: {}".format(self._path, error.strerror))
        return path


def open_frames(chosen: Any, artifact: Artifact) -> Optional[Source]:
    """Open a camera, a stream, a video or a folder that grows; None where the source is plain image files.

    Raises:
        UserError: See kinds.open_source.
    """
    if not chosen.watch and kinds.is_moving(chosen.source):
        return kinds.open_source(chosen.source, chosen=chosen, repeat=False)
    kinds.camera_mode(chosen.source, chosen)
    if chosen.watch:
        return WatchedFolder(chosen.source, artifact.channels)
    images.list_images(chosen.source)  # nothing there: found before a folder is made
    return None


def _frames(source: Optional[Source], chosen: Any, channels: int, left_out: List[str]) -> Iterator[images.Frame]:
    """Yield (name, image) once each, at most ``chosen.n``; a folder's from disk one by one."""
    if source is None:
        return images.readable(images.list_images(chosen.source)[: chosen.n], left_out, channels)
    return itertools.islice(source, chosen.n)


def main(args: List[str]) -> Result:
    """Run ``detect model= source=``: annotated pictures and detections.json in the results folder.

    Raises:
        UserError: A model, images or a runtime that cannot be used, or not one frame came.
    """
    chosen = options.parse_args(args, DETECT_OPTIONS, "detect")
    require(chosen.source, "source", "detect")
    library.require()
    given = chosen.model
    apply_choice(chosen, system.board_name())
    artifact = open_artifact(require(chosen.model, "model", "detect"), chosen.imgsz)
    chosen.conf = usual_conf(artifact, chosen.conf)
    source = open_frames(chosen, artifact)
    try:
        return _detect(chosen, artifact, source, given)
    finally:
        if source is not None:
            source.close()


class Tally:
    """What was seen so far, of frames that may never end."""

    def __init__(self) -> None:
        self.frames, self.ms = 0, 0.0
        self.counts: Dict[str, int] = {}

    def add(self, record: Dict[str, Any]) -> None:
        """Count a record."""
        self.frames += 1
        self.ms += sum(record["ms"].values())
        for found in record["detections"]:
            self.counts[found["name"]] = self.counts.get(found["name"], 0) + 1

    def result(self, folder: str, path: str, model: str, conf: float) -> Result:
        """Say how many objects there were, on how many images, and how long an image took."""
        total, ms = sum(self.counts.values()), self.ms / self.frames
        common = sorted(self.counts.items(), key=lambda item: -item[1])[:3]
        most = " (most: {})".format(", ".join("{} {}".format(n, name) for name, n in common)) if common else ""
        most = most or " (none with a score of {:g}, which conf= lowers)".format(conf)
        said = "{} objects on {} images{}, {:.1f} ms an image".format(total, self.frames, most, ms)
        figures = {"images": self.frames, "objects": total, "classes": self.counts, "ms_mean": round(ms, 3)}
        return Result("detect", said, folder, {"detections": path}, figures, typed("bench", "model=" + model))


def _detect(chosen: Any, artifact: Artifact, source: Optional[Source], given: str) -> Result:
    runtime = open_runtime(artifact, chosen.runtime, chosen.threads, chosen.engine, chosen.precision)
    detector = Detector(artifact, runtime, chosen.conf, chosen.iou, chosen.max_det)
    left_out: List[str] = getattr(source, "left_out", [])
    tally = Tally()
    with Folder("detect", *options.place(chosen)) as folder:
        written = Written(folder, _report(artifact, runtime, chosen))
        try:
            for name, image in _frames(source, chosen, artifact.channels, left_out):
                found = detector(image)
                record = _record(name, image, found, detector)
                if chosen.save:
                    path = _free_path(folder, name)
                    images.write_image(path, draw.draw(images.to_colour(image), found, artifact.names))
                    record["picture"] = os.path.basename(path)
                written.add(record)
                tally.add(record)
                print("{}: {}".format(name, in_words(found, artifact.names)))
        finally:  # Ctrl-C keeps what was detected so far
            runtime.close()
            path = written.close({"left_out": left_out, "source": source.info() if source else None})
    if not path:
        damaged = (source.info().get("damaged") if source else 0) or 0
        said = ", {} damaged pictures".format(damaged) if damaged else ""
        said += "; standard input takes JPEGs, one after the other" if chosen.source == "-" else ""
        raise UserError("source={}: not one frame came{}".format(shown(chosen.source), said))
    return tally.result(folder.path, path, given, chosen.conf)


def _record(name: str, image: np.ndarray, found: np.ndarray, detector: Detector) -> Dict[str, Any]:
    return {
        "image": name,
        "width": image.shape[1],
        "height": image.shape[0],
        "ms": {key: round(1000 * value, 3) for key, value in detector.times._asdict().items()},
        "detections": as_records(found, detector.artifact.names),
    }


def _free_path(folder: Folder, name: str) -> str:
    """Name the annotated picture of ``name``: like it, not too long for a file, and like none that is there."""
    base = os.path.splitext(os.path.basename(name))[0].replace(" ", "_")[:60]
    path, count = folder.join(base + ".jpg"), 1
    while os.path.exists(path):
        count += 1
        path = folder.join("{}_{}.jpg".format(base, count))
    return path


def _report(artifact: Artifact, runtime: Runtime, chosen: Any) -> Dict[str, Any]:
    return {
        "schema": "yolo-musgd/detections/1",
        "model": {"file": os.path.basename(artifact.model), "sha256": artifact.sha256},
        "runtime": {"name": runtime.name, "version": runtime.version, "threads": runtime.threads},
        "imgsz": list(artifact.imgsz),
        "conf": chosen.conf,
        "iou": chosen.iou,
    }


def in_words(detections: np.ndarray, names: Dict[int, str]) -> str:
    """Count the classes of the detections: ``2 person, 1 dog``."""
    counts: Dict[str, int] = {}
    for row in detections:
        name = names.get(int(row[5]), str(int(row[5])))
        counts[name] = counts.get(name, 0) + 1
    return ", ".join("{} {}".format(count, name) for name, count in counts.items()) or "nothing"
