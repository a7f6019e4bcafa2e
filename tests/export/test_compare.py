"""compare-bench: reports of several boards side by side."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.cli import main as command
from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.compare import load, pareto, rows_of


def bench(
    board: str, sha: str, p50: float, joules: float | None = None, graph: dict[str, int] | None = None, **model: Any
) -> dict[str, Any]:
    summary = {
        "n": 9,
        "mean": p50,
        "std": 0.0,
        "min": p50,
        "p50": p50,
        "p90": p50,
        "p95": p50,
        "p99": p50 * 2,
        "max": p50 * 3,
    }
    return {
        "schema": "yolo-musgd/bench/2",
        "label": board,
        "board": {"board": "x"},
        "model": {"file": "m.onnx", "sha256": sha, "precision": "fp32", "imgsz": [320, 320], "map50_95": None, **model},
        "runs": [
            {
                "runtime": {"name": "ncnn", "version": "1", "threads": 4, "graph": graph},
                "latency_ms": {"total": summary, "infer": summary},
                "fps": {"end_to_end": 1000 / p50, "inference_only": 1000 / p50},
                "power": {"mean_w": None, "net_j_per_frame": joules, "gross_j_per_frame": None},
                "throttled": [],
                "partial": False,
            }
        ],
    }


def val(sha: str, runtime: str, value: float) -> dict[str, Any]:
    return {
        "schema": "yolo-musgd/val/1",
        "partial": False,
        "model": {"sha256": sha},
        "runtime": {"name": runtime},
        "result": {"map50_95": value, "images": 128},
    }


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto(points)

    def beaten(k: int) -> bool:
        return any(c <= points[k][0] and v >= points[k][1] and (c, v) != points[k] for c, v in points)

    assert {points[k] for k in front} == {points[k] for k in range(len(points)) if not beaten(k)}
    assert len({points[k] for k in front}) == len(front)


def test_map_comes_from_the_same_runtime_first() -> None:
    report = bench("pi", "a", 50.0, map50_95={"fp32": 0.30})
    vals = [val("a", "onnxruntime", 0.36), val("a", "ncnn", 0.35), val("b", "ncnn", 0.9)]
    assert rows_of([report], vals)[0].map50_95 == 0.35
    assert rows_of([report], vals[:1])[0].map_from == "val, onnxruntime, 128 images"
    assert rows_of([report], [])[0][13:15] == (0.30, "the artifact")
    assert rows_of([bench("pi", "a", 50.0)], [])[0].map50_95 is None


def test_map_is_of_the_same_size_of_input() -> None:
    """One ONNX file with dynamic sides is one sha256 at every size."""
    small, large = val("a", "ncnn", 0.30), val("a", "ncnn", 0.40)
    small["model"]["imgsz"], large["model"]["imgsz"] = [320, 320], [640, 640]
    reports = [bench("pi", "a", 50.0), bench("pi", "a", 90.0, imgsz=[640, 640]), bench("pi", "a", 9.0, imgsz=[64, 64])]
    assert [row.map50_95 for row in rows_of(reports, [large, small])] == [None, 0.30, 0.40]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = {
        "a": bench("nano", "a", 40.0, 0.30), "b": bench("pi5", "b", 60.0, 0.45), "c": bench("pi4", "c", 300.0, 1.2),
        "va": val("a", "ncnn", 0.35), "vb": val("b", "ncnn", 0.38), "vc": val("c", "ncnn", 0.36),
    }  # fmt: skip
    paths = []
    for name, content in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        paths.append(str(tmp_path / f"{name}.json"))
    assert command(["compare-bench", *paths, f"project={tmp_path}/out"]) == 0
    table = capsys.readouterr().out
    assert "**nano**" in table
    assert "**pi5**" in table
    assert "**pi4**" not in table  # slower and less accurate than the Pi 5
    folder = tmp_path / "out" / "compare-bench"
    assert (folder / "compare.png").stat().st_size > 10_000
    assert len(json.loads((folder / "compare.json").read_text())["rows"]) == 3
    assert command(["compare-bench", *paths[:3], f"project={tmp_path}/out", "name=bars"]) == 0
    assert (tmp_path / "out" / "bars" / "compare.png").exists()


def test_a_report_may_lie_in_a_folder_with_an_equals_sign(tmp_path: Path) -> None:
    report = tmp_path / "imgsz=640" / "a.json"
    report.parent.mkdir()
    report.write_text(json.dumps(bench("pi", "a", 5.0)))
    assert command(["compare-bench", str(report), f"project={tmp_path}/out"]) == 0
    assert (tmp_path / "out" / "compare-bench" / "compare.json").is_file()


def test_reports_of_the_first_version_are_read(tmp_path: Path) -> None:
    old = bench("pi", "a", 5.0)
    old["schema"] = "yolo-musgd/bench/1"
    del old["runs"][0]["runtime"]["graph"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    new = bench("pi5", "a", 4.0, graph={"convolutions": 102, "convolutions_int8": 96})
    assert [row.int8_convolutions for row in rows_of([load(str(tmp_path / "old.json")), new], [])] == ["96 of 102", ""]


def test_bad_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    for text, message in (("{", "not JSON"), ("{}", "schema None"), ('{"schema": "yolo-musgd/bench/9"}', "expected")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(str(path))
    broken = copy.deepcopy(bench("pi", "a", 5.0))
    del broken["runs"][0]["power"]
    with pytest.raises(UserError, match="lacks a field"):
        rows_of([broken], [])
    assert command(["compare-bench"]) == 2
    capsys.readouterr()
    assert command(["compare-bench", str(tmp_path / "absent.json")]) == 2
    said = capsys.readouterr().err
    assert "cannot read" in said
    assert "not JSON" not in said  # it is not there at all
