"""Where a command's results go: ``project``, ``name``, ``save_dir`` and ``exist_ok``, as Ultralytics has them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import check_name, results_folder


class Place(Protocol):
    """Settings that say where results go."""

    @property
    def project(self) -> str:
        """Parent folder."""

    @property
    def name(self) -> str:
        """Of the folder in it."""

    @property
    def save_dir(self) -> str | None:
        """The folder itself."""

    @property
    def exist_ok(self) -> bool:
        """Whether it may be there already."""


def check_parent(project: str, name: str | None = None, word: str = "project") -> None:
    """Refuse a place for results that cannot be one, before the work whose results it is to hold.

    Args:
        project: the parent folder.
        name: of the folder in it; None where it is not chosen by the user.
        word: the setting that said so, for the message.

    Raises:
        UserError: a file is in the parent's place or in its path, its folder may not be written, it is no path, or the
            name is not that of one folder.
    """
    if name is not None:
        check_name(name)
    problem = ""
    try:
        folder = Path(project).absolute()
        there = next(p for p in (folder, *folder.parents) if _is_there(p))
        if not there.is_dir():
            problem = f"{there} is a file"
        elif not _may_be_written(there):
            problem = f"{there} may not be written"
    except (OSError, ValueError) as error:  # too long, or with a NUL in it
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise UserError(f"{word}={project[:200]} cannot hold results: {problem}; choose another {word}=")


def _is_there(path: Path) -> bool:
    """Path.exists says no, from Python 3.14 on, to what cannot be: a name that is too long."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _may_be_written(folder: Path) -> bool:
    """By a trial: os.access says yes to root in /proc."""
    try:
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=folder):
            return True
    except OSError:
        return False


def check_place(settings: Place) -> None:
    """Refuse a place for results that cannot be one, before the work; see `check_parent`."""
    check_name(settings.name)
    if settings.save_dir is None:
        check_parent(settings.project)
        return
    folder = Path(settings.save_dir)
    check_parent(settings.save_dir, word="save_dir")
    if not settings.exist_ok and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"save_dir={folder}: something is in it; add exist_ok=True, or give another")


def make_place(settings: Place) -> Path:
    """The folder for results, made; see `yolo_musgd.edge.files.results_folder`."""
    return Path(results_folder(settings.project, settings.name, settings.save_dir or "", settings.exist_ok))


def check_replaced(folder: Path, mark: str) -> None:
    """Refuse to let ``exist_ok`` replace what is not the command's own: a training's folder, a user's.

    Args:
        folder: that the results are to be.
        mark: pattern of a file that all results of the command have.

    Raises:
        UserError: something is in the folder, and no such file.
    """
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(mark)):
        raise UserError(
            f"{folder} holds something else than results of this command, which exist_ok=True would remove: give "
            "another name= or save_dir="
        )


@contextlib.contextmanager
def set_aside(*paths: Path) -> Iterator[None]:
    """Keep earlier results, files or folders, until new ones have their place; they come back if that fails."""
    kept = {path: path.with_name(f".replaced-{os.urandom(4).hex()}") for path in paths if os.path.lexists(path)}
    for path, place in kept.items():
        path.rename(place)
    try:
        yield
    except BaseException:
        for path, place in kept.items():
            _remove(path)
            place.rename(path)
        raise
    for place in kept.values():
        _remove(place)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
