"""Data-set folders that are either complete or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolo_musgd.edge.errors import UserError


@contextmanager
def complete_folder(target: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the block ends without an error and vanishes otherwise.

    Args:
        target: the final folder; missing or empty.

    Raises:
        UserError: the target holds something already.
    """
    target = Path(target)
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty: remove it, or choose another path in the data YAML")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        try:
            if target.is_dir():
                target.rmdir()
            part.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else another process made it meanwhile, and it is as complete
    finally:
        shutil.rmtree(part, ignore_errors=True)
