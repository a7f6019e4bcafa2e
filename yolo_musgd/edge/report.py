"""The benchmark report: JSON of a documented, versioned form, Markdown from it, and a picture with matplotlib.

``bench.json``, schema ``yolo-musgd/bench/2``; what was not measured is null, nothing is estimated in its place. Version
1 had no ``runs[].runtime.graph``::

    schema, created (UTC), edge (version), label, partial, error?, settings (the options of the run)
    board     board, machine, os, kernel, l4t, python, numpy, cpu_cores, memory_mb
    model     file, sha256, size_bytes, format, precision, imgsz [h, w], head, classes, verified (manifest's hashes),
              map50_95, calibration, float_layers    as the manifest says, else null
    source    kind, source, images, left_out (unreadable), sizes; image_backend (opencv, pillow, null: none here); of a
              camera or stream frames, dropped (a newer one came first), lost (times), size_changes, gaps [{after_frame,
              seconds, why}]
    power     sensor (null: none found), source, scope, uncertainty, tried {sensor: why not}, lost?
    idle      seconds, samples, rate_hz, energy_j, mean_w, watts {summary}, rails_w          null without a sensor
    runs[]    one per thread count:
      runtime            name, version, threads, detail; graph, as fusion.py counts it after the runtime's own optimizer
                         (null: not told) {convolutions, convolutions_int8, operators, operators_int8, bridges}
      load_s, first_inference_ms, time_to_first_s, warmup {frames, seconds, steady}
      frames, seconds, partial, ended
      latency_ms         total = pre + infer + post; pre, infer, post; read (camera, video only): each
                         {n, mean, std, min, p50, p90, p95, p99, max}, nothing clipped
      fps                end_to_end (frames / wall time of the loop), inference_only
      own_overhead_ms, detections_per_frame, drift_ms {window_s, first_p50, last_p50, ratio}
      power              as idle, and gross_j_per_frame, net_j_per_frame (idle power taken away),
                         wall_estimate_w (Raspberry Pi 5 only, an estimate), series
      state              before, after: temperatures_c, clocks, governor, nvpmodel, throttling
      throttled[]        reasons; empty when the board says it did not throttle, see state.*.throttling.source
      watch              max_c, mean_clocks, rss_mb {start, end, peak, growth_mb_per_minute}, series
      series             every: n; t_s, total_ms, infer_ms of each n-th frame
"""

import json
import os
import time
from typing import Any, Dict, List, Optional

from . import __version__
from .files import Folder
from .pictures import library
from .plot import plot_bench
from .result import Result
from .runtimes.artifact import Artifact
from .sources.devices import shown
from .stats import rounded
from .text import escape_markdown, markdown_table

SCHEMA = "yolo-musgd/bench/2"


def header(
    chosen: Any, artifact: Artifact, source: Dict[str, Any], board: Dict[str, Any], sensor: Dict[str, Any]
) -> Dict[str, Any]:
    """Return the report before anything is measured."""
    metadata = artifact.metadata
    known_map = metadata.get("map50_95")
    layers = metadata.get("float_layers")
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edge": __version__,
        "label": chosen.label or None,
        "partial": False,
        "settings": dict(sorted(vars(chosen).items()), source=chosen.source and shown(chosen.source)),
        "board": board,
        "model": {
            "file": os.path.basename(
                artifact.path.rstrip("/") if artifact.format in ("ncnn", "openvino") else artifact.model
            ),
            "sha256": artifact.sha256,
            "size_bytes": artifact.size_bytes,
            "format": artifact.format,
            "precision": artifact.precision,
            "imgsz": list(artifact.imgsz),
            "head": artifact.head,
            "classes": len(artifact.names),
            "verified": artifact.verified,
            "map50_95": known_map if isinstance(known_map, dict) else None,
            "calibration": metadata.get("calibration") if isinstance(metadata.get("calibration"), dict) else None,
            "float_layers": layers if isinstance(layers, list) else None,
        },
        "source": dict(source, image_backend=library.backend()),
        "power": sensor,
        "idle": None,
        "runs": [],
    }


def _cell(value: Optional[float], digits: int = 2, unit: str = "") -> str:
    return "not measured" if value is None else "{:.{}f}{}".format(value, digits, unit)


def _table(head: str, rows: List[List[str]]) -> List[str]:
    return [markdown_table(head.split(","), rows), ""]


