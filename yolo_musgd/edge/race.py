"""The ``race`` command: which artifact, runtime and number of threads is the fastest here and keeps its accuracy.

Every entrant is judged on the same labelled images, then all are timed in turns, so that a board that warms up does so
for each of them. Who is not surely slower than the fastest is named, and the choice among these is not left to luck.
"""

import json
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from . import options
from .average_precision import Evaluator
from .bench import default_source, root
from .choice import list_artifacts, write_choice
from .coco import read_coco
from .detect import Detector, require
from .errors import UserError, first_line
from .evaluate import VAL_CONF, judge_each
from .files import Folder
from .pictures import images, library
from .power import system
from .result import Result, typed
from .runtimes.artifact import Artifact, open_artifact, usual_conf
from .runtimes.base import Runtime, cpu_count
from .runtimes.open import RUNTIMES, available, open_runtime
from .sources import kinds
from .stats import rounded
from .text import markdown_table

TIE = 1.03  # who takes less than 3 % longer is as fast
SLOW = 1.5  # who takes half as long again in the first round does not run the others
WARM = 3  # frames before each turn's first that counts
ENTERED = ("onnxruntime", "openvino", "ncnn", "mnn", "executorch", "tensorrt")  # trtexec times no whole frames

RACE_OPTIONS = {
    "model": (options.REQUIRED, options.text, "folder of artifacts, or a list: [best.onnx,best_ncnn_model]"),
    "source": (None, options.text, "images to time on; default: samples/ beside the models"),
    "labels": ("", options.text, "COCO file to judge with; default: val/annotations.json beside the models, if there"),
    "runtimes": (None, options.optional(options.items), "only these: " + ", ".join(ENTERED)),
    "threads": (None, options.optional(options.integers), "CPU threads to try; auto: 1, half of the cores, all"),
    "max_drop": (0.02, options.number(0.0, 1.0), "by how much mAP50-95 may lie below the best entrant's"),
    "rounds": (5, options.number(2, 1000, int), "turns of each"),
    "frames": (20, options.number(1, 1e6, int), "frames a turn"),
    "n": (64, options.number(1, 1e6, int), "most labelled images"),
}  # type: options.Spec
RACE_OPTIONS.update(options.PLACE)


class Chosen(NamedTuple):
    """What judging needs of a command's options."""

    conf: float = VAL_CONF
    iou: float = 0.7
    max_det: int = 300


class Entrant:
    """One artifact in one runtime with so many threads.

    Attributes:
        p50_ms: Of each turn; in the order of the rounds.
        map50_95: On the labelled images, None where there are none.
        out: Why it is not chosen, or empty.
        throttled: What the board said while it ran.
    """

    def __init__(self, path: str, artifact: Artifact, runtime: str, threads: Optional[int]) -> None:
        self.path, self.artifact, self.runtime, self.threads = path, artifact, runtime, threads
        self.p50_ms: List[float] = []
        self.map50_95: Optional[float] = None
        self.out = ""
        self.throttled: List[str] = []

    @property
    def name(self) -> str:
        """For people."""
        words = "{} in {}".format(os.path.basename(self.path.rstrip("/")), self.runtime)
        return words + (", {} thread{}".format(self.threads, "s" if self.threads > 1 else "") if self.threads else "")

    @property
    def time_ms(self) -> float:
        """Median of its turns."""
        return float(np.median(self.p50_ms))

    @property
    def precision(self) -> Optional[str]:
        """What the runtime is asked for: as in bench, its own choice, unless the artifact is in FP16."""
        return "fp16" if self.artifact.precision == "fp16" else None

    def open(self) -> Runtime:
        """Load it."""
        return open_runtime(self.artifact, self.runtime, self.threads, precision=self.precision)


def enter(paths: Sequence[str], runtimes: Optional[Sequence[str]], threads: Sequence[int]) -> List[Entrant]:
    """List who runs: every artifact in every installed runtime that reads it, with each number of threads.

    Raises:
        UserError: Nobody, or a runtime that does not exist.
    """
    unknown = [name for name in runtimes or () if name not in ENTERED]
    if unknown:
        raise UserError("runtimes={}: must be of {}".format(unknown[0], ", ".join(ENTERED)))
    found = []
    for path in paths:
        artifact = open_artifact(path)
        for name in runtimes or ENTERED:
            if artifact.format in RUNTIMES[name].reads and available(name)[0]:
                counts = [None] if name == "tensorrt" else list(threads)  # type: List[Optional[int]]
                found += [Entrant(path, artifact, name, count) for count in counts]
    if not found:
        raise UserError("nobody to race: no runtime that reads {} is installed; see doctor".format(", ".join(paths)))
    return found


