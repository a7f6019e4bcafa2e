"""Text that others gave (labels, file and class names), made safe for Markdown, for tables and for pictures.

Pure functions; the rest of the package uses them by way of ``yolo_musgd.tables``.
"""

import re
from typing import Any, Sequence

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def one_line(text: Any) -> str:
    """Return ``text`` on one line: white space of any kind becomes a blank, what cannot be shown a mark."""
    return _CONTROL.sub("\ufffd", " ".join(str(text).split()))


def escape_markdown(text: Any) -> str:
    """Return ``text`` so that Markdown shows it as it is.

    Escaped is what would break a table, become HTML, a link, a picture or a formula: backslash, pipe, line feed, ``<``,
    entities, ``](`` and ``$``. Stars and underscores stay, so that file names remain readable in a terminal.
    """
    escaped = re.sub(r"[\\|$]", r"\\\g<0>", one_line(text)).replace("](", "]\\(")
    return re.sub("&(?=#?[0-9A-Za-z]+;)", "&amp;", escaped).replace("<", "&lt;")


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]], align: str = "") -> str:
    """Return a Markdown table, without a line feed at its end.

    Args:
        header: Names of the columns.
        rows: Cells, as many a row as the header has; shown as they are, see `escape_markdown`.
        align: A letter a column, ``l`` or ``r``; the last one holds for the columns after it, none means ``l``.

    Raises:
        ValueError: A row has more or fewer cells than the header.
    """
    letters = (align or "l").ljust(len(header), (align or "l")[-1])
    lines = [_row(header), "|{}|".format("|".join("---:" if a == "r" else "---" for a in letters[: len(header)]))]
    for row in rows:
        if len(row) != len(header):
            raise ValueError("{} cells under {} columns".format(len(row), len(header)))
        lines.append(_row(row))
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| {} |".format(" | ".join(escape_markdown(cell) for cell in cells))


def plot_text(text: Any) -> str:
    """Return ``text`` for a title, tick or legend of a plot, where ``$`` begins a formula and ``_`` hides a label."""
    line = one_line(text).replace("$", "\\$")
    return " " + line if line.startswith("_") else line
