"""Puts benchmark reports of several boards, formats and precisions side by side: a table and a Pareto picture.

Reads ``bench.json`` files and, to give them an mAP, ``val.json`` files of the same model file (by its sha256) and the
same size of its input. An mAP that was measured with the same runtime is preferred; else the artifact's own figure is
used and named as such.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolo_musgd.edge import options
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import Folder, read_text
from yolo_musgd.edge.result import Result
from yolo_musgd.settings import is_finite
from yolo_musgd.tables import BLUE, GREEN, GREY, INK, markdown_table, plot_text, write_png

BENCH, VAL = ("yolo-musgd/bench/2", "yolo-musgd/bench/1"), "yolo-musgd/val/1"  # newest first


class Row(NamedTuple):
    """One setting on one board; None where it was not measured."""

    board: str
    model: str
    precision: str
    imgsz: str
    runtime: str
    threads: int | None
    int8_convolutions: str  # "96 of 102" after the runtime's optimizer, or "" where it does not tell
    p50_ms: float | None
    p99_ms: float | None
    fps: float | None
    watts: float | None
    joules: float | None
    joules_kind: str  # net, gross or ""
    map50_95: float | None
    map_from: str
    marks: str

    @property
    def short(self) -> str:
        """A name for the picture."""
        if self.precision == "?" and self.imgsz == "?":  # predictions
            return self.board
        threads = f" x{self.threads}" if self.threads else ""
        return f"{self.board}: {self.runtime.split()[0]}{threads} {self.precision} {self.imgsz}"


def load(path: str) -> dict[str, Any]:
    """Read a report.

    Raises:
        UserError: Not there, not JSON, or neither a benchmark nor a validation.
    """
    try:
        content = json.loads(read_text(path))
    except UserError:  # not there
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (*BENCH, VAL):
        raise UserError(f"{path}: schema {schema!r}; expected {BENCH[0]} or {VAL}")
    assert isinstance(content, dict)
    return content


def _find_map(bench: dict[str, Any], runtime: str, vals: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    model = bench["model"]
    same = [
        val
        for val in vals
        if val["model"]["sha256"] == model["sha256"]
        and val["model"].get("imgsz") in (None, model["imgsz"])  # a graph with dynamic sides is the same file at any
        and val["result"]["map50_95"] is not None
    ]
    same.sort(key=lambda val: (val["runtime"]["name"] != runtime, val["partial"]))
    if same:
        best = same[0]
        images = f"{best['result']['images']} images" + (", partial" if best["partial"] else "")
        return best["result"]["map50_95"], f"val, {best['runtime']['name']}, {images}"
    stated = (model.get("map50_95") or {}).get(model["precision"])
    return (float(stated), "the artifact") if isinstance(stated, (int, float)) else (None, "")


def rows_of(benches: Sequence[dict[str, Any]], vals: Sequence[dict[str, Any]]) -> list[Row]:
    """Turn reports into rows, one a run, by rising median latency.

    Raises:
        UserError: A report of the right schema with fields missing.
    """
    try:
        rows = [_row(bench, run, vals) for bench in benches for run in bench["runs"]]
        rows += [_row_of_predictions(val) for val in vals if "stated" in val]
        for row in rows:
            _check(row)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(f"a report lacks a field: {told}; was it edited or cut short?") from error
    return sorted(rows, key=lambda row: math.inf if row.p50_ms is None else row.p50_ms)


def _check(row: Row) -> None:
    """Raise a TypeError for figures that are no numbers, and texts that are none."""
    for name, value in row._asdict().items():
        if name in ("p50_ms", "p99_ms", "fps", "watts", "joules", "map50_95"):
            right = value is None or (isinstance(value, (int, float)) and is_finite(value))
        else:
            right = isinstance(value, (str, int)) or value is None
        if not right:
            raise TypeError(f"{name} is {str(value)[:40]!r}")


def _row_of_predictions(val: dict[str, Any]) -> Row:
    return Row(
        board=val["runtime"]["name"],
        model=val["model"]["file"],
        precision="?",
        imgsz="?",
        runtime=val["runtime"]["name"],
        threads=None,
        int8_convolutions="",
        p50_ms=val["stated"]["latency_ms"],
        p99_ms=None,
        fps=None,
        watts=None,
        joules=None,
        joules_kind="",
        map50_95=val["result"]["map50_95"],
        map_from=f"predictions, {val['result']['images']} images",
        marks="latency as stated" if val["stated"]["latency_ms"] else "",
    )


def _row(bench: dict[str, Any], run: dict[str, Any], vals: Sequence[dict[str, Any]]) -> Row:
    latency = run["latency_ms"]["total"] or run["latency_ms"]["infer"]
    power, runtime = run["power"], run["runtime"]
    value, origin = _find_map(bench, runtime["name"], vals)
    net, gross = power["net_j_per_frame"], power["gross_j_per_frame"]
    marks = [word for word, there in (("throttled", run["throttled"]), ("partial", run["partial"])) if there]
    marks += [] if run["latency_ms"]["total"] else ["inference only"]
    height, width = bench["model"]["imgsz"]
    graph = runtime.get("graph")
    return Row(
        board=bench["label"] or bench["board"]["board"] or "unnamed board",
        model=bench["model"]["file"],
        precision=bench["model"]["precision"] or "?",
        imgsz=str(height) if height == width else f"{width}x{height}",
        runtime=f"{runtime['name']} {runtime['version']}",
        threads=runtime["threads"],
        int8_convolutions="{convolutions_int8} of {convolutions}".format(**graph) if graph else "",
        p50_ms=latency["p50"],
        p99_ms=latency["p99"],
        fps=run["fps"]["end_to_end"],
        watts=power["mean_w"],
        joules=net if net is not None else gross,
        joules_kind="net" if net is not None else "gross" if gross is not None else "",
        map50_95=value,
        map_from=origin,
        marks=", ".join(marks),
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats: none is as cheap and better, or cheaper and as good.

    Returns:
        Indices by rising cost; of equal points the first only.
    """
    order = sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1], k))
    front: list[int] = []
    for k in order:
        if not front or points[k][1] > points[front[-1]][1]:
            front.append(k)
    return front


