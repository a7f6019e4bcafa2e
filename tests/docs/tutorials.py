"""Finds and runs the code blocks of a Markdown page that stand under ``<!-- run -->``.

``<!-- run epochs=1 +plots=False -->`` runs the block with another value for a key=value that is in it, and with a word
more behind its first command and others of that name, so that a tutorial can be tested in a minute; with
YOLO_MUSGD_DOCS=full the blocks run exactly as they are printed.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

BLOCK = re.compile(r"^<!-- run(?P<words>[^>]*) -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One block of code, as it is to be run."""

    language: str
    code: str
    line: int


def shorten(code: str, words: list[str]) -> str:
    """Replace the values of ``key=value`` in ``code``; ``+word`` goes to the end of lines that begin as the first does.

    Raises:
        ValueError: a key that is not in the code: the marker has gone stale.
    """
    command = re.escape(" ".join(code.split()[:2]))
    for word in words:
        key, _, value = word.partition("=")
        if word.startswith("+"):
            code = re.sub(rf"^({command} .*)$", rf"\1 {word[1:]}", code, flags=re.MULTILINE)
            continue
        code, count = re.subn(rf"(?<![\w.]){re.escape(key)}=[^\s,)]+", f"{key}={value}", code)
        if not count:
            raise ValueError(f"{key}= is not in the block:\n{code}")
    return code


def blocks(text: str) -> list[Block]:
    """The blocks of a page that are to be run, in order."""
    full = os.environ.get("YOLO_MUSGD_DOCS") == "full"
    return [
        Block(
            match["language"],
            match["code"] if full else shorten(match["code"], match["words"].split()),
            text.count("\n", 0, match.start("code")) + 1,
        )
        for match in BLOCK.finditer(text)
    ]
