"""Steps are done once, redone when something changed, and leave nothing behind when they are killed.

Covers child.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.store import read_results
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.step import Input, Step, digest_of, read_marker


def copy(name, source, needs=(), inputs=(), extra=()):
    """A step that copies a JSON file, by the standard library's own tool."""
    words = ("python", "-m", "json.tool", *extra, source, "{out}/it.json")
    return Step(name, f"copy {source}", words, needs, inputs, ("it.json",))


STEPS = [copy("one", "{data}", inputs=("data",)), copy("two", "{one}/it.json", ("one",))]


@pytest.fixture
def runner(tmp_path):
    (tmp_path / "in.json").write_text('{"b": 1, "a": 2}')
    return Runner(tmp_path / "pipeline", {"data": Input(str(tmp_path / "in.json"), "d1")})


def times(runner):
    return [(runner.place(s.name) / "step.json").stat().st_mtime_ns for s in STEPS]


def test_second_run_does_nothing_again(runner, capsys):
    runner.run(STEPS)
    assert json.loads((runner.place("two") / "it.json").read_text()) == {"b": 1, "a": 2}
    before = times(runner)
    runner.run(STEPS)
    assert times(runner) == before
    assert capsys.readouterr().out.count("done before") == 2
    assert sorted(p.name for p in (runner.folder / "steps").iterdir()) == ["one", "two"]


def test_equal_output_stops_the_redoing(runner):
    runner.run(STEPS)
    first, second = times(runner)
    runner.inputs = {"data": Input(runner.inputs["data"].path, "another digest, the same content")}
    assert [s.reason for s in runner.states(STEPS)] == ["data changed", "after one"]
    runner.run(STEPS)
    assert times(runner)[0] > first
    assert times(runner)[1] == second  # what step one made is what it was


def test_a_change_redoes_what_depends_on_it(runner, capsys):
    runner.run(STEPS)
    sorted_one = copy("one", "{data}", inputs=("data",), extra=("--sort-keys",))
    runner.run([sorted_one, STEPS[1]])
    out = capsys.readouterr().out
    assert "nothing -> --sort-keys" in out
    assert "one was redone" in out
    assert (runner.place("two") / "it.json").read_text().index("a") < 10


@pytest.mark.parametrize(("words", "factor"), [(("epochs=100",), 50), (("epochs=2", "imgsz=128"), 4), ((), 1)])
def test_the_estimate_follows_changed_epochs(runner, words, factor):
    """A training that took a minute for two epochs takes fifty for a hundred."""
    place = runner.place("train")
    place.mkdir(parents=True)
    command = ["yolo", "train", "epochs=2", "imgsz=64", "data=x.yaml"]
    record = {"seconds": 60.0, "command": command, "outputs": {}, "inputs": {}}
    (place / "step.json").write_text(json.dumps(record))
    now = Step("train", "train", ("yolo", "train", *words, "data=y.yaml"), (), (), (), 1.0, epochs=3)
    assert runner.states([now])[0].seconds == pytest.approx(60 * factor)


def test_a_failing_step_says_why_and_keeps_the_rest(runner):
    broken = copy("two", "{one}/missing.json", ("one",))
    with pytest.raises(UserError, match=r"step two failed: .*missing\.json.*logs/two\.txt.*goes on from here"):
        runner.run([STEPS[0], broken])
    assert read_marker(runner.place("one"))
    assert not runner.place("two").exists()


def test_a_step_without_its_file_is_not_done(runner):
    lazy = Step("one", "does nothing", ("python", "-m", "this"), (), (), ("it.json",))
    with pytest.raises(UserError, match=r"made no it\.json"):
        runner.run([lazy])
    assert not runner.place("one").exists()


def test_crash_between_the_two_renames(runner):
    runner.run(STEPS)
    runner.place("one").replace(runner.place("one").with_name(".one.old"))  # as a crash would leave it
    runner.run(STEPS)
    assert sorted(p.name for p in (runner.folder / "steps").iterdir() if not p.name.startswith(".")) == ["one", "two"]


def test_killing_the_pipeline_ends_its_step(tmp_path):
    """SIGKILL gives no chance to clean up: the step must notice by itself."""
    code = f"""
from pathlib import Path
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.step import Step
Runner(Path({str(tmp_path)!r}), {{}}).run([Step("slow", "waits", ("python", "-m", "http.server", "0"))])
"""
    pipeline = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        child = _wait_for(lambda: _children(pipeline.pid))[0]
        _wait_for(lambda: "http.server" in (tmp_path / "logs" / "slow.txt").read_text())
    finally:
        pipeline.kill()
        pipeline.wait()
    _wait_for(lambda: not _alive(child))
    assert not (tmp_path / "steps" / "slow").exists()


def test_ctrl_c_ends_the_step_too(tmp_path):
    code = f"""
import signal
from pathlib import Path
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.step import Step
signal.signal(signal.SIGINT, signal.default_int_handler)
Runner(Path({str(tmp_path)!r}), {{}}).run([Step("slow", "waits", ("python", "-m", "http.server", "0"))])
"""
    pipeline = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    child = _wait_for(lambda: _children(pipeline.pid))[0]
    pipeline.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in pipeline.communicate(timeout=60)[1]
    assert not _alive(child)