def _cell(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table; bold rows are on the front of mAP against latency."""
    known = [k for k, row in enumerate(rows) if row.map50_95 is not None and row.p50_ms is not None]
    front = {known[k] for k in pareto([(rows[k].p50_ms or 0.0, rows[k].map50_95 or 0.0) for k in known])}
    head = [
        "board",
        "model",
        "precision",
        "imgsz",
        "runtime",
        "threads",
        "INT8 convs",
        "p50 ms",
        "p99 ms",
        "FPS",
        "W",
        "J/frame",
        "mAP50-95",
        "mAP from",
        "marks",
    ]
    cells_of = []
    for k, row in enumerate(rows):
        joules = _cell(row.joules, 3) + (f" {row.joules_kind}" if row.joules_kind else "")
        cells = [row.board, row.model, row.precision, row.imgsz, row.runtime, str(row.threads or "-")]
        cells.append(row.int8_convolutions or "-")
        cells += [_cell(row.p50_ms, 2), _cell(row.p99_ms, 2), _cell(row.fps, 1), _cell(row.watts, 2), joules]
        cells += [_cell(row.map50_95, 4), row.map_from or "-", row.marks or "-"]
        cells_of.append([f"**{cell}**" if k in front else cell for cell in cells])
    lines = [markdown_table(head, cells_of)]
    if front:
        lines += ["", "Bold: no other row is both as fast and more accurate."]
    return "\n".join(lines) + "\n"


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draw mAP against latency and against energy with their fronts; bars of latency where no mAP is known."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row.p50_ms is not None]
    with_map = [row for row in rows if row.map50_95 is not None]
    with_energy = [row for row in with_map if row.joules is not None]
    if not with_map:
        figure, axis = pyplot.subplots(figsize=(10, 1.6 + 0.45 * len(rows)))
        _draw_bars(axis, rows)
    else:
        figure, axes = pyplot.subplots(
            1, 2 if with_energy else 1, figsize=(14 if with_energy else 9, 6), squeeze=False, sharey=True
        )
        _draw_front(axes[0][0], with_map, [row.p50_ms or 0.0 for row in with_map], "median latency, ms (log)")
        if with_energy:
            kinds = "/".join(sorted({row.joules_kind for row in with_energy}))
            _draw_front(
                axes[0][1], with_energy, [row.joules or 0.0 for row in with_energy], f"joules a frame, {kinds} (log)"
            )
        axes[0][0].set_ylabel("mAP50-95")
    figure.tight_layout()
    write_png(figure, path, dpi=110)
    pyplot.close(figure)


def _draw_bars(axis: Any, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    axis.barh(places, [row.p50_ms or 0.0 for row in rows], color=BLUE, height=0.6)
    axis.plot([row.p99_ms or math.nan for row in rows], places, "|", color=INK, markersize=14, label="p99")
    axis.set_yticks(list(places), [plot_text(row.short) for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("median latency, ms (no mAP known: give val.json files too)")
    axis.legend(loc="lower right")
    axis.grid(axis="x", alpha=0.3)


def _draw_front(axis: Any, rows: Sequence[Row], costs: Sequence[float], name: str) -> None:
    values = [row.map50_95 or 0.0 for row in rows]
    front = pareto(list(zip(costs, values, strict=True)))
    axis.step([costs[k] for k in front], [values[k] for k in front], where="post", color=GREEN, alpha=0.7)
    markers = "osD^vP*X<>"
    for k, (row, cost, value) in enumerate(zip(rows, costs, values, strict=True)):
        fill = GREEN if k in front else GREY
        axis.plot(cost, value, markers[k % len(markers)], color=fill, markersize=9, label=plot_text(row.short))
    if min(costs) > 0:
        axis.set_xscale("log")
        for ticks in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            ticks(lambda cost, _: f"{cost:g}")
        spread = max(costs) / min(costs)
        axis.set_xlim(min(costs) / max(1.15, spread**0.1), max(costs) * max(1.15, spread**0.1))
    axis.set_xlabel(name)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=7, loc="best", title="green: on the front", title_fontsize=7)


OPTIONS: options.Spec = options.PLACE


def main(args: list[str]) -> Result:
    """Run ``compare-bench a.json b.json ... [val.json ...]``.

    Raises:
        UserError: a file that is no report, or no finished run in any.
    """
    paths = [word for word in args if "=" not in word or Path(word).is_file()]
    chosen = options.parse_args([word for word in args if word not in paths], OPTIONS, "compare-bench", None)
    reports = [load(path) for path in paths]
    benches = [report for report in reports if report["schema"] in BENCH]
    rows = rows_of(benches, [report for report in reports if report["schema"] == VAL])
    if all(row.p50_ms is None for row in rows):
        raise UserError("compare-bench: give at least one bench.json with a finished run")
    table = markdown(rows)
    folder = Folder("compare-bench", *options.place(chosen))
    folder.write_text("compare.md", table)
    content = {"schema": "yolo-musgd/compare-bench/1", "rows": [row._asdict() for row in rows]}
    folder.write_text("compare.json", json.dumps(content, indent=1))
    picture(rows, Path(folder.join("compare.png")))
    print(table)
    files = {name: folder.join(name) for name in ("compare.md", "compare.json", "compare.png")}
    return Result("compare-bench", _said(rows), folder.path, files, {"rows": [row._asdict() for row in rows]})


def _said(rows: Sequence[Row]) -> str:
    """The comparison in a sentence: the fastest, and the most accurate where that is known."""
    fastest = rows[0]
    text = f"fastest of {len(rows)}: {fastest.short}, {fastest.p50_ms:.2f} ms"
    known = [row for row in rows if row.map50_95 is not None]
    if not known:
        return f"{text}; no accuracy is known, give val.json files too"
    best = max(known, key=lambda row: row.map50_95 or 0.0)
    return f"{text}; most accurate: {best.short}, mAP50-95 {best.map50_95:.4f}"
