"""The ``bench`` command: FPS, latency, watts and heat of one model on this board, in one report.

The report is ``bench.json``; its fields are described in report.py.
"""

import os
import sys
import time
from shlex import quote
from typing import Any, Callable, Dict, List, Optional

from . import measure, options, report
from .choice import apply_choice
from .detect import MODEL_OPTIONS, Detector, require
from .errors import EXIT_DONE, EXIT_INTERRUPTED, SensorError, UserError
from .files import Folder
from .interrupts import terminated_as_interrupted
from .pictures import library
from .power import sampler, system
from .result import Result, program, typed
from .runtimes.artifact import Artifact, open_artifact, usual_conf
from .runtimes.base import Runtime
from .runtimes.open import open_runtime
from .sources import kinds
from .sources.base import Source

ROOT_VARIABLE = "YOLO_EDGE_ROOT"  # where /sys and /proc are looked for; tests point it at recorded trees

BENCH_OPTIONS = dict(MODEL_OPTIONS)
BENCH_OPTIONS.update(
    {
        "source": (
            None,
            options.text,
            kinds.KINDS + " or synthetic; default: samples/ beside the model",
        ),
        **kinds.SOURCE_OPTIONS,
        "threads": (None, options.optional(options.integers), "CPU threads, [1,2,4] sweeps; auto takes every core"),
        "n": (200, options.number(1, 1e9, int), "at least this many frames"),
        "seconds": (10.0, options.number(0, 1e7), "and at least this long"),
        "soak": (0.0, options.number(0, 1e5), "minutes of a soak test, instead of n and seconds"),
        "conf": (None, options.optional(options.number(0.0, 1.0)), "lowest score; auto is the artifact's, else 0.25"),
        "power": ("auto", options.text, "auto, none, csv:FILE, " + ", ".join(sampler.NAMES)),
        "csv_offset": (0.0, options.number(-1e6, 1e6), "seconds by which the meter's clock is ahead"),
        "idle": (10.0, options.number(0, 3600), "seconds of idle baseline, when there is a sensor"),
        "warmup": (10.0, options.number(0, 3600), "most seconds of warm-up"),
        "picture": (True, options.flag, "draw bench.png when matplotlib is here"),
        "label": ("", options.text, "name of this board in comparisons"),
    }
)
BENCH_OPTIONS.update(options.PLACE)


def root() -> str:
    """Return the folder under which /sys and /proc are read."""
    return os.environ.get(ROOT_VARIABLE, "/")


def default_source(model: str) -> Optional[str]:
    """Return the folder ``samples`` beside the model (or in its folder) if there is one."""
    model = os.path.abspath(model)  # without the slash that a shell puts behind a folder
    base = model if os.path.isdir(model) else os.path.dirname(model)
    for folder in (os.path.join(base, "samples"), os.path.join(os.path.dirname(base), "samples")):
        if os.path.isdir(folder):
            return folder
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr)


