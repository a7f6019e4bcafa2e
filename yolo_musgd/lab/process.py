"""A run in a process of its own, here or on a node of a cluster, and the way of its files.

Only the standard library is imported, so that a Ray worker that merely waits for a training does not load torch too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo_musgd.edge.files import write_whole

RECORD = "run.json"
RESULTS = "results.csv"
LOG = "log.txt"
KEPT = (RECORD, RESULTS, "args.yaml", "optimizer.png", "optimizer_steps.csv.gz")
"""Files of a run that travel from one store to another."""


class RunError(Exception):
    """A run ended without a result; the message is the last line that says why."""


@dataclass(frozen=True)
class Task:
    """What the training process is told.

    Attributes:
        spec: a run as ``RunSpec.to_dict`` writes it.
        threads: CPU threads.
        keep_weights: keep the checkpoints.
        versions: releases that the comparison was started with.
    """

    spec: dict[str, Any]
    threads: int
    keep_weights: bool
    versions: dict[str, str]


class Processes:
    """Running processes of several threads; once closed, none survives, not even one that is just being started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[str]] = set()
        self._closed = False

    def add(self, process: subprocess.Popen[str]) -> None:
        """Take charge of a process."""
        with self._lock:
            self._alive.add(process)
            if self._closed:
                process.kill()

    def discard(self, process: subprocess.Popen[str]) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._alive.discard(process)

    def close(self) -> None:
        """Kill every process, and each that is still to be added."""
        with self._lock:
            self._closed = True
            for process in self._alive:
                process.kill()


def train_in_process(task: Task, folder: Path, processes: Processes) -> None:
    """Do one run in a process of its own, with its output in the run's log.

    Args:
        task: what to do.
        folder: the run's folder.
        processes: has charge of the process while it runs.

    Raises:
        RunError: the process ended without a record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
    env |= {name: str(task.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with (folder / LOG).open("a", encoding="utf-8") as log:  # another comparison may be training this run
        process = subprocess.Popen(
            [sys.executable, "-m", "yolo_musgd.lab.worker"],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder,
            start_new_session=True,  # Ctrl-C is for the comparison, which then ends its workers
        )  # fmt: skip
    processes.add(process)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({**asdict(task), "folder": str(folder.resolve())}) + "\n")
        process.stdin.flush()
    except OSError:  # it has ended already; its log says why
        pass
    try:
        code = process.wait()  # the input stays open: its end would tell the worker that nobody waits any more
    finally:
        process.stdin.close()
        processes.discard(process)
    if code:
        raise RunError(last_line(folder / LOG) or f"the training process ended with exit code {code}")


def last_line(log: Path) -> str:
    """The last line with something on it: Python's errors end with what went wrong."""
    lines = [x.strip() for x in log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    return lines[-1][:300] if lines else ""


def train_on_node(task: Task) -> tuple[dict[str, bytes], str]:
    """Train in a temporary folder of this node; returns the files and, where it failed, why."""
    with tempfile.TemporaryDirectory(prefix="yolo-musgd-") as parent:
        folder, error = Path(parent) / "run", ""
        try:
            train_in_process(task, folder, Processes())
        except RunError as failure:
            error = str(failure)
        return pack(folder, task.keep_weights), error


def pack(folder: Path, keep_weights: bool) -> dict[str, bytes]:
    """The files of a finished run, for a driver on another machine."""
    names = [*KEPT, LOG, *(("weights/last.pt", "weights/best.pt") if keep_weights else ())]
    return {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Write packed files where an earlier attempt may have left some; the record, which says "finished", comes last."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in sorted(files, key=lambda n: n == RECORD):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(target), files[name])
