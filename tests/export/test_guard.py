"""Layers go back to float until the accuracy is within bounds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export import sensitivity
from yolo_musgd.export.accuracy import Accuracy, evaluate
from yolo_musgd.export.guard import Guard
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.splits import read_splits


@pytest.fixture
def guard_of(graphs: dict[str, Path], tiny_data: Path, tmp_path: Path):
    """A guard whose "quantized" models are the FP32 graph, against an accuracy that is ``above`` theirs."""
    artifact = open_artifact(str(graphs["raw"]))
    reference = open_runtime(artifact, "onnxruntime", 1)
    files = read_splits(str(tiny_data)).val[:2]
    real = evaluate(artifact, reference, files)

    def make(layers: Sequence[str], folder: Path) -> Path:
        folder.mkdir()
        return Path(shutil.copy(graphs["raw"], folder / "model.onnx"))

    def opened(model: Path) -> Loaded:
        return load(model, "onnxruntime", 1)

    def guard(above: float) -> Guard:
        expected = Accuracy(real.map50_95 + above, real.map50, real.images, real.detections)
        return Guard(make, opened, "onnxruntime", tmp_path, files, expected, sensitivity.Limits(0.01), reference)

    yield guard
    reference.close()


def test_a_model_that_holds_is_taken_at_once(guard_of) -> None:
    result = guard_of(0.005).run(("head",), lambda: pytest.fail("nothing to search"))
    assert result.float_layers == ("head",)
    assert result.steps == ()
    assert Path(result.loaded.artifact.model).is_file()


def test_the_search_times_every_step_and_draws_it(guard_of, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No layer helps here, so every number of groups of them is tried and the report says that none holds."""
    ranked = [sensitivity.Ranked(f"g{k}", (f"n{k}",), 1.0) for k in range(3)]
    result = guard_of(0.5).run(("head",), lambda: ranked)
    assert [len(step.groups) for step in result.steps] == [0, 1, 2, 3]
    assert all(step.latency_ms and step.fp32_ms for step in result.steps)
    assert all(step.drop == pytest.approx(0.5) for step in result.steps)
    assert "no choice of float layers holds" in caplog.text
    sensitivity.draw(result.steps, sensitivity.Limits(0.01), tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_without_a_search_the_loss_is_said(guard_of, caplog: pytest.LogCaptureFixture) -> None:
    result = guard_of(0.5).run(("head",), None)
    assert result.steps == ()
    assert "loses 0.5000 mAP50-95" in caplog.text


def test_every_try_is_opened_once_and_only_the_chosen_one_stays_open(guard_of, monkeypatch) -> None:
    guard = guard_of(0.5)
    opened, closed, real = [], [], guard.open_model

    def counting(model: Path) -> Loaded:
        loaded = real(model)
        opened.append(loaded)
        monkeypatch.setattr(loaded.runtime, "close", lambda: closed.append(loaded))
        return loaded

    guard.open_model = counting
    ranked = [sensitivity.Ranked(f"g{k}", (f"n{k}",), 1.0) for k in range(3)]
    result = guard.run(("head",), lambda: ranked)
    assert len(opened) == len({one.artifact.model for one in opened}) == 4
    assert [one for one in opened if one not in closed] == [result.loaded]
