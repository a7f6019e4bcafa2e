"""Layout and precision of training on a CPU: same loss, contiguous checkpoints, kept by a resume."""

from __future__ import annotations

import copy
import csv
import re

import pytest
import torch
from torch import nn

from yolo_musgd.edge.errors import UserError
from yolo_musgd.lab.steptime import real_gradients
from yolo_musgd.optim.kernel_plan import has_fast_bf16
from yolo_musgd.train import cpu, trainer
from yolo_musgd.train.settings import CpuSettings, missing_keys, plugin_keys

NHWC = torch.channels_last
fast_bf16 = pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="this CPU does not multiply in bf16")


def is_nhwc(p):
    return p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=NHWC)


@pytest.fixture(scope="module")
def yolo():
    return real_gradients("yolo26n", imgsz=64, batch=2)


def loss_of(model, imgsz=64):
    """Loss and gradients of one fixed batch."""
    model = copy.deepcopy(model)
    model.zero_grad()
    batch = {
        "img": torch.rand(2, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(1)),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.zeros(2, 1),
        "bboxes": torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.6, 0.2, 0.2]]),
    }
    loss, _ = model(batch)
    loss.sum().backward()
    return loss.sum().item(), [p.grad for p in model.parameters()]


@pytest.fixture(params=["whole", "pruned"])
def model(request, yolo):
    """As it is, and with widths that no YAML has, as `yolo-musgd prune` leaves them."""
    made = copy.deepcopy(yolo)
    if request.param == "pruned":
        layer = made.model[23].cv2[0]
        layer[0].conv, layer[0].bn = nn.Conv2d(64, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9)
        layer[1].conv = nn.Conv2d(9, 16, 3, padding=1, bias=False)
    return made


def test_channels_last_has_the_loss_and_the_gradients_of_contiguous_filters(model):
    yolo, other = model, copy.deepcopy(model)
    cpu.set_layout(other, True)
    assert any(map(is_nhwc, other.parameters()))
    (plain, grads), (nhwc, others) = loss_of(yolo), loss_of(other)
    assert nhwc == pytest.approx(plain, rel=1e-4)
    for a, b in zip(grads, others, strict=True):
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-3 * float(a.abs().max()) + 1e-6)


def test_layout_changes_in_place_and_a_checkpoint_is_contiguous(yolo):
    model = copy.deepcopy(yolo)
    held = list(model.parameters())
    values = [p.detach().clone() for p in held]
    cpu.set_layout(model, True)
    addresses = [p.data_ptr() for p in held]
    with cpu.contiguous(model):
        assert all(p.is_contiguous() for p in model.parameters())
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert any(map(is_nhwc, held))
    assert all(torch.equal(a, b) for a, b in zip(held, values, strict=True))
    with pytest.raises(ZeroDivisionError), cpu.contiguous(model):
        _ = 1 / 0
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_bf16_forward_is_on_between_start_and_stop_only(yolo):
    model = copy.deepcopy(yolo)
    plain, _ = loss_of(model)
    forward = cpu.Bf16Forward(model)
    forward.start("a trainer")
    forward.start("a trainer")  # an epoch may begin twice
    rounded, others = loss_of(model)
    forward.stop("a trainer")
    assert rounded != plain
    assert rounded == pytest.approx(plain, rel=0.02)
    assert {g.dtype for g in others if g is not None} == {torch.float32}
    assert loss_of(model)[0] == plain
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_inside_ends_the_autocast():
    class Broken(nn.Module):
        def forward(self, x):
            assert torch.is_autocast_enabled("cpu")
            raise ValueError("no")

    model = Broken()
    forward = cpu.Bf16Forward(model)
    forward.start()
    with pytest.raises(ValueError, match="no"):
        model(torch.zeros(1))
    assert not torch.is_autocast_enabled("cpu")


def test_probe_leaves_model_and_random_numbers_alone(yolo):
    before, state = copy.deepcopy(yolo.state_dict()), torch.random.get_rng_state()
    plain, nhwc = cpu.probe(yolo, (1, 3, 64, 64), rounds=2)
    assert 0 < plain < 60
    assert 0 < nhwc < 60
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in yolo.state_dict().items())
    assert all(p.is_contiguous() for p in yolo.parameters())


@pytest.mark.parametrize(("batch", "imgsz", "images"), [(16, 192, 11), (16, 640, 1), (8, 64, 8), (1, 2048, 1)])
def test_probe_costs_the_same_at_every_size(batch, imgsz, images):
    assert cpu.probe_batch(batch, imgsz) == images


class Run:
    """What :func:`cpu.prepare` asks of a trainer."""

    def __init__(self, model, epochs=100, **args):
        self.args = type("Args", (), {"channels_last": None, "cpu_amp": False, "compile": False, "imgsz": 640, **args})
        self.model, self.ema = model, type("EMA", (), {"ema": copy.deepcopy(model)})
        self.epochs, self.start_epoch, self.batch_size, self.data = epochs, 0, 4, {"channels": 3}
        self.train_loader = type("Loader", (), {"dataset": range(100)})
        self.callbacks = {}

    def add_callback(self, name, function):
        self.callbacks[name] = function


