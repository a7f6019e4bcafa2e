"""Where results go: new folders whose names count up, and files that appear whole or not at all."""

import errno
import json
import os
import stat
from typing import Any, Union

from .errors import UserError, first_line

LONGEST_NAME = 240  # bytes: file systems take 255, and a number may be put behind it


def check_name(name: str) -> None:
    """Refuse what is not the plain name of one folder.

    Raises:
        UserError: Empty, ``.`` or ``..``, an absolute path, too long, or with a separator or a control character in it.
    """
    plain = name not in ("", ".", "..") and not os.path.splitdrive(name)[0]
    if not plain or "/" in name or "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise UserError("name={!r}: must be the name of one folder, without / or \\; project= says where".format(name))
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise UserError(
            "cannot make the results folder '{:.40}...': above {} bytes; give name=".format(name, LONGEST_NAME)
        )


def numbered_folder(parent: str, name: str) -> str:
    """Make ``parent/name``, or the first of ``name2``, ``name3``, ... that is free; safe against other processes.

    Args:
        parent: Made when absent.
        name: See check_name.

    Returns:
        The path of the new, empty folder.

    Raises:
        UserError: A bad name, or a folder that cannot be made.
    """
    check_name(name)
    base = os.path.join(parent, name)
    path, count = base, 1
    try:
        if parent:
            os.makedirs(parent, exist_ok=True)
        while True:
            try:
                os.mkdir(path)
                return path
            except FileExistsError:
                count += 1
                path = "{}{}".format(base, count)
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError("cannot make the results folder {!r}: {}; give project=".format(path, reason))


def results_folder(project: str, name: str, save_dir: str = "", exist_ok: bool = False) -> str:
    """Make the folder for results that ``project``, ``name``, ``save_dir`` and ``exist_ok`` of Ultralytics stand for.

    Args:
        project: Parent folder.
        name: Of the folder in it, counted up while it is taken.
        save_dir: The folder itself, in place of both.
        exist_ok: Take a folder that is there already.

    Raises:
        UserError: A bad name, a folder that cannot be made, or ``save_dir`` with something in it and no ``exist_ok``.
    """
    if not save_dir and not exist_ok:
        return numbered_folder(project, name)
    if not save_dir:
        check_name(name)
    path = save_dir or os.path.join(project, name)
    try:
        os.makedirs(path, exist_ok=True)
        if not exist_ok and os.listdir(path):
            raise UserError("save_dir={}: something is in it; add exist_ok=True to write beside it".format(path))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError("cannot make the results folder {!r}: {}; give another".format(path, reason))
    return path


class Folder:
    """A new folder ``project/name``, counted up (bench, bench2, ...) while the name is taken.

    As a context manager it goes again at the end if nothing was written to it.

    Args:
        command: The default of both: ``runs/<command>/<command>``.
        project: Parent folder, made when absent.
        name: Name of the folder.
        save_dir: See results_folder.
        exist_ok: See results_folder.

    Raises:
        UserError: It cannot be made or written to; found before anything is measured.
    """

    def __init__(
        self, command: str, project: str = "", name: str = "", save_dir: str = "", exist_ok: bool = False
    ) -> None:
        self.path = results_folder(project or os.path.join("runs", command), name or command, save_dir, exist_ok)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            os.rmdir(self.path)  # refused unless it is empty
        except OSError:
            pass

    def join(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def write_text(self, name: str, content: str) -> str:
        """Write a text file whole, see write_whole."""
        return write_whole(self.join(name), content)


def write_whole(path: str, content: Union[str, bytes]) -> str:
    """Write ``content`` to ``path`` so that readers see the old file or the whole new one, whatever ends the writing.

    It goes to a temporary file beside ``path``, with the rights that the user's umask leaves, onto the disk (fsync),
    and is renamed. Text is written as UTF-8.

    Returns:
        ``path``.

    Raises:
        UserError: The disk is full, or the folder is gone or may not be written to; nothing is left half written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = os.path.join(os.path.dirname(path), ".part-" + os.urandom(8).hex())
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too leaves nothing behind
        try:
            os.remove(temporary)
        except (OSError, ValueError):  # never made
            pass
        if isinstance(error, (OSError, ValueError)):  # a ValueError is a NUL in the path
            raise UserError(_why(path, error))
        raise
    return path


def _why(path: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "cannot write {}: {}; free some space or give project= on another disk".format(path, reason)
    return "cannot write {}: {}".format(path, reason)


def read_bytes(path: str) -> bytes:
    """Return the content of a regular file.

    Raises:
        UserError: Missing, unreadable, or a folder, pipe, device or socket, of which some never end.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                return file.read()
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise UserError("cannot read {}: {}".format(path, getattr(error, "strerror", None) or error))
    raise UserError("cannot read {}: not a regular file".format(path))


def read_text(path: str) -> str:
    """Return the text of a regular file, UTF-8 with or without a byte order mark.

    Raises:
        UserError: See read_bytes; or a byte that is not UTF-8, with its line.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError("{}:{}: byte 0x{:02x} is not UTF-8".format(path, line, data[error.start]))


def read_json(path: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: See read_text; or not JSON, or nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("{} is not JSON: {}".format(path, first_line(error)))
