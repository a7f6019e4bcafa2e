"""Whether the artifact still computes what the checkpoint computes: raw numbers and detections on real images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.edge.artifact import Artifact
from yolo_musgd.edge.boxes import decode
from yolo_musgd.edge.images import read_image
from yolo_musgd.edge.letterbox import Letterbox
from yolo_musgd.edge.runtimes import Runtime
from yolo_musgd.export.accuracy import Agreement, agreement
from yolo_musgd.export.checkpoint import choose_head, load_model, quiet


@dataclasses.dataclass(frozen=True)
class Parity:
    """Artifact against PyTorch.

    Attributes:
        images: how many were compared.
        max_difference: largest absolute difference of an output, boxes in pixels of the input and scores in [0, 1]; for
            the NMS-free head over matched detections, since rows with equal scores change places.
        max_score_difference: the same over scores alone.
        mean_difference: mean absolute difference.
        detections: how far the detections agree.
    """

    images: int
    max_difference: float
    max_score_difference: float
    mean_difference: float
    detections: Agreement


class TorchRuntime(Runtime):
    """The checkpoint itself in PyTorch on the CPU, in FP32, behind the runtimes' interface."""

    name = "pytorch"

    def __init__(self, artifact: Artifact, checkpoint: Path, head: str) -> None:
        import torch

        super().__init__(artifact)
        model = load_model(checkpoint)
        choose_head(model, head)
        with quiet():
            self._net: Any = model.model.float().fuse().eval()
        self._torch = torch
        self.version = str(torch.__version__)

    def infer(self, blob: np.ndarray) -> np.ndarray:
        """See Runtime.infer."""
        with self._torch.inference_mode():
            output = self._net(self._torch.from_numpy(blob))
        tensor = output[0] if isinstance(output, (list, tuple)) else output
        result: np.ndarray = tensor[0].numpy()
        return result


def _rows(found: np.ndarray) -> np.ndarray:
    """NMS-free rows above a low score in an order that does not depend on ties: by class, then by place."""
    kept = found[found[:, 4] > 0.05]
    return kept[np.lexsort((kept[:, 1].round(), kept[:, 0].round(), kept[:, 5]))]


def measure_parity(artifact: Artifact, runtime: Runtime, reference: Runtime, files: Sequence[str]) -> Parity:
    """Compare ``runtime`` with ``reference`` on the images ``files``, at least one."""
    letterbox = Letterbox(artifact.imgsz)
    largest = largest_score = total = 0.0
    entries = 0
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for file in files:
        blob = letterbox(read_image(file))[0]
        raw = [np.array(r.infer(blob)) for r in (reference, runtime)]
        found = [decode(output, artifact.head, len(artifact.names), 0.01) for output in raw]
        pairs.append((found[0], found[1]))
        score = slice(4, None) if artifact.head == "raw" else slice(4, 5)
        if artifact.head != "raw":
            raw = [_rows(output) for output in raw]
            count = min(len(output) for output in raw)
            raw = [output[:count].T for output in raw]
        if not raw[0].size:
            continue
        difference = np.abs(raw[0] - raw[1])
        largest = max(largest, float(difference.max()))
        largest_score = max(largest_score, float(difference[score].max()))
        total += float(difference.sum())
        entries += difference.size
    both = agreement([a for a, _ in pairs], [b for _, b in pairs])
    return Parity(len(files), largest, largest_score, total / max(entries, 1), both)
