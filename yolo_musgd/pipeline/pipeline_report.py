"""The pipeline's report: one HTML page that needs no other file, the figures as JSON, and the final table as text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from yolo_musgd import __version__
from yolo_musgd.edge.files import write_whole
from yolo_musgd.edge.power import system
from yolo_musgd.export.targets import load_target
from yolo_musgd.lab.store import read_results, write_json
from yolo_musgd.pipeline import dag, svg
from yolo_musgd.pipeline.choose import SizeChoice
from yolo_musgd.pipeline.dataset import DataSet
from yolo_musgd.pipeline.detections import Pair, pairs
from yolo_musgd.pipeline.execute import Runner
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.pipeline.step import read_marker, versions
from yolo_musgd.tables import markdown_table, render
from yolo_musgd.train.records import STEPS_FILE, read_steps

HTML, JSON = "report.html", "report.json"
ACTIVATION_NAMES = {"relu": "ReLU", "relu6": "ReLU6", "hardswish": "Hardswish", "silu": "SiLU"}
WORTH_A_NOTE = 0.01  # mAP50-95 lost, above what is noise


@dataclass(frozen=True)
class FinishedPipeline:
    """A pipeline that is finished.

    Attributes:
        settings: as given.
        recipe: file of the recipe, None without one.
        plan: as it was run.
        data: the data set.
        choice: of size and width, None where none was asked for.
        runner: its folder.
    """

    settings: PipelineSettings
    recipe: str | None
    plan: dag.PipelinePlan
    data: DataSet
    choice: SizeChoice | None
    runner: Runner

    @property
    def finetuned(self) -> bool:
        """Whether the changed model was trained; a folder may be left of an earlier plan that did."""
        return self.plan.prunes and self.plan.finetune_epochs > 0

    def json(self, step: str, file: str) -> dict[str, Any]:
        """A JSON file that a step made; ``*`` in its name is allowed."""
        found = next(self.runner.place(step).glob(file))
        content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return content

    def labels(self) -> dict[str, str]:
        """What the models of the final table are called."""
        done = ["pruned"] if self.plan.cut else []
        if self.settings.activation:
            done.append(ACTIVATION_NAMES[self.settings.activation])
        final = " ".join(done) or "base"
        return {
            "base": "base FP32",
            "pruned": f"{final} FP32",
            "final": f"{final} {self.plan.precision.upper()}",
        }


def write_report(finished: FinishedPipeline) -> str:
    """Write report.html and report.json; returns the final table as text."""
    figures = collect(finished)
    write_json(finished.runner.folder / JSON, figures)
    write_whole(str(finished.runner.folder / HTML), to_html(figures, _pictures(finished, figures), _pairs(finished)))
    return as_text(figures)


def collect(finished: FinishedPipeline) -> dict[str, Any]:
    """Every figure of the report, for JSON."""
    names = dag.Names(finished.plan)
    measured = finished.json(names.measure, "measure.json")
    final = finished.json(names.final, "export/*_model/manifest.json")
    pruned = finished.json(names.prune, "cut/prune.json") if finished.plan.prunes else None
    target = load_target(finished.settings.target)
    return {
        "schema": "yolo-musgd/pipeline/1",
        "title": f"{finished.settings.data_name} on {target.title}",
        "target": finished.settings.target,
        "data": {
            "yaml": finished.data.yaml,
            "images": {split: len(files) for split, files in finished.data.images.items()},
            "names": finished.data.names,
        },
        "imgsz": finished.plan.imgsz,
        "precision": finished.plan.precision,
        "split": measured["split"],
        "images": measured["images"],
        "threads": measured["threads"],
        "labels": finished.labels(),
        "rows": measured["rows"],
        "picked_on_judged": finished.plan.judged == "val",
        "foreign": finished.settings.target != "x86",
        "choice": finished.choice.to_dict() if finished.choice else None,
        "finetuned": finished.finetuned,
        "pruning": _pruning(pruned) if pruned else None,
        "quantization": _quantization(final),
        "bench": _bench(finished.json(names.bench, "bench/bench.json")),
        "notes": finished.runner.notes
        + _left_out(measured)
        + _resumed(finished)
        + _busy(finished)
        + _still_rising(measured["rows"], _finetuning_curve(finished)),
        "steps": _steps(finished),
        "machine": system.identity(),
        "versions": versions(),
        "settings": finished.settings.to_dict(),
        "recipe": finished.recipe,
    }


def _left_out(measured: Mapping[str, Any]) -> list[str]:
    lines = measured.get("left_out") or []
    if not lines:
        return []
    return [
        f"{len(lines)} of {len(lines) + measured['images']} {measured['split']} images did not judge, since they or "
        f"their labels cannot be read ({lines[0]})"
    ]


def _pruning(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("cost", "accuracy", "layers", "log", "split")}


def _quantization(manifest: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "precision",
        "runtime",
        "map50_95",
        "parity",
        "calibration",
        "float_layers",
        "search",
        "judged_by",
        "agreement",
        "scores",
        "conf",
        "guard_note",
    )
    return {key: manifest.get(key) for key in keys}


def _bench(report: Mapping[str, Any]) -> dict[str, Any]:
    run = report["runs"][0]
    power = run["power"]
    return {
        "latency_ms": run["latency_ms"]["total"],
        "fps": run["fps"]["end_to_end"],
        "frames": run["frames"],
        "sensor": report["power"]["sensor"],
        "watts": power["mean_w"],
        "joules": power["net_j_per_frame"] if power["net_j_per_frame"] is not None else power["gross_j_per_frame"],
        "peak_mb": run["watch"]["rss_mb"]["peak"],
        "board": report["board"]["board"],
    }


def _resumed(finished: FinishedPipeline) -> list[str]:
    """Trainings that went on after an interruption."""
    return [
        f"{s['step']} was interrupted after epoch {s['interrupted_after_epoch']} and went on from its last checkpoint; "
        "an uninterrupted training would have ended near this, not exactly here"
        for s in _steps(finished)
        if s["interrupted_after_epoch"]
    ]


def _finetuning_curve(finished: FinishedPipeline) -> Sequence[float]:
    """MAP50-95 on val after each epoch of fine-tuning; empty without one."""
    run = finished.runner.place(dag.Names(finished.plan).finetune) / "run"
    return read_results(run / "results.csv").get("metrics/mAP50-95(B)", []) if finished.finetuned else []


def _still_rising(rows: Sequence[Mapping[str, Any]], curve: Sequence[float]) -> list[str]:
    """Advice where fine-tuning ended too early."""
    lost = rows[0]["map50_95"] - next((row["map50_95"] for row in rows if row["role"] == "pruned"), rows[0]["map50_95"])
    if lost <= WORTH_A_NOTE or len(curve) < 2 or max(curve) > curve[-1]:
        return []
    return [
        f"Fine-tuning gave back all but {lost:.3f} mAP50-95 and was best at its last epoch, so more of them may bring "
        "more: give finetune_epochs= a larger number"
    ]


def _busy(finished: FinishedPipeline) -> list[str]:
    """A warning where other work disturbed the timing."""
    record = read_marker(finished.runner.place(dag.Names(finished.plan).measure)) or {}
    load, cores = record.get("load"), os.cpu_count() or 1
    if load is None or load < 1.5 * cores:
        return []
    return [
        f"This machine was busy while it measured (load {load:g} on {cores} cores): milliseconds say nothing then and "
        "ratios little; for better ones remove steps/measure and steps/bench and give the command again"
    ]


def _steps(finished: FinishedPipeline) -> list[dict[str, Any]]:
    """The record of every step that the report draws on."""
    found = []
    first = [dag.probe(finished.plan)] if finished.settings.max_hours is not None else []
    for step in [*first, *dag.steps_of(finished.plan)]:
        record = read_marker(finished.runner.place(step.name))
        if record is not None:
            kept = ("step", "command", "started", "seconds", "load", "interrupted_after_epoch", "outputs")
            found.append(
                {**{k: record.get(k) for k in kept}, "title": step.title, "machine": record["machine"]["board"]}
            )
    return found


def _pictures(finished: FinishedPipeline, figures: Mapping[str, Any]) -> dict[str, str | None]:
    names = dag.Names(finished.plan)
    ran = {step.name for step in dag.steps_of(finished.plan)}  # a folder may be left of another plan
    trainings = (("training", "train"), ("fine-tuning", names.finetune))
    runs = {title: finished.runner.place(step) / "run" for title, step in trainings if step in ran}
    found = figures["quantization"]["search"]
    return {
        "tradeoff": svg.tradeoff(figures["rows"], figures["labels"], figures["split"]),
        "curves": svg.curves([(n, read_results(f / "results.csv")) for n, f in runs.items()]),
        "optimizer": svg.optimizer([(n, read_steps(f / STEPS_FILE)) for n, f in runs.items()]),
        "layers": svg.layers(figures["pruning"]["layers"]) if figures["pruning"] else None,
        "search": svg.search(found) if found else None,
    }


def _pairs(finished: FinishedPipeline) -> list[Pair]:
    names = dag.Names(finished.plan)
    before, after = (finished.json(n, "out/detections.json") for n in ("detect-before", names.after))
    return pairs(before, after, finished.runner.place("samples") / "images")


def as_text(figures: Mapping[str, Any]) -> str:
    """The final table as Markdown."""
    judged = f"mAP50-95 ({figures['split']}, {figures['images']} images)"
    header = ["model", judged, "mAP50", "MB", "ms here (p50)", "speed", "same detections"]
    lines = [markdown_table(header, table(figures), "lr")]
    if figures["foreign"]:
        lines += [
            "",
            f"Speed was measured here, not on {figures['target']}: INT8 kernels differ. The bundle measures there.",
        ]
    return "\n".join(lines)


def table(figures: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the final table, a row a model."""
    rows: Sequence[Mapping[str, Any]] = figures["rows"]
    base = rows[0]
    cells = []
    for row in rows:
        same = row["agreement"]["matched"]
        cells.append(
            [
                figures["labels"][row["role"]],
                f"{row['map50_95']:.3f}",
                f"{row['map50']:.3f}",
                f"{row['size_bytes'] / 1e6:.2f}",
                f"{row['latency_ms_p50']:.2f}",
                f"{base['latency_ms_p50'] / row['latency_ms_p50']:.2f}x",
                "-" if row is base or same is None else f"{same:.0%}",
            ]
        )
    return cells


