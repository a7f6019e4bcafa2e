"""The page, the Markdown and the pictures: complete, self-contained, and safe with any label.

Covers analysis.py, comparison_tables.py and comparison_plots.py.
"""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from browser import look

from yolo_musgd.lab import comparison_plots
from yolo_musgd.lab.analysis import analyse
from yolo_musgd.lab.comparison_report import draw, write_report
from yolo_musgd.lab.comparison_tables import headline, winner
from yolo_musgd.tables import GREY, to_svg

TRACES = {"optim/grad_norm": [50.0, 20.0, 10.0, 5.0], "optim/beta_t": [0.8, 0.9, 0.9, 0.9],
          "optim/beta_t_p10": [0.7, 0.8, 0.8, 0.8], "optim/beta_t_p90": [0.9, 0.9, 0.9, 0.9]}  # fmt: skip
COSTS = {"step_ms_p50": 2.0, "state_bytes": 2**20, "parameter_bytes": 2**20, "peak_rss_bytes": 2**30,
         "epochs": [{"epoch": i, "train_s": 3.0, "batches": 10, "cpu_s": 2.0 * i} for i in range(1, 5)]}  # fmt: skip
FAST, BASE = [0.1, 0.42, 0.5, 0.6], [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def filled(bench, make):
    """Two optimizers with everything on record, and a tuned third with a label that HTML and Markdown could mistake."""
    arms = make.arms(
        optimizers=["SGD", "MuSGD", {"label": "<b>odd|one</b>", "optimizer": "AdamW", "tune": {"lr0": [0.1, 0.2]}}]
    )
    sgd, musgd, odd = arms
    for seed in (0, 1):
        bench.add(sgd, seed, BASE, columns={"optim/grad_norm": TRACES["optim/grad_norm"]}, **COSTS)
        bench.add(musgd, seed, FAST, columns=TRACES, **COSTS)
    bench.write(odd.trial_spec({"lr0": 0.1}), [0.1] * 4)
    bench.write(odd.trial_spec({"lr0": 0.2}), [0.2] * 4)
    bench.add(odd, 0, [0.1, 0.2, 0.2, 0.2], {"lr0": 0.2})
    return arms, bench.store()


def test_everything_is_drawn_and_told(filled, tmp_path):
    arms, store = filled
    written = write_report(arms, store, tmp_path, "mine", {"some-run": "no space left"})
    assert [f.name for f in written] == ["report.html", "report.md", "report.json"]
    page = written[0].read_text()
    assert page.count("<svg") == 5
    for said in ("Comparison: mine", "7 of 8 runs", "no space left", "Final accuracy", "Speed", "Tuning",
                 "Time and memory", "lr0=0.2 (tuned)", "lr0 at the edge of the search", "1, 1 missing"):  # fmt: skip
        assert said in page, said
    assert "&lt;b&gt;odd|one&lt;/b&gt;" in page
    assert "<b>odd" not in page
    outside = re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"|url\((?!#)[^)]*\)|@import", page)
    assert not outside, "the page must need no other file"
    markdown = written[1].read_text()
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table
    for picture in re.findall(r"!\[.*\]\((.*)\)", markdown):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    figures = json.loads(written[2].read_text())
    assert figures["groups"][0]["arms"][1]["reach"]["cpu_ratio"]["value"] == pytest.approx(4 / 8)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(filled, tmp_path, width):
    arms, store = filled
    seen = look(write_report(arms, store, tmp_path, "mine", {})[0], width)
    assert seen["width"] == width
    assert seen["scrolls"] <= width, "the page scrolls sideways"
    assert not seen["pale"], "contrast below 4.5 to 1"
    assert not seen["small"]
    assert not seen["broken"]
    assert not seen["fetched"]
    assert not seen["errors"]


def test_a_trial_that_failed_hides_nothing(bench, make):
    (arm,) = make.arms(optimizers=[{"optimizer": "SGD", "tune": {"lr0": [0.1, 0.2]}}])
    bench.write(arm.trial_spec({"lr0": 0.1}), [0.1] * 4)
    for seed in (0, 1):
        bench.add(arm, seed, BASE, {"lr0": 0.1})
    failures = {arm.trial_spec({"lr0": 0.2}).key: "out of memory"}
    figures = analyse([arm], bench.store(), "x", failures)
    row = figures["groups"][0]["arms"][0]
    assert (row["seeds"], row["missing"], row["tuning"]["chosen"]) == ([0, 1], 0, {"lr0": 0.1})
    assert figures["runs"]["finished"] == 3
    assert analyse([arm], bench.store(), "x", {})["groups"][0]["arms"][0]["seeds"] == []  # it may yet turn out best


def test_the_headline(filled):
    arms, store = filled
    lines = headline(analyse(arms, store, "x", {})["groups"][0])
    assert (
        lines[0] == "May be chance: MuSGD reached SGD's final accuracy in 0.50 [0.50, 0.50] times its epochs and ended "
        "0.200 higher."
    )
    assert lines[1].startswith("May be chance: ")
    assert lines[1].endswith("never reached SGD's final accuracy in its 4 epochs and ended 0.200 lower.")


