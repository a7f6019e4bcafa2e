"""Telemetry: what is recorded, when, at which cost, and what a full disk does to it.

Covers records.py, settings.py and optimizer_plots.py.
"""

import contextlib
import functools
import gzip
import signal

import numpy as np
import pytest
import torch

from yolo_musgd.optim import musgd
from yolo_musgd.optim.muon import MuonAdamW
from yolo_musgd.settings import SettingsError
from yolo_musgd.train.optimizer_plots import plot_entropy, plot_layers, plot_steps
from yolo_musgd.train.records import ENTROPY_FILE, LAYERS_FILE, STEPS_FILE, read_steps, read_values
from yolo_musgd.train.telemetry import Monitor, grad_norm

MuSGD = functools.partial(musgd.MuSGD, orthogonalize=False)


def make(tmp_path, optimizer=MuSGD, layers=False, **kwargs):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    optimizer = optimizer(model.parameters(), lr=0.1, momentum=0.9, **kwargs)
    return model, optimizer, Monitor(tmp_path, model, optimizer, layers=layers)


def one_step(model, optimizer, monitor, scale=1.0, clip=None, unscale=1.0, call_step=True):
    for p in model.parameters():
        p.grad = torch.full_like(p, scale)
    with monitor.step():
        for p in model.parameters():  # what GradScaler.unscale_ does
            p.grad /= unscale
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if call_step:
            optimizer.step()


def test_grad_norm_is_over_all_parameters(tmp_path):
    model, optimizer, _ = make(tmp_path)
    assert grad_norm(optimizer) == 0
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    count = sum(p.numel() for p in model.parameters())
    assert float(grad_norm(optimizer)) == pytest.approx(2.0 * count**0.5)


def test_raw_and_clipped_norm_and_beta(tmp_path):
    model, optimizer, monitor = make(tmp_path, adapt_factor=0.1)
    norm = sum(p.numel() for p in model.parameters()) ** 0.5
    for _ in range(3):
        one_step(model, optimizer, monitor, clip=1.0)
    summary = monitor.end_epoch(1)
    assert summary["optim/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert summary["optim/grad_norm_clipped"] == pytest.approx(1.0, rel=1e-4)
    shares = [p.numel() / norm**2 for p in model.parameters()]  # of the clipped squared norm
    betas = sorted(0.9 / (1 + 0.1 * s) for s in shares)
    assert summary["optim/beta_t"] == pytest.approx(np.mean(betas), abs=2e-6)
    assert summary["optim/beta_t_min"] == pytest.approx(betas[0], abs=2e-6)
    assert summary["optim/beta_t_max"] == pytest.approx(betas[-1], abs=2e-6)
    assert summary["optim/beta_t_p10"] == pytest.approx(np.quantile(betas, 0.1), abs=2e-6)
    assert summary["optim/beta_t_p90"] == pytest.approx(np.quantile(betas, 0.9), abs=2e-6)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_scaled_gradients_are_reported_unscaled(tmp_path, clip):
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor, unscale=4.0, clip=clip)
    norm = sum(p.numel() for p in model.parameters()) ** 0.5
    assert monitor.end_epoch(1)["optim/grad_norm"] == pytest.approx(norm / 4, rel=1e-4)


@pytest.mark.parametrize("rule", [{}, {"norm_source": "decayed", "weight_decay": 0.1}, {"norm_scope": "global"}])
@pytest.mark.parametrize("optimizer", [MuSGD, musgd.MuSGD, MuonAdamW])
def test_norms_are_computed_once_and_are_those_of_the_gradients(tmp_path, monkeypatch, optimizer, rule):
    """The optimizer's own total after clipping, the trainer's own before it."""
    if optimizer is MuonAdamW:
        rule = {}
    model, optimizer, monitor = make(tmp_path, optimizer, **rule)
    monkeypatch.setattr("yolo_musgd.train.telemetry.grad_norm", lambda optimizer: pytest.fail("computed once more"))
    clip = torch.nn.utils.clip_grad_norm_
    norm = sum(p.numel() for p in model.parameters()) ** 0.5
    one_step(model, optimizer, monitor, scale=5.0, clip=2.0)
    one_step(model, optimizer, monitor, scale=0.01, clip=2.0)
    assert torch.nn.utils.clip_grad_norm_ is clip
    monitor.end_epoch(1)
    steps = read_steps(tmp_path / STEPS_FILE)
    assert steps["grad_norm"].tolist() == pytest.approx([5 * norm, 0.01 * norm], rel=1e-5)
    assert steps["grad_norm_clipped"].tolist() == pytest.approx([2.0, 0.01 * norm], rel=1e-5)


