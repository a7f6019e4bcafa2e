"""scripts/gpu_check on the CPU at toy size: every part runs, and the report says that no GPU was there."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOY = ("device=cpu", "imgsz=64", "batch=2", "epochs=1", "models=yolo26n", "jobs=2")


SCRIPT = ROOT / "scripts" / "gpu_check.py"


def check(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.fixture
def warm_check(run):
    """The same by a Python that has PyTorch loaded, as have those that it starts."""
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    return partial(run, "python", "-c", code, timeout=590)


@pytest.mark.slow
def test_every_part_runs_and_is_reported(warm_check, tiny_data, tmp_path):
    out = tmp_path / "report"
    done = warm_check(
        *TOY, f"data={tiny_data}", f"out={out}", "minutes=60", "steps=torch SGD foreach,MuSGD,MuSGD recorded",
        "optimizers=SGD,MuSGD", "tests=tests/cuda/test_steps.py -k memory",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = (out / "report.md").read_text()
    assert report in done.stdout
    assert "| GPU | none: CUDA not run |" in report
    assert "All passed. 4 passed, 0 failed, 4 skipped." in report
    rows = json.loads((out / "steptime" / "yolo26n" / "steptime.json").read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["torch SGD foreach", "MuSGD", "MuSGD recorded"]
    assert "| yolo26n | step / native's | 0.5 | not measured |  |" in report
    assert "| yolo26n | step of an iteration | 0.05 | 0." in report
    for optimizer in ("SGD", "MuSGD"):
        assert f"| scratch | {optimizer} | 0 | 1 | 1 | 0." in report


def test_a_limit_that_is_over_leaves_a_report(warm_check, tmp_path):
    done = warm_check(*TOY, f"out={tmp_path}", "minutes=0.1", "parts=tests,train", "tests=tests/cuda")
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "report.md").read_text()
    assert "## Machine" in report
    assert "Out of time" in report or "The time was up." in report


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("devise=0", "'devise=0' is none of the words: wheels="),
        ("minutes=soon", "minutes must be a number, got 'soon'"),
        ("parts=test", "parts must be among tests, steptime, train, got 'test'"),
        ("wheels=nowhere", "nowhere does not exist"),
    ],
)
def test_wrong_words_end_it_at_once(word, message, tmp_path):
    done = check(word, f"out={tmp_path / 'report'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpu_check: {message}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_a_report_is_not_overwritten(tmp_path):
    (tmp_path / "report.md").write_text("precious")
    assert check(f"out={tmp_path}").returncode == 2
    assert (tmp_path / "report.md").read_text() == "precious"
