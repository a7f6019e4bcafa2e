"""``yolo-musgd export``: a checkpoint becomes one folder for each runtime of a board, with the evidence beside it."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import open_artifact
from yolo_musgd.edge.runtimes.open import open_runtime
from yolo_musgd.export.build import SUFFIX, Builder, Built, installed
from yolo_musgd.export.bundle import make_archive, make_bundle
from yolo_musgd.export.settings import ExportSettings, Job, check
from yolo_musgd.export.summary import draw_searches, to_markdown
from yolo_musgd.export.timing import race
from yolo_musgd.settings import check_parent, new_folder, parse

MACHINES = {"x86": ("x86_64", "amd64")}  # everything else is aarch64

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
    job = check(settings)
    runtimes = installed(job.runtimes)
    if not runtimes:
        raise UserError(
            f"none of {', '.join(job.runtimes)} is installed; pip install 'yolo-musgd[export]' brings ONNX Runtime, "
            "'yolo-musgd[openvino]' OpenVINO"
        )
    project = Path(settings.project)
    try:
        project.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=project) as staging:
            return _export(job, runtimes, Path(staging), project)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left in {project}; nothing was written: give project= another disk") from error
        raise


def _export(job: Job, runtimes: list[str], staging: Path, project: Path) -> Result:
    work, ready = staging / "work", staging / "ready"
    work.mkdir()
    ready.mkdir()
    builder = Builder(job, work, project / ".calibration")
    artifacts: list[Built] = []
    for runtime in runtimes:
        try:
            artifacts.append(builder.build(runtime, ready))
        except UserError as error:
            if job.settings.runtime != "auto" or (runtime == runtimes[-1] and not artifacts):
                raise
            log.warning("%s is left out: %s", runtime, error)
            for half_made in ready.glob(f"*_{SUFFIX[runtime]}"):
                shutil.rmtree(half_made)
    latency = _race(builder, artifacts)
    fastest = _fastest(job, artifacts, latency)
    for built in artifacts:
        _add_latency(built, latency)
    (ready / "args.yaml").write_text(_yaml(job), encoding="utf-8")
    (ready / "report.md").write_text(to_markdown(job, artifacts, builder.expected, latency, fastest), encoding="utf-8")
    draw_searches(job, artifacts, ready)
    folder = new_folder(str(project), job.settings.name)
    ready.replace(folder)  # an empty folder may be replaced
    moved = tuple(dataclasses.replace(built, folder=folder / built.folder.name) for built in artifacts)
    return Result(folder, moved, latency, fastest)


def _race(builder: Builder, artifacts: list[Built]) -> dict[str, float]:
    runtimes = {"onnxruntime fp32": builder.runtime}
    for built in artifacts:
        if built.runtime != "tensorrt":
            artifact = open_artifact(str(built.folder))
            threads, precision = builder.job.settings.threads, builder.job.precision
            runtimes[built.runtime] = open_runtime(artifact, built.runtime, threads, precision=precision)
    latency = race(runtimes, desc="timing")
    for runtime in runtimes.values():
        runtime.close()
    return {name: round(value, 3) for name, value in latency.items()}


def _fastest(job: Job, artifacts: list[Built], latency: Mapping[str, float]) -> str | None:
    if platform.machine().lower() not in MACHINES.get(job.target.name, ("aarch64", "arm64")):
        return None
    timed = [built.runtime for built in artifacts if built.runtime in latency]
    return min(timed, key=lambda name: latency[name]) if timed else None


def _add_latency(built: Built, latency: Mapping[str, float]) -> None:
    path = built.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["latency_ms_p50"] = {
        "fp32_onnxruntime": latency["onnxruntime fp32"],
        "this": latency.get(built.runtime),
        "machine": platform.machine(),
    }
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _yaml(job: Job) -> str:
    import yaml

    settled = {
        **job.settings.to_dict(), "precision": job.precision, "imgsz": job.imgsz, "head": job.head, "opset": job.opset,
        "flavour": job.flavour, "data": job.splits.data if job.splits else None,
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
        for warning in make_bundle(str(built.folder), settings.target, folder, settings.samples or ""):
            print(f"note: {warning}", file=sys.stderr)
        yield make_archive(folder)
