"""Finds the recipes of CONTRIBUTING.md and follows them in a copy of the repository.

``<!-- file PATH -->`` is a new file, ``<!-- after PATH: LINE -->`` puts the block behind the line that begins so,
and ``<!-- run -->`` is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

STEP = re.compile(
    r"^(?P<indent> *)<!-- (?P<what>file|after|run)(?P<words>[^\n]*?) -->\n *```\w+\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


class Step(NamedTuple):
    """One block of a recipe: what is done with it, where, and its text."""

    what: str
    path: str
    line: str
    text: str


def recipes(page: str) -> dict[str, list[Step]]:
    """Heading -> its steps, for every ``###`` section that has some."""
    found = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        steps = []
        for match in STEP.finditer(section):
            path, _, line = match["words"].strip().partition(": ")
            margin = len(match["indent"])
            text = "".join(line[margin:] or "\n" for line in match["text"].splitlines(keepends=True))
            steps.append(Step(match["what"], path, line, text))
        if steps:
            found[section.splitlines()[0]] = steps
    return found


def follow(step: Step, root: Path) -> None:
    """Write what a step writes.

    Raises:
        ValueError: the line behind which the block belongs is not in the file, or there are several.
    """
    file = root / step.path
    if step.what == "file":
        if file.exists():
            raise ValueError(f"{step.path} exists already")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(step.text, encoding="utf-8")
    elif step.what == "after":
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        places = [number for number, line in enumerate(lines, 1) if line.startswith(step.line)]
        if len(places) != 1:
            raise ValueError(f"{step.path} has {len(places)} lines that begin with {step.line!r}")
        lines.insert(places[0], step.text)
        file.write_text("".join(lines), encoding="utf-8")
