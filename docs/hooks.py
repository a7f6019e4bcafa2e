"""Fills the pages that are made from elsewhere: every command's help, `yolo train`'s arguments, root files."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"<!-- commands -->": "commands", "<!-- arguments -->": "arguments"}
ROOT_FILE = re.compile(r"<!-- (\w+\.md) -->")


def commands() -> str:
    """What `yolo-musgd help COMMAND` says of every command, as tables."""
    from yolo_musgd.commands import COMMANDS, REQUIRED, arguments

    parts = []
    for group in dict.fromkeys(c.group for c in COMMANDS.values()):
        for name, command in COMMANDS.items():
            if command.group != group:
                continue
            summary, examples = command.summary, "\n".join(f"yolo-musgd {x}" for x in command.examples)
            parts.append(f"## {name}\n\n*{group}.* {summary[0].upper()}{summary[1:]}.\n\n```bash\n{examples}\n```")
            rows = [
                f"| `{a.name}` | {'required' if a.default is REQUIRED else _default(a.default)} | {_cell(a.help)} |"
                for a in arguments(name)
            ]
            parts += ["\n".join(["| argument | default | meaning |", "|---|---|---|", *rows])] if rows else []
            page = os.path.relpath(command.page, "reference")
            parts.append(f"More: [{command.page}]({page}).")
    return "\n\n".join(parts)


def _default(value: Any) -> str:
    return "" if value in (None, "") else f"`{value}`"


def _cell(text: str) -> str:
    """Text for a cell of a table, where Markdown would take some letters for its own."""
    return re.sub(r"([*_|<\[\]])", r"\\\1", text)


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


def root_file(match: re.Match[str]) -> str:
    """A Markdown file of the root, which links from there: `docs/faq.md` is `faq.md` on the site."""
    text = (ROOT / match[1]).read_text(encoding="utf-8")
    text = re.sub(r"\]\(([A-Z]+\.md)", lambda link: f"]({link[1].lower()}", text)
    return text.replace("](docs/", "](")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated text where a page asks for it (called by mkdocs)."""
    for mark, maker in PLACES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, globals()[maker]())
    return ROOT_FILE.sub(root_file, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """A docstring announces a literal block by two colons; a reader sees one (called by mkdocs)."""
    return html.replace("::</p>", ":</p>")
