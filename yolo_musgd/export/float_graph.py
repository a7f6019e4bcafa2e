"""The FP32 graph of a job: what every runtime's artifact is made from and compared with."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from yolo_musgd.data.reader import decodable
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import items
from yolo_musgd.export.accuracy import evaluate
from yolo_musgd.export.calibration import Ranges, cached_ranges
from yolo_musgd.export.checkpoint import export_by_ultralytics, require
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.parity import Parity, TorchRuntime, measure_parity
from yolo_musgd.export.quantize import QuantizationPlan
from yolo_musgd.export.sensitivity import Ranked, rank_groups
from yolo_musgd.export.settings import Job
from yolo_musgd.export.splits import CalibrationSet, calibration_set, spread

PARITY_IMAGES = 8
RANKING_IMAGES = 16

log = logging.getLogger("yolo_musgd")


class FloatGraph:
    """Exports and judges the FP32 graph; calibration, ranking and parity are computed when first asked for, once.

    Args:
        job: what to make.
        work: temporary folder.
        cache: folder where calibrations are kept from run to run.

    Attributes:
        path: the ONNX file.
        loaded: it, open in ONNX Runtime.
        val: images that judge.
        expected: its accuracy on them, None without any.
    """

    def __init__(self, job: Job, work: Path, cache: Path) -> None:
        self.job, self.work, self.cache = job, work, cache
        require(("onnx", "onnxruntime"))
        scratch = work / "fp32"
        scratch.mkdir()
        self.path = export_by_ultralytics(job.checkpoint, job.head, scratch, "onnx", job.imgsz, job.opset)
        self.loaded = load(self.path, "onnxruntime", job.settings.threads)
        self.val = spread(job.splits.val, job.settings.val_images) if job.splits else []
        self.expected = evaluate(*self.loaded, self.val, "FP32 on val") if self.val else None
        self._ranked: list[Ranked] | None = None

    @cached_property
    def images(self) -> CalibrationSet:
        """Those that calibrate."""
        assert self.job.splits is not None  # settings.check asks for data with INT8
        return calibration_set(self.job.splits, self.job.settings.calibration_images)

    @cached_property
    def ranges(self) -> Ranges:
        """Of every tensor on the images that calibrate."""
        settings, imgsz = self.job.settings, self.job.imgsz
        method = settings.calibration, settings.percentile
        return cached_ranges(self.cache, self.path, self.images, imgsz, *method, settings.threads)

    def rank(self, plan: QuantizationPlan) -> list[Ranked]:
        """Groups of layers by what is lost when each alone is quantized; every runtime takes this one ranking."""
        if self._ranked is None:
            files = spread(self.images.files, RANKING_IMAGES)
            self._ranked = rank_groups(plan, *self.loaded, self.ranges, self.job.variant, files)
        return self._ranked

    def float_layers(self, plan: QuantizationPlan) -> tuple[str, ...]:
        """Nodes that are in float in any case: the head's last ones and the user's own.

        Raises:
            UserError: ``float_layers=`` names a node that the graph does not have.
        """
        own = items(self.job.settings.float_layers or "")
        unknown = sorted(set(own) - set(plan.candidates))
        if unknown:
            raise UserError(f"float_layers: the graph has no quantizable node {unknown[0]!r}; see the manifest's names")
        return (*plan.last, *own)

    def compare(self, other: Loaded) -> Parity | None:
        """How far ``other`` is from the checkpoint in PyTorch; None without images."""
        return measure_parity(*other, self._torch, self._parity_files) if self._parity_files else None

    @cached_property
    def _parity_files(self) -> list[str]:
        channels = self.loaded[0].channels
        return [image.file for image in spread(self.val, PARITY_IMAGES) if decodable(image.file, channels)]

    @cached_property
    def parity(self) -> Parity | None:
        """How far this graph itself is from the checkpoint."""
        return self.compare(self.loaded)

    @cached_property
    def _torch(self) -> TorchRuntime:
        return TorchRuntime(self.loaded.artifact, self.job.checkpoint.path, self.job.head)
