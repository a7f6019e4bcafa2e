"""Models, images and boards for the tests of edge/: made here, or real ones beside the checkout.

These tests need numpy, pytest, hypothesis, onnx and onnxruntime. Those that hold edge/ against Ultralytics ask for the
fixture ``oracle`` or for a model that Ultralytics exports, and are skipped where torch or Ultralytics is missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from edge_samples import REPO, FakeBoard
from small_models import write_detector

SHARED = REPO.parent / "shared"


@pytest.fixture(scope="session")
def oracle() -> Iterator[list[str]]:
    """Ultralytics with the newest release's rules, whatever release is here; the names of what had to be replaced."""
    for name in ("torch", "torchvision", "ultralytics"):  # Ultralytics takes torchvision's NMS when it is loaded
        pytest.importorskip(name, reason=f"ORACLE MISSING: no {name} here")
    from newest_rules import install

    with pytest.MonkeyPatch.context() as patch:
        yield install(patch)


def export_onnx(source: str, folder: Path, name: str, imgsz: int, **settings: object) -> Path:
    """Export an Ultralytics model to ``folder``/``name``.onnx; ``nms=None`` gives the raw head."""
    from ultralytics import YOLO

    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        model = YOLO(source)
        if source.endswith(".yaml"):
            enliven(model)
        if settings["nms"] is None:
            settings = settings | keep_raw_head(model)
        made = Path(model.export(format="onnx", imgsz=imgsz, **settings))
    finally:
        os.chdir(before)
    target = folder / f"{name}.onnx"
    shutil.move(str(made if made.is_absolute() else folder / made), target)
    return target


def keep_raw_head(model: object) -> dict[str, object]:
    """Return the words that export the one-to-many head; 8.4.0 has none and exports what the layers allow."""
    head = model.model.model[-1]  # type: ignore[attr-defined]
    if type(head).end2end.fset is not None:
        return {}
    del head.one2one_cv2, head.one2one_cv3
    return {"nms": False}


@pytest.fixture
def raw_head(oracle: list[str]) -> Callable[[object], dict[str, object]]:
    """Give a model its one-to-many head alone; returns the words that every format of this release takes for it."""

    def raw_head(model: object) -> dict[str, object]:
        return {} if keep_raw_head(model) else {"nms": None}

    return raw_head


def enliven(model: object) -> None:
    """Make an untrained model's output vary: normalize its layers on noise, then spread its scores and boxes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    network = model.model  # type: ignore[attr-defined]
    network.train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.7
        for _ in range(3):
            network(torch.nn.functional.interpolate(torch.rand(4, 3, 16, 16, generator=generator), size=128))
        for name in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
            for branch in getattr(network.model[-1], name):
                last = branch[-1]
                last.weight.copy_(torch.randn(last.weight.shape, generator=generator) * 0.25)
                last.bias.fill_(2.0 if "cv2" in name else -3.0)
    network.eval()


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Detectors of two random convolutions at 128 pixels, both heads."""
    folder = tmp_path_factory.mktemp("small")
    return {head: write_detector(folder / f"{head}.onnx", head == "nms_free") for head in ("raw", "nms_free")}


@pytest.fixture(scope="session")
def random_models(oracle: list[str], once) -> dict[str, Path]:
    """yolo26n with random weights at 128 pixels, both heads, as Ultralytics exports it."""
    return once("edge-random", make_random_models)


def make_random_models(folder: Path) -> dict[str, Path]:
    import torch

    torch.manual_seed(0)
    return {
        "raw": export_onnx("yolo26n.yaml", folder, "raw", 128, nms=None),
        "nms_free": export_onnx("yolo26n.yaml", folder, "nms_free", 128, nms=False),
    }


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights."""
    if not (SHARED / "weights" / "yolo26n_rebuilt.pt").is_file():
        pytest.skip(f"REAL DATA MISSING: no {SHARED.name}/weights beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def real_models(oracle: list[str], shared: Path, once) -> dict[str, Path]:
    """The trained yolo26n at 320 pixels, both heads."""

    def make(folder: Path) -> dict[str, Path]:
        weights = folder / "yolo26n.pt"
        shutil.copyfile(shared / "weights" / "yolo26n_rebuilt.pt", weights)
        return {
            "raw": export_onnx(str(weights), folder, "raw", 320, nms=None),
            "nms_free": export_onnx(str(weights), folder, "nms_free", 320, nms=False),
        }

    return once("edge-real", make)


@pytest.fixture(scope="session")
def photos(shared: Path) -> list[Path]:
    """Twenty real photographs."""
    return sorted((shared / "data" / "coco128" / "images" / "val").glob("*.jpg"))[:20]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three drawn pictures of different shapes, as PNG files."""
    from yolo_musgd.edge.pictures.images import synthetic_frame, write_image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, shape in enumerate([(96, 128), (150, 90), (64, 64)]):
        write_image(str(folder / f"{k}.png"), synthetic_frame(*shape))
    return folder


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    """A board with nothing on it yet; its programs come first on PATH."""
    made = FakeBoard(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("YOLO_EDGE_ROOT", str(made.root))
    return made


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)
