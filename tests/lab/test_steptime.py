"""The step-time table: what it measures, and that it says None rather than guess.

Covers lab/contenders.py too.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab import contenders as table
from yolo_musgd.lab import steptime
from yolo_musgd.lab.clock import device_name, launches, transient_bytes, warm_up
from yolo_musgd.lab.contenders import contenders, ultralytics_groups
from yolo_musgd.lab.settings import STEPS
from yolo_musgd.lab.steptime import (
    main,
    measure,
    state_bytes,
    to_markdown,
)


def test_rows_hold_ratios_of_medians_and_memory_in_parameters():
    names = ["torch SGD foreach", "torch AdamW fused", "MuonSGD", "MuSGD-native"]
    rows = {r.optimizer: r for r in measure("yolo26n", names, steps=2, imgsz=64, batch=1)}
    assert list(rows) == names
    for row in rows.values():
        assert 0 < row.share_of_iteration < 1
        assert row.launches is None or row.launches > 3
    native, ours = rows["MuSGD-native"], rows["MuonSGD"]
    assert ours.vs_native == pytest.approx(ours.median_ms / native.median_ms)
    assert rows["torch SGD foreach"].vs_sgd == 1.0
    assert rows["torch AdamW fused"].state_per_parameter == pytest.approx(2, abs=0.01)
    assert ours.state_per_parameter == pytest.approx(1, abs=0.01)
    if ours.transient_per_parameter is not None:
        assert ours.transient_per_parameter <= 0.5


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    assert "pytorch_optimizer Muon" not in contenders()
    assert "MuonSGD" in contenders()


def test_transient_memory_is_what_a_step_holds():
    class Step(torch.optim.SGD):
        def step(self, closure=None):
            first = torch.empty(1000)
            second = torch.empty(3000)
            del first, second
            torch.empty(2000).fill_(0)

    optimizer = Step([nn.Parameter(torch.zeros(2))], lr=1.0)
    assert transient_bytes(optimizer.step, "cpu") in (None, 16000)
    assert transient_bytes(optimizer.step, "mps") is None


def test_launches_are_the_operators_that_a_step_calls():
    class Step(torch.optim.SGD):
        def step(self, closure=None):
            return torch.zeros(3).add_(1).mul_(2)  # zeros() calls further operators, which are not counted

    optimizer = Step([nn.Parameter(torch.zeros(2))], lr=1.0)
    assert launches(optimizer.step, "cpu") in (None, 3)


def test_devices_are_named_as_ultralytics_names_them():
    assert [device_name(x) for x in ("0", "cuda:1", "cpu")] == ["cuda:0", "cuda:1", "cpu"]
    assert warm_up("cuda:1") > warm_up("cpu")


def test_state_counts_every_tensor():
    p = nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.Adam([p])
    p.grad = torch.ones(10)
    optimizer.step()
    assert state_bytes(optimizer) == 2 * 40 + 4


def test_groups_are_ultralytics(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = ultralytics_groups(model)
    assert [g["param_group"] for g in groups] == ["weight", "bn", "bias"]
    assert [len(g["params"]) for g in groups] == [1, 1, 2]


def test_command_prints_and_writes(tmp_path, capsys):
    args = {"optimizers": "torch SGD fused,MuSGD", "steps": "1", "imgsz": "64", "project": str(tmp_path)}
    assert main(args).code == 0
    record = json.loads((tmp_path / "exp" / "steptime.json").read_text())
    assert [r["optimizer"] for r in record["rows"]] == ["torch SGD fused", "MuSGD"]
    assert record["rows"][0]["vs_native"] is None
    assert record["machine"]["threads"] == 1
    assert (tmp_path / "exp" / "steptime.md").read_text() in capsys.readouterr().out
    assert main({"plan": "True", "imgsz": "64", "project": str(tmp_path)}) == 0
    assert "256 x 384" in capsys.readouterr().out
    assert not (tmp_path / "exp2").exists()


def test_markdown_leaves_unknown_cells_empty():
    text = to_markdown([steptime.StepTime("m", "o", 1.0, 0.9, None, None, 1.0, None)])
    assert "| m | o | 1.00 | 0.90 |  |  | 1.000 |  |\n" in text
    row = steptime.StepTime("m", "o", 1.0, 0.9, None, None, 1.0, None, 12, 0.034)
    assert "|  | 12 | 3.4% |\n" in to_markdown([row])


def test_the_names_that_are_checked_early_are_the_tables():
    installed = list(contenders())
    assert installed == [name for name in STEPS if name in installed]


def test_unknown_optimizer():
    with pytest.raises(UserError, match=r"optimizers must be among .*MuonSGD.*, got 'Adam'"):
        main({"optimizers": "Adam"})


@pytest.mark.parametrize("plan", ["False", "True"])
def test_unknown_model(tmp_path, plan):
    with pytest.raises(UserError, match=r"models=yolo99n.*not a model of this Ultralytics"):
        main({"models": "yolo99n", "plan": plan, "project": str(tmp_path)})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "imgsz", "message"),
    [
        ("yolo26n", 100, "imgsz must be a multiple of 32, got 100"),
        ("yolo11n-seg", 64, "models=yolo11n-seg cannot be timed, only detectors can: KeyError: 'masks'"),
        ("rtdetr-l", 64, "models=rtdetr-l cannot be timed"),
    ],
)
def test_what_has_no_gradients_here_is_one_line(name, imgsz, message):
    with pytest.raises(UserError, match=message):
        steptime.real_gradients(name, imgsz, 1)
