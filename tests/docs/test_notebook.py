"""The notebook runs from its first cell to its last, on the drawn set, and keeps no output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yolo_musgd.data.shapes import generate

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


def cells() -> list[str]:
    content: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def as_script(cell: str) -> str:
    """A cell as Python: a line that begins with ``!`` is the shell's, with ``{names}`` filled in."""
    return re.sub(r"^!(.*)$", r'shell(f"""\1""")', cell, flags=re.MULTILINE)


def test_the_notebook_is_well_formed_and_empty() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])
    for cell in cells():
        compile(as_script(cell), "cell", "exec")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, programs: Path) -> None:
    pytest.importorskip("onnxslim", reason="extra export is not installed")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
    environment["YOLO_CONFIG_DIR"] = str(tmp_path / "config")
    subprocess.run(
        [programs / "yolo", "settings", f"datasets_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}"],
        env=environment, cwd=tmp_path, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    generate(tmp_path / "data" / "yolo-musgd-shapes", {"train": 32, "val": 16, "test": 4}, size=64)
    head = "import subprocess\ndef shell(line):\n    subprocess.run(line, shell=True, check=True)\n"
    code = head + "\n".join(map(as_script, cells())).replace("EPOCHS = 20", "EPOCHS = 1")
    done = subprocess.run(
        [programs / "python", "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "next: yolo-musgd bundle model=" in done.stdout
