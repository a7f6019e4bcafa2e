"""The estimate of a step: a guess at first, then what its epochs tell."""

import pytest

from yolo_musgd.pipeline.progress import Bar, in_words
from yolo_musgd.pipeline.step import Step


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12060, "3 h 21 min"), (7200, "2 h 00 min")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_step_without_epochs_follows_the_guess_and_outlives_it(tmp_path):
    bar = Bar(Step("x", "x", ("x",), seconds=40), tmp_path / "none.csv", 0.0)
    assert bar.estimate(10) == (0.25, 30)
    share, left = bar.estimate(400)
    assert share == 0.95
    assert left > 0


def write(file, rows):
    text = "epoch,metrics/mAP50-95(B)\n" + "".join(f"{k + 1},0.{k + 1}\n" for k in range(rows))
    file.write_text(text)


def test_finished_epochs_tell(tmp_path):
    file = tmp_path / "results.csv"
    bar = Bar(Step("train", "x", ("x",), seconds=1, epochs=10), file, 0.0)
    write(file, 2)
    assert bar.estimate(30) == (0.2, 120)  # 15 s an epoch, 8 to go
    assert bar.estimate(40) == (0.2, 110)  # in the middle of the third


def test_epochs_of_an_earlier_attempt_took_none_of_this_ones_time(tmp_path):
    file = tmp_path / "results.csv"
    write(file, 6)
    bar = Bar(Step("train", "x", ("x",), seconds=1, epochs=10), file, 0.0)
    write(file, 8)
    assert bar.estimate(30) == (0.8, 30)


def test_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("yolo_musgd.pipeline.progress.EVERY", -1.0)
    file = tmp_path / "results.csv"
    with Bar(Step("train", "x", ("x",), seconds=1, epochs=4), file, 120.0) as bar:
        write(file, 1)
        bar.update()
    out = capsys.readouterr().out
    assert "epoch 1/4, mAP50-95 0.100, about" in out
    assert "in all" in out


def test_without_a_stream_for_errors_nothing_is_shown(monkeypatch, tmp_path):
    """A service that closed it, or pythonw."""
    monkeypatch.setattr("sys.stderr", None)
    with Bar(Step("x", "x", ("x",), seconds=40), tmp_path / "none.csv", 0.0) as bar:
        bar.update()
    assert bar.estimate(10) == (0.25, 30)