def judge_all(entrants: List[Entrant], labels: str, limit: int, max_drop: float) -> None:
    """Judge each artifact in each runtime once; who loses more than ``max_drop`` against the best is out."""
    done = {}  # type: Dict[Any, Any]
    for one in entrants:
        key = (one.path, one.runtime)
        if key not in done:
            print("judging {}".format(one.name), file=sys.stderr)
            done[key] = _judged(one, labels, limit)
        one.map50_95, one.out = done[key]
    known = [one.map50_95 for one in entrants if one.map50_95 is not None]
    for one in entrants:
        if one.map50_95 is not None and one.map50_95 < max(known) - max_drop:
            one.out = "mAP50-95 {:.4f} lies more than {:g} below {:.4f}".format(one.map50_95, max_drop, max(known))


def _judged(one: Entrant, labels: str, limit: int) -> Any:
    """Return (mAP50-95, why it is out): one that fails costs only itself."""
    evaluator = Evaluator()
    try:
        labelled = read_coco(labels, one.artifact.names)[:limit]
        runtime = one.open()
        try:
            judge_each(labelled, Chosen(), one.artifact, runtime, evaluator)
        finally:
            runtime.close()
        images.tolerate(evaluator.left_out, len(labelled))
    except UserError as error:
        return None, first_line(error)
    return evaluator.result({})["map50_95"], ""


def run_turn(one: Entrant, frames: Sequence[Any], count: int) -> None:
    """Time one turn; what the board says of throttling meanwhile is noted. One that fails is out."""
    before = system.throttling(root())
    try:
        runtime = one.open()
    except UserError as error:
        one.out = first_line(error)
        return
    try:
        detector, times = Detector(one.artifact, runtime, usual_conf(one.artifact)), []
        for k in range(WARM + count):
            detector(frames[k % len(frames)])
            times.append(sum(detector.times) * 1e3)
    except UserError as error:
        one.out = first_line(error)
        return
    finally:
        runtime.close()
    one.p50_ms.append(float(np.median(times[WARM:])))
    reasons = system.throttled_reasons(before, [], system.throttling(root()))
    one.throttled = sorted(set(one.throttled) | set(reasons))


def race(entrants: List[Entrant], frames: Sequence[Any], rounds: int, count: int) -> None:
    """Let all run in turns, in another order each round; who is far behind after the first is out."""
    for number in range(rounds):
        running = [one for one in entrants if not one.out]
        start = number % max(1, len(running))
        for one in running[start:] + running[:start]:
            run_turn(one, frames, count)
        timed = [one for one in running if not one.out]
        print("round {} of {}: {} ran".format(number + 1, rounds, len(timed)), file=sys.stderr)
        if not number and timed:
            best = min(one.time_ms for one in timed)
            for one in timed:
                if one.time_ms > SLOW * best:
                    one.out = "{:.1f} times as slow as the fastest in the first round".format(one.time_ms / best)


def surely_slower(one: Entrant, fastest: Entrant) -> bool:
    """Whether ``one`` took longer in every round, and by more than 3 % in their median."""
    ratios = np.array(one.p50_ms) / np.array(fastest.p50_ms)
    return bool((ratios > 1).all() and np.median(ratios) > TIE)


def choose_of(entrants: Sequence[Entrant]) -> List[Entrant]:
    """Return who may be called the fastest, the one to take first.

    Among those within 3 % the one of fewer threads (the board has other work), then of the smaller file, then by name;
    so that the same race has the same end.

    Raises:
        UserError: Nobody came to the end.
    """
    ran = [one for one in entrants if not one.out]
    if not ran:
        raise UserError("nobody finished the race: {}".format("; ".join(sorted({one.out for one in entrants}))))
    fastest = min(ran, key=lambda one: one.time_ms)
    as_fast = [one for one in ran if not surely_slower(one, fastest)]

    def order(one: Entrant) -> Any:
        return one.time_ms > TIE * fastest.time_ms, one.threads or 0, one.artifact.size_bytes, one.name

    return sorted(as_fast, key=order)