def test_a_step_that_the_scaler_left_out_has_no_beta(tmp_path):
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor)
    one_step(model, optimizer, monitor, scale=float("inf"), call_step=False)
    monitor.end_epoch(1)
    steps = read_steps(tmp_path / STEPS_FILE)
    assert np.isfinite(steps["beta_t"]).tolist() == [True, False]
    assert np.isfinite(steps["grad_norm"]).tolist() == [True, False]


def test_skipped_steps_are_counted(tmp_path):
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor)
    one_step(model, optimizer, monitor, scale=float("nan"))
    summary = monitor.end_epoch(1)
    assert summary["optim/skipped_steps"] == 1
    assert np.isfinite(summary["optim/grad_norm"])


def test_columns_stay_the_same_when_no_step_of_the_first_epoch_was_finite(tmp_path):
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor, scale=float("nan"))
    first = monitor.end_epoch(1)
    one_step(model, optimizer, monitor)
    second = monitor.end_epoch(2)
    assert list(first) == list(second)
    assert np.isnan(first["optim/beta_t"])
    assert np.isfinite(second["optim/beta_t"])
    assert "optim/update_rms" not in second


def test_any_optimizer_has_norms_and_no_invented_beta(tmp_path):
    model, optimizer, monitor = make(tmp_path, optimizer=torch.optim.SGD)
    one_step(model, optimizer, monitor)
    summary = monitor.end_epoch(1)
    assert summary["optim/grad_norm"] > 0
    assert "optim/beta_t" not in summary
    assert plot_steps(tmp_path, "SGD").exists()


def test_the_optimizer_that_a_callback_of_the_user_puts_in_place_is_recorded(tiny_data, tmp_path):
    """Its norms, under its name and in the columns that the run began with; it was "clipped in 0% of the steps"."""
    from ultralytics import YOLO

    def replace(trainer):
        if trainer.epoch == 1:
            trainer.optimizer = torch.optim.SGD(trainer.optimizer.param_groups, lr=0.01)

    model = YOLO("yolo26n.yaml")
    model.add_callback("on_train_epoch_start", replace)
    model.train(
        data=str(tiny_data), epochs=2, imgsz=64, batch=8, nbs=8, workers=0, device="cpu", amp=False, plots=False,
        project=str(tmp_path), name="run", optimizer="MuSGD",
    )  # fmt: skip
    steps = read_steps(tmp_path / "run" / STEPS_FILE)
    assert np.isfinite(steps["grad_norm_clipped"]).all()
    assert np.isfinite(steps["beta_t"]).tolist() == [True, True, False, False]
    rows = [line.split(",") for line in (tmp_path / "run" / "results.csv").read_text().splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert "optim/beta_t" in rows[0]
    assert model.trainer._monitor.findings()[0].startswith("SGD: gradient norm")


def test_the_step_file_survives_an_interruption_and_a_resume(tmp_path):
    model, optimizer, monitor = make(tmp_path)
    for epoch in (1, 2):
        one_step(model, optimizer, monitor)
        monitor.end_epoch(epoch)
    again = Monitor(tmp_path, model, optimizer)  # resumed from the checkpoint of epoch 1: epoch 2 comes once more
    for epoch in (2, 3):
        one_step(model, optimizer, again, scale=5.0)
        again.end_epoch(epoch)
    steps = read_steps(tmp_path / STEPS_FILE)
    assert steps["epoch"].tolist() == [1, 2, 3]
    assert steps["step"].tolist() == [1, 2, 3]
    assert steps["grad_norm"][1] == pytest.approx(5 * steps["grad_norm"][0], rel=1e-4)
    with gzip.open(tmp_path / STEPS_FILE, "rt") as text:
        assert text.readline().startswith("epoch,step,grad_norm,")


def test_skipped_steps_of_a_resumed_run_are_summed_up(tmp_path):
    for epoch, scales in enumerate([(float("nan"), 1.0, float("inf")), (1.0, float("nan")), (1.0, 1.0)], 1):
        model, optimizer, monitor = make(tmp_path)  # a new process counts from 0
        for scale in scales:
            one_step(model, optimizer, monitor, scale=scale)
        monitor.end_epoch(epoch)
    assert "3 steps skipped" in monitor.findings()[0]


def test_an_epoch_without_a_step_keeps_the_columns(tmp_path):
    """Gradients may be accumulated over more than an epoch."""
    model, optimizer, monitor = make(tmp_path)
    first = monitor.end_epoch(1)
    one_step(model, optimizer, monitor)
    second = monitor.end_epoch(2)
    assert list(first) == list(second)
    assert np.isnan(first["optim/grad_norm"])
    assert first["optim/skipped_steps"] == 0


def test_a_step_file_cut_short_by_a_power_cut(tmp_path):
    model, optimizer, monitor = make(tmp_path)
    for epoch in (1, 2):
        one_step(model, optimizer, monitor)
        monitor.end_epoch(epoch)
    file = tmp_path / STEPS_FILE
    file.write_bytes(file.read_bytes()[:-20])
    assert read_steps(file)["epoch"].tolist() == [1]
    again = Monitor(tmp_path, model, optimizer)
    one_step(model, optimizer, again)
    again.end_epoch(2)
    assert read_steps(file)["step"].tolist() == [1, 2]


def test_columns_of_another_release_are_kept_aside(tmp_path):
    with gzip.open(tmp_path / STEPS_FILE, "wt") as out:
        out.write("epoch,step,grad_norm\n1,1,5\n")
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor)
    monitor.end_epoch(2)
    assert read_steps(tmp_path / STEPS_FILE)["epoch"].tolist() == [2]
    assert (tmp_path / f"old_{STEPS_FILE}").exists()


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    model, optimizer, monitor = make(tmp_path)
    one_step(model, optimizer, monitor)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yolo_musgd.train.telemetry.append_steps", full)
    assert monitor.end_epoch(1)["optim/grad_norm"] > 0


