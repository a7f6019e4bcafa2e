"""The folder that is handed on: model, ``manifest.json`` with the evidence, README for the person at the board.

The manifest's format is that of :mod:`yolo_musgd.edge.runtimes.artifact`, which reads it on the board; keys that it
does not know are kept there and ignored. A quantity that was not measured is null.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yolo_musgd import __version__
from yolo_musgd.edge.runtimes.artifact import MANIFEST, sha256_of
from yolo_musgd.export.settings import Job
from yolo_musgd.tables import escape_markdown

_PACKAGES = ("ultralytics", "torch", "onnx", "onnxruntime", "openvino", "nncf", "ncnn", "MNN", "executorch", "tensorrt")


def versions() -> dict[str, str]:
    """Versions of the packages that made an artifact, as far as they are installed."""
    found = {"yolo-musgd": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_artifact(folder: Path, job: Job, runtime: str, model: str, evidence: Mapping[str, Any]) -> None:
    """Write manifest and README beside the model files that are in ``folder`` already.

    Args:
        folder: the artifact.
        job: what was asked for.
        runtime: that runs it on the board.
        model: file name of the model.
        evidence: what was measured: accuracy, parity, latency, calibration, float layers, fused convolutions.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, "README.md"))
    names = job.checkpoint.names
    manifest = {
        "schema": 1,
        "model": model,
        "files": {p.relative_to(folder).as_posix(): sha256_of(str(p)) for p in files},
        "size_bytes": sum(p.stat().st_size for p in files),
        "names": [names[k] for k in sorted(names)],
        "imgsz": [job.imgsz, job.imgsz],
        "channels": job.checkpoint.channels,
        "layout": job.target.layout,
        "head": job.head,
        "precision": job.precision,
        "stride": job.checkpoint.stride,
        "activation": job.checkpoint.activation,
        "task": "detect",
        "target": job.target.name,
        "runtime": runtime,
        "opset": job.opset,
        "trained_with": dataclasses.asdict(job.checkpoint.rules),
        "source": {"file": job.checkpoint.path.name, "sha256": job.checkpoint.sha256},
        "versions": versions(),
        **evidence,
    }
    (folder / "README.md").write_text(readme(manifest, job, folder.name), encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _figure(value: float | None, digits: int = 4) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _accuracy_lines(manifest: Mapping[str, Any]) -> list[str]:
    score, parity = manifest.get("map50_95") or {}, manifest.get("parity")
    lines = []
    if score:
        mine = manifest["precision"]
        line = f"mAP50-95 on {score['images']} val images: {_figure(score.get(mine))}"
        if mine != "fp32":
            line += f" (FP32 {_figure(score.get('fp32'))})"
        lines.append(f"- {line}; computed by {manifest['judged_by']}")
    if parity:
        lines.append(
            f"- against PyTorch on {parity['images']} images: scores differ by {parity['max_score']:.1e} at "
            f"most, {100 * (parity['detections']['matched'] or 0):.0f} % of the detections are the same"
        )
    if manifest.get("float_layers"):
        lines.append(f"- {len(manifest['float_layers'])} layers are left in float; `manifest.json` lists them")
    return lines or ["- not measured: no data set was given"]


def predict_words(folder: str, model: str, imgsz: int) -> str:
    """What runs an artifact with Ultralytics, which takes some formats by their file, others by their folder.

    Args:
        folder: name of the artifact's folder.
        model: name of the model's file there.
        imgsz: side of its input, pixels.
    """
    openable = f"{folder}/{model}" if model.endswith((".onnx", ".mnn")) else folder
    return f"yolo predict {shlex.quote(f'model={openable}')} imgsz={imgsz} source=photos/"


def readme(manifest: Mapping[str, Any], job: Job, name: str) -> str:
    """The text for the person who gets the folder."""
    target, model = job.target, manifest["model"]
    bench = f" {target.bench}" if target.bench else ""
    colour = "RGB" if job.checkpoint.channels == 3 else "grey"
    parts = [
        f"# {escape_markdown(job.checkpoint.path.stem)}, {job.precision.upper()}, for {target.title}\n",
        f"`{model}` takes one {colour} image, float32 {target.layout} (1, {job.checkpoint.channels}, {job.imgsz}, "
        f"{job.imgsz}) in [0, 1], and "
        f"finds {len(manifest['names'])} classes. Runtime: {manifest['runtime']}. Head: "
        + ("raw (NMS comes after it)." if job.head == "raw" else "NMS-free.") + "\n",
        *_accuracy_lines(manifest),
        "\n## On the board\n",
        "On a PC with yolo-musgd, pack the folder with all that the board needs; the bundle has a README of its own:\n",
        f"```sh\nyolo-musgd bundle {shlex.quote(f'model={name}')} target={target.name}\n```\n",
        "The bundle's own commands, once it is there:\n",
        f"```sh\npython3 edge.pyz bench model source=samples{bench}\n"
        f"python3 edge.pyz val model source=images/val      # mAP there; needs labels/val\n```\n",
    ]  # fmt: skip
    if manifest["runtime"] == "tensorrt":
        flags = {"fp32": "", "fp16": " --fp16", "int8": " --int8 --fp16"}[job.precision]
        parts += [
            "`edge.pyz` builds the engine by itself where TensorRT's Python package is there; by NVIDIA's own tool:\n",
            f"```sh\ntrtexec --onnx={model} --saveEngine=model.engine --timingCacheFile=timing.cache{flags}\n```\n",
        ]
    parts += [
        "## On a PC\n",
        f"```sh\n{predict_words(name, model, job.imgsz)}\n```\n",
    ]
    return "\n".join(parts)
