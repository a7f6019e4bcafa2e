"""Paths and files that no command of this package can use: one line, exit code 2, nothing left (all of export/)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from detectors import detector

from yolo_musgd.cli import main
from yolo_musgd.export.bundle import make_bundle
from yolo_musgd.export.command import export_model
from yolo_musgd.export.settings import ExportSettings

LONG = "x" * 300


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    detector(Path("best.onnx"))
    Path("nest.json").write_text("[" * 100_000)
    Path("bytes.json").write_bytes(b'{"schema": "\xff"}')
    Path("odd.json").write_text('{"schema": "yolo-musgd/bench/2", "runs": 3}')
    Path("cut.onnx").write_bytes(b"\x08\x01")
    os.mkfifo("pipe.json")
    os.mkfifo("pipe.onnx")
    Path("loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        f"bundle model={LONG}",
        f"bundle model=best.onnx project={LONG}",
        f"bundle model=best.onnx project=a/{LONG}/b",
        f"bundle model=best.onnx samples={LONG}",
        f"bundle model=best.onnx name={LONG}",
        "bundle model=best.onnx project=loop",
        "bundle model=best.onnx samples=a\0b",
        "bundle model=a\0b",
        "bundle model=cut.onnx",
        "bundle model=pipe.onnx",
        "bundle model=/dev/zero",
        f"export model={LONG}.pt",
        f"export model=best.pt project={LONG}",
        "export model=best.pt name=../out",
        "export model=a\0.pt",
        f"quantize-ncnn model={LONG} source=.",
        f"quantize-ncnn model=. source={LONG}",
        "quantize-ncnn model=. source=best.onnx",
        f"compare-bench {LONG}",
        "compare-bench a\0b",
        "compare-bench nest.json",
        "compare-bench bytes.json",
        "compare-bench odd.json",
        "compare-bench pipe.json",
        "compare-bench /dev/zero",
        "compare-bench best.onnx",
        "compare-bench .",
    ],
)
def test_one_line(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in here.iterdir()}
    assert main(words.split(" ")) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("yolo-musgd: ")
    assert "\n" not in error
    made = {path.name for path in here.iterdir()} - before
    assert not [path for name in made for path in (here / name).rglob("*") if path.is_file()]


def test_a_file_name_stays_a_name_in_what_people_read(random_checkpoint: Path, tmp_path: Path) -> None:
    """It holds what Markdown, HTML, a formula and a shell would each take for their own."""
    model = tmp_path / "<script>a|b $x_{$ c; touch hit.pt"
    model.write_bytes(random_checkpoint.read_bytes())
    settings = ExportSettings(
        model=str(model), target="jetson-nano", imgsz=64, project=str(tmp_path / "out"), lint=False
    )
    result = export_model(settings)
    report = (result.folder / "report.md").read_text()
    readme = (result.artifacts[0].folder / "README.md").read_text()
    for title in (report.splitlines()[0], readme.splitlines()[0]):
        assert title.startswith(r"# &lt;script>a\|b \$x_{\$ c; touch hit")
    for line in (line for line in readme.splitlines() if " model=" in line or "'model=" in line):
        words = shlex.split(line, comments=True)
        assert [word for word in words if word.startswith("model=")]
        assert "touch" not in words
    bundle = tmp_path / "bundle"
    make_bundle(str(result.artifacts[0].folder), "jetson-nano", bundle)
    assert (bundle / "README.md").read_text().startswith("# model.onnx on ")