def table(entrants: Sequence[Entrant], as_fast: Sequence[Entrant]) -> str:
    """Return the result as Markdown, the fastest first."""
    rows = []
    for one in sorted(entrants, key=lambda one: (bool(one.out), one.time_ms if one.p50_ms else np.inf)):
        word = "chosen" if one is as_fast[0] else "as fast" if one in as_fast else one.out or "slower"
        rows.append(
            [
                os.path.basename(one.path.rstrip("/")),
                one.runtime,
                one.threads or "-",
                one.artifact.precision or "-",
                "{:.2f}".format(one.time_ms) if one.p50_ms else "-",
                len(one.p50_ms),
                "not judged" if one.map50_95 is None else "{:.4f}".format(one.map50_95),
                ", ".join(one.throttled) or "no",
                word,
            ]
        )
    head = ("artifact", "runtime", "threads", "precision", "p50 ms", "rounds", "mAP50-95", "throttled", "")
    return markdown_table(head, rows, "llrlrrrll")


def _record(one: Entrant) -> Dict[str, Any]:
    keys = ("path", "runtime", "threads", "p50_ms", "map50_95", "out", "throttled")
    facts = {"sha256": one.artifact.sha256, "precision": one.artifact.precision}
    return dict({key: getattr(one, key) for key in keys}, **facts)


def _beside(folder: str, *parts: str) -> str:
    path = os.path.join(os.path.dirname(os.path.abspath(folder)), *parts)
    return path if os.path.exists(path) else ""


def main(args: List[str]) -> Result:
    """Run ``race models``: judges, times, chooses, and writes race.json, race.md and the folder's choice.json.

    Raises:
        UserError: Nobody to race, or nobody finished.
    """
    chosen = options.parse_args(args, RACE_OPTIONS, "race")
    require(chosen.model, "model", "race")
    library.require()
    given = [chosen.model] if os.path.exists(chosen.model) else options.items(chosen.model)
    paths = list_artifacts(given[0]) if len(given) == 1 and os.path.isdir(given[0]) else given
    folder = given[0] if paths != given else ""  # of several: one alone needs no choice
    cores = cpu_count()
    entrants = enter(paths, chosen.runtimes, chosen.threads or sorted({1, max(1, cores // 2), cores}))
    labels = chosen.labels or _beside(given[0], "val", "annotations.json")
    source = kinds.open_source(chosen.source or default_source(given[0]))
    frames = [frame[1] for frame in getattr(source, "frames", ())]
    if not frames:
        raise UserError("race: source= must be images, which are the same for all")
    with Folder("race", *options.place(chosen)) as results:
        if labels:
            judge_all(entrants, labels, chosen.n, chosen.max_drop)
        race(entrants, frames, chosen.rounds, chosen.frames)
        as_fast = choose_of(entrants)
        return _report(chosen, results, folder, entrants, as_fast)


def _report(chosen: Any, results: Folder, folder: str, entrants: List[Entrant], as_fast: List[Entrant]) -> Result:
    winner, board = as_fast[0], system.board_name(root())
    choice = {
        "model": os.path.relpath(winner.path, folder) if folder else winner.path,
        "runtime": winner.runtime,
        "threads": winner.threads,
        "precision": winner.precision,
        "p50_ms": winner.time_ms,
        "map50_95": winner.map50_95,
        "as_fast": [one.name for one in as_fast[1:]],
        "throttled": winner.throttled,
        "board": board,
    }
    content = {
        "schema": "yolo-musgd/race/1",
        "board": system.identity(root()),
        "choice": choice,
        "settings": dict(sorted(vars(chosen).items())),
        "entrants": [_record(one) for one in entrants],
    }
    files = {"race": results.write_text("race.json", json.dumps(rounded(content, 5), indent=1))}
    text = table(entrants, as_fast)
    files["table"] = results.write_text("race.md", text + "\n")
    print(text)
    said = "fastest: {}, {:.1f} ms".format(winner.name, winner.time_ms)
    if len(as_fast) > 1:
        said += "; no difference to {}".format(", ".join(one.name for one in as_fast[1:]))
    said += "" if winner.map50_95 is not None else "; accuracy was not judged, give labels="
    said += "; the board throttled meanwhile ({})".format(", ".join(winner.throttled)) if winner.throttled else ""
    if folder:
        files["choice"] = write_choice(folder, rounded(choice, 5))
    following = typed("serve", folder or winner.path, "source=" + kinds.usual_camera())
    return Result("race", said, results.path, files, choice, following)
