"""Some words that cannot be, for commands that need no PyTorch; ``scripts/words`` has all of them for all commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import words
from faults import End

QUICK = ("bench", "detect", "val", "idle", "compare-bench")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    words.prepare(folder)
    yield folder
    (folder / "closed").chmod(0o700)


@pytest.mark.parametrize("command", QUICK)
def test_a_dozen_words_are_refused_in_one_line_or_taken(command: str, here: Path) -> None:
    chosen = [given for name, given in words.inputs(seed=7) if name == command][:12]
    assert len(chosen) == 12
    assert [(given, why) for given in chosen if (why := words.answer([command, *given], here))] == []


@pytest.mark.parametrize(
    ("end", "wrong"),
    [
        (End(2, 0, "note\nyolo-musgd: no\n"), False), (End(0, 0, "fine\n"), False), (End(1, 0, "error: no\n"), True),
        (End(2, 0, "yolo-musgd: no\nmore\n"), True), (End(2, 0, ""), True), (End(0, 0, "Traceback (most"), True),
        (End(0, 0, "\nOUTSIDE '/x'\n"), True), (End(-11, 0, ""), True),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_seen(end: End, wrong: bool) -> None:
    assert bool(words.judged(end)) == wrong


def test_what_is_written_elsewhere_is_seen(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words.tempfile, "gettempdir", lambda: "/nowhere")
    monkeypatch.setattr("yolo_musgd.cli.main", lambda given: Path(given[0]).write_text("x") - 1)
    assert words.answer([f"{here}/inside"], here) == ""
    assert "OUTSIDE" in words.answer([f"{here.parents[2]}/outside"], here)
