"""One artifact for each runtime: makes the model, judges it, and notes what was seen."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shutil
from pathlib import Path
from typing import Any

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.runtimes.artifact import Artifact, open_artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import available, open_runtime
from yolo_musgd.export import openvino, sensitivity, tensorrt_graph
from yolo_musgd.export.accuracy import Accuracy, agreement, as_dict, evaluate
from yolo_musgd.export.calibration import Ranges, cached_ranges
from yolo_musgd.export.checkpoint import export_by_ultralytics, require
from yolo_musgd.export.guard import Guard, Guarded
from yolo_musgd.export.manifest import write_artifact
from yolo_musgd.export.onnx_graph import count_fused
from yolo_musgd.export.parity import Parity, TorchRuntime, measure_parity
from yolo_musgd.export.quantize import Plan, make_plan, quantize
from yolo_musgd.export.settings import Job
from yolo_musgd.export.splits import CalibrationSet, calibration_set, spread

PARITY_IMAGES = 8
RANKING_IMAGES = 16
SUFFIX = {"onnxruntime": "onnx_model", "openvino": "openvino_model", "ncnn": "ncnn_model", "tensorrt": "tensorrt_model"}

log = logging.getLogger("yolo_musgd")


@dataclasses.dataclass(frozen=True)
class Built:
    """A finished artifact folder and its row of the report."""

    folder: Path
    runtime: str
    model: str
    size_bytes: int
    accuracy: Accuracy | None
    evidence: dict[str, Any]

    @property
    def judged_by(self) -> str:
        """The runtime that can run it here."""
        return "onnxruntime" if self.runtime == "tensorrt" else self.runtime


class Builder:
    """Makes the artifacts of one job; the FP32 graph, its accuracy and the calibration are made once.

    Args:
        job: what to make.
        work: temporary folder.
        cache: folder where calibrations are kept from run to run.
    """

    def __init__(self, job: Job, work: Path, cache: Path) -> None:
        self.job, self.work, self.cache = job, work, cache
        require(("onnx", "onnxruntime"))
        scratch = work / "fp32"
        scratch.mkdir()
        self.fp32 = export_by_ultralytics(job.checkpoint, job.head, scratch, "onnx", job.imgsz, job.opset)
        self.artifact = open_artifact(str(self.fp32))
        self.runtime = open_runtime(self.artifact, "onnxruntime", job.settings.threads)
        self.val = spread(job.splits.val, job.settings.val_images) if job.splits else []
        self.expected = evaluate(self.artifact, self.runtime, self.val, "FP32 on val") if self.val else None
        if self.expected and self.expected.left_out:
            first, count = self.expected.left_out[0], len(self.expected.left_out)
            log.warning(
                "%d of %d val images do not judge, as Ultralytics leaves them out: %s", count, len(self.val), first
            )
        self._torch: Runtime | None = None
        self._ranked: list[sensitivity.Ranked] | None = None
        self._calibration: tuple[CalibrationSet, Ranges] | None = None

    def build(self, runtime: str, parent: Path) -> Built:
        """Make the artifact of one runtime below ``parent``.

        Raises:
            UserError: the runtime, its exporter or its quantizer is missing or refuses the model.
        """
        job = self.job
        folder = parent / f"{job.checkpoint.path.stem}_{job.precision}_{SUFFIX[runtime]}"
        guarded: Guarded | None = None
        if runtime == "ncnn" or (runtime == "openvino" and job.precision != "int8"):
            model = self._by_ultralytics(runtime, folder)
        elif job.precision == "int8":
            guarded = self._quantized(runtime)
            model = self._move(guarded.model, folder)
        else:
            folder.mkdir()
            model = folder / "model.onnx"
            if job.precision == "fp16":
                tensorrt_graph.save_half(self.fp32, model)
            else:
                shutil.copyfile(self.fp32, model)
        return self._finish(runtime, folder, model, guarded)

    def _by_ultralytics(self, runtime: str, folder: Path) -> Path:
        job = self.job
        scratch = self.work / runtime
        scratch.mkdir()
        made = export_by_ultralytics(
            job.checkpoint, job.head, scratch, runtime, job.imgsz, half=job.precision == "fp16"
        )
        shutil.move(str(made), folder)
        suffix = {"openvino": ".xml", "ncnn": ".param"}[runtime]
        return next(p for p in folder.iterdir() if p.suffix == suffix)

    def _move(self, model: Path, folder: Path) -> Path:
        folder.mkdir()
        parts = [model] if model.suffix == ".onnx" else sorted(model.parent.iterdir())
        for part in parts:
            shutil.move(str(part), folder / part.name)
        return folder / model.name

    def _ranges(self) -> tuple[CalibrationSet, Ranges]:
        if self._calibration is None:
            settings, splits = self.job.settings, self.job.splits
            assert splits is not None  # options.check asks for data with INT8
            images = calibration_set(splits, settings.calibration_images)
            ranges = cached_ranges(
                self.cache, self.fp32, images, self.job.imgsz, settings.calibration, settings.percentile
            )
            self._calibration = images, ranges
        return self._calibration

    def _quantized(self, runtime: str) -> Guarded:
        job, flavour = self.job, self.job.flavour
        images, ranges = self._ranges()
        plan = make_plan(self.fp32, flavour)
        if runtime == "openvino":
            require(("openvino", "nncf"), "openvino")
            metadata = dict(read_onnx(str(self.fp32)).metadata)

            def make(layers: Any, folder: Path) -> Path:
                layers = [*layers, *plan.decode]
                return openvino.save_int8(self.fp32, folder, images.files, job.imgsz, layers, metadata)
        else:

            def make(layers: Any, folder: Path) -> Path:
                folder.mkdir()
                return quantize(plan, folder / "model.onnx", ranges, flavour, layers)

        work = self.work / f"{runtime}_tries"
        work.mkdir()
        judge = "openvino" if runtime == "openvino" else "onnxruntime"
        guard = Guard(make, judge, work, self.val, self.expected, job.settings.max_drop, self.runtime)
        own = [name.strip() for name in (job.settings.float_layers or "").strip("[]").split(",") if name.strip()]
        unknown = sorted(set(own) - set(plan.candidates))
        if unknown:
            raise UserError(f"float_layers: the graph has no quantizable node {unknown[0]!r}; see the manifest's names")
        return guard.run((*plan.last, *own), (lambda: self._rank(plan, ranges)) if job.settings.search else None)

    def _rank(self, plan: Plan, ranges: Ranges) -> list[sensitivity.Ranked]:
        if self._ranked is None:
            files = spread(self._ranges()[0].files, RANKING_IMAGES)
            self._ranked = sensitivity.rank_groups(plan, self.artifact, self.runtime, ranges, self.job.flavour, files)
        return self._ranked

    def _finish(self, runtime: str, folder: Path, model: Path, guarded: Guarded | None) -> Built:
        """Judge what was made and write its manifest."""
        job = self.job
        judge = "onnxruntime" if runtime == "tensorrt" else runtime
        artifact = _like(open_artifact(str(model), job.imgsz), self.artifact)
        loaded = open_runtime(artifact, judge, job.settings.threads, precision=job.precision)
        try:
            accuracy = guarded.accuracy if guarded else None
            if accuracy is None and self.val:
                accuracy = evaluate(artifact, loaded, self.val, f"{judge} {job.precision.upper()} on val")
            parity = self._parity(artifact, loaded)
            parity_fp32 = parity if job.precision == "fp32" else self._parity(self.artifact, self.runtime)
        finally:
            loaded.close()
        evidence = self._evidence(runtime, judge, model, accuracy, guarded)
        if runtime == "tensorrt" and job.settings.engine:
            tensorrt_graph.build_engine(model, job.precision)
        evidence["parity"], evidence["parity_of_fp32_graph"] = (p and as_dict(p) for p in (parity, parity_fp32))
        write_artifact(folder, job, runtime, model.name, evidence)
        size = sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".onnx", ".xml", ".bin", ".param"))
        return Built(folder, runtime, model.name, size, accuracy, evidence)

    def _parity(self, artifact: Artifact, loaded: Runtime) -> Parity | None:
        if not self.val:
            return None
        if self._torch is None:
            self._torch = TorchRuntime(self.artifact, self.job.checkpoint.path, self.job.head)
        return measure_parity(artifact, loaded, self._torch, spread(self.val, PARITY_IMAGES))

    def _evidence(
        self, runtime: str, judge: str, model: Path, accuracy: Accuracy | None, guarded: Guarded | None
    ) -> dict[str, Any]:
        job = self.job
        out: dict[str, Any] = {"judged_by": f"{judge} on {platform.machine()}", "map50_95": None, "map50": None}
        if accuracy and self.expected:
            for key in ("map50_95", "map50"):
                out[key] = {
                    "fp32": getattr(self.expected, key),
                    job.precision: getattr(accuracy, key),
                    "images": accuracy.images,
                }
            out["agreement"] = as_dict(agreement(self.expected.detections, accuracy.detections))
        if guarded:
            images = self._ranges()[0]
            out["calibration"] = {
                "sha256": images.sha256,
                "images": len(images.files),
                "method": job.settings.calibration if runtime != "openvino" else "nncf",
            }
            out["float_layers"] = list(guarded.float_layers)
            out["search"] = [dataclasses.asdict(step) for step in guarded.steps]
            out["sensitivity"] = [{"group": r.group, "loss": round(r.loss, 5)} for r in guarded.ranked]
        if model.suffix == ".onnx" and job.precision == "int8":
            out["flavour"] = job.flavour
            out["fused"] = count_fused(model, arm=job.target.name != "x86")
            if runtime == "onnxruntime":
                _warn_if_slow(out["fused"])
        if runtime == "tensorrt":
            out["tensorrt"] = tensorrt_graph.inspect(model, job.target, job.settings.lint)
        return out


def _like(artifact: Artifact, fp32: Artifact) -> Artifact:
    """The facts of a model file, with head and names of the FP32 graph where its format does not carry them."""
    return artifact._replace(head=fp32.head, names=fp32.names)


def _warn_if_slow(fused: dict[str, int] | None) -> None:
    if fused and fused["convolutions_int8"] < 0.7 * fused["convolutions"]:
        log.warning(
            "only %d of %d convolutions run in INT8 after ONNX Runtime's optimizer: this graph will not be fast there",
            fused["convolutions_int8"], fused["convolutions"],
        )  # fmt: skip


def installed(runtimes: tuple[str, ...]) -> list[str]:
    """Those of ``runtimes`` that can be judged here; TensorRT's graphs are judged by ONNX Runtime."""
    return [r for r in runtimes if r == "tensorrt" or available(r)[0]]
