"""Fixtures shared by all tests, and the environment that every process they start lives in."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

ROOT = Path(__file__).resolve().parents[1]
FRESH = os.environ.get("YOLO_MUSGD_TEST_FRESH") == "1"  # every command in a new interpreter, at twice the time
SHARED = Path(os.environ.get("YOLO_MUSGD_SHARED", ROOT.parent / "shared"))

# A private Ultralytics configuration: tests neither read nor change the user's settings, and nothing goes online.
# It must stand before the first import of ultralytics, which reads it once.
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="yolo-musgd-tests-")
atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)
os.environ.setdefault("MPLBACKEND", "Agg")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a job in a script's background, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: pytest-xdist then has short ones left to even out its workers."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What the tests have imported stays; Ultralytics collects garbage in every training, half a second each."""
    gc.freeze()


@pytest.fixture(autouse=True)
def log_levels() -> None:
    """Levels that a library left behind in an earlier test do not decide what this one reads in the log."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("yolo_musgd").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real images and weights beside the checkout."""
    if not (SHARED / "data" / "bccd" / "data.yaml").exists():
        message = f"real images are missing at {SHARED}/data: set YOLO_MUSGD_SHARED to their folder"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    return SHARED


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)``: what ``make(folder)`` returns, made by one of pytest-xdist's workers and shared by all.

    For what takes long to make and is only read afterwards. A worker that comes while it is being made waits.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"

    def once(name: str, make: Callable[[Path], Any]) -> Any:
        folder, kept = shared / name, shared / f"{name}.pickle"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not kept.exists():
                made = make(folder)
                kept.write_bytes(pickle.dumps(made))
            return pickle.loads(kept.read_bytes())

    return once


@pytest.fixture(scope="session")
def tiny_data(once: Once) -> Path:
    """data.yaml of a data set small enough to train on in seconds."""
    return once("data", make_tiny_data)


def make_tiny_data(folder: Path) -> Path:
    from ultralytics.data.dataset import YOLODataset

    from yolo_musgd.data.shapes import CLASSES, generate

    folder = generate(folder / "tiny", {"train": 16, "val": 8, "test": 4}, size=64)
    names = "".join(f"  {i}: {n}\n" for i, n in enumerate(CLASSES))
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}")
    for split in ("train", "val", "test"):  # writes the cache of labels, which two trainings would write at once
        data = {"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3}
        YOLODataset(img_path=str(folder / "images" / split), data=data, task="detect", imgsz=64)
    return file


Once = Callable[[str, Callable[[Path], Any]], Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Folder of ``yolo``, ``yolo-musgd`` and ``python`` of this environment that have PyTorch loaded (see warm.py)."""
    if FRESH:
        yield Path(sys.executable).parent
        return
    warm = Warm()
    yield warm.folder
    warm.close()


@pytest.fixture(scope="session")
def run(programs: Path) -> Run:
    """Run a command of this environment (``yolo``, ``yolo-musgd``, ``python``) and return what it did.

    In a process of its own that has PyTorch loaded already; with ``fresh`` in a new interpreter.
    """

    def run(
        *words: object, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300,
        fresh: bool = False,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        program, *rest = map(str, words)
        command = [str((Path(sys.executable).parent if fresh else programs) / program), *rest]
        plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | (env or {})
        return subprocess.run(command, env=plain, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False)

    return run


TRAIN = ("model=yolo26n.yaml", "imgsz=64", "batch=8", "nbs=8", "workers=0", "seed=3", "device=cpu", "amp=False")
"""Arguments of a training run that takes seconds; add data=, epochs=, project= and name=."""


@pytest.fixture(scope="session")
def train_words() -> tuple[str, ...]:
    return TRAIN


@pytest.fixture
def fake_gpu():
    """A mode in which CUDA tensors have shapes and no values; no GPU is needed for it, except by old releases."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            _ = torch.empty(2, device="cuda")[:1]
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"torch {torch.__version__} asks the driver even for a fake CUDA tensor: {error}")
    return FakeTensorMode
