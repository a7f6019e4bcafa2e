"""``yolo-musgd export``: a checkpoint becomes one folder for each runtime of a board, with the evidence beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.data.coco import write_coco
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.result import Result
from yolo_musgd.edge.runtimes.artifact import MANIFEST
from yolo_musgd.export import profiling
from yolo_musgd.export.accuracy import Accuracy
from yolo_musgd.export.backend import Backend, Built
from yolo_musgd.export.backends import BACKENDS, installed
from yolo_musgd.export.bundle import copy_over, make_bundle
from yolo_musgd.export.card import CARD, card, check_push, push
from yolo_musgd.export.float_graph import FloatGraph
from yolo_musgd.export.settings import ExportSettings, Job, check
from yolo_musgd.export.staging import clean, place_numbered, staging
from yolo_musgd.export.summary import draw_searches, to_markdown
from yolo_musgd.export.timing import race
from yolo_musgd.host import VERBOSE
from yolo_musgd.places import check_place, check_replaced, set_aside
from yolo_musgd.resources import install
from yolo_musgd.settings import parse
from yolo_musgd.tables import plot_style

VAL = "val.json"  # COCO file of the images that judged, for `val` here and for `bundle`
MACHINES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("aarch64", "arm64")}  # as systems call them

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        folder: of the run.
        artifacts: one for each runtime.
        latency_ms: runtime -> p50 here; ``onnxruntime fp32`` is the FP32 graph; without TensorRT.
        fastest: runtime of the fastest artifact, None where this machine is not of the board's kind.
        expected: accuracy of the FP32 graph, None where it was not measured.
    """

    folder: Path
    artifacts: tuple[Built, ...]
    latency_ms: dict[str, float]
    fastest: str | None
    expected: Accuracy | None


def export_model(settings: ExportSettings) -> ExportResult:
    """Export a checkpoint for a board; nothing is left behind when it fails or is interrupted.

    Raises:
        UserError: bad input, a missing package, or no space left.
    """
    check_place(settings)
    if settings.exist_ok:
        check_replaced(_named(settings), f"*_model/{MANIFEST}")
    if settings.push:
        check_push(settings.push, settings.push_dry_run)
    job = check(settings)
    runtimes = installed(job.runtimes)
    if not runtimes:
        raise UserError(
            f"none of {', '.join(job.runtimes)} is installed; {install('export')} brings ONNX Runtime, "
            f"{install('openvino')} OpenVINO"
        )
    project = Path(settings.save_dir).absolute().parent if settings.save_dir else Path(settings.project)
    try:
        for earlier in (p for p in project.glob("*") if p.is_dir() and p.name.startswith(settings.name)):
            clean(earlier, "bundle")  # of a run that was killed while it packed
        with staging(project, "export") as folder:
            return _export(job, runtimes, folder, project)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left in {project}; nothing was written: give project= another disk") from error
        raise


def _export(job: Job, runtimes: list[str], temporary: Path, project: Path) -> ExportResult:
    work, ready = temporary / "work", temporary / "ready"
    work.mkdir()
    ready.mkdir()
    graph = FloatGraph(job, work, project / ".calibration")
    backends = [BACKENDS[name](graph, ready) for name in runtimes]
    try:
        made = _build(backends, job.settings.runtime == "auto")
        latency = _race(graph, made)
        profiles = _profiles(graph, made) if job.settings.profile else {}
        artifacts = [backend.finish(latency) for backend in made]
    finally:
        graph.loaded.close()
        for backend in backends:
            backend.close()
    fastest = _fastest(job, artifacts, latency)
    (ready / "args.yaml").write_text(_yaml(job), encoding="utf-8")
    report = to_markdown(job, artifacts, graph.expected, latency, fastest)
    if profiles:
        report += "\n".join(profiling.to_markdown(profiles))
        with plot_style():
            profiling.draw(profiles, ready / "profile.png")
    (ready / "report.md").write_text(report, encoding="utf-8")
    (ready / CARD).write_text(card(job, artifacts, graph.expected, report), encoding="utf-8")
    draw_searches(job, artifacts, ready)
    if graph.val:
        write_coco(ready / VAL, graph.val, job.checkpoint.names)
    folder = _place(ready, project, job.settings)
    moved = tuple(dataclasses.replace(built, folder=folder / built.folder.name) for built in artifacts)
    return ExportResult(folder, moved, latency, fastest, graph.expected)


def _place(ready: Path, project: Path, settings: ExportSettings) -> Path:
    """Give the finished folder its name; with ``exist_ok`` in place of what has it."""
    if not settings.save_dir and not settings.exist_ok:
        return place_numbered(ready, project, settings.name)
    folder = _named(settings)
    with set_aside(folder) if settings.exist_ok else contextlib.nullcontext():
        ready.rename(folder)
    return folder


def _named(settings: ExportSettings) -> Path:
    """The folder of the results, where it is not counted up."""
    return Path(settings.save_dir) if settings.save_dir else Path(settings.project) / settings.name


def _build(backends: list[Backend], may_leave_out: bool) -> list[Backend]:
    """Those that could be made; the only one must be."""
    made: list[Backend] = []
    for backend in backends:
        try:
            backend.build()
        except UserError as error:
            if not may_leave_out or (backend is backends[-1] and not made):
                raise
            log.warning("%s is left out: %s", backend.name, error)
            backend.discard()
        else:
            made.append(backend)
    return made


