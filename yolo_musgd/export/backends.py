"""One object a runtime: makes its artifact, judges it, is timed, and writes the evidence down.

A runtime is added by a class that says how a model is made for it, and by its line in :data:`BACKENDS`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from yolo_musgd.data.reader import Rules
from yolo_musgd.edge.runtimes.artifact import MANIFEST
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import available
from yolo_musgd.export import mnn, ncnn, openvino, tensorrt_graph
from yolo_musgd.export.accuracy import Accuracy, agreement, as_dict, evaluate
from yolo_musgd.export.checkpoint import export_by_ultralytics, require
from yolo_musgd.export.float_graph import FloatGraph
from yolo_musgd.export.guard import Guard, Guarded
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.manifest import write_artifact
from yolo_musgd.export.onnx_graph import count_fused
from yolo_musgd.export.quantize import QuantizationPlan, make_plan, quantize
from yolo_musgd.export.scores import best_cut, score_shift
from yolo_musgd.export.topk import add_topk

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


class Backend:
    """The artifact of one runtime, from the FP32 graph to its manifest; the model is opened once.

    Args:
        graph: what it is made from and compared with.
        parent: folder that gets the artifact's folder.

    Attributes:
        name: of the runtime.
        suffix: last part of the folder's name.
        judged_by: the runtime that opens, judges and times the model on this machine.
        loaded: the model, open.
        evidence: what was seen, for the manifest.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    judged_by: ClassVar[str]
    calibrated_by_us: ClassVar[bool] = True

    def __init__(self, graph: FloatGraph, parent: Path) -> None:
        self.graph, self.job = graph, graph.job
        self.folder = parent / folder_name(self.name, self.job.checkpoint.path.stem, self.job.precision)
        self.work = graph.work / self.name
        self.loaded: Loaded | None = None
        self.evidence: dict[str, Any] = {}

    def build(self) -> None:
        """Make the artifact and judge it.

        Raises:
            UserError: the runtime, its exporter or its quantizer is missing or refuses the model.
        """
        self.work.mkdir()
        guarded = self._quantized() if self.job.precision == "int8" else None
        if guarded:
            made = Path(guarded.loaded.artifact.model)
            self.loaded, self.accuracy = guarded.loaded, guarded.accuracy
            self._copy(made)
        else:
            self.model = self._converted()
            self.loaded, self.accuracy = self._open(self.model), None
        if self.accuracy is None and self.graph.val:
            desc = f"{self.judged_by} {self.job.precision.upper()} on val"
            self.accuracy = evaluate(*self.loaded, self.graph.val, desc)
        self.evidence = {**self._measured(), **(self._quantization(guarded) if guarded else {}), **self._examined()}
        parities = {"parity": self.graph.compare(self.loaded), "parity_of_fp32_graph": self.graph.parity}
        self.evidence |= {key: value and as_dict(value) for key, value in parities.items()}

    def finish(self, latency_ms: Mapping[str, float]) -> Built:
        """Write manifest and README.

        Args:
            latency_ms: runtime -> p50 here; ``onnxruntime fp32`` is the FP32 graph.
        """
        self.evidence["latency_ms_p50"] = {
            "fp32_onnxruntime": latency_ms["onnxruntime fp32"],
            "this": latency_ms.get(self.name),
            "machine": platform.machine(),
        }
        write_artifact(self.folder, self.job, self.name, self.model.name, self.evidence)
        size = sum(
            p.stat().st_size
            for p in self.folder.iterdir()
            if p.suffix in (".onnx", ".xml", ".bin", ".param", ".mnn", ".pte")
        )
        return Built(self.folder, self.name, self.model.name, size, self.accuracy, self.evidence)

    def close(self) -> None:
        """Free the runtime."""
        if self.loaded:
            self.loaded.close()
            self.loaded = None

    def discard(self) -> None:
        """Free the runtime and remove what was made."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, model: Path) -> Loaded:
        threads, precision = self.job.settings.threads, self.job.precision
        return load(model, self.judged_by, threads, precision, self.graph.loaded.artifact)

    def _converted(self) -> Path:
        """Make ``self.folder`` with the model in a floating-point precision; returns the model file."""
        raise NotImplementedError

    def _quantize(self, plan: QuantizationPlan, layers: Sequence[str], folder: Path) -> Path:
        """Make the quantized model with ``layers`` in float below ``folder``; returns the model file."""
        raise NotImplementedError

    def _examined(self) -> dict[str, Any]:
        """Evidence that only this runtime has."""
        return {}

    def _quantized(self) -> Guarded:
        job, graph = self.job, self.graph
        plan = make_plan(graph.path, job.variant)
        guard = Guard(
            lambda layers, folder: self._quantize(plan, layers, folder),
            self._open,
            self.judged_by,
            self.work,
            graph.val,
            graph.expected,
            job.limits,
            graph.loaded.runtime,
        )
        return guard.run(graph.float_layers(plan), (lambda: graph.rank(plan)) if job.settings.search else None)

    def _copy(self, model: Path) -> None:
        """Copied, not moved: the runtime has the file open."""
        self.folder.mkdir()
        for part in [model] if model.suffix == ".onnx" else sorted(model.parent.iterdir()):
            shutil.copyfile(part, self.folder / part.name)
        self.model = self.folder / model.name

    def _by_ultralytics(self, suffix: str) -> Path:
        half = self.job.precision == "fp16"
        made = export_by_ultralytics(
            self.job.checkpoint, self.job.head, self.work, self.name, self.job.imgsz, half=half
        )
        shutil.move(str(made), self.folder)
        return next(p for p in self.folder.iterdir() if p.suffix == suffix)

    def _measured(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "judged_by": f"{self.judged_by} on {platform.machine()}", "map50_95": None, "map50": None,
        }  # fmt: skip
        mine, expected = self.accuracy, self.graph.expected
        if mine and expected:
            for key in ("map50_95", "map50"):
                values = {"fp32": getattr(expected, key), self.job.precision: getattr(mine, key)}
                out[key] = {**values, "images": mine.images}
            out["agreement"] = as_dict(agreement(expected.detections, mine.detections))
            out["scores"] = as_dict(score_shift(expected, mine))
        cut = best_cut(mine)
        out["conf"] = cut.conf if cut else None
        return out

    def _quantization(self, guarded: Guarded) -> dict[str, Any]:
        images = self.graph.images
        return {
            "calibration": {
                "sha256": images.sha256,
                "images": len(images.files),
                "method": self.job.settings.calibration if self.calibrated_by_us else "nncf",
            },
            "float_layers": list(guarded.float_layers),
            "guard_note": guarded.note or None,
            "search": [dataclasses.asdict(step) for step in guarded.steps],
            "sensitivity": [{"group": r.group, "loss": round(r.loss, 5)} for r in guarded.ranked],
        }


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime: the FP32 graph itself, or it with Q/DQ nodes."""

    name, suffix, judged_by = "onnxruntime", "onnx_model", "onnxruntime"

    def _converted(self) -> Path:
        self.folder.mkdir()
        model = self.folder / "model.onnx"
        if self.job.precision == "fp16":
            return tensorrt_graph.save_half(self.graph.path, model)
        return Path(shutil.copyfile(self.graph.path, model))

    def _quantize(self, plan: QuantizationPlan, layers: Sequence[str], folder: Path) -> Path:
        folder.mkdir()
        return quantize(plan, folder / "model.onnx", self.graph.ranges, self.job.variant, layers)

    def _examined(self) -> dict[str, Any]:
        facts = self._graph_facts()
        fused = facts.get("fused")
        if fused and fused["convolutions_int8"] < 0.7 * fused["convolutions"]:
            log.warning(
                "only %d of %d convolutions run in INT8 after ONNX Runtime's optimizer: this graph will not be fast "
                "there", fused["convolutions_int8"], fused["convolutions"],
            )  # fmt: skip
        return facts

    def _graph_facts(self) -> dict[str, Any]:
        if self.job.precision != "int8":
            return {}
        fused = count_fused(self.model, arm=self.job.target.machine == "aarch64")
        return {"variant": self.job.variant, "fused": fused}


