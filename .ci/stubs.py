"""Writes yolo_musgd/api.pyi, the types of the Python API, from the commands' one table: python .ci/stubs.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = '''# Written by .ci/stubs.py from the table of commands; a test holds it to that.
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypeAlias

from yolo_musgd.edge.result import Result

Words: TypeAlias = str | int | float | PathLike[str] | Sequence[object] | Mapping[str, object]
"""Text, a number, a path, or a list or mapping of them."""

NAMES: tuple[str, ...]

def documentation(name: str) -> str: ...
'''


def stubs() -> str:
    """The file's text before it is formatted."""
    from yolo_musgd.api import NAMES
    from yolo_musgd.commands import COMMANDS, REQUIRED, arguments

    parts = [HEAD]
    for name in NAMES:
        lines, star = [], False
        for place, a in enumerate(arguments(name)):
            required = a.default is REQUIRED
            if not star and not (place == 0 and required):
                lines, star = [*lines, "*"], True
            none = "" if "None" in a.kind or a.default is not None else " | None"
            lines.append(
                f"{a.name}: {a.kind}{' | None' if required and name == 'prune' else none}"
                + ("" if required and name != "prune" else f" = {None if required else a.default!r}")
            )
        if COMMANDS[name].trains:
            lines.append("**train: Words")
        summary = COMMANDS[name].summary
        body = f'"""{summary[0].upper()}{summary[1:]}.\n\n    See `yolo-musgd help {name}`.\n    """'
        parts.append(f"def {name}({', '.join(lines)},) -> Result:\n    {body}\n")
    return "\n".join(parts)


def formatted(text: str) -> str:
    """As ruff formats it."""
    words = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "yolo_musgd/api.pyi", "-"]
    return subprocess.run(words, input=text, cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    (ROOT / "yolo_musgd" / "api.pyi").write_text(formatted(stubs()), encoding="utf-8")