CASES = [  # arguments, seconds of contiguous and of channels_last, the choice
    ({}, (1.0, 0.8), True),
    ({}, (1.0, 0.97), False),
    ({}, (1.0, 1.2), False),
    ({"channels_last": False}, (1.0, 0.5), False),
    ({"channels_last": True}, (1.0, 2.0), True),
    ({"compile": True}, (1.0, 0.5), None),
    ({"imgsz": 64}, (1.0, 0.5), None),  # over before a probe would have paid
]


@pytest.mark.parametrize(("args", "seconds", "choice"), CASES)
def test_who_chooses_the_layout(args, seconds, choice, monkeypatch):
    monkeypatch.setattr(cpu, "probe", lambda model, shape: seconds)
    run = Run(nn.Conv2d(3, 4, 3), **args)
    cpu.prepare(run, probing=True)
    assert run.args.channels_last is choice  # what a checkpoint keeps for a resume
    for model in (run.model, run.ema.ema):
        assert is_nhwc(model.weight) is bool(choice)


def test_other_optimizers_are_not_probed_and_odd_models_stay(monkeypatch):
    def broken(model, shape):
        raise TypeError("forward() missing an argument: 'txt'")

    monkeypatch.setattr(cpu, "probe", broken)
    run = Run(nn.Conv2d(3, 4, 3))
    cpu.prepare(run, probing=False)
    assert run.args.channels_last is None
    cpu.prepare(run, probing=True)
    assert run.args.channels_last is False
    assert run.model.weight.is_contiguous()


@pytest.mark.parametrize("args", [{"channels_last": "maybe"}, {"channels_last": 1}, {"cpu_amp": "bf16"}])
def test_wrong_values(args):
    with pytest.raises(UserError, match=r"must be True or False"):
        trainer.check_arguments(args)


def test_bf16_is_not_emulated(monkeypatch):
    monkeypatch.setattr(cpu, "has_fast_bf16", lambda device: False)
    with pytest.raises(UserError, match=r"cpu_amp=True needs a CPU that multiplies in bf16"):
        trainer.check_arguments({"cpu_amp": True})
    trainer.check_arguments({"cpu_amp": False})


def test_a_key_that_ultralytics_has_is_left_to_it():
    assert set(CpuSettings.names()) - set(plugin_keys()) == {"channels_last"}
    assert missing_keys({"channels_last"}) == {}
    assert missing_keys({"lr0"}) == {"channels_last": (bool, None)}


def train(run, words, *more):
    done = run("yolo", "train", "optimizer=MuSGD", *words, "plots=False", *more)
    return done.returncode, done.stdout + done.stderr


def plain_text(log):
    return re.sub(r"\x1b\[\d+m", "", log)


def losses(folder):
    with (folder / "results.csv").open() as file:
        return [float(row["train/box_loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_in_channels_last_trains_alike_and_a_resume_keeps_it(run, tiny_data, train_words, tmp_path):
    words = (*train_words, f"data={tiny_data}", f"project={tmp_path}", "epochs=3")
    assert train(run, words, "name=plain")[0] == 0
    code, log = train(run, words, "name=nhwc", "channels_last=True", "save_period=1")
    assert code == 0, log
    assert "cpu: channels_last" in plain_text(log)
    assert "only supported on CUDA" not in log
    # the first batch is equal to 2e-7 on both; PyTorch 2.4's rounding has grown to .05 after three epochs of few images
    near = 0.02 if hasattr(torch, "accelerator") else 0.08
    assert losses(tmp_path / "nhwc") == pytest.approx(losses(tmp_path / "plain"), rel=near)
    saved = torch.load(tmp_path / "nhwc" / "weights" / "epoch1.pt", map_location="cpu", weights_only=False)
    assert all(p.is_contiguous() for p in saved["ema"].parameters())
    assert saved["train_args"]["channels_last"] is True
    done = run("yolo", "train", "resume=True", f"model={tmp_path / 'nhwc' / 'weights' / 'epoch1.pt'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu: channels_last" in plain_text(done.stdout + done.stderr)
    assert losses(tmp_path / "nhwc")[-1] == pytest.approx(losses(tmp_path / "plain")[-1], rel=near)


@pytest.mark.slow
@fast_bf16
def test_a_run_in_bf16_saves_what_any_ultralytics_loads(run, tiny_data, train_words, tmp_path):
    words = (*train_words, f"data={tiny_data}", f"project={tmp_path}", "epochs=2")
    assert train(run, words, "name=plain")[0] == 0
    code, log = train(run, words, "name=bf16", "cpu_amp=True", "channels_last=True")
    assert code == 0, log
    assert "training in bf16 autocast" in log
    assert losses(tmp_path / "bf16") != losses(tmp_path / "plain")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "plain"), rel=0.1)
    best = tmp_path / "bf16" / "weights" / "best.pt"
    code = f"from ultralytics import YOLO; m = YOLO({str(best)!r}).model; print('hooks', len(m._forward_hooks))"
    done = run("python", "-c", code, env={"YOLO_MUSGD": "0"})
    assert done.stdout.strip().endswith("hooks 0"), done.stdout + done.stderr


@pytest.mark.slow
def test_wrong_values_end_the_command_with_2(run, tiny_data, train_words, tmp_path):
    code, log = train(run, train_words, f"data={tiny_data}", f"project={tmp_path}", "channels_last=maybe")
    assert code == 2, log
    assert "channels_last must be True or False, got 'maybe'" in log
    assert not any(tmp_path.iterdir())