class Bench:
    """One benchmark: sensors, the runs of a thread sweep, and the report as it grows."""

    def __init__(self, chosen: Any, artifact: Artifact, source: Source) -> None:
        self.chosen, self.artifact, self.source = chosen, artifact, source
        minutes = chosen.soak
        self.floors = measure.Floors(1 if minutes else chosen.n, minutes * 60 or chosen.seconds, chosen.warmup)
        self.choice = sampler.choose(chosen.power, root())
        self.sampler = sampler.Sampler(self.choice.sensor)
        self.watcher = system.Watcher(root())
        self.idle_span: Optional[List[float]] = None
        self.spans: List[Any] = []
        self.graph: Optional[Dict[str, int]] = None  # the same for every number of threads
        self.content = report.header(
            chosen, artifact, source.info(), system.identity(root()), sampler.describe(self.choice)
        )

    def run(self) -> bool:
        """Measure everything; returns whether it came to the end. The report holds whatever was measured."""
        complete = True
        self.sampler.start()
        self.watcher.start()
        try:
            self._idle()
            for threads in self.chosen.threads or [None]:
                complete = self._one(threads) and complete
                if not complete:
                    break
        except KeyboardInterrupt:
            complete = False
        finally:
            self.sampler.stop()
            self.watcher.stop()
            if self.choice.sensor is not None:
                self.choice.sensor.close()
        self.content["partial"] = not complete
        self.content["source"].update(self.source.info())
        self._join_power()
        return complete

    def _idle(self) -> None:
        if not self.chosen.idle or (self.choice.sensor is None and self.choice.csv is None):
            return
        _say("idle baseline: {:g} s without load ...".format(self.chosen.idle))
        begin = time.perf_counter()
        time.sleep(self.chosen.idle)
        self.idle_span = [begin, time.perf_counter()]

    def _one(self, threads: Optional[int]) -> bool:
        """Measure one setting; appends a run to the report. Returns False when it was cut short."""
        system.reset_peak_memory()
        before = system.state(root())
        self.watcher.reasons = []
        begin = time.perf_counter()
        chosen = self.chosen
        runtime = open_runtime(self.artifact, chosen.runtime, threads, chosen.engine, chosen.precision)
        load_s = time.perf_counter() - begin
        profile: Optional[Callable[..., Any]] = getattr(runtime, "profile", None)
        try:
            _say(
                "{} {}, {} threads: warming up, then {} frames and {:g} s ...".format(
                    runtime.name, runtime.version, runtime.threads, self.floors.frames, self.floors.seconds
                )
            )
            if profile is not None:
                run = profile(self.floors.frames, self.floors.seconds)
                span = (run.pop("start"), run.pop("end"))
            else:
                run, span = self._frames(runtime, begin)
            peak_mb = system.memory_mb()[1]
            if not self.content["runs"] and not run["partial"]:
                self.graph = runtime.graph()
        finally:
            runtime.close()
        run["load_s"] = load_s
        run["runtime"] = dict(_runtime_facts(runtime), graph=self.graph)
        run["state"] = {"before": before, "after": system.state(root())}
        run["throttled"] = system.throttled_reasons(
            before["throttling"], self.watcher.reasons, run["state"]["after"]["throttling"]
        )
        run["watch"] = measure.summarize_watch(list(self.watcher.samples), span[0], span[1], peak_mb)
        self.content["runs"].append(run)
        self.spans.append(span)
        return not run["partial"]

    def _frames(self, runtime: Runtime, begin: float) -> Any:
        detector = Detector(self.artifact, runtime, self.chosen.conf, self.chosen.iou, self.chosen.max_det)
        first = self.source.read()
        if first is None:
            raise UserError("source={}: gives no frame".format(self.source.description))
        detector(first[1])
        first_ms = sum(detector.times) * 1e3
        to_first_s = time.perf_counter() - begin
        warm = measure.warm_up(detector, self.source, self.floors)
        timings = measure.Timings()
        measure.measure(detector, self.source, self.floors, timings)
        if not len(timings):
            raise KeyboardInterrupt
        run = measure.summarize_timings(timings, self.source.live)
        run.update(first_inference_ms=first_ms, time_to_first_s=to_first_s, warmup=warm)
        return run, (timings.start, timings.end)

    def _join_power(self) -> None:
        """Attach watts and joules to the runs, now that every sample is in."""
        if self.choice.csv is not None:
            try:
                self.sampler.take_csv(self.choice.csv, self.chosen.csv_offset)
            except SensorError as error:
                self.content["power"]["lost"] = str(error)
        elif self.sampler.lost:
            self.content["power"]["lost"] = self.sampler.lost
        idle_w = None
        if self.idle_span is not None:
            idle = sampler.window(self.sampler, self.idle_span[0], self.idle_span[1])
            idle["seconds"] = self.idle_span[1] - self.idle_span[0]
            self.content["idle"], idle_w = idle, idle["mean_w"]
        for run, (start, end) in zip(self.content["runs"], self.spans):
            load = sampler.window(self.sampler, start, end)
            load.update(sampler.per_frame(load["energy_j"], end - start, run["frames"], idle_w))
            load["wall_estimate_w"] = sampler.wall_estimate(self.choice, load["mean_w"])
            moments = [(t - start, w) for t, w in zip(self.sampler.times, self.sampler.watts) if start <= t <= end]
            load["series"] = {"t_s": [round(t, 2) for t, _ in moments], "watts": [round(w, 3) for _, w in moments]}
            run["power"] = load


def _runtime_facts(runtime: Runtime) -> Dict[str, Any]:
    return {"name": runtime.name, "version": runtime.version, "threads": runtime.threads, "detail": runtime.detail}


def main(args: List[str]) -> Result:
    """Run ``bench model= ...``: writes bench.json, .md and .png; Ctrl-C writes what there is, marked partial.

    Raises:
        UserError: A model, source, sensor or runtime that cannot be used.
    """
    chosen = options.parse_args(args, BENCH_OPTIONS, "bench")
    require(chosen.model, "model", "bench")
    if chosen.source is None:
        chosen.source = default_source(chosen.model)
    if chosen.source not in (None, "synthetic"):
        library.require()
    swept, given = chosen.threads, chosen.model
    apply_choice(chosen, system.board_name(root()))
    chosen.threads = swept or (chosen.threads and [chosen.threads])
    artifact = open_artifact(chosen.model, chosen.imgsz)
    chosen.conf = usual_conf(artifact, chosen.conf)
    source = kinds.open_source(chosen.source, artifact.imgsz, chosen=chosen)
    try:
        with Folder("bench", *options.place(chosen)) as folder:
            bench = Bench(chosen, artifact, source)
            complete = _bench(bench, folder)
    finally:
        source.close()
    following = "yolo-musgd compare-bench {} <another bench.json>".format(quote(folder.join("bench.json")))
    if program() != "yolo-musgd":
        following = "{} # on a PC: {}".format(typed("serve", given, "source=" + kinds.usual_camera()), following)
    return report.result(folder, bench.content, following, EXIT_DONE if complete else EXIT_INTERRUPTED)


def _bench(bench: Bench, folder: Folder) -> bool:
    """Measure and write the report, also of a run that failed or was cut short after a first setting."""
    try:
        with terminated_as_interrupted():
            complete = bench.run()
    except UserError as error:
        if bench.content["runs"]:  # a later setting failed: the earlier ones are kept
            bench.content["error"] = str(error)
            report.write(folder, bench.content, bench.chosen.picture)
        raise
    report.write(folder, bench.content, bench.chosen.picture)
    return complete