def _race(graph: FloatGraph, backends: list[Backend]) -> dict[str, float]:
    runtimes = {"onnxruntime fp32": graph.loaded.runtime}
    for backend in backends:
        if backend.loaded and backend.judged_by == backend.name:
            runtimes[backend.name] = backend.loaded.runtime
    return {name: round(value, 3) for name, value in race(runtimes, desc="timing").items()}


def _profiles(graph: FloatGraph, backends: list[Backend]) -> dict[str, dict[str, float]]:
    """Milliseconds of each kind of operator: of the FP32 graph, and of each artifact whose runtime tells."""
    threads, shape = graph.job.settings.threads, graph.loaded.runtime.input_shape
    blob = np.random.default_rng(0).random(shape, dtype=np.float32)
    found = {"onnxruntime fp32": profiling.by_onnxruntime(graph.loaded.artifact, blob, threads)}
    for backend in backends:
        if backend.loaded and backend.judged_by == backend.name in profiling.PROFILERS:
            name = f"{backend.name} {graph.job.precision}"
            found[name] = profiling.PROFILERS[backend.name](backend.loaded.artifact, blob, threads)
            backend.evidence["profile_ms"] = found[name]
    return found


def _fastest(job: Job, artifacts: list[Built], latency: Mapping[str, float]) -> str | None:
    if platform.machine().lower() not in MACHINES[job.target.machine]:
        return None
    timed = [built.runtime for built in artifacts if built.runtime in latency]
    return min(timed, key=lambda name: latency[name]) if timed else None


def _yaml(job: Job) -> str:
    import yaml

    settled = {
        **job.settings.to_dict(), "precision": job.precision, "imgsz": job.imgsz, "head": job.head, "opset": job.opset,
        "variant": job.variant, "data": job.splits.data if job.splits else None,
    }  # fmt: skip
    return str(yaml.safe_dump(settled, sort_keys=False))


def main(args: Mapping[str, str]) -> Result:
    """Run the command with its ``key=value`` arguments.

    Raises:
        UserError: see :func:`export_model`.
    """
    settings = parse(ExportSettings, args)
    VERBOSE.set(settings.verbose)
    made = export_model(settings)
    print((made.folder / "report.md").read_text(encoding="utf-8"))
    archives = list(_bundles(settings, made)) if settings.bundle else []
    if settings.push:
        files_there = push(made.folder, settings.push, settings.push_dry_run)
        print(f"{'would be ' * settings.push_dry_run}uploaded to {settings.push}: {', '.join(files_there)}")
    best = next((a for a in made.artifacts if a.runtime == made.fastest), made.artifacts[0])
    files = {f"{a.runtime} artifact": str(a.folder) for a in made.artifacts} | {
        "report": str(made.folder / "report.md")
    }
    files |= {f"bundle of {archive.name}": str(archive) for archive in archives}
    figures = _figures(made, best)
    following = copy_over(archives[0]) if archives else _bundle_words(settings, made, best)
    return Result("export", _said(settings, figures), str(made.folder), files, figures, following)


def _bundle_words(settings: ExportSettings, made: ExportResult, best: Built) -> str:
    """What packs the best artifact, with the images that judge it on the board where there are any."""
    judges = made.folder / "val.json"
    words = ["yolo-musgd", "bundle", f"model={best.folder}", f"target={settings.target}"]
    return shlex.join(words + [f"val={judges}"] * judges.is_file())


def _figures(made: ExportResult, best: Built) -> dict[str, Any]:
    """Of the artifact that is recommended, and of the FP32 graph that it was compared with."""
    fp32, ms = made.latency_ms["onnxruntime fp32"], made.latency_ms.get(best.runtime)
    measured = made.expected and best.accuracy
    return {
        "artifact": best.folder.name,
        "runtime": best.runtime,
        "size_mb": round(best.size_bytes / 1e6, 3),
        "latency_ms": ms,
        "fp32_latency_ms": fp32,
        "times_fp32": round(fp32 / ms, 4) if ms else None,
        "map50_95": round(best.accuracy.map50_95, 5) if best.accuracy else None,
        "fp32_map50_95": round(made.expected.map50_95, 5) if made.expected else None,
        "drop": round(made.expected.map50_95 - best.accuracy.map50_95, 5) if measured else None,  # type: ignore[union-attr]
    }


def _said(settings: ExportSettings, figures: Mapping[str, Any]) -> str:
    """The export in a sentence: size, speed, drop."""
    speed, drop = figures["times_fp32"], figures["drop"]
    parts = [f"{figures['artifact']}: {figures['size_mb']:.1f} MB"]
    parts.append(f"{speed:.2f} times the speed of FP32 on this machine" if speed else "not timed on this machine")
    parts.append("accuracy not measured (no data=)" if drop is None else f"mAP50-95 {0.0 - drop:+.4f} against FP32")
    if settings.target != "x86":
        parts.append("its speed on the board is yet to be measured there")
    return ", ".join(parts)


def _bundles(settings: ExportSettings, result: ExportResult) -> Iterator[Path]:
    """Pack each artifact for the board; the archives lie beside the artifacts."""
    for built in result.artifacts:
        folder = result.folder / f"edge-{settings.target}-{built.runtime}"
        val = str(result.folder / VAL) if (result.folder / VAL).exists() else ""
        samples = settings.samples or ""
        for warning in make_bundle(str(built.folder), settings.target, folder, samples, archive=True, val=val):
            print(f"note: {warning}", file=sys.stderr)
        yield folder.with_name(f"{folder.name}.tar.gz")
