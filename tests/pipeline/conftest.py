"""One small pipeline, killed twice while it ran and then finished by the same command: what the other tests look at."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path

import pytest

WORDS = (
    "target=raspberry-pi-5", "model=yolo26n.yaml", "imgsz=64", "epochs=1", "finetune_epochs=1", "batch=8", "name=small",
)  # fmt: skip


@dataclasses.dataclass
class Finished:
    """A finished pipeline.

    Attributes:
        folder: of the results.
        command: that ran it.
        cwd: where.
        output: of the command that finished it.
        killed: steps during which earlier ones were killed.
    """

    folder: Path
    command: list[str]
    cwd: Path
    output: str
    killed: list[str]


def kill_during(command: list[str], cwd: Path, part: Path) -> None:
    """Start a pipeline and kill it while a step is at work."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not part.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None, "the pipeline ended before it could be killed"
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def pipeline(run, programs, tiny_data, tmp_path_factory) -> Finished:
    pytest.importorskip("torch_pruning", reason="pruning is a part of the pipeline")
    pytest.importorskip("onnxslim", reason="so is the export to ONNX")
    cwd = tmp_path_factory.mktemp("pipeline")
    words = ["pipeline", f"data={tiny_data}", *WORDS]
    command = [str(programs / "yolo-musgd"), *words]
    folder = cwd / "runs" / "pipeline" / "small"
    killed = ["train", "prune"]
    for step in killed:
        kill_during(command, cwd, folder / "steps" / f".{step}.part")
    done = run("yolo-musgd", *words, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Finished(folder, command, cwd, done.stdout, killed)
