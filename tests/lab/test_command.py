"""``yolo-musgd compare`` as people run it: interrupted, killed, taken up again on Ray, with runs that must fail.

Covers comparison.py, worker.py, runner.py, cluster.py, recorder.py and settings.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ultralytics
import yaml

from yolo_musgd import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a comparison on a busy machine

PROTOCOL = """
data: {data}
starts: yolo26n.yaml
optimizers: [SGD, MuSGD, {{label: broken, optimizer: SGD, pretrained: nowhere.pt}}]
seeds: 2
epochs: 2
train: {{imgsz: 64, batch: 8, nbs: 8, workers: 0, device: cpu}}
"""


def start(folder, *words):
    """Start the command in a process group of its own, as a terminal does."""
    command = [str(Path(sys.executable).with_name("yolo-musgd")), "compare", *words]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    with (folder / "output.txt").open("a") as out:
        return subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, env=plain, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
        )  # fmt: skip


def workers(folder):
    """Training processes of this comparison that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if "yolo_musgd.lab.worker" in process.cmdline() and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_for(condition, process=None, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        assert process is None or process.poll() is None, "the comparison ended by itself"
        time.sleep(0.1)


def records(folder):
    return {p: p.stat().st_mtime_ns for p in (folder / "runs" / "compare" / "store").glob("*/run.json")}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, tiny_data, run):
    """A comparison that was interrupted with Ctrl-C, killed after its first run, and finished on Ray."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    folder = tmp_path_factory.mktemp("compare").resolve()
    (folder / "mine.yaml").write_text(PROTOCOL.format(data=tiny_data))
    words = ("protocol=mine.yaml", "jobs=2", "threads=1")

    first = start(folder, *words)
    wait_for(lambda: workers(folder), first)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    assert not workers(folder)

    second = start(folder, *words)
    wait_for(lambda: records(folder), second)
    second.kill()
    second.wait()
    wait_for(lambda: not workers(folder), seconds=60)
    before = records(folder)
    third = run("yolo-musgd", "compare", *words, "ray=local", cwd=folder, timeout=550)
    return folder, before, third


def test_killed_half_way_it_finishes_and_nothing_is_run_twice(comparison):
    folder, before, third = comparison
    after = records(folder)
    assert 1 <= len(before) < len(after) == 4, third.stderr
    assert all(after[p] == t for p, t in before.items())
    figures = json.loads((folder / "runs/compare/mine/report.json").read_text())
    assert figures["runs"] == {"asked": 6, "finished": 4}
    assert [len(a["seeds"]) for a in figures["groups"][0]["arms"]] == [2, 2, 0]


def test_a_crash_of_one_run_does_not_end_the_comparison(comparison):
    folder, _, third = comparison
    assert third.returncode == 2
    last = third.stderr.strip().splitlines()[-1]
    assert "2 of 6 runs failed" in last
    told = re.findall(r"FAILED \S+: (.+)", third.stdout)
    assert len(told) == 2
    reason = r"\[Errno -" if ultralytics.__version__ == "8.4.0" else r"nowhere\.pt"  # it tells of the download it tried
    assert all(re.search(reason, line) for line in told)
    report = (folder / "runs/compare/mine/report.md").read_text()
    assert report.count("**Failed:**") == 2


def test_what_a_run_records(comparison):
    folder, _, _ = comparison
    for file in records(folder):
        record = json.loads(file.read_text())
        optimizer = record["identity"]["args"]["optimizer"]
        assert record["status"] == "done"
        assert [e["epoch"] for e in record["epochs"]] == [1, 2]
        assert all(0 < e["train_s"] <= e["total_s"] for e in record["epochs"])
        assert record["optimizer_steps"] == 4
        assert record["state_bytes"] == pytest.approx(record["parameter_bytes"], rel=1e-3), optimizer
        assert 100e6 < record["peak_rss_bytes"] < 10e9
        assert record["picked"] == {"optimizer": optimizer, "lr0": 0.01, "momentum": 0.937}
        assert record["step_ms_p50"] > 0
        assert record["machine"]["threads"] == 1
        assert not (file.parent / "weights").exists()
        assert "optim/grad_norm" in (file.parent / "results.csv").read_text().splitlines()[0]


def test_the_command_on_record_is_the_same_run(comparison, run, tmp_path):
    """Pasting the recorded command into a shell gives the same curve to the last digit."""
    folder, _, _ = comparison
    file = next(f for f in records(folder) if "MuSGD" in f.parent.name)
    words = json.loads(file.read_text())["command"].split()
    done = run(*words, f"project={tmp_path}", "name=again")
    assert done.returncode == 0, done.stderr

    def curve(f):
        header, *rows = [line.split(",") for line in f.read_text().splitlines()]
        return [[v for k, v in zip(header, row, strict=True) if k != "time"] for row in rows]

    assert curve(tmp_path / "again" / "results.csv") == curve(file.with_name("results.csv"))


def test_another_protocol_does_not_write_into_this_folder(comparison, monkeypatch, capsys):
    folder, _, _ = comparison
    monkeypatch.chdir(folder)
    assert cli.main(["compare", "protocol=mine.yaml", "epochs=3"]) == 2
    assert "holds the comparison of another protocol (epochs differ); choose another name=" in capsys.readouterr().err
    assert yaml.safe_load((folder / "runs/compare/mine/protocol.yaml").read_text())["epochs"] == 2


def test_a_new_comparison_finds_the_finished_runs(comparison, tiny_data, monkeypatch):
    folder, _, _ = comparison
    monkeypatch.chdir(folder)
    before = records(folder)
    words = ["optimizers=[{label: plain,optimizer: sgd}]", "seeds=[1,0]", "epochs=2", "name=other"]
    train = "train={imgsz: 64,batch: 8,nbs: 8,workers: 0,device: cpu}"
    assert cli.main(["compare", f"data={tiny_data}", *words, train]) == 0
    assert records(folder) == before
    assert json.loads((folder / "runs/compare/other/report.json").read_text())["runs"] == {"asked": 2, "finished": 2}


BAD = [
    (["optimizers=MuSDG"], "optimizer=MuSDG"),
    (["data=nowhere.yaml"], "data=nowhere.yaml"),
    (["seeds=0"], "got 0"),
    (["starts=nowhere.pt"], "starts=nowhere.pt does not exist"),
    (["optimisers=SGD"], "did you mean optimizers?"),
    (["jobs=0"], "jobs must be >= 1, got 0"),
    (["train={imgsz: abc}"], "imgsz"),
    (["optimizers=[{optimizer: MuSGD,adapt_factor: -1}]"], "adapt_factor"),
    (["protocol=nowhere"], "protocol=nowhere is no protocol"),
    (["ray=127.0.0.1:1"], "ray=127.0.0.1:1: no cluster there"),
    (["ray=somewhere"], "ray=somewhere: no cluster there"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[w[0] for w, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(words, message, tmp_path, tiny_data, monkeypatch, capsys):
    """In this process, to save its start: the exit code and the line are what `cli.main` makes of them."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", f"data={tiny_data}", "train={imgsz: 64,device: cpu}", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in error if line.startswith("yolo-musgd:")]) == 1
    assert message in error[-1]
    assert not list(tmp_path.rglob("run.json"))
    assert not (tmp_path / "runs").exists()
