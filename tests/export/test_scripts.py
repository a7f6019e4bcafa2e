"""The scripts of the folder export/, as people run them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_to_jetson_nano_packs_a_bundle(run, random_checkpoint: Path, tmp_path: Path) -> None:
    script = ROOT / "export" / "to_jetson_nano.py"
    done = run("python", script, f"model={random_checkpoint}", "imgsz=64", "lint=False", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "runs" / "export" / "exp" / "edge-jetson-nano-tensorrt.tar.gz"
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"edge.pyz", "run.sh", "README.md", "model/model.onnx", "model/manifest.json"} <= names


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("to_jetson_nano.py", ["precision=int8"], "sm_53"),
        ("to_raspberry_pi.py", ["model=nowhere.pt"], "does not exist"),
        ("to_raspberry_pi.py", ["modle=best.pt"], "did you mean model"),
    ],
)
def test_bad_words(script: str, words: list[str], message: str, run, tmp_path: Path) -> None:
    done = run("python", ROOT / "export" / script, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
