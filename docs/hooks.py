"""Fills the pages that are made from the code: every command's help, and the arguments of `yolo train`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

PLACES = {"<!-- commands -->": "commands", "<!-- arguments -->": "arguments"}


def commands() -> str:
    """`yolo-musgd help COMMAND` of every command."""
    from yolo_musgd.cli import COMMANDS, help_of

    return "\n\n".join(f"## {name}\n\n```text\n{help_of(name)}\n```" for name in COMMANDS)


def arguments() -> str:
    """A table for each group of arguments that the plugin adds to Ultralytics' own."""
    from yolo_musgd.train.settings import PLUGIN_SETTINGS

    parts = []
    for group in PLUGIN_SETTINGS:
        lines = [f"## {group.__name__.removesuffix('Settings')}", "", (group.__doc__ or "").splitlines()[0], ""]
        lines += ["| argument | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(group):
            choices = field.metadata["choices"]
            meaning = field.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
            meaning = re.sub(r"([*_|<])", r"\\\1", meaning)
            lines.append(f"| `{field.name}` | `{field.default}` | {meaning} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated text where a page asks for it (called by mkdocs)."""
    for mark, maker in PLACES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, globals()[maker]())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """A docstring announces a literal block by two colons; a reader sees one (called by mkdocs)."""
    return html.replace("::</p>", ":</p>")
