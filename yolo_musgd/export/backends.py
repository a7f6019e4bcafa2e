"""The runtimes: one is added by a class that says how a model is made for it, and by its line in :data:`BACKENDS`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from yolo_musgd.data.reader import Rules
from yolo_musgd.edge.runtimes.artifact import MANIFEST
from yolo_musgd.edge.runtimes.onnxfile import read_onnx
from yolo_musgd.edge.runtimes.open import available
from yolo_musgd.edge.runtimes.openvino_runtime import without_telemetry
from yolo_musgd.export import mnn, ncnn, openvino, tensorrt_graph
from yolo_musgd.export.backend import Backend
from yolo_musgd.export.checkpoint import export_by_ultralytics, require
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.onnx_graph import count_fused
from yolo_musgd.export.quantize import QuantizationPlan, quantize
from yolo_musgd.export.topk import add_topk

log = logging.getLogger("yolo_musgd")


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

    def _float_layers(self, plan: QuantizationPlan) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*super()._float_layers(plan), *plan.first]))

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
        with without_telemetry():
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
        share = 100.0 if self.job.settings.calibration == "minmax" else self.job.settings.percentile
        return ncnn.FloatNetwork(made, self.graph.images.files, share)

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
