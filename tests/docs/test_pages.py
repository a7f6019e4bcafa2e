"""What the pages point at exists: links, anchors, files of the repository, arrows of the architecture's diagram."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_architecture import ALLOWED

from yolo_musgd.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("docs/**/*.md")])
MADE = {"docs/reference/commands.md", "docs/reference/arguments.md"}  # their headings come from the code
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = ("tests", "yolo_musgd", "cfg", "datasets", "docs", "export", "scripts", ".ci", ".github")
NAMED = re.compile(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)(?::\w+)?`")


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as Python-Markdown and GitHub make them for the plain headings here."""
    found = set()
    for line in CODE.sub(lambda m: m[0] if m[0][:3] != "```" else "", page.read_text(encoding="utf-8")).splitlines():
        if match := re.match(r"#+ (.*)", line):
            explicit = re.search(r"\{ #([\w-]+) \}", match[1])
            words = re.sub(r"[^\w\s-]", "", match[1]).strip().lower()
            found.add(explicit[1] if explicit else re.sub(r"[-\s]+", "-", words))
    return found


def broken(page: Path) -> list[str]:
    """Links of a page to files or headings that do not exist; addresses of the web must be https."""
    found = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            found += [] if link.startswith("https://") else [link]
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        known = target.is_file() and target.suffix == ".md" and target.relative_to(ROOT).as_posix() not in MADE
        if not target.exists() or (anchor and known and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page: Path) -> None:
    if page.name.lower() != "changelog.md":  # which tells of what was
        text = page.read_text(encoding="utf-8")
        made = re.findall(r"<!-- file (\S+) -->", text)  # by the recipe that stands there
        assert [n for n in NAMED.findall(text) if n not in made and not (ROOT / n).exists()] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b, c\n[1](page.md#a-b-c) [2](#a-b) [3](gone.md) [4](http://x) `[5](code)` [6](https://x)\n")
    assert anchors(page) == {"a-b-c"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROOT", tmp_path)
        assert broken(page) == ["#a-b", "gone.md", "http://x"]


def arrows(text: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Node -> its rooms, and node -> nodes that the diagram draws an arrow to; what runs by name is no import."""
    drawing = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert drawing
    found = re.findall(r'^ +(\w+)(?:\["(.*)"\])?$', drawing[1], re.MULTILINE)
    nodes = {name: set((label or name).split(", ")) for name, label in found if name != "end"}
    drawn: dict[str, set[str]] = {name: set() for name in nodes}
    for start, ends in re.findall(r"^ +(\w+) --> (.*)$", drawing[1], re.MULTILINE):
        drawn[start] |= set(ends.split(" & "))
    return nodes, drawn


def test_the_diagram_shows_what_runs_by_name() -> None:
    (ends,) = re.findall(r"command_table -\. by name \.-> (.*)", (ROOT / "docs" / "architecture.md").read_text())
    assert set(ends.split(" & ")) == {command.main.split(".")[1].partition(":")[0] for command in COMMANDS.values()}


def test_the_diagram_shows_the_walls() -> None:
    nodes, drawn = arrows((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    allowed = {room: rooms - {"__init__"} for room, rooms in ALLOWED.items() if room not in ("__init__", "__main__")}
    assert set().union(*nodes.values()) == set(allowed)

    def below(node: str) -> set[str]:
        return nodes[node].union(*map(below, drawn[node]))

    for node, rooms in nodes.items():
        may = set().union(*(allowed[room] for room in rooms))
        assert [n for n in drawn[node] if not nodes[n] & may] == [], f"an arrow from {node} that the walls forbid"
        assert may <= below(node), f"no path from {node} to what it may import"
