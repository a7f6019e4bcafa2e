"""The results folder: the only place a command writes to. Files appear whole or not at all."""

import errno
import os
import tempfile
from typing import Optional

import numpy as np

from .errors import UserError
from .pictures.images import write_image


class Folder:
    """A new folder ``project/name``, counted up (bench, bench2, ...) while the name is taken.

    Args:
        command: The default of both: ``runs/<command>/<command>``.
        project: Parent folder, made when absent.
        name: Name of the folder.

    Raises:
        UserError: It cannot be made or written to; found before anything is measured.
    """

    def __init__(self, command: str, project: str = "", name: str = "") -> None:
        parent = project or os.path.join("runs", command)
        base = os.path.join(parent, name or command)
        self.path, count = base, 1
        try:
            os.makedirs(parent, exist_ok=True)
            while True:
                try:
                    os.mkdir(self.path)
                    break
                except FileExistsError:
                    count += 1
                    self.path = "{}{}".format(base, count)
        except OSError as error:
            raise UserError("cannot make the results folder {}: {}; give project=".format(self.path, error.strerror))

    def join(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def write_text(self, name: str, content: str) -> str:
        """Write a text file whole: to a temporary name, then renamed.

        Raises:
            UserError: The disk is full or the folder is gone; nothing is left half written.
        """
        return write_whole(self.join(name), content)

    def write_picture(self, name: str, image: np.ndarray) -> str:
        """Write a picture and return its path (the suffix may change, see images.write_image)."""
        try:
            return write_image(self.join(name), image)
        except OSError as error:
            raise UserError(_why(self.join(name), error))


def write_whole(path: str, content: str) -> str:
    """Write ``content`` to ``path`` so that readers see the old file or the whole new one. Returns the path."""
    temporary: Optional[str] = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".part-", dir=os.path.dirname(path) or ".")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(_why(path, error))
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)
    return path


def _why(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "cannot write {}: {}; free some space or give project= on another disk".format(path, error.strerror)
    return "cannot write {}: {}".format(path, error.strerror)
