"""What an export shows: one table of what was made, and a picture of each sensitivity search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_musgd.export import sensitivity
from yolo_musgd.export.accuracy import Accuracy
from yolo_musgd.export.scores import best_cut
from yolo_musgd.tables import escape_markdown, markdown_table, plot_style

if TYPE_CHECKING:
    from yolo_musgd.export.backend import Built
    from yolo_musgd.export.settings import Job


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def to_markdown(
    job: Job, artifacts: Sequence[Built], expected: Accuracy | None, latency: Mapping[str, float], fastest: str | None
) -> str:
    """The table, one row an artifact, under a row of the FP32 graph."""
    base = latency["onnxruntime fp32"]
    name = escape_markdown(job.checkpoint.path.name)
    lines = [f"# {name} for {job.target.title}: {job.precision}, {job.head} head, {job.imgsz} px", ""]
    header = ["runtime", "precision", "MB", "ms here (p50)", "times FP32", "mAP50-95", "drop", "same detections",
              "score shift", "best conf", "float layers"]  # fmt: skip
    fp32, cut = _number(expected.map50_95 if expected else None), best_cut(expected)
    rows = [["onnxruntime", "fp32", "", f"{base:.2f}", "1.00", fp32, "", "", "", _number(cut and cut.conf, 2), ""]]
    for built in artifacts:
        ms = latency.get(built.runtime)
        drop = expected.map50_95 - built.accuracy.map50_95 if expected and built.accuracy else None
        same = (built.evidence.get("agreement") or {}).get("matched")
        cells = [
            built.runtime,
            job.precision,
            f"{built.size_bytes / 1e6:.1f}",
            _number(ms, 2),
            _number(base / ms if ms else None, 2),
            _number(built.accuracy.map50_95 if built.accuracy else None),
            _number(drop),
            "-" if same is None else f"{100 * same:.0f} %",
            _signed((built.evidence.get("scores") or {}).get("shift")),
            _number(built.evidence.get("conf"), 2),
            str(len(built.evidence.get("float_layers", []))) if "float_layers" in built.evidence else "",
        ]
        rows.append(cells)
    lines.append(markdown_table(header, rows, "llr"))
    if fastest and len(artifacts) > 1:
        lines += ["", f"Fastest here: **{fastest}**."]
    lines += ["", *_notes(job, artifacts, expected)]
    for built in artifacts:
        lines += _search_table(built)
    return "\n".join(lines) + "\n"


def _notes(job: Job, artifacts: Sequence[Built], expected: Accuracy | None) -> list[str]:
    notes = [f"One image, {job.settings.threads} thread(s), models in turns in one process."]
    if expected:
        notes.append(f"mAP on {expected.images} val images; differences below .01 on a few hundred images are noise.")
    if job.target.name != "x86":
        notes.append(f"Speed here says little about {job.target.title}: measure there with `edge.pyz bench`.")
    if any(built.runtime == "tensorrt" for built in artifacts):
        notes.append("TensorRT's graph was judged by ONNX Runtime; the board builds the engine.")
    for built in artifacts:
        notes += [f"{built.runtime} {built.evidence['guard_note']}."] if built.evidence.get("guard_note") else []
        notes += _recall(built)
    return [" ".join(notes), ""]


def _recall(built: Built) -> list[str]:
    """What FP32's best threshold costs a quantized model."""
    scores = built.evidence.get("scores") or {}
    if built.evidence.get("conf") is None or not scores.get("recall") or "float_layers" not in built.evidence:
        return []
    (before, after), (conf, _) = scores["recall"], scores["conf"]
    return [f"{built.runtime}: at FP32's best threshold ({conf:.2f}) recall goes from {before:.3f} to {after:.3f}."]


def _search_table(built: Built) -> list[str]:
    steps = built.evidence.get("search") or []
    if not steps:
        return []
    header = ["groups in float", "layers in float", "mAP50-95", "drop", "score shift", "times FP32", "last group added"]
    rows = [
        [
            len(step["groups"]),
            len(step["float_layers"]),
            f"{step['map50_95']:.4f}",
            f"{step['drop']:.4f}",
            _signed(step["score_shift"]),
            _number(step["fp32_ms"] / step["latency_ms"], 2),
            step["groups"][-1] if step["groups"] else "",
        ]
        for step in steps
    ]
    return [f"## Sensitivity search, {built.runtime}", "", markdown_table(header, rows, "rrrrrrl"), ""]


def draw_searches(job: Job, artifacts: Sequence[Built], folder: Path) -> None:
    """Write ``search_<runtime>.png`` for each artifact whose layers were searched."""
    for built in artifacts:
        steps = [sensitivity.SearchStep(**step) for step in built.evidence.get("search") or []]
        if steps:
            with plot_style():
                sensitivity.draw(steps, job.limits, folder / f"search_{built.runtime}.png")
