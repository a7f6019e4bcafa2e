"""Temporary folders beside the results: renamed when whole, removed when not, and after a kill removed by the next run.

Every such folder is locked by the process that fills it, so that a folder whose lock is free has lost its owner. The
lock is the operating system's (``flock``) and ends with the process, however that ends. Where there is none (Windows,
some network drives) nothing of another run is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

fcntl: Any = None
with contextlib.suppress(ImportError):  # there is none on Windows
    fcntl = import_module("fcntl")

MARK = ".yolo-musgd-temporary"
"""File that tells our folders from a user's of a similar name."""


@contextlib.contextmanager
def staging(parent: Path, kind: str) -> Iterator[Path]:
    """A new folder ``parent/.kind-xxxxxxxx``, removed at the end; what killed runs left there is removed first.

    Args:
        parent: the folder of the results, so that what is finished can be renamed into it; made when absent.
        kind: of the command.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(parent, wait=True):  # nobody else makes or cleans meanwhile: no folder is seen before its lock
            _clean(parent, kind)
            folder = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=parent))
            stack.enter_context(_locked(folder))
        stack.callback(_remove, folder)
        (folder / MARK).touch()
        yield folder


def clean(parent: Path, kind: str) -> None:
    """Remove what killed runs left in a folder that is there; :func:`staging` does so too."""
    with _locked(parent, wait=True):
        _clean(parent, kind)


def place_numbered(ready: Path, parent: Path, name: str) -> Path:
    """Rename the finished folder ``ready`` to ``parent/name``, or to the first free one of ``name2``, ``name3``, ...

    There is no moment in which an unfinished folder has a final name, and of two processes none overwrites the other.
    """
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}{number}")
        try:
            if not os.path.lexists(folder):
                ready.rename(folder)
                return folder
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        number += 1


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder; False where another process holds it, or where there are no locks."""
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW * (not wait))
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """Once more where Ctrl-C comes meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _clean(parent: Path, kind: str) -> None:
    for folder in parent.glob(f".{kind}-????????"):
        with contextlib.suppress(OSError), _locked(folder) as free:
            if free and ((folder / MARK).exists() or not any(folder.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)