def test_nothing_finished_yet(bench, make, tmp_path):
    arms = make.arms()
    written = write_report(arms, bench.store(), tmp_path, "empty", {})
    assert "0 of 4 runs are finished" in written[1].read_text()


def test_maps(bench, make, tmp_path):
    arms = make.arms(
        seeds=[0], optimizers=[{"optimizer": "SGD", "grid": {"lr0": [0.1, 0.2]}},
                               {"optimizer": "MuSGD", "grid": {"lr0": [0.1, 0.2], "adapt_factor": [0.0, 0.1]}}],
    )  # fmt: skip
    for arm in arms:
        for i, point in enumerate(arm.points()[:3]):
            bench.add(arm, 0, [0.0, 0.1 * (i + 1)], point)
    page = write_report(arms, bench.store(), tmp_path, "maps", {})[0].read_text()
    assert page.count("<svg") == 2
    assert "lr0 (2) x adapt_factor (2)" in page
    assert ">missing</text>" in page


@pytest.mark.parametrize("labels", [("α", "β"), ("a b", "a+b"), ("Ab", "aB"), ("é" * 30, "é" * 31)])
def test_every_label_has_pictures_of_its_own(bench, make, tmp_path, labels):
    grids = [{"optimizer": "SGD", "label": x, "grid": {"lr0": [0.1 + i]}} for i, x in enumerate(labels)]
    data = [{"data": f"{i}.yaml", "label": x} for i, x in enumerate(labels)]
    arms = make.arms(data=data, seeds=[0], optimizers=["MuSGD", *grids], baseline="MuSGD")
    for arm in arms:
        bench.add(arm, 0, FAST, arm.points()[0])
    markdown = write_report(arms, bench.store(), tmp_path, "x", {})[1].read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", markdown)
    assert len([p for p in pictures if "-map-" in p]) == 4
    assert len({p.casefold() for p in pictures}) == len(pictures) == len(list((tmp_path / "plots").iterdir()))


def test_what_is_suggested_is_words_of_a_shell():
    arm = {"final": {"value": 0.5}, "optimizer": "SGD", "settings": {"classes": [0, 1]}, "tuning": None}
    assert winner({"groups": [{"arms": [arm]}]}) == "optimizer=SGD 'classes=[0, 1]'"


def test_svg_is_well_formed_and_the_same_twice(filled):
    arms, store = filled
    group = analyse(arms, store, "x", {})["groups"][0]
    first, second = ([to_svg(f) for f in draw(group, "mAP").values()] for _ in range(2))
    assert first == second
    for svg in first:
        ET.fromstring(svg)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_few_epochs_are_seen_and_epochs_are_whole(epochs):
    traces = {"optim/grad_norm": [3.0, 2.0, 1.0, 2.0, 1.0][:epochs], "optim/beta_t": [0.9] * epochs}
    reach = {"of": 1, "seeds": {0: "1"}, "mean_epochs": 1.0}
    arm = {"label": "a", "traces": traces, "curves": {0: [0.1] * epochs}, "reach": reach, "epochs": epochs}
    group = {"arms": [arm], "target_mean": None}
    for figure in (
        comparison_plots.plot_traces(group, {"a": "red"}),
        comparison_plots.plot_curves(group, {"a": "red"}, "mAP"),
    ):
        for axis in figure.axes:
            assert [line.get_marker() for line in axis.lines] == ["." if epochs < 3 else "None"]
            assert all(tick == int(tick) for tick in axis.get_xticks())


def test_the_baseline_is_grey_and_colours_do_not_repeat():
    found = comparison_plots.colours([*"abcdefgh"], "c")
    assert found["c"] == GREY
    assert len(set(found.values())) == 8


NASTY = "a|b\n<script>x</script> $x_{$ \\|"


def test_nothing_that_was_named_becomes_markup(bench, make, tmp_path):
    """Optimizers, data sets, starts and the reasons of failures with names of the worst kind."""
    arms = make.arms(
        data=[{"data": "d.yaml", "label": f"d {NASTY}"}], starts=[{"model": "m.yaml", "label": f"s {NASTY}"}],
        optimizers=[{"optimizer": "SGD", "label": f"_1 {NASTY}"}, {"optimizer": "MuSGD", "label": f"2 {NASTY}"},
                    {"optimizer": "Adam", "label": f"3 {NASTY}", "grid": {"lr0": [0.1, 0.2]}}],
    )  # fmt: skip
    for arm in arms[:2]:
        for seed in (0, 1):
            bench.add(arm, seed, FAST, columns=TRACES, **COSTS)
    for point in arms[2].points():
        bench.add(arms[2], 0, FAST, point)
    page, markdown, _ = write_report(arms, bench.store(), tmp_path, NASTY, {f"run {NASTY}": f"why {NASTY}"})
    assert "<script>x" not in page.read_text()
    text = markdown.read_text()
    assert not re.search(r"<script|[^\\]\$x_", text)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == len(re.findall(r"^#", text, re.MULTILINE))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.sub(r"\\.", "", line).split("|")) for line in table.splitlines()}) == 1, table
    assert all((tmp_path / f).is_file() for f in re.findall(r"!\[.*\]\((.*)\)", text))
    ET.fromstring("<x>" + "".join(re.findall(r"<svg.*?</svg>", page.read_text(), re.DOTALL)) + "</x>")