@contextlib.contextmanager
def no_room_beyond(size):
    """No file of this process may grow beyond ``size`` bytes, as on a disk that is full for a while."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("full", [1, 2], ids=["from the first byte", "in the middle of an epoch"])
def test_what_comes_after_a_full_disk_is_recorded(tmp_path, full):
    model, optimizer, monitor = make(tmp_path, layers=True, adapt_factor=1.0)
    for epoch in (1, 2, 3):
        for _ in range(3):
            one_step(model, optimizer, monitor, scale=1.0 / epoch)
        size = (tmp_path / STEPS_FILE).stat().st_size if epoch > 1 else -20
        with no_room_beyond(size + 20) if epoch == full else contextlib.nullcontext():
            monitor.end_epoch(epoch)
    kept = [epoch for epoch in (1, 2, 3) if epoch != full]
    assert read_steps(tmp_path / STEPS_FILE)["epoch"].tolist() == [e for e in kept for _ in range(3)]
    assert monitor.findings()[0].startswith("MuSGD: gradient norm")
    layers = read_values(tmp_path / LAYERS_FILE)
    assert list(layers["1.bias"]) == kept
    assert layers["1.bias"][3] == pytest.approx(0.9 / (1 + 2 / 9), rel=1e-5), "an epoch's own steps alone"


def test_a_second_run_into_the_same_folder_begins_anew(tmp_path):
    for _ in range(2):
        model, optimizer, monitor = make(tmp_path, layers=True)
        one_step(model, optimizer, monitor)
        monitor.end_epoch(1)
    assert len((tmp_path / "optimizer_layers.csv").read_text().splitlines()) == 1 + 4
    assert read_steps(tmp_path / STEPS_FILE)["step"].tolist() == [1]


def test_layers(tmp_path):
    model, optimizer, monitor = make(tmp_path, layers=True, adapt_factor=1.0)
    model[0].bias.requires_grad_(False)
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    with monitor.step():
        optimizer.step()
    monitor.end_epoch(1)
    lines = (tmp_path / "optimizer_layers.csv").read_text().splitlines()
    values = {line.split(",")[1]: float(line.split(",")[2]) for line in lines[1:]}
    assert values == {
        "0.weight": pytest.approx(0.9 / 13, rel=1e-5),
        "1.weight": pytest.approx(0.9 / 7, rel=1e-5),
        "1.bias": pytest.approx(0.9 / 3, rel=1e-5),
    }
    assert plot_layers(tmp_path).exists()


def test_layers_of_a_hybrid_are_those_that_have_a_beta(tmp_path):
    from yolo_musgd.optim.muon import MuonSGD
    from yolo_musgd.optim.settings import MuSGDSettings

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    optimizer = MuonSGD(model.parameters(), rest=MuSGDSettings(adapt_factor=1.0), exclude=[model[1].weight])
    monitor = Monitor(tmp_path, model, optimizer, layers=True)
    one_step(model, optimizer, monitor)
    monitor.end_epoch(1)
    lines = (tmp_path / "optimizer_layers.csv").read_text().splitlines()[1:]
    values = {line.split(",")[1]: float(line.split(",")[2]) for line in lines}
    want = {"0.bias": 8, "1.weight": 32, "1.bias": 4}  # squared norm of ones
    assert values == {k: pytest.approx(0.9 / (1 + n), rel=1e-5) for k, n in want.items()}


def test_nothing_recorded_draws_nothing(tmp_path):
    assert plot_steps(tmp_path, "MuSGD") is None
    make(tmp_path)[2].end_epoch(1)
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_is_thinned(tmp_path):
    rows = "epoch,step,grad_norm,grad_norm_clipped,beta_t,beta_t_min,beta_t_max,beta_t_p10,beta_t_p90,skipped_steps\n"
    rows += "".join(f"{1 + i // 50},{i + 1},{1 + i % 7},1,0.8,0.5,0.9,0.7,0.9,0\n" for i in range(15000))
    with gzip.open(tmp_path / STEPS_FILE, "wt") as out:
        out.write(rows)
    assert plot_steps(tmp_path, "MuSGD").stat().st_size < 1_000_000


def test_recording_a_step_does_not_wait_for_a_gpu(tmp_path, fake_gpu):
    """Fake CUDA tensors have no values: whatever needed one on the host would raise."""
    with fake_gpu():
        model = torch.nn.Linear(4, 3, device="cuda")
        optimizer = MuSGD(model.parameters())
        monitor = Monitor(tmp_path, model, optimizer, layers=True)
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.empty_like(p)
            with monitor.step():
                optimizer.step()
    assert len(monitor._rows) == 2
    assert {row.device.type for row in monitor._rows} == {"cuda"}


def test_entropy_of_chosen_layers(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))  # all singular values alike
        model[1].weight.copy_(torch.ones(4, 4))  # rank one
    optimizer = MuSGD(model.parameters(), lr=0.0)
    monitor = Monitor(tmp_path, model, optimizer, entropy=["0", "1.weight"])
    one_step(model, optimizer, monitor)
    monitor.end_epoch(1)
    lines = (tmp_path / "optimizer_entropy.csv").read_text().splitlines()
    assert lines[0] == "epoch,layer,entropy"
    values = {line.split(",")[1]: float(line.split(",")[2]) for line in lines[1:]}
    assert values == {"0.weight": pytest.approx(1.0, abs=1e-5), "1.weight": pytest.approx(0.0, abs=1e-5)}
    assert plot_entropy(tmp_path).exists()
    with pytest.raises(SettingsError, match=r"telemetry_entropy=backbone names no matrix of the model"):
        Monitor(tmp_path, model, optimizer, entropy=["backbone"])


def test_entropy_of_weights_that_are_not_finite(tmp_path):
    """Any optimizer may be watched, and Ultralytics goes on after a first epoch that ended in NaN."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    for layer, value in ((model[0], float("nan")), (model[1], float("inf"))):
        torch.nn.init.constant_(layer.weight[:1], value)
    monitor = Monitor(tmp_path, model, MuSGD(model.parameters()), entropy=["all"])
    monitor.end_epoch(1)
    values = {name: epochs[1] for name, epochs in read_values(tmp_path / ENTROPY_FILE).items()}
    assert [name for name, value in values.items() if np.isnan(value)] == ["0.weight", "1.weight"]
    assert 0 < values["2.weight"] <= 1
    assert plot_entropy(tmp_path).exists()


