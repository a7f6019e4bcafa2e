"""Runs the steps that are to do: each into a temporary folder, which becomes the step's own when it is finished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.power import system
from yolo_musgd.lab.store import read_results
from yolo_musgd.pipeline import child
from yolo_musgd.pipeline.progress import Bar, in_words
from yolo_musgd.pipeline.step import (
    MARKER,
    Input,
    Step,
    digest_of,
    hash_outputs,
    key_of,
    read_marker,
    why_not_done,
)
from yolo_musgd.resources import read_recipe

PATIENCE = 15.0  # seconds that a step gets to end by itself after Ctrl-C
STARTED = "started.json"
LOCK_FILE = ".step.lock"


@dataclass(frozen=True)
class State:
    """Whether a step is done: ``reason`` says why not, None if it is."""

    step: Step
    reason: str | None
    seconds: float


def _expected(step: Step, record: Mapping[str, Any] | None) -> float:
    """Seconds that a step will take: those that it took, in proportion to the epochs and the pixels of a training."""
    if record is None:
        return step.seconds
    seconds = float(record["seconds"])
    before, now = (dict(w.split("=", 1) for w in words if "=" in w) for words in (record["command"], step.words))
    for word, power in (("epochs", 1), ("imgsz", 2)):
        with contextlib.suppress(KeyError, ValueError, ZeroDivisionError):  # a step that has no such word
            seconds *= (float(now[word]) / float(before[word])) ** power if step.epochs else 1.0
    return seconds


@dataclass
class Runner:
    """The folder of a pipeline, and what the pipeline is given.

    Attributes:
        folder: of the results.
        inputs: name -> path and digest of what the pipeline is given.
        resume_after: minutes of training behind an interrupted step beyond which it goes on instead of starting anew.
        verbose: show the output of the steps.
        notes: what happened that a reader of the report should know.
    """

    folder: Path
    inputs: Mapping[str, Input]
    resume_after: float = 10.0
    verbose: bool = False
    notes: list[str] = field(default_factory=list)

    def place(self, name: str) -> Path:
        """Folder of a finished step."""
        return self.folder / "steps" / name

    def part(self, name: str) -> Path:
        """Folder in which a step is being made."""
        return self.folder / "steps" / f".{name}.part"

    def states(self, steps: Sequence[Step]) -> list[State]:
        """What is done and what is to do, without changing anything."""
        found: list[State] = []
        open_steps: dict[str, str] = {}
        for step in steps:
            waits = [n for n in step.needs if n in open_steps]
            record = read_marker(self.place(step.name))
            if waits:
                reason: str | None = f"after {', '.join(waits)}"
            else:
                reason = why_not_done(self._inputs(step), self.place(step.name))
            if reason:
                open_steps[step.name] = reason
            found.append(State(step, reason, _expected(step, record)))
        return found

    def run(self, steps: Sequence[Step], offset: int = 0, total: int | None = None) -> None:
        """Do what is to do, in order.

        Args:
            steps: each after what it needs.
            offset: steps before these, for the count that is shown.
            total: of all steps.

        Raises:
            UserError: a step failed; its log says why, and what it had done is not taken for finished.
        """
        for number, step in enumerate(steps):
            head = f"[{offset + number + 1}/{total or len(steps)}] {step.name}"
            reason = why_not_done(self._inputs(step), self.place(step.name))
            if reason is None:
                print(f"{head}: done before")
                continue
            print(f"{head}: {step.title}" + ("" if reason == "not done yet" else f" ({reason})"), flush=True)
            later = sum(s.seconds for s in self.states(steps[number + 1 :]) if s.reason)
            seconds = self._do(step, later)
            print(f"    finished in {in_words(seconds)}", flush=True)

    def _inputs(self, step: Step) -> dict[str, Any]:
        before = {}
        for name in step.needs:
            record = read_marker(self.place(name))
            before[name] = digest_of(record["outputs"]) if record else "none"
        return key_of(step, self.inputs, before)

    def _do(self, step: Step, later: float) -> float:
        part, inputs, began = self.part(step.name), self._inputs(step), time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK_FILE):
            pass  # the step of a pipeline that was killed a moment ago has ended
        resumed = self._prepare(step, inputs)
        if resumed is not None and not self._resume(step, resumed, later):
            resumed = None
            self._clear(step, inputs)
        if resumed is None:
            self._execute(step, step.command(self._places(step)), later)
        try:
            outputs = hash_outputs(step, part)
        except FileNotFoundError as error:
            raise UserError(f"step {step.name} made no {error}; see {self._log(step)}") from error
        record = {
            "step": step.name,
            "inputs": inputs,
            "outputs": outputs,
            "command": step.command({**self._places(step), "out": str(self.place(step.name))}),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began, 1),
            "interrupted_after_epoch": resumed,
            "machine": system.identity(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        }
        write_whole(str(part / MARKER), json.dumps(record, indent=1) + "\n")
        self._replace(part, self.place(step.name))
        return time.time() - began

    def _resume(self, step: Step, epoch: int, later: float) -> bool:
        """Go on with an interrupted training; False where its checkpoint cannot be resumed.

        Raises:
            UserError: it trained and failed later; the checkpoint that it left is as good as the first.
        """
        print(f"    interrupted after epoch {epoch}, going on from its last checkpoint", flush=True)
        run = self.part(step.name) / "run"
        rows = _lines(run / "results.csv")
        try:
            self._execute(step, ["yolo", "train", "resume=True", f"model={run}/weights/last.pt"], later)
        except UserError as error:
            if _lines(run / "results.csv") > rows:
                raise
            print(f"    that failed, so it starts anew: {error}", flush=True)
            return False
        return True

    def _replace(self, part: Path, place: Path) -> None:
        old = place.with_name(f".{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.replace(old)
        part.replace(place)
        shutil.rmtree(old, ignore_errors=True)

    def _prepare(self, step: Step, inputs: Mapping[str, Any]) -> int | None:
        """Make the folder to work in; the last epoch of an interrupted training that is worth going on with."""
        part = self.part(step.name)
        try:
            same = json.loads((part / STARTED).read_text(encoding="utf-8")) == digest_of(inputs)
        except (OSError, ValueError):
            same = False
        run = part / "run"
        if same and step.epochs and (run / "weights" / "last.pt").is_file() and not _was_moved(run):
            rows = read_results(run / "results.csv")
            epochs, seconds = rows.get("epoch", []), _trained(rows.get("time", []))
            if epochs and epochs[-1] < step.epochs and seconds > 60 * self.resume_after:
                return int(epochs[-1])
        self._clear(step, inputs)
        return None

    def _clear(self, step: Step, inputs: Mapping[str, Any]) -> None:
        part = self.part(step.name)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_whole(str(part / STARTED), json.dumps(digest_of(inputs)))

    def _places(self, step: Step) -> dict[str, str]:
        places = {name: thing.path for name, thing in self.inputs.items()}
        if "model" in places:
            places["stem"] = Path(places["model"]).stem
        folders = {name: str(self.place(name).absolute()) for name in step.needs}
        every = {p.name: str(p.absolute()) for p in (self.folder / "steps").glob("[!.]*")}
        return {**places, **every, **folders, "out": str(self.part(step.name).absolute())}

    def _log(self, step: Step) -> Path:
        return self.folder / "logs" / f"{step.name}.txt"

    def _execute(self, step: Step, words: Sequence[str], later: float) -> None:
        """Run a command to its end, with a bar that says how far it is and how long the rest may take."""
        log = self._log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "yolo_musgd.pipeline.child", *words]
        with log.open("a" if words[2] == "resume=True" else "w", encoding="utf-8") as sink:
            sink.write(f"$ {' '.join(words)}\n")
            sink.flush()
            output: IO[str] | None = None if self.verbose else sink
            environment = {**os.environ, child.LOCK: str((self.folder / LOCK_FILE).absolute())}
            bar = Bar(step, self.part(step.name) / "run" / "results.csv", later, hidden=self.verbose)
            with (
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
                ) as process,
                bar,
            ):
                try:
                    while process.poll() is None:
                        time.sleep(0.3)
                        bar.update()
                except BaseException:
                    _stop(process)
                    raise
        if process.returncode == 0:
            return
        raise UserError(_failure(step, process.returncode, log))


def _lines(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.is_file() else 0


def _was_moved(run: Path) -> bool:
    """Whether a training began in another place: Ultralytics would go on there."""
    try:
        began = read_recipe(run / "args.yaml").get("save_dir")
    except UserError:
        return False
    return began is not None and Path(began).resolve() != run.resolve()


def _trained(times: Sequence[float]) -> float:
    """Seconds behind a ``time`` column, which falls where the training was resumed: its clock begins anew."""
    return sum(now for now, following in zip(times, [*times[1:], 0.0], strict=True) if following <= now)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a step: its input closes, and it is killed when it does not take the hint."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(step: Step, code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1].removeprefix("yolo-musgd: ") if len(lines) > 1 else f"exit code {code}"
    return (
        f"step {step.name} failed: {last[-400:]}; the whole of it is in {log}; "
        "once that is put right, the same command goes on from here"
    )