def _runs_table(content: Dict[str, Any]) -> List[str]:
    rows = []
    for run in content["runs"]:
        step = run["latency_ms"]["total"] or run["latency_ms"]["infer"]
        rows.append(
            [
                "{} {}".format(run["runtime"]["name"], run["runtime"]["version"]),
                str(run["runtime"]["threads"] or "-"),
                _cell(run["fps"]["end_to_end"]),
                _cell(run["fps"]["inference_only"]),
            ]
            + [_cell(step[key]) for key in ("p50", "p90", "p95", "p99", "max")]
            + [
                _cell(run["power"]["mean_w"]),
                _cell(run["power"]["gross_j_per_frame"], 3),
                _cell(run["power"]["net_j_per_frame"], 3),
            ]
            + [
                ", ".join(run["throttled"])
                or ("no" if run["state"]["after"]["throttling"]["source"] else "board does not say")
            ]
        )
    head = "runtime,threads,FPS end to end,FPS inference only,p50 ms,p90,p95,p99,max,W,J/frame,J/frame net,throttled"
    return _table(head, rows)


def _details_table(content: Dict[str, Any]) -> List[str]:
    rows = []
    for run in content["runs"]:
        steps = [run["latency_ms"][name] for name in ("read", "pre", "infer", "post")]
        drift = run["drift_ms"]
        rows.append(
            [str(run["runtime"]["threads"] or "-"), str(run["frames"]), _cell(run["seconds"], 1)]
            + [_cell(step and step["p50"]) for step in steps]
            + [
                _cell(run["own_overhead_ms"], 3),
                _cell(run["time_to_first_s"], 2),
                _cell(run["watch"]["rss_mb"]["peak"], 0),
            ]
            + ["{:.2f} -> {:.2f}".format(drift["first_p50"], drift["last_p50"]) if drift else "not measured"]
            + [", ".join("{} {:.1f}".format(*item) for item in run["watch"]["max_c"].items()) or "not measured"]
        )
    head = (
        "threads,frames,seconds,read p50 ms,pre p50 ms,infer p50 ms,post p50 ms,own overhead ms,first boxes after s,"
        "peak memory MiB,p50 first minute -> last,hottest C"
    )
    return _table(head, rows)


def _power_lines(content: Dict[str, Any], brief: bool) -> List[str]:
    power = content["power"]
    if power["sensor"] is None:
        if brief:
            return ["Power: **no sensor**; nothing is estimated. bench.md says what was tried.", ""]
        reasons = "; ".join("{}: {}".format(*item) for item in power["tried"].items())
        return ["Power: **no sensor**; nothing is estimated. Tried: {}".format(reasons or "nothing"), ""]
    lines = [
        "Power: {} ({}), scope: {}. {}".format(power["sensor"], power["source"], power["scope"], power["uncertainty"])
    ]
    idle = content["idle"]
    if idle is not None:
        lines.append("Idle: {} over {:.0f} s.".format(_cell(idle["mean_w"], 2, " W"), idle["seconds"]))
    for run in content["runs"]:
        if run["power"]["rate_hz"]:
            lines.append(
                "{} samples at {:.1f} Hz, rails: {}.".format(
                    run["power"]["samples"],
                    run["power"]["rate_hz"],
                    ", ".join("{} {:.2f} W".format(*item) for item in run["power"]["rails_w"].items())
                    or "one figure only",
                )
            )
        if run["power"]["wall_estimate_w"] is not None:
            lines.append(
                "At the wall, by a published fit (an estimate): {:.2f} W.".format(run["power"]["wall_estimate_w"])
            )
    if power.get("lost"):
        lines.append("**The sensor was lost**: {}".format(power["lost"]))
    return lines + [""]


def _graph_words(content: Dict[str, Any]) -> str:
    """Say how much of the model the runtime computes in INT8."""
    runtime = content["runs"][0]["runtime"] if content["runs"] else {"graph": None}
    graph = runtime["graph"]
    if graph is None:
        return "not told by the runtime"
    return (
        "{convolutions_int8} of {convolutions} convolutions and {operators_int8} of {operators} operators after the "
        "optimizer of {name}; {bridges} quantize/dequantize nodes left".format(name=runtime["name"], **graph)
    )


