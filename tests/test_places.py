"""Where results go, and what becomes of the results that were there."""

import pytest

from yolo_musgd import cli
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import results_folder
from yolo_musgd.places import check_replaced, set_aside


def test_names_count_up_unless_told_otherwise(tmp_path):
    project = str(tmp_path / "runs")
    assert [results_folder(project, "exp")[-4:] for _ in range(2)] == ["/exp", "exp2"]
    assert results_folder(project, "exp", exist_ok=True) == f"{project}/exp"
    assert results_folder(project, "exp", f"{project}/mine") == f"{project}/mine"
    (tmp_path / "runs" / "mine" / "x").touch()
    with pytest.raises(UserError, match="something is in it; add exist_ok=True"):
        results_folder(project, "exp", f"{project}/mine")
    assert results_folder(project, "exp", f"{project}/mine", exist_ok=True) == f"{project}/mine"
    with pytest.raises(UserError, match="must be the name of one folder"):
        results_folder(project, "../x", exist_ok=True)


@pytest.fixture
def earlier(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "old.txt").write_text("old")
    (tmp_path / "exp.tar.gz").write_text("old")
    return tmp_path / "exp", tmp_path / "exp.tar.gz", tmp_path / "absent"


def test_earlier_results_come_back_when_the_new_ones_fail(earlier, tmp_path):
    before = {p.name for p in tmp_path.rglob("*")}

    def fail():
        with set_aside(*earlier):
            (tmp_path / "exp").mkdir()
            (tmp_path / "exp" / "half.txt").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {p.name for p in tmp_path.rglob("*")} == before
    assert (tmp_path / "exp" / "old.txt").read_text() == "old"


def test_earlier_results_go_when_the_new_ones_are_there(earlier, tmp_path):
    with set_aside(*earlier):
        (tmp_path / "exp").mkdir()
        (tmp_path / "exp" / "new.txt").touch()
    assert {p.name for p in tmp_path.rglob("*")} == {"exp", "new.txt"}


def test_a_command_writes_where_save_dir_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["exist_ok=True"]):
        assert cli.main(["demo", "save_dir=here", "steps=3", "pictures=False", *words]) == 0
        assert {p.name for p in (tmp_path / "here").iterdir()} == {"demo.json", "demo.md"}
    last = capsys.readouterr().out.strip().splitlines()[-3:]
    assert last[0].startswith("five quintic steps bring every singular value into")
    assert last[1:] == ["results: here", "next: yolo train cfg=quickstart"]


def test_only_own_results_are_replaced(tmp_path):
    check_replaced(tmp_path / "absent", "base.pt")
    check_replaced(tmp_path, "base.pt")  # empty
    (tmp_path / "args.yaml").touch()
    with pytest.raises(UserError, match="which exist_ok=True would remove"):
        check_replaced(tmp_path, "base.pt")
    (tmp_path / "base.pt").touch()
    check_replaced(tmp_path, "base.pt")
