"""What a command found: the figures for a program, and three last lines for people."""

import os
import shlex
import sys
from typing import Any, Dict, Optional

from .errors import EXIT_DONE
from .text import one_line


def program() -> str:
    """Return what the user types before a command: the installed program, or the one file on a board."""
    name = os.path.basename(sys.argv[0])
    return "python3 " + name if name.endswith(".pyz") else "yolo-musgd"


def typed(*words: str) -> str:
    """Return the line to type: the program and these words, quoted where a shell asks for it."""
    return " ".join([program()] + [shlex.quote(word) for word in words])


class Result:
    """What a command found and made.

    Attributes:
        command: Its name.
        said: What it found, in a sentence.
        folder: Where the results lie; empty where nothing was written.
        files: What -> path; ``page`` is the report that people open.
        figures: Name -> number or text; None for what was not measured.
        next: What to type next; empty where nothing follows.
        code: Exit code of the command.
    """

    def __init__(
        self,
        command: str,
        said: str,
        folder: str = "",
        files: Optional[Dict[str, str]] = None,
        figures: Optional[Dict[str, Any]] = None,
        next: str = "",
        code: int = EXIT_DONE,
    ) -> None:
        self.command, self.said, self.folder, self.next, self.code = command, said, folder, next, code
        self.files: Dict[str, str] = files or {}
        self.figures: Dict[str, Any] = figures or {}

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as plain values, which JSON can say."""
        return dict(vars(self))

    def __str__(self) -> str:
        """Return the last lines: what was found, where it lies, what to type next."""
        where = self.files.get("page") or self.folder or ", ".join(self.files.values())
        following = self.next if os.environ.get("EDGE_NEXT") != "0" else ""  # a script that goes on by itself
        rows = [self.said, where and "results: " + where, following and "next: " + following]
        return "\n".join(one_line(row) for row in rows if row)

    def __repr__(self) -> str:
        return "Result({})".format(", ".join("{}={!r}".format(*item) for item in vars(self).items()))

    def show(self) -> int:
        """Print the last lines and return the exit code."""
        print("\n{}".format(self), flush=True)
        return self.code
