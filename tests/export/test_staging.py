"""An export's temporary folders: locked, cleaned, renamed in one step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolo_musgd.export.staging import MARK, clean, place_numbered, staging

FILL = """
import sys, time
from pathlib import Path
from yolo_musgd.export.staging import staging
with staging(Path(sys.argv[1]), "kind") as folder:
    (folder / "half").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def start(parent: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", FILL, str(parent)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_folder_goes_with_its_block_whatever_ends_it(tmp_path: Path) -> None:
    with staging(tmp_path / "new", "kind") as folder:
        assert folder.parent == tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "new", "kind"):
        raise KeyboardInterrupt
    assert not list((tmp_path / "new").iterdir())


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    killed, living = start(tmp_path), start(tmp_path)
    try:
        before = set(tmp_path.iterdir())
        assert len(before) == 2
        killed.kill()
        killed.wait()
        with staging(tmp_path, "kind") as folder:
            left = set(tmp_path.iterdir()) - {folder}
        assert len(left) == 1
        assert (left.pop() / "half").exists()
        with staging(tmp_path, "other"):  # another command's folders are none of its business
            pass
        assert len(list(tmp_path.iterdir())) == 1
        living.terminate()
        living.wait()
        with staging(tmp_path, "kind"):
            pass
        assert not list(tmp_path.iterdir())
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()


def test_folders_and_links_of_the_user_stay(tmp_path: Path) -> None:
    own = tmp_path / "runs" / ".kind-holidays"
    own.mkdir(parents=True)
    (own / "photo.jpg").touch()
    far = tmp_path / "far"
    far.mkdir()
    (far / MARK).touch()
    (tmp_path / "runs" / ".kind-somelink").symlink_to(far)
    with staging(tmp_path / "runs", "kind"):
        pass
    assert (own / "photo.jpg").exists()
    assert (far / MARK).exists()


def _place(arguments: tuple[Path, int]) -> str:
    parent, number = arguments
    with staging(parent, "kind") as folder:
        ready = folder / "ready"
        ready.mkdir()
        (ready / str(number)).touch()
        return place_numbered(ready, parent, "exp").name


def test_processes_that_finish_together_overwrite_nothing(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        names = pool.map(_place, [(tmp_path, k) for k in range(40)], chunksize=1)
    assert sorted(names) == sorted(["exp", *(f"exp{k}" for k in range(2, 41))])
    assert sorted(int(p.name) for p in tmp_path.glob("exp*/*")) == list(range(40))
    assert len(list(tmp_path.iterdir())) == 40


def test_a_stopped_owner_keeps_its_folder(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        with staging(tmp_path, "kind"):
            assert len(list(tmp_path.iterdir())) == 2
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.communicate()


def test_cleaning_alone_takes_what_has_lost_its_owner(tmp_path: Path) -> None:
    killed, living = start(tmp_path), start(tmp_path)
    try:
        killed.kill()
        killed.wait()
        clean(tmp_path, "kind")
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()
