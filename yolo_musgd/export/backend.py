"""One object a runtime: makes its artifact, judges it, is timed, and writes the evidence down."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from yolo_musgd.export.accuracy import Accuracy, agreement, as_dict, evaluate
from yolo_musgd.export.checkpoint import export_by_ultralytics
from yolo_musgd.export.float_graph import FloatGraph
from yolo_musgd.export.guard import Guard, Guarded
from yolo_musgd.export.loaded import Loaded, load
from yolo_musgd.export.manifest import write_artifact
from yolo_musgd.export.quantize import QuantizationPlan, make_plan
from yolo_musgd.export.scores import best_cut, score_shift


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
        self.folder = parent / self.folder_name(self.job.checkpoint.path.stem, self.job.precision)
        self.work = graph.work / self.name
        self.loaded: Loaded | None = None
        self.evidence: dict[str, Any] = {}

    @classmethod
    def folder_name(cls, stem: str, precision: str) -> str:
        """Name of the folder that holds an artifact.

        Args:
            stem: of the checkpoint's file name.
            precision: fp32, fp16 or int8.
        """
        return f"{stem}_{precision}_{cls.suffix}"

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
        assert self.loaded
        size = self.loaded.artifact.size_bytes
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

    def _float_layers(self, plan: QuantizationPlan) -> tuple[str, ...]:
        """Nodes that are in float in any case."""
        return self.graph.float_layers(plan)

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
        return guard.run(self._float_layers(plan), (lambda: graph.rank(plan)) if job.settings.search else None)

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
