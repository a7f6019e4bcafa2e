"""The report of a comparison: an HTML page that needs no other file, the same as Markdown, and the figures as JSON."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from yolo_musgd import __version__
from yolo_musgd.edge.files import write_whole
from yolo_musgd.lab import comparison_plots, over_sets_view
from yolo_musgd.lab.analysis import analyse
from yolo_musgd.lab.arms import Arm
from yolo_musgd.lab.comparison_tables import metric_name, view
from yolo_musgd.lab.store import Store, write_json
from yolo_musgd.tables import render, to_svg, write_png

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def write_report(plan: Sequence[Arm], store: Store, folder: Path, name: str, failures: Mapping[str, str]) -> list[Path]:
    """Write report.html, report.md (with its pictures) and report.json; returns their paths.

    Args:
        plan: the arms of the protocol.
        store: their finished runs.
        folder: of the comparison.
        name: of the comparison.
        failures: key of a run -> why it has no result.
    """
    figures = analyse(plan, store, name, failures)
    write_json(folder / JSON, figures)
    metric = metric_name(figures["protocol"]["metric"])
    (folder / "plots").mkdir(exist_ok=True)
    summaries, groups = figures["over_sets"], figures["groups"]
    sections = [(("all data sets", s["start"]), over_sets_view.draw(s, groups, metric)) for s in summaries]
    sections += [((g["data"], g["start"]), draw(g, metric)) for g in groups]
    inline, files = [], []
    places: set[str] = set()
    for place, drawn in sections:
        where = unused("-".join(map(slug, place)), places)
        places.add(where)
        for kind, figure in drawn.items():
            write_png(figure, folder / "plots" / f"{where}-{kind}.png", dpi=130)
        alts = {k: alt(k, *place) for k in drawn}
        files.append([{"alt": alts[k], "file": f"plots/{where}-{k}.png"} for k in drawn])
        inline.append([{"alt": alts[k], "svg": to_svg(figure)} for k, figure in drawn.items()])
    values = {**view(figures, metric), "version": __version__}
    values["groups"] = [over_sets_view.view(s, metric) for s in figures["over_sets"]] + values["groups"]
    for template, page, images in (("report.html.j2", HTML, inline), ("report.md.j2", MARKDOWN, files)):
        write_whole(str(folder / page), render(Path(__file__).with_name(template), {**values, "images": images}))
    return [folder / HTML, folder / MARKDOWN, folder / JSON]


def slug(text: str) -> str:
    """A label as part of a file name, of which three fit into 255 bytes in every script."""
    return re.sub(r"[^\w.]+", "_", text).strip("_")[:20] or "x"


def unused(name: str, taken: Collection[str]) -> str:
    """``name`` with a number where another label has become the same; case does not tell files apart everywhere."""
    folded = {t.casefold() for t in taken}
    numbered = (f"{name}{number}" for number in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n.casefold() not in folded)


def alt(kind: str, data: str, start: str) -> str:
    """What a picture shows, in words."""
    said = {
        "curves": "accuracy over epochs",
        "reach": "epochs to the target, by seed",
        "difference": "final accuracy against the baseline",
        "traces": "gradient norm and momentum over epochs",
        "costs": "time and memory",
        "profile": "share of the data sets on which each optimizer is nearly the fastest",
        "sets": "final accuracy on each data set",
    }
    return f"{said.get(kind, kind.replace('map-', 'final accuracy over the grid of '))}: {data}, {start}"


def draw(group: Mapping[str, Any], metric: str) -> dict[str, Figure]:
    """Name -> picture for one data set and start; what has nothing to show is left out."""
    colour = comparison_plots.colours([a["label"] for a in group["arms"]], group["baseline"])
    found: dict[str, Figure | None] = {}
    if any(a["curve"] for a in group["arms"]):
        found["curves"] = comparison_plots.plot_curves(group, colour, metric)
        found["reach"] = comparison_plots.plot_reach(group, colour)
        found["difference"] = comparison_plots.plot_difference(group, colour, metric)
        found["traces"] = comparison_plots.plot_traces(group, colour)
        found["costs"] = comparison_plots.plot_costs(group, colour)
    top = max((m["best"] for m in group["maps"] if m["best"] is not None), default=None)
    for m in group["maps"]:
        found[unused(f"map-{slug(m['label'])}", found)] = comparison_plots.plot_map(m, metric, top) if top else None
    return {k: f for k, f in found.items() if f is not None}
