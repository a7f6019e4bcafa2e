"""A few ends of the quick commands, and that the harness sees what it should; all of them: ``scripts/kills``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults import FAULTS, Fault, run
from kills import Case, Range, flaw

for name in ("onnx", "onnxruntime", "onnxslim"):
    pytest.importorskip(name, reason="extra export is not installed")


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Range:
    return Range(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize("name", ["bundle", "detect", "val"])
def test_an_ended_command_leaves_nothing_half_and_goes_on(name: str, grounds: Range) -> None:
    """A dozen of its writes; a kill at any time; no file beyond a kilobyte."""
    whole, writes, seconds = grounds.undisturbed(name)
    faults = [Fault(kind, at) for kind in FAULTS[:4] for at in sorted({1, writes // 2, writes - 1, writes} - {0})]
    faults += [Fault("kill", after=seconds / 2), Fault("short", 1000)]
    ends = [grounds.survives(name, fault, whole) for fault in faults]
    assert [lost for _, lost in ends if lost] == []
    assert sum(struck for struck, _ in ends) >= 8  # the last writes may be removals, which a full disk does not refuse


@pytest.mark.parametrize("name", ["bundle", "detect"])
def test_two_at_once_both_finish(name: str, grounds: Range) -> None:
    whole, _, _ = grounds.undisturbed(name)
    assert grounds.races(name, whole) == ""


def careless(project: Path) -> int:
    """Writes a result by its final name, in two goes, and forgets what it was about when it is started again."""
    project.mkdir(parents=True, exist_ok=True)
    file = project / "result.json"
    if file.exists():
        return 0
    file.write_text('{"a": ')
    with (project / "other.txt").open("w") as other:
        other.write("x")
    file.write_text('{"a": 1}')
    return 0


def test_what_is_lost_is_seen(grounds: Range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(lambda p: [str(p)], lambda p: json.loads((p / "result.json").read_text()), 1)
    monkeypatch.setitem(grounds.cases, "careless", case)
    monkeypatch.setattr(grounds, "work", lambda words: lambda: careless(Path(words[0])))
    whole, writes, _ = grounds.undisturbed("careless")
    assert writes == 4  # the folder and three openings
    assert whole == {"a": 1}
    assert [bool(grounds.survives("careless", Fault("kill", at), whole)[1]) for at in (1, 2, 3, 4)] == [
        False, False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_strikes(kind: str, tmp_path: Path) -> None:
    end = run(lambda: (tmp_path / "file").write_text("x" * 99), Fault(kind, 1))
    assert end.code == {"kill": -9, "term": -15, "int": 98, "full": 98, "short": 98}[kind]
    assert ("Error" in end.said or "KeyboardInterrupt" in end.said) == (end.code == 98)


@pytest.mark.parametrize(("name", "good"), [("a.json", "{}"), ("a.csv", "a,b\n1,2\n"), ("a.html", "<html></html>")])
def test_a_cut_file_is_seen(name: str, good: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(good)
    assert flaw(file) == ""
    file.write_text(good[:-2])
    assert flaw(file)