def markdown(content: Dict[str, Any], brief: bool = False) -> str:
    """Return the report for people; ``brief`` is for a terminal, without what the search for sensors found absent."""
    board, model, source = content["board"], content["model"], content["source"]
    lines = [
        "# {}: {} on {}".format(content["label"] or "Benchmark", model["file"], board["board"] or "this machine"),
        "",
    ]
    if content["partial"]:
        lines += ["**Partial**: the run was cut short ({}).".format(content.get("error") or "interrupted"), ""]
    hot = sorted({reason for run in content["runs"] for reason in run["throttled"]})
    if hot:
        lines += ["**Throttled** ({}): these figures are not the board's best.".format(", ".join(hot)), ""]
    tables = _runs_table(content) + _details_table(content)
    after = content["runs"][-1]["state"]["after"] if content["runs"] else {}
    facts = [
        (
            "model",
            "{} {}x{}, {}, {} head, {:.1f} MB, sha256 {}".format(
                model["precision"] or "precision not told",
                model["imgsz"][1],
                model["imgsz"][0],
                model["format"],
                model["head"] or "unnamed",
                model["size_bytes"] / 1e6,
                model["sha256"][:16],
            ),
        ),
        ("in INT8", _graph_words(content)),
        (
            "source",
            "{}: {}, {}, decoded by {}{}".format(
                source["kind"],
                source["source"],
                " ".join(source["sizes"]),
                source["image_backend"] or "no library",
                ", {frames} frames came, {dropped} dropped, lost {lost} times".format(**source)
                if "dropped" in source
                else "",
            ),
        ),
        (
            "board",
            "{}, {}, kernel {}, L4T {}".format(board["board"], board["os"], board["kernel"], board["l4t"] or "-"),
        ),
        ("Python", "{}, numpy {}, edge {}".format(board["python"], board["numpy"], content["edge"])),
        (
            "governor, power mode",
            "{}, {}".format(after.get("governor") or "not told", after.get("nvpmodel") or "not told"),
        ),
    ]
    below = _power_lines(content, brief) + ["- {}: {}".format(*fact) for fact in facts]
    return "\n".join([*map(escape_markdown, lines), *tables, *map(escape_markdown, below)]) + "\n"


def write(folder: Folder, content: Dict[str, Any], with_picture: bool = True) -> None:
    """Write bench.json, bench.md and, where it can be drawn, bench.png; the Markdown goes to stdout too.

    Raises:
        UserError: The disk is full; the report is printed all the same, so that it is not lost.
    """
    content = rounded(content, 5)
    text = markdown(content)
    try:
        folder.write_text("bench.json", json.dumps(content))
        folder.write_text("bench.md", text)
        if with_picture:
            plot_bench(content, folder.join("bench.png"))
    finally:
        print(markdown(content, brief=True))


def result(folder: Folder, content: Dict[str, Any], following: str, code: int) -> Result:
    """Say what a benchmark found, the fastest of its settings, and what to type next."""
    files = {name: folder.join(name) for name in ("bench.json", "bench.md", "bench.png")}
    files = {name: path for name, path in files.items() if os.path.exists(path)}
    runs = content["runs"]
    if not runs:
        return Result("bench", "cut short before a setting was measured", folder.path, files, code=code)
    best = max(runs, key=lambda run: run["fps"]["end_to_end"] or run["fps"]["inference_only"] or 0.0)
    threads = best["runtime"]["threads"]
    step = best["latency_ms"]["total"] or best["latency_ms"]["infer"]
    figures = {
        "runtime": best["runtime"]["name"],
        "threads": threads,
        "fps": best["fps"]["end_to_end"] or best["fps"]["inference_only"],
        "latency_ms_p50": step["p50"],
        "latency_ms_p99": step["p99"],
        "power_w": best["power"]["mean_w"],
        "energy_j_per_frame": best["power"]["gross_j_per_frame"],
        "throttled": best["throttled"],
    }
    said = "{}{:.1f} frames a second on {} ({}), {:.2f} ms at the median and {:.2f} ms at p99, {}{}".format(
        "cut short: " if content["partial"] else "",
        figures["fps"] or 0.0,
        content["board"]["board"] or "this machine",
        best["runtime"]["name"] + (", {} thread{}".format(threads, "s" * (threads > 1)) if threads else ""),
        step["p50"],
        step["p99"],
        "no power sensor" if figures["power_w"] is None else "{:.2f} W".format(figures["power_w"]),
        ", throttled" if best["throttled"] else "",
    )
    return Result("bench", said, folder.path, files, rounded(figures, 5), following, code)
