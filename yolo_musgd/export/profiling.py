"""Where the time goes: milliseconds of each kind of operator, by the runtimes' own profilers."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.edge.runtimes.artifact import Artifact
from yolo_musgd.edge.runtimes.openvino_runtime import OpenVino
from yolo_musgd.tables import markdown_table, write_png

RUNS = 20
SMALL = 0.02
"""Share of the slowest model's time under which a kind is told with the others."""


def by_onnxruntime(artifact: Artifact, blob: np.ndarray, threads: int) -> dict[str, float]:
    """Milliseconds of each kind of operator in ONNX Runtime, medians over :data:`RUNS` runs of each operator."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = threads, 3, True
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="yolo-musgd-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, {session.get_inputs()[0].name: blob})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    return _summed(times)


def by_openvino(artifact: Artifact, blob: np.ndarray, threads: int) -> dict[str, float]:
    """The same in OpenVINO."""
    openvino = OpenVino.load()
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(artifact.model, "CPU", config).create_infer_request()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(RUNS):
        request.infer([blob])
        for node in request.profiling_info:
            if node.real_time.total_seconds():
                times[node.node_type, node.node_name].append(1e3 * node.real_time.total_seconds())
    return _summed(times)


def _summed(times: Mapping[tuple[str, str], list[float]]) -> dict[str, float]:
    kinds: dict[str, float] = defaultdict(float)
    for (kind, _), values in times.items():
        kinds[kind] += statistics.median(values)
    return {kind: round(ms, 4) for kind, ms in sorted(kinds.items(), key=lambda item: -item[1])}


PROFILERS = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}
"""Runtimes that have one."""


def _rows(profiles: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Kinds of operators with their milliseconds in each model, the costliest first, small ones together."""
    least = SMALL * max(sum(kinds.values()) for kinds in profiles.values())
    every = dict.fromkeys(kind for kinds in profiles.values() for kind in kinds)
    rows = [(kind, [kinds.get(kind, 0.0) for kinds in profiles.values()]) for kind in every]
    large = sorted((row for row in rows if max(row[1]) >= least), key=lambda row: -max(row[1]))
    small = [values for _, values in rows if max(values) < least]
    rest = [sum(column) for column in zip(*small, strict=True)]
    return [*large, ("others", rest)] if small else large


def to_markdown(profiles: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Lines of a table: a row for each kind of operator, a column for each model.

    Args:
        profiles: what a model is called -> kind of operator -> milliseconds.
    """
    rows = [[kind, *(f"{ms:.2f}" if ms else "" for ms in values)] for kind, values in _rows(profiles)]
    rows.append(["**all**", *(f"**{sum(kinds.values()):.2f}**" for kinds in profiles.values())])
    table = markdown_table(["operator, ms an image", *profiles], rows, "l" + "r" * len(profiles))
    return ["## Where the time goes", "", "By the runtimes' own profilers, which add a little to each.", "", table, ""]


def draw(profiles: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar for each model, made of its kinds of operators."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.6 * len(profiles)), layout="constrained")
    axes = figure.add_subplot(title="Where the time goes", xlabel="ms an image")
    places, lefts = range(len(profiles)), np.zeros(len(profiles))
    colours = [colormaps["tab20"](k) for k in range(20)]
    for k, (kind, values) in enumerate(_rows(profiles)):
        axes.barh(
            places, values, left=lefts, label=kind, color=colours[k % len(colours)], edgecolor="white", linewidth=0.5
        )
        lefts += values
    axes.set_yticks(places, list(profiles))
    axes.invert_yaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    write_png(figure, path, dpi=120)