def _children(pid):
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(look, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def interrupted(runner, step, epochs, seconds):
    """What a killed training leaves."""
    part = runner.part(step.name)
    (part / "run" / "weights").mkdir(parents=True)
    (part / "run" / "weights" / "last.pt").write_bytes(b"")
    rows = "".join(f"{e + 1},{seconds * (e + 1) / epochs}\n" for e in range(epochs))
    (part / "run" / "results.csv").write_text("epoch,time\n" + rows)
    (part / "started.json").write_text(json.dumps(digest_of(runner._inputs(step))))


@pytest.mark.parametrize(
    ("epochs", "seconds", "expected"),
    [(3, 700.0, 3), (3, 500.0, None), (5, 700.0, None)],
    ids=["long", "short: anew", "all epochs done: anew"],
)
def test_only_a_long_training_is_resumed(runner, epochs, seconds, expected):
    step = Step("train", "train", ("yolo", "train"), epochs=5)
    interrupted(runner, step, epochs, seconds)
    assert runner._prepare(step, runner._inputs(step)) == expected
    assert (runner.part("train") / "run").exists() == (expected is not None)


@pytest.mark.parametrize(("place", "expected"), [("here", 3), ("elsewhere", None)])
def test_a_training_that_was_moved_starts_anew(runner, place, expected):
    """Ultralytics would go on in the old place, and what lies here would be taken for its end."""
    step = Step("train", "train", ("yolo", "train"), epochs=5)
    interrupted(runner, step, 3, 700.0)
    run = runner.part("train") / "run"
    began = {"here": run, "elsewhere": run.parents[3] / "old" / "run"}[place]
    (run / "args.yaml").write_text(f"save_dir: {began.resolve()}\n")
    assert runner._prepare(step, runner._inputs(step)) == expected


@pytest.mark.parametrize(("times", "expected"), [((400, 500, 300, 350), 4), ((200, 300, 100, 150), None)])
def test_time_before_an_earlier_interruption_counts(runner, times, expected):
    """Ultralytics' clock starts at zero again in every training that it resumes."""
    step = Step("train", "train", ("yolo", "train"), epochs=9)
    interrupted(runner, step, len(times), 0.0)
    rows = "".join(f"{e + 1},{t}\n" for e, t in enumerate(times))
    (runner.part("train") / "run" / "results.csv").write_text("epoch,time\n" + rows)
    assert runner._prepare(step, runner._inputs(step)) == expected


class Failing(Runner):
    """A training that fails after some epochs when it is resumed, and works when it starts anew."""

    epochs = 0

    def _execute(self, step, words, later):
        results = self.part(step.name) / "run" / "results.csv"
        if "resume=True" in words:
            with results.open("a") as sink:
                sink.writelines(f"{3 + e},{60.0 * e}\n" for e in range(self.epochs))
            raise UserError("no space left on device")
        results.parent.mkdir(parents=True)
        results.write_text("epoch,time\n1,60.0\n")


@pytest.mark.parametrize("epochs", [1, 3], ids=["the last one once more", "two new ones"])
def test_a_resumed_training_that_fails_later_keeps_its_checkpoint(runner, epochs):
    """It was killed between the row of epoch 3 and its checkpoint, so the first epoch that it makes is 3 again."""
    failing = Failing(runner.folder, runner.inputs)
    step = Step("train", "train", ("yolo", "train"), outputs=("run/results.csv",), epochs=9)
    interrupted(failing, step, 3, 1000.0)
    failing.epochs = epochs
    with pytest.raises(UserError, match="no space left"):
        failing.run([step])
    assert (failing.part("train") / "run" / "weights" / "last.pt").is_file()
    assert failing._prepare(step, failing._inputs(step)) == 2 + epochs


def test_a_checkpoint_that_cannot_be_resumed_starts_anew(runner, capsys):
    failing = Failing(runner.folder, runner.inputs)
    step = Step("train", "train", ("yolo", "train"), outputs=("run/results.csv",), epochs=9)
    interrupted(failing, step, 3, 700.0)
    failing.run([step])
    assert "so it starts anew: no space left on device" in capsys.readouterr().out
    assert read_marker(failing.place("train"))["interrupted_after_epoch"] is None
    assert read_results(failing.place("train") / "run" / "results.csv")["epoch"] == [1]


def test_a_training_with_other_arguments_is_not_resumed(runner):
    step = Step("train", "train", ("yolo", "train", "lr0=0.01"), epochs=5)
    interrupted(runner, step, 3, 700.0)
    changed = Step("train", "train", ("yolo", "train", "lr0=0.02"), epochs=5)
    assert runner._prepare(changed, runner._inputs(changed)) is None


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_epoch(tiny_data, tmp_path, programs, run):
    """With resume_after=0, so that even this small one is worth it; through Ultralytics' own resume."""
    code = f"""
from pathlib import Path
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.step import Input, Step
words = ("yolo", "train", "model=yolo26n.yaml", "data={{data}}", "imgsz=64", "batch=8", "nbs=8", "epochs=4",
         "device=cpu", "workers=0", "plots=False", "project={{out}}", "name=run", "exist_ok=True")
step = Step("train", "train", words, (), ("data",), ("run/weights/best.pt", "run/results.csv"), epochs=4)
Runner(Path({str(tmp_path)!r}), {{"data": Input({str(tiny_data)!r}, "d")}}, resume_after=0.0).run([step])
"""
    first = subprocess.Popen([programs / "python", "-c", code], stdout=subprocess.DEVNULL)
    results = tmp_path / "steps" / ".train.part" / "run" / "results.csv"
    last = results.parent / "weights" / "last.pt"
    _wait_for(lambda: last.is_file() and len(results.read_text().splitlines()) >= 3, seconds=240)
    first.kill()
    first.wait()
    second = run("python", "-c", code)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "going on from its last checkpoint" in second.stdout
    assert "that failed" not in second.stdout
    record = read_marker(tmp_path / "steps" / "train")
    assert record["interrupted_after_epoch"] >= 1
    assert read_results(tmp_path / "steps" / "train" / "run" / "results.csv")["epoch"] == [1, 2, 3, 4]
