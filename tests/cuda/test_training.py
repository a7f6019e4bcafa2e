"""A whole run of ``yolo train`` on a device: AMP, channels_last, telemetry, a resume."""

from __future__ import annotations

import csv
import math

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("optimizer", ["MuSGD", "MuonAdamW"])
def test_a_run_trains_records_and_resumes(place, run, tiny_data, train_words, tmp_path, optimizer):
    device = "0" if place.device == "cuda" else "cpu"
    words = [w for w in train_words if not w.startswith(("device", "amp"))]
    done = run(
        "yolo", "train", f"optimizer={optimizer}", *words, f"device={device}", "amp=True", f"data={tiny_data}",
        "epochs=2", "save_period=1", "plots=False", f"project={tmp_path}", "name=r",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "r" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)
    assert float(rows[-1]["optim/grad_norm"]) > 0
    middle = tmp_path / "r" / "weights" / "epoch0.pt"
    saved = torch.load(middle, map_location="cpu", weights_only=False)
    assert all(p.is_contiguous() for p in saved["ema"].parameters())
    done = run("yolo", "train", "resume=True", f"model={middle}", f"device={device}")
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "r" / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)][-1] == "2"
