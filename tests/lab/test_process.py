"""Processes of runs: whatever happens to the comparison, none of them survives it."""

import subprocess
import sys

import pytest

from yolo_musgd.lab import worker
from yolo_musgd.lab.process import Processes, RunError, Task, last_line, pack, train_in_process, unpack


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)


def test_closing_kills_what_runs_and_what_is_just_being_started():
    processes, before, after = Processes(), sleeper(), sleeper()
    processes.add(before)
    processes.close()
    processes.add(after)
    assert before.wait(10) != 0
    assert after.wait(10) != 0


def test_a_process_that_ended_is_forgotten():
    processes, one = Processes(), sleeper()
    processes.add(one)
    processes.discard(one)
    processes.close()
    assert one.poll() is None
    one.kill()
    one.wait()


def test_a_node_with_other_releases_refuses(tmp_path):
    with pytest.raises(
        RunError, match=r"this machine has ultralytics .*started with ultralytics 1\.0; install the same"
    ):
        train_in_process(Task({}, 1, False, {"ultralytics": "1.0"}), tmp_path / "run", Processes())


def test_a_log_that_another_comparison_is_writing_stays(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("epoch 7\n")
    with pytest.raises(RunError, match="this machine has"):
        train_in_process(Task({}, 1, False, {"ultralytics": "1.0"}), tmp_path / "run", Processes())
    assert (tmp_path / "run" / "log.txt").read_text().startswith("epoch 7\n")
    worker._clear(tmp_path / "run")  # which holds the lock
    assert (tmp_path / "run" / "log.txt").read_text() == ""


def test_files_travel_and_nothing_old_stays_beside_them(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "weights").mkdir(parents=True)
    for name in ("run.json", "results.csv", "log.txt", "weights/best.pt", "labels.jpg"):
        (there / name).write_text(name)
    (here / "weights").mkdir(parents=True)
    (here / "weights" / "last.pt").write_text("of an attempt that was killed")
    unpack(pack(there, keep_weights=False), here)
    assert sorted(p.name for p in here.rglob("*")) == ["log.txt", "results.csv", "run.json"]
    unpack(pack(there, keep_weights=True), here)
    assert (here / "weights" / "best.pt").read_text() == "weights/best.pt"


def test_the_last_line_of_a_log_says_why(tmp_path):
    (tmp_path / "log.txt").write_text("Traceback\n  ...\nValueError: no\n\n")
    assert last_line(tmp_path / "log.txt") == "ValueError: no"


@pytest.mark.parametrize(
    ("said", "diverged"),
    [
        ("Training failed: NaN persisted for 4 epochs", True),
        ("Loss NaN/Inf detected but no valid last.pt is available for recovery", True),
        ("Checkpoint /home/me/last.pt is corrupted with NaN/Inf weights", True),
        ("Parent directory /home/nancy/banana-e30-s0/weights does not exist.", False),
        ("unable to open file </home/NaNcy/last.pt>", False),
    ],
)
def test_only_a_nan_is_a_divergence(said, diverged):
    """What is taken for one is kept as a finished run of accuracy 0."""
    assert worker.diverged(RuntimeError(said)) is diverged
