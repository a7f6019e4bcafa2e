"""The process that does one run: ``python -m yolo_musgd.lab.worker``, told what to do by one line on its input.

It ends when its input does: a comparison that is killed leaves no training behind that nobody waits for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_musgd.lab.process import LOG, RECORD, RESULTS

if TYPE_CHECKING:
    from yolo_musgd.lab.runs import RunSpec

ABANDONED = 75


def main() -> int:
    """Read the task, train, write the record; the exit code is 0 for a finished run.

    What takes long to import is imported after the watch over the input has begun.
    """
    task = json.loads(sys.stdin.readline())
    end_with_parent()
    from filelock import FileLock

    from yolo_musgd.lab.runs import RunSpec, versions
    from yolo_musgd.lab.store import read_record

    if versions() != task["versions"]:
        here, wanted = (", ".join(f"{k} {v}" for k, v in x.items()) for x in (versions(), task["versions"]))
        raise SystemExit(f"this machine has {here}, the comparison was started with {wanted}; install the same")
    folder = Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if read_record(folder) is None:  # another comparison may have done this run while we waited
            train(RunSpec.from_dict(task["spec"]), folder, int(task["threads"]), bool(task["keep_weights"]))
    return 0


def end_with_parent() -> None:
    """End this process, with :data:`ABANDONED`, when the other end of its input closes."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(ABANDONED)

    threading.Thread(target=wait, daemon=True).start()


def train(spec: RunSpec, folder: Path, threads: int, keep_weights: bool) -> None:
    """Train one run in its folder, from the beginning; what an earlier attempt left there is removed.

    Args:
        spec: what to train.
        folder: the run's folder, which becomes Ultralytics' save_dir.
        threads: of torch on the CPU.
        keep_weights: keep last.pt and best.pt.

    Raises:
        RuntimeError: training failed for another reason than divergence.
    """
    import torch
    from ultralytics import YOLO

    import yolo_musgd.trainers  # noqa: F401  registers the plugin, should the .pth be switched off
    from yolo_musgd.lab.evidence import seal
    from yolo_musgd.lab.identify import code_id
    from yolo_musgd.lab.recorder import Recorder, machine
    from yolo_musgd.lab.runs import device_kind, versions
    from yolo_musgd.lab.store import read_results, write_json

    torch.set_num_threads(threads)
    _clear(folder)
    recorder, status, began, cpu = Recorder(), "done", time.time(), time.process_time()
    model = YOLO(spec.model)
    recorder.attach(model)
    args = spec.args
    if device_kind(args.get("device")) == "cpu":  # one layout for all runs, not what a probe beside others finds faster
        args = {"channels_last": False, **args}
    try:
        model.train(data=spec.data, **args, project=str(folder.parent), name=folder.name, exist_ok=True)
    except RuntimeError as error:
        if not diverged(error):
            raise
        status = "diverged"  # a result, not an accident: this optimizer cannot train with these settings
        print(f"diverged: {error}")
    if not read_results(folder / RESULTS):
        raise RuntimeError("training ended without a single epoch")
    facts = {
        "status": status,
        "command": spec.command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "seconds": time.time() - began,
        "cpu_seconds": time.process_time() - cpu,
        "machine": machine(),
        "code": code_id(),
        **recorder.facts(),
    }
    if not keep_weights:
        shutil.rmtree(folder / "weights", ignore_errors=True)
    identity: dict[str, Any] = {**spec.identity, "versions": versions()}
    write_json(folder / RECORD, {"identity": identity, **facts, "results": seal(folder / RESULTS)})


def diverged(error: RuntimeError) -> bool:
    """Whether Ultralytics gave up because of NaN: its words, and not a path with these letters."""
    return re.search(r"\bNaN\b", str(error)) is not None


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == LOG:
            os.truncate(entry, 0)
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
