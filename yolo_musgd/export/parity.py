"""Whether the artifact still computes what the checkpoint computes: raw numbers and detections on real images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_musgd.data.reader import read_image
from yolo_musgd.edge.pictures.boxes import decode
from yolo_musgd.edge.pictures.letterbox import Letterbox
from yolo_musgd.edge.runtimes.artifact import Artifact
from yolo_musgd.edge.runtimes.base import Runtime
from yolo_musgd.export.accuracy import Agreement, agreement, paired
from yolo_musgd.export.checkpoint import choose_head, load_model
from yolo_musgd.host import silent_host


@dataclasses.dataclass(frozen=True)
class Parity:
    """Artifact against PyTorch.

    Attributes:
        images: how many were compared.
        max_score: largest difference of a score.
        max_box: largest difference of a box edge or size, as a share of the input's side.
        mean_box: its mean.
        detections: how far the detections agree.

    Of the NMS-free head, and of a graph that selects anchors, rows that are the same object are compared, since rows
    with equal scores change places.
    """

    images: int
    max_score: float
    max_box: float
    mean_box: float
    detections: Agreement


class TorchRuntime(Runtime):
    """The checkpoint itself in PyTorch on the CPU, in FP32, behind the runtimes' interface."""

    name = "pytorch"

    def __init__(self, artifact: Artifact, checkpoint: Path, head: str) -> None:
        import torch

        super().__init__(artifact)
        model = load_model(checkpoint)
        choose_head(model, head)
        with silent_host():
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


def _paired_rows(reference: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """NMS-free rows above a low score that are the same object, in the same order; columns first."""
    a, b = (rows[rows[:, 4] > 0.05] for rows in (reference, other))
    pairs = paired(a, b)
    return [a[[i for i, _, _ in pairs], :5].T, b[[j for _, j, _ in pairs], :5].T]


def measure_parity(artifact: Artifact, runtime: Runtime, reference: Runtime, files: Sequence[str]) -> Parity:
    """Compare ``runtime`` with ``reference`` on the images ``files``, at least one."""
    letterbox = Letterbox(artifact.imgsz, artifact.channels)
    boxes, scores = [np.zeros(1)], [np.zeros(1)]
    found: list[list[np.ndarray]] = [[], []]
    for file in files:
        blob = letterbox(read_image(file, artifact.channels))[0]
        raw = [np.array(r.infer(blob)) for r in (reference, runtime)]
        for side, output in zip(found, raw, strict=True):
            side.append(decode(output, artifact.head, len(artifact.names), 0.01))
        if artifact.head == "nms_free":
            raw = _paired_rows(raw[0], raw[1])
        elif raw[0].shape != raw[1].shape:  # anchors are selected in one of the graphs
            raw = _paired_rows(found[0][-1], found[1][-1])
        difference = np.abs(raw[0] - raw[1])
        boxes.append(difference[:4].ravel() / max(artifact.imgsz))
        scores.append(difference[4:].ravel())
    box, score = np.concatenate(boxes), np.concatenate(scores)
    both = agreement(found[0], found[1])
    return Parity(len(files), float(score.max()), float(box.max()), float(box.mean()), both)