def headline(figures: Mapping[str, Any]) -> list[str]:
    """What each change cost and won against the model before it, a line each."""
    rows: Sequence[Mapping[str, Any]] = figures["rows"]
    lines = []
    for old, new in pairwise(rows):
        changed = figures["labels"]["pruned"].removesuffix(" FP32").replace("pruned ", "pruning, ")
        done = "Pruning" if changed == "pruned" else changed[0].upper() + changed[1:]
        done += " and fine-tuning" if figures["finetuned"] else ""
        what = done if new["role"] == "pruned" else f"{new['precision'].upper()}"
        lines.append(
            f"{what}: mAP50-95 {new['map50_95'] - old['map50_95']:+.3f}, {old['size_bytes'] / new['size_bytes']:.1f} "
            f"times smaller, {old['latency_ms_p50'] / new['latency_ms_p50']:.2f} times the speed here."
        )
    return lines


def to_html(figures: Mapping[str, Any], pictures: Mapping[str, str | None], pictured: Sequence[Pair]) -> str:
    """The page; ``pictures`` are SVG by name, ``pictured`` detections before and after."""
    more = {"table": table(figures), "headline": headline(figures), "version": __version__}
    template = Path(__file__).with_name("report.html.j2")
    return render(template, {**figures, **more, "pictures": pictures, "pairs": pictured})