class TensorRtBackend(OnnxRuntimeBackend):
    """TensorRT, whose engine only the board can build: an ONNX graph that it reads, judged by ONNX Runtime."""

    name, suffix = "tensorrt", "tensorrt_model"

    def _converted(self) -> Path:
        return self._selected(super()._converted())

    def _quantize(self, plan: QuantizationPlan, layers: Sequence[str], folder: Path) -> Path:
        return self._selected(super()._quantize(plan, layers, folder))

    def _selected(self, model: Path) -> Path:
        count = self.job.target.topk if self.job.settings.topk is None else self.job.settings.topk
        return add_topk(model, count) if count and self.job.head == "raw" else model

    def _examined(self) -> dict[str, Any]:
        checked = tensorrt_graph.inspect(self.model, self.job.target, self.job.settings.lint)
        if self.job.settings.engine:
            tensorrt_graph.build_engine(self.model, self.job.precision)
        return {**self._graph_facts(), "tensorrt": checked}


class OpenVinoBackend(Backend):
    """OpenVINO's own format: by Ultralytics' exporter, INT8 by NNCF, which calibrates by itself on our images."""

    name, suffix, judged_by = "openvino", "openvino_model", "openvino"
    calibrated_by_us = False

    def _converted(self) -> Path:
        return self._by_ultralytics(".xml")

    def _quantize(self, plan: QuantizationPlan, layers: Sequence[str], folder: Path) -> Path:
        require(("openvino", "nncf"), "openvino")
        metadata, images = dict(read_onnx(str(self.graph.path)).metadata), self.graph.images
        layers = [*layers, *plan.decode]
        return openvino.save_int8(self.graph.path, folder, images.files, self.job.imgsz, layers, metadata)


