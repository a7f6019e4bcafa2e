"""Result folders and atomic files: names, races, rights, and what an error or a Ctrl-C leaves behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from edge_samples import REPO

from yolo_musgd.edge import files
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import Folder, check_name, numbered_folder, write_whole


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "../../x", "/tmp/x", "a/b", "a/", "a\\b", "a\0b", "a\nb", "\x7f"]
)
def test_a_name_that_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be the name of one folder") as caught:
        check_name(name)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError):
        numbered_folder(str(tmp_path / "runs"), name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["x" * 241, "猫" * 81, "[" * 3000])
def test_a_name_that_no_disk_takes_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot make the results folder .*above 240 bytes"):
        check_name(name)


@pytest.mark.parametrize("name", ["exp", "exp 2", "...", "été", ".hidden", "a:b", "-x"])
def test_a_plain_name_is_taken(name: str, tmp_path: Path) -> None:
    assert numbered_folder(str(tmp_path), name) == str(tmp_path / name)
    assert numbered_folder(str(tmp_path), name) == str(tmp_path / f"{name}2")


@pytest.mark.parametrize(("project", "name"), [("p\0q", "x"), ("p", "x" * 300), ("x" * 5000, "x"), ("file", "x")])
def test_a_folder_that_cannot_be_made_is_one_line(
    project: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the results folder"):
        Folder("bench", project, name)


def test_eight_processes_get_a_folder_each(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom yolo_musgd.edge.files import numbered_folder\n"
        "for _ in range(40): print(numbered_folder(sys.argv[1] + '/runs', 'exp'))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )
        for _ in range(8)
    ]  # fmt: skip
    answers = [process.communicate(timeout=60) for process in started]
    assert [err for _, err in answers if err] == []
    made = [line for out, _ in answers for line in out.splitlines()]
    assert len(made) == len(set(made)) == len(list((tmp_path / "runs").iterdir())) == 320


@pytest.mark.parametrize(("mask", "rights"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_rights_of_the_umask(mask: int, rights: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_whole(str(tmp_path / "a.txt"), "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == rights


def test_text_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_whole("a.txt", "é\r\n|\n") == "a.txt"
    assert Path("a.txt").read_bytes() == "é\r\n|\n".encode()
    write_whole("a.txt", b"\xff\0")
    assert Path("a.txt").read_bytes() == b"\xff\0"
    write_whole("a.txt", "a name that is not UTF-8: \udcff")
    assert Path("a.txt").read_text(encoding="utf-8") == "a name that is not UTF-8: \\udcff"
    assert [path.name for path in Path().iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_an_error_keeps_the_old_file_and_leaves_nothing(
    error: BaseException, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(str(tmp_path / "a.txt"), "old")

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(files.os, at, fail)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as caught:
        write_whole(str(tmp_path / "a.txt"), "new")
    if isinstance(error, OSError):
        assert "free some space" in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("path", ["absent/a.txt", "a\0b", "x" * 300, "folder"])
def test_a_place_that_cannot_be_written_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_whole(path, "x")
    assert [path.name for path in Path().iterdir()] == ["folder"]
