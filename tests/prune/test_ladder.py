"""Tables of times that stand between two cuts, and files that are no table."""

import json

import pytest

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune.search import flops_for


def report(folder, name, p50, **model):
    folder.mkdir(exist_ok=True)
    content = {
        "schema": "yolo-musgd/bench/1", "label": None, "settings": {"model": f"models/{name}"},
        "model": {"file": model.get("file", name)}, "runs": [{"latency_ms": {"infer": {"p50": p50}}}],
    }  # fmt: skip
    (folder / "bench.json").write_text(json.dumps(content))
    return str(folder)


def test_between_two_cuts_the_time_is_interpolated(tmp_path):
    reports = [
        report(tmp_path / "a", "flops-1.000.onnx", 100.0),
        report(tmp_path / "b", "flops-0.800.onnx", 90.0, file="model.onnx"),  # an artifact: the path says which
        report(tmp_path / "c", "flops-0.600.onnx", 60.0),
    ]
    assert flops_for(reports, 0.75) == pytest.approx(0.7)
    assert flops_for(reports, 0.95) == pytest.approx(0.9)
    assert flops_for([*reports[:2], reports[2] + "/bench.json"], 0.6) == pytest.approx(0.6)
    with pytest.raises(UserError, match="below the fastest"):
        flops_for(reports, 0.5)


def test_what_is_no_table_is_said_so(tmp_path):
    base = report(tmp_path / "a", "flops-1.000.onnx", 100.0)
    with pytest.raises(UserError, match="at least one cut"):
        flops_for([base], 0.7)
    with pytest.raises(UserError, match="ladder=True"):
        flops_for([base, report(tmp_path / "b", "best.onnx", 50.0)], 0.7)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bench.json").write_text("{}")
    with pytest.raises(UserError, match="not a bench report"):
        flops_for([base, str(tmp_path / "c")], 0.7)
