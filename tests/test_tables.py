"""tables and edge.text: what others named is shown as it is, in Markdown, HTML and pictures."""

import html.parser
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd import tables
from yolo_musgd.tables import escape_markdown, html_table, markdown_table, plot_style, plot_text, render

NASTY = "a|b\nc<script>alert(1)</script> $x_{$ &lt; ![i](http://x) \\| \x1b[31m"


def cells(line):
    """Cells of a Markdown table's line, as GitHub splits it: at pipes without a backslash before them."""
    return [re.sub(r"\\([\\|$(])", r"\1", c.strip()) for c in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_a_table_is_plain_markdown():
    assert markdown_table(["model", "ms"], [["a", 1.5], ["b", ""]], "lr") == (
        "| model | ms |\n|---|---:|\n| a | 1.5 |\n| b |  |"
    )


def test_the_last_letter_of_the_alignment_goes_on():
    assert markdown_table("abc", [], "lr").splitlines()[1] == "|---|---:|---:|"


def test_a_row_of_another_length_is_a_fault_of_ours():
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        markdown_table(["a", "b"], [["c"]])


def test_nothing_that_was_given_becomes_markup():
    line = markdown_table(["name", "x"], [[NASTY, "1"]]).splitlines()[-1]
    assert len(cells(line)) == 2
    assert "<" not in line
    assert "](" not in line
    assert "\x1b" not in line


@given(st.text())
def test_every_text_stays_in_its_cell(text):
    table = markdown_table(["name", "x"], [[text, "1"]])
    assert len(table.splitlines()) == 3
    assert len(re.sub(r"\\.", "", table.splitlines()[-1]).split("|")) == 4


@pytest.mark.parametrize("text", ["yolo26n", "a_b.yaml", ">30", "12.5 -> 13.0", "**bold**", "R&D"])
def test_ordinary_text_stays_readable(text):
    assert escape_markdown(text) == text


def test_html_cells_are_text():
    class Reader(html.parser.HTMLParser):
        found: list

        def handle_starttag(self, tag, attrs):
            self.found.append(tag)

    reader = Reader()
    reader.found = []
    reader.feed(str(html_table(["<i>"], [[NASTY]])))
    assert reader.found == ["table", "tr", "th", "tr", "td"]


@pytest.mark.parametrize("text", [NASTY, "$", "$a$", "\\$", "_hidden", "$x_{$"])
def test_a_picture_takes_any_text(text):
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure()
        axis = figure.subplots()
        axis.plot([0, 1], label=plot_text(text))
        axis.set_title(plot_text(text))
        assert len(axis.legend().get_texts()) == 1
        svg = tables.to_svg(figure)
    assert "<script>" not in svg


def test_a_formula_of_ours_is_still_one():
    from matplotlib.cbook import is_math_text

    assert is_math_text(r"momentum $\beta_t$")
    assert not is_math_text(plot_text(r"momentum $\beta_t$"))


def test_templates_escape_by_their_kind(tmp_path):
    (tmp_path / "a.html.j2").write_text("{{ name }}{{ html_table(['h'], [[name]]) }}")
    (tmp_path / "a.md.j2").write_text("{{ name | md }}\n{{ markdown_table(['h'], [[name]]) }}")
    assert "<b>" not in render(tmp_path / "a.html.j2", {"name": "<b>"})
    text = render(tmp_path / "a.md.j2", {"name": "<b>|"})
    assert text.splitlines() == [
        "&lt;b>\\|",
        "| h |",
        "|---|",
        "| &lt;b>\\| |",
    ]
