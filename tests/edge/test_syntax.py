"""edge/ must run on the original Jetson Nano: Python 3.6, the standard library, numpy, and nothing of the rest."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edge_samples import REPO

EDGE = REPO / "yolo_musgd" / "edge"
MODULES = sorted(EDGE.rglob("*.py"))
OPTIONAL = {
    "onnxruntime",
    "openvino",
    "ncnn",
    "tensorrt",
    "cv2",
    "PIL",
    "matplotlib",
    "pynvml",
}  # asked for, never required


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(EDGE).as_posix())
def test_parses_as_python_3_6(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))  # raises on a positional-only argument
    # feature_version lets the walrus and f"{x=}" through; the first is visible in the tree, the second is vermin's.
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)]


NEWER = {  # than NumPy 1.13, which Ubuntu 18.04 of JetPack 4.6 brings: a name, or a word of a call -> since
    "quantile": 1.15, "take_along_axis": 1.15, "put_along_axis": 1.15, "stable": 1.15, "initial": 1.15, "append=": 1.16,
    "prepend=": 1.16, "default_rng": 1.17, "where=": 1.17,
}  # fmt: skip


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(EDGE).as_posix())
def test_keeps_to_numpy_1_13(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            found.append(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("np."):
            words = [word for word in node.keywords if word.arg]
            found += [f"{word.arg}=" for word in words] + [str(word.arg) for word in words if word.arg == "initial"]
            found += [word.value.value for word in words if isinstance(word.value, ast.Constant)]
            if ast.unparse(node.func) == "np.pad":  # its mode has a default since 1.17
                assert len(node.args) > 2 or any(word.arg == "mode" for word in words), ast.unparse(node)
    assert not {word for word in found if word in NEWER}


def test_vermin_says_3_6() -> None:
    pytest.importorskip("vermin")
    done = subprocess.run(
        [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.6-", "--no-tips", "--violations", str(EDGE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(EDGE).as_posix())
def test_imports_stand_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(path.relative_to(EDGE).parts)
            names = [] if node.level else [node.module or ""]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or top == "numpy" or top in OPTIONAL, f"{path.name} imports {name}"


def test_importing_loads_no_heavy_package() -> None:
    heavy = ("torch", "ultralytics", "onnxruntime")
    code = f"import sys, yolo_musgd.edge.bench; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPO)}
    )
    assert done.stdout.strip() == "[]"


def test_runs_on_a_real_python_3_6(tmp_path: Path) -> None:
    python = shutil.which("python3.6")
    numpy_there = python and subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False)
    if not python or not numpy_there or numpy_there.returncode != 0:
        pytest.skip("no python3.6 with numpy here; vermin and the parser hold the syntax")
    from yolo_musgd.export.bundle import build_pyz

    pyz = build_pyz(tmp_path / "edge.pyz")
    done = subprocess.run([python, str(pyz), "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
