"""What every report is made of: Markdown and HTML tables, the one Jinja environment, the one style of plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.text import escape_markdown, markdown_table, one_line, plot_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "STYLE",
    "escape_markdown",
    "html_table",
    "markdown_table",
    "one_line",
    "plot_style",
    "plot_text",
    "render",
    "to_svg",
    "write_png",
]

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#332288")
BLUE, ORANGE, GREEN = PALETTE[:3]
GREY, LIGHT = "#6b7280", "#d3d8df"
INK = "#1f2430"
"""Of text and axes; `to_svg` leaves it to the page, which may be dark."""
STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
    "legend.frameon": False,
    "legend.fontsize": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "yolo-musgd",
}


def html_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Markup:
    """A table as HTML, its cells escaped; short cells have the class ``whole``, for a page that does not break them."""
    from markupsafe import Markup

    def row(cell: Markup, cells: Sequence[Any]) -> Markup:
        whole = Markup(' class="whole"')
        texts = (cell.format(text, whole if len(str(text)) < 28 else "") for text in cells)
        return Markup("<tr>{}</tr>").format(Markup("").join(texts))

    lines = [row(Markup('<th scope="col">{0}</th>'), header)]
    lines += [row(Markup("<td{1}>{0}</td>"), cells) for cells in rows]
    return Markup("<table>\n{}\n</table>").format(Markup("\n").join(lines))


def render(template: Path, values: Mapping[str, Any]) -> str:
    """A Jinja template, filled in.

    Values are escaped in ``*.html.j2``; Markdown has the filter ``md`` for them. Both know `html_table` and
    `markdown_table`, and an unknown name is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=template.name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    environment.globals.update(html_table=html_table, markdown_table=markdown_table, style=_style)
    return environment.get_template(template.name).render(values)


def _style() -> Markup:
    """The one style sheet of every page."""
    from markupsafe import Markup

    return Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8"))


def plot_style(**more: Any) -> AbstractContextManager[None]:
    """Context in which pictures are drawn and saved in the one style; ``more`` are further rcParams."""
    import matplotlib as mpl

    return mpl.rc_context({**STYLE, **more})


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only, for an axis of epochs or steps; one is enough."""
    axis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def write_png(figure: Figure, file: Path, dpi: int) -> Path:
    """Write a figure whole or not at all, as every result is; returns the file.

    Raises:
        UserError: it cannot be written.
    """
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return Path(write_whole(str(file), out.getvalue()))


def to_svg(figure: Figure) -> str:
    """A figure as SVG for the inside of an HTML page: without a ground of its own, in the page's colour of text."""
    out = io.StringIO()
    with plot_style():
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
