"""Does the runs that are missing: some processes at a time, here or on a Ray cluster, with a bar and an estimate."""

from __future__ import annotations

import concurrent.futures as futures
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from yolo_musgd.lab.arms import Arm, none_failed
from yolo_musgd.lab.process import RESULTS, Processes, RunError, Task, train_in_process
from yolo_musgd.lab.runs import RunSpec, versions
from yolo_musgd.lab.store import Record, Store

POLL = 1.0  # seconds between looks at the running trainings


class Executor(Protocol):
    """Where runs are done."""

    slots: int

    def submit(self, spec: RunSpec, folder: Path) -> futures.Future[None]:
        """Start a run; the future ends when its folder holds the record, or with RunError."""

    def close(self) -> None:
        """Stop everything that is under way."""


class LocalExecutor:
    """Processes on this machine.

    Args:
        jobs: runs at a time.
        threads: CPU threads of each.
        keep_weights: keep the checkpoints.
    """

    def __init__(self, jobs: int, threads: int, keep_weights: bool):
        self.slots = jobs
        self._threads, self._keep = threads, keep_weights
        self._processes = Processes()
        self._pool = futures.ThreadPoolExecutor(jobs)

    def submit(self, spec: RunSpec, folder: Path) -> futures.Future[None]:
        """Start a run in a process of its own."""
        task = Task(spec.to_dict(), self._threads, self._keep, versions())
        return self._pool.submit(train_in_process, task, folder, self._processes)

    def close(self) -> None:
        """Kill the running processes; what they had not finished will be done again."""
        self._processes.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Outcome:
    """What one call of :func:`do_runs` did.

    Attributes:
        trained: runs trained by this call.
        failures: key of a run -> why it has no result.
    """

    trained: list[Record] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def failed(self, spec: RunSpec) -> bool:
        """Whether this call tried the run and it failed."""
        return spec.key in self.failures


def do_runs(arms: Sequence[Arm], store: Store, executor: Executor) -> Outcome:
    """Do every run that is missing; one that fails is noted and the others go on.

    Args:
        arms: what the protocol asks for.
        store: where finished runs are found and new ones go.
        executor: does them; it is closed whatever happens.
    """
    outcome = Outcome()
    running: dict[futures.Future[None], RunSpec] = {}
    if not any(arm.next_runs(store.find, none_failed) for arm in arms):
        executor.close()
        return outcome
    bar = _Bar(arms, store, outcome)
    try:
        _start_more(arms, store, executor, outcome, running)
        while running:
            done, _ = futures.wait(running, timeout=POLL, return_when=futures.FIRST_COMPLETED)
            for future in done:
                bar.say(_conclude(future, running.pop(future), store, outcome, arms[0].protocol.metric))
            if done:
                _start_more(arms, store, executor, outcome, running)
            bar.show(running.values())
    finally:
        bar.close()
        executor.close()
    return outcome


def _start_more(
    arms: Sequence[Arm],
    store: Store,
    executor: Executor,
    outcome: Outcome,
    running: dict[futures.Future[None], RunSpec],
) -> None:
    under_way = {s.key for s in running.values()}
    for arm in arms:
        if len(running) >= executor.slots:
            return
        for spec in arm.next_runs(store.find, outcome.failed):
            if len(running) >= executor.slots:
                return
            if spec.key not in under_way:
                under_way.add(spec.key)
                running[executor.submit(spec, store.place(spec))] = spec


def _conclude(future: futures.Future[None], spec: RunSpec, store: Store, outcome: Outcome, metric: str) -> str:
    """Take note of a run that has ended; returns the line to show."""
    try:
        future.result()
        record = store.add(spec)
    except (RunError, OSError) as error:
        outcome.failures[spec.key] = str(error)
        return f"FAILED {spec.key}: {error}"
    outcome.trained.append(record)
    name = metric.removeprefix("metrics/").removesuffix("(B)")
    end = "diverged" if record.diverged else f"{name} {record.final(metric):.4f}"
    return f"{spec.key}: {end} in {record.facts['seconds'] / 60:.1f} min"


class _Bar:
    """Epochs done, of all that the protocol asks for."""

    def __init__(self, arms: Sequence[Arm], store: Store, outcome: Outcome):
        from tqdm import tqdm

        self._arms, self._store, self._outcome = arms, store, outcome
        self._finished = self._count()
        self._bar = tqdm(
            total=sum(a.total_epochs() for a in arms), initial=self._finished, desc="comparing", unit="epoch",
            smoothing=0, dynamic_ncols=True, mininterval=0.5 if sys.stderr and sys.stderr.isatty() else 60,
            disable=sys.stderr is None,
        )  # fmt: skip

    def _count(self) -> int:
        find, failed = self._store.find, self._outcome.failed
        return sum(spec.epochs for arm in self._arms for spec in arm.finished(find, failed))

    def show(self, running: Iterable[RunSpec]) -> None:
        """Count the epochs of the runs under way."""
        under_way = [_epochs_in(self._store.place(s) / RESULTS) for s in running]
        self._bar.set_postfix_str(f"{len(under_way)} running", refresh=False)
        self._bar.update(max(0, self._finished + sum(under_way) - self._bar.n))

    def say(self, line: str) -> None:
        """A line above the bar, after a run has ended."""
        self._finished = self._count()
        self._bar.write(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _epochs_in(results: Path) -> int:
    try:
        return max(0, results.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0
