"""When a step is done, and why it is not."""

import json

import pytest

from yolo_musgd.pipeline import step as steps
from yolo_musgd.pipeline.step import Input, Step

STEP = Step("two", "title", ("python", "-m", "x", "in={data}", "epochs=3"), ("one",), ("data",), ("*.txt",))
DATA = {"data": Input("/somewhere/data.yaml", "d1")}


@pytest.fixture
def done(tmp_path):
    """A folder in which STEP is done."""
    (tmp_path / "a.txt").write_text("made")
    inputs = steps.key_of(STEP, DATA, {"one": "o1"})
    record = {"inputs": inputs, "outputs": steps.hash_outputs(STEP, tmp_path)}
    (tmp_path / steps.MARKER).write_text(json.dumps(record))
    return tmp_path


def inputs(step=STEP, data="d1", path="/somewhere/data.yaml", before="o1"):
    return steps.key_of(step, {"data": Input(path, data)}, {"one": before})


def test_equal_inputs_are_done_wherever_the_files_lie(done):
    assert steps.why_not_done(inputs(path="/elsewhere/data.yaml"), done) is None


def test_changes_are_named(done, monkeypatch):
    other = Step("two", "title", (*STEP.words[:-1], "epochs=4"), ("one",), ("data",), ("*.txt",))
    assert steps.why_not_done(inputs(other), done) == "epochs=3 -> epochs=4"
    assert steps.why_not_done(inputs(data="d2"), done) == "data changed"
    assert steps.why_not_done(inputs(before="o2"), done) == "one was redone"
    now = {**steps.versions(), "torch": "99.0"}
    was = steps.versions()["torch"]
    monkeypatch.setattr(steps, "versions", lambda: now)
    assert steps.why_not_done(inputs(), done) == f"torch {was} -> 99.0"


def test_outputs_are_looked_at(done):
    (done / "a.txt").write_text("other")
    assert steps.why_not_done(inputs(), done) == "a.txt was changed"
    (done / "a.txt").unlink()
    assert steps.why_not_done(inputs(), done) == "a.txt was removed"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"inputs": {}}'])
def test_a_broken_record_is_no_record(tmp_path, content):
    (tmp_path / steps.MARKER).write_text(content)
    assert steps.why_not_done(inputs(), tmp_path) == "not done yet"


def test_a_step_that_made_nothing_is_not_finished(tmp_path):
    with pytest.raises(FileNotFoundError):
        steps.hash_outputs(STEP, tmp_path)


def test_places_are_filled_in():
    command = STEP.command({"data": "/a b/{x}.yaml", "out": "/o"})
    assert command == ["python", "-m", "x", "in=/a b/{x}.yaml", "epochs=3"]
    assert STEP.command({"data": "/{out}/{data}.yaml", "out": "/o"})[3] == "in=/{out}/{data}.yaml"
