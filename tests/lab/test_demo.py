"""The demonstrations come out as the source says, and land in a folder."""

from __future__ import annotations

import json

import pytest
import torch

from yolo_musgd.lab.demo import correlated_data, loss_curves, main, newton_schulz_table
from yolo_musgd.settings import SettingsError


def test_table_holds_the_sources_row():
    rows = {(r.method, r.steps, r.precision): r for r in newton_schulz_table()}
    row = rows["quintic", 3, "float32"]
    assert row.frobenius == pytest.approx(2.37, abs=0.02)
    assert row.cosine == pytest.approx(0.993, abs=0.001)
    assert (row.lowest, row.highest) == (pytest.approx(0.752, abs=0.005), pytest.approx(1.202, abs=0.005))
    assert row.mean == pytest.approx(1.077, abs=0.002)


def test_both_optimizers_start_alike_and_learn():
    curves = loss_curves(steps=200)
    sgd, hybrid = curves["SGD"], curves["Muon + SGD"]
    assert sgd[0] == hybrid[0]
    assert sgd[-1] < 0.2 * sgd[0]
    assert hybrid[-1] < sgd[-1]


def test_inputs_are_correlated():
    x, y = correlated_data(0)
    assert x.shape == (512, 2)
    assert y.shape == (512, 1)
    assert float(torch.corrcoef(x.T)[0, 1]) > 0.9


def test_results_are_written_and_folders_count_up(tmp_path, capsys):
    for folder in ("exp", "exp2"):
        assert main({"project": str(tmp_path), "steps": "5"}).code == 0
        files = {p.name for p in (tmp_path / folder).iterdir()}
        assert files == {"demo.json", "demo.md", "newton_schulz.png", "loss.png"}
    record = json.loads((tmp_path / "exp" / "demo.json").read_text())
    assert len(record["loss"]["SGD"]) == 5
    assert "2-16-1 network" in capsys.readouterr().out


def test_errors_name_the_argument(tmp_path):
    with pytest.raises(SettingsError, match="unknown argument 'step'; did you mean steps"):
        main({"step": "5"})
    with pytest.raises(SettingsError, match="steps must be a whole number, got 'many'"):
        main({"steps": "many"})
    with pytest.raises(SettingsError, match="pictures must be True or False, got 'yes'"):
        main({"pictures": "yes"})
