"""OpenVINO is imported without its telemetry, which forks a process that may never end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FAKE = """
try:
    import openvino_telemetry
except ImportError:
    openvino_telemetry = None
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Packages that behave as OpenVINO and NNCF do, and a telemetry that leaves a mark when it is imported."""
    (tmp_path / "openvino.py").write_text(FAKE)
    (tmp_path / "nncf.py").write_text(FAKE)
    (tmp_path / "openvino_telemetry.py").write_text(f"open({str(tmp_path / 'reported')!r}, 'w').close()")
    return tmp_path


def run(packages: Path, script: str) -> str:
    start = f"import sys; sys.path.insert(0, {str(packages)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_loading_the_runtime_reports_nothing(packages: Path) -> None:
    said = run(
        packages,
        """
        from yolo_musgd.edge.runtimes.openvino_runtime import OpenVino, without_telemetry
        loaded = OpenVino.load()
        with without_telemetry():
            import nncf
        print(loaded.__file__ == sys.path[0] + "/openvino.py", loaded.openvino_telemetry, nncf.openvino_telemetry)
        """,
    )
    assert said == "True None None"
    assert not (packages / "reported").exists()


def test_other_programs_find_it_afterwards(packages: Path) -> None:
    said = run(
        packages,
        """
        from yolo_musgd.edge.runtimes.openvino_runtime import OpenVino, without_telemetry
        OpenVino.load()
        assert "openvino_telemetry" not in sys.modules
        import openvino_telemetry as mine
        with without_telemetry():
            pass
        print(sys.modules["openvino_telemetry"] is mine)
        """,
    )
    assert said == "True"


def test_the_real_ones_take_their_stubs() -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    script = """
    import sys
    from yolo_musgd.edge.runtimes.openvino_runtime import OpenVino, without_telemetry
    OpenVino.load()
    with without_telemetry():
        import nncf.telemetry
    print([name for name in sys.modules if name.startswith("openvino_telemetry")])
    print(type(nncf.telemetry.telemetry).__name__ == "NNCFTelemetry")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]\nFalse"
