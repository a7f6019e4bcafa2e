"""Models that are slow to make and shared by the export tests: a random checkpoint, real weights, their FP32 graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import save_random

pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")
pytest.importorskip("onnxslim", reason="extra export is not installed")


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    return save_random


@pytest.fixture(scope="session")
def random_checkpoint(once) -> Path:
    return once("random", lambda folder: save_random(folder / "random.pt"))


@pytest.fixture(scope="session")
def graphs(random_checkpoint: Path, once) -> dict[str, Path]:
    """FP32 graphs of the random checkpoint at 64 px: head -> file."""
    from yolo_musgd.export.checkpoint import export_by_ultralytics, read_checkpoint

    checkpoint = read_checkpoint(random_checkpoint)

    def make(folder: Path) -> dict[str, Path]:
        made = {}
        for head in checkpoint.heads:
            (folder / head).mkdir()
            made[head] = export_by_ultralytics(checkpoint, head, folder / head, "onnx", 64, 13)
        return made

    return once("graphs", make)


@pytest.fixture(scope="session")
def real_graph(shared: Path, once) -> Path:
    """The raw graph of real weights at 160 px."""
    from yolo_musgd.export.checkpoint import export_by_ultralytics, read_checkpoint

    checkpoint = read_checkpoint(shared / "weights" / "yolo26n_rebuilt.pt")
    return once("real-160", lambda folder: export_by_ultralytics(checkpoint, "raw", folder, "onnx", 160, 17))