class Distillation(torch.nn.Module):
    """Named as Ultralytics' own, which also comes with its teacher first."""

    def __init__(self, student):
        super().__init__()
        self.teacher_model = torch.nn.Sequential(torch.nn.Linear(4, 3))
        self.student_model = student
        self.projector = torch.nn.Linear(3, 3)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.compile, Distillation])
def test_layers_of_a_wrapped_model_have_their_own_names(tmp_path, wrap):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    optimizer = MuSGD(model.parameters())
    monitor = Monitor(tmp_path, wrap(model), optimizer, layers=True, entropy=["1"])
    one_step(model, optimizer, monitor)
    monitor.end_epoch(1)
    assert set(read_values(tmp_path / LAYERS_FILE)) == {n for n, _ in model.named_parameters()}
    assert list(read_values(tmp_path / ENTROPY_FILE)) == ["1.weight"]


def test_entropy_of_all_layers_leaves_out_the_teacher(tmp_path):
    model = Distillation(torch.nn.Sequential(torch.nn.Linear(4, 3)))
    Monitor(tmp_path, model, MuSGD(model.parameters()), entropy=["all"]).end_epoch(1)
    assert list(read_values(tmp_path / ENTROPY_FILE)) == ["0.weight", "projector.weight"]


def test_update_rms_of_muon_is_reported(tmp_path):
    from yolo_musgd.optim.muon import MuonSGD

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    optimizer = MuonSGD(model.parameters(), lr=0.1)
    monitor = Monitor(tmp_path, model, optimizer)
    before = [layer.weight.detach().clone() for layer in model]
    torch.manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    with monitor.step():
        optimizer.step()
    moved = [(layer.weight.detach() - b).square().mean().sqrt().item() for layer, b in zip(model, before, strict=True)]
    assert monitor.end_epoch(1)["optim/update_rms"] == pytest.approx(np.mean(moved), rel=1e-2)