class NcnnBackend(Backend):
    """NCNN, by Ultralytics' exporter; its INT8 by :mod:`yolo_musgd.export.ncnn`, from our images and its own floats."""

    name, suffix, judged_by = "ncnn", "ncnn_model", "ncnn"

    def _converted(self) -> Path:
        return self._by_ultralytics(".param")

    @cached_property
    def _floating(self) -> ncnn.FloatNetwork:
        folder = self.work / "float"
        folder.mkdir()
        made = export_by_ultralytics(self.job.checkpoint, self.job.head, folder, self.name, self.job.imgsz)
        return ncnn.FloatNetwork(made, self.graph.images.files, self.job.settings.percentile)

    def _quantize(self, plan: QuantizationPlan, layers: Sequence[str], folder: Path) -> Path:
        require(("ncnn", "pnnx"))
        pairs = self._floating.paired(self.graph.path)
        self._floating.quantize(folder, [pairs[name] for name in layers if name in pairs])
        return folder / "model.ncnn.param"


class MnnBackend(Backend):
    """MNN, from the FP32 graph; its converter's INT8 is of the weights alone, so it is not offered."""

    name, suffix, judged_by = "mnn", "mnn_model", "mnn"

    def _converted(self) -> Path:
        self.folder.mkdir()
        metadata = dict(read_onnx(str(self.graph.path)).metadata)
        return mnn.save_mnn(self.graph.path, self.folder / "model.mnn", metadata, self.job.precision == "fp16")


class ExecuTorchBackend(Backend):
    """ExecuTorch for XNNPACK, by Ultralytics' exporter."""

    name, suffix, judged_by = "executorch", "executorch_model", "executorch"

    def _converted(self) -> Path:
        return self._by_ultralytics(".pte")


BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (
        OnnxRuntimeBackend,
        OpenVinoBackend,
        NcnnBackend,
        MnnBackend,
        ExecuTorchBackend,
        TensorRtBackend,
    )
}


def folder_name(runtime: str, stem: str, precision: str) -> str:
    """Name of the folder that holds an artifact.

    Args:
        runtime: a key of BACKENDS.
        stem: of the checkpoint's file name.
        precision: fp32, fp16 or int8.
    """
    return f"{stem}_{precision}_{BACKENDS[runtime].suffix}"


def installed(runtimes: Sequence[str]) -> list[str]:
    """Those of ``runtimes`` whose artifacts can be judged here."""
    return [name for name in runtimes if available(BACKENDS[name].judged_by)[0]]


def trained_with(folder: Path) -> Rules:
    """What the training of a finished artifact's model made of its data set; the default for older artifacts."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return Rules.of_training(manifest.get("trained_with"))


def load_finished(folder: Path, threads: int) -> Loaded:
    """Open a finished artifact in the runtime that judged it.

    Raises:
        UserError: see :func:`yolo_musgd.export.loaded.load`.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return load(folder, BACKENDS[manifest["runtime"]].judged_by, threads, manifest["precision"])
