"""Fixtures shared by all tests, and the environment that every process they start lives in."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("YOLO_MUSGD_SHARED", ROOT.parent / "shared"))

# A private Ultralytics configuration: tests neither read nor change the user's settings, and nothing goes online.
os.environ.setdefault("YOLO_OFFLINE", "true")


@pytest.fixture(scope="session", autouse=True)
def _private_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real images and weights beside the checkout."""
    if not (SHARED / "data" / "bccd" / "data.yaml").exists():
        message = f"real images are missing at {SHARED}/data: set YOLO_MUSGD_SHARED to their folder"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    return SHARED
