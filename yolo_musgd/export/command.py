"""``yolo-musgd export``: a checkpoint becomes one folder for each runtime of a board, with the evidence beside it."""

from __future__ import annotations

import dataclasses
import errno
import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from yolo_musgd.data.coco import write_coco
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.files import check_name
from yolo_musgd.export.backends import BACKENDS, Backend, Built, installed
from yolo_musgd.export.bundle import make_bundle
from yolo_musgd.export.float_graph import FloatGraph
from yolo_musgd.export.settings import ExportSettings, Job, check
from yolo_musgd.export.staging import clean, place_numbered, staging
from yolo_musgd.export.summary import draw_searches, to_markdown
from yolo_musgd.export.timing import race
from yolo_musgd.settings import check_parent, parse

VAL = "val.json"  # COCO file of the images that judged, for `val` here and for `bundle`
MACHINES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("aarch64", "arm64")}  # as systems call them

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class Result:
    """What an export made.

    Attributes:
        folder: of the run.
        artifacts: one for each runtime.
        latency_ms: runtime -> p50 here; ``onnxruntime fp32`` is the FP32 graph; without TensorRT.
        fastest: runtime of the fastest artifact, None where this machine is not of the board's kind.
    """

    folder: Path
    artifacts: tuple[Built, ...]
    latency_ms: dict[str, float]
    fastest: str | None


def export_model(settings: ExportSettings) -> Result:
    """Export a checkpoint for a board; nothing is left behind when it fails or is interrupted.

    Raises:
        UserError: bad input, a missing package, or no space left.
    """
    check_parent(settings.project)
    check_name(settings.name)
    job = check(settings)
    runtimes = installed(job.runtimes)
    if not runtimes:
        raise UserError(
            f"none of {', '.join(job.runtimes)} is installed; pip install 'yolo-musgd[export]' brings ONNX Runtime, "
            "'yolo-musgd[openvino]' OpenVINO"
        )
    project = Path(settings.project)
    try:
        for earlier in (p for p in project.glob("*") if p.is_dir() and p.name.startswith(settings.name)):
            clean(earlier, "bundle")  # of a run that was killed while it packed
        with staging(project, "export") as folder:
            return _export(job, runtimes, folder, project)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left in {project}; nothing was written: give project= another disk") from error
        raise


def _export(job: Job, runtimes: list[str], temporary: Path, project: Path) -> Result:
    work, ready = temporary / "work", temporary / "ready"
    work.mkdir()
    ready.mkdir()
    graph = FloatGraph(job, work, project / ".calibration")
    backends = [BACKENDS[name](graph, ready) for name in runtimes]
    try:
        made = _build(backends, job.settings.runtime == "auto")
        latency = _race(graph, made)
        artifacts = [backend.finish(latency) for backend in made]
    finally:
        graph.loaded.close()
        for backend in backends:
            backend.close()
    fastest = _fastest(job, artifacts, latency)
    (ready / "args.yaml").write_text(_yaml(job), encoding="utf-8")
    (ready / "report.md").write_text(to_markdown(job, artifacts, graph.expected, latency, fastest), encoding="utf-8")
    draw_searches(job, artifacts, ready)
    if graph.val:
        write_coco(ready / VAL, graph.val, job.checkpoint.names)
    folder = place_numbered(ready, project, job.settings.name)
    moved = tuple(dataclasses.replace(built, folder=folder / built.folder.name) for built in artifacts)
    return Result(folder, moved, latency, fastest)


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


def main(args: Mapping[str, str]) -> int:
    """Run the command with its ``key=value`` arguments; returns 0.

    Raises:
        UserError: see :func:`export_model`.
    """
    settings = parse(ExportSettings, args)
    result = export_model(settings)
    print((result.folder / "report.md").read_text(encoding="utf-8"))
    for archive in _bundles(settings, result) if settings.bundle else ():
        print(f"-> {archive}")
    print(f"results: {result.folder}")
    return 0


def _bundles(settings: ExportSettings, result: Result) -> Iterator[Path]:
    """Pack each artifact for the board; the archives lie beside the artifacts."""
    for built in result.artifacts:
        folder = result.folder / f"edge-{settings.target}-{built.runtime}"
        val = str(result.folder / VAL) if (result.folder / VAL).exists() else ""
        samples = settings.samples or ""
        for warning in make_bundle(str(built.folder), settings.target, folder, samples, archive=True, val=val):
            print(f"note: {warning}", file=sys.stderr)
        yield folder.with_name(f"{folder.name}.tar.gz")
