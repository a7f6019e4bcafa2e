"""An interrupt during the import of a native package: the package is not "not installed", the work ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from yolo_musgd.edge.errors import RuntimeMissing
from yolo_musgd.edge.interrupts import held_back
from yolo_musgd.edge.pictures import library
from yolo_musgd.edge.runtimes.onnx_runtime import OnnxRuntime

NATIVE = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{})
    time.sleep(0.01)
except BaseException:
    raise ImportError("import numpy failed")
"""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM is KeyboardInterrupt, as in every command; two packages answer an interrupt as native ones do."""
    for name in ("SIGINT", "SIGTERM"):
        (tmp_path / f"native_{name.lower()}.py").write_text(NATIVE.format(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    for name in ("native_sigint", "native_sigterm"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("name", ["native_sigint", "native_sigterm"])
def test_an_interrupted_import_is_an_interrupt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntime, "package", name)
    with pytest.raises(KeyboardInterrupt):
        OnnxRuntime.available()
    sys.modules.pop(name, None)
    with pytest.raises(KeyboardInterrupt):
        library._load(name)
    monkeypatch.setattr(OnnxRuntime, "package", "not_there_at_all")
    with pytest.raises(RuntimeMissing):
        OnnxRuntime.load()


@pytest.mark.usefixtures("interrupted")
def test_handlers_are_as_before_and_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
