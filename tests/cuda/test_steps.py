"""Every optimizer and back end on a device against its twin on the CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cuda_cases import OPTIMIZERS, build, give_gradients, parameters, saved, trained

from yolo_musgd.lab.clock import transient_bytes
from yolo_musgd.optim.state import state_bytes
from yolo_musgd.optim.zoo import RECIPES, MissingExtraError
from yolo_musgd.optim.zoo import build as build_zoo
from yolo_musgd.train.telemetry import Monitor


@pytest.fixture
def twin(monkeypatch):
    """What the ordinary CPU makes of it."""

    def make(name, **kind):
        with monkeypatch.context() as plain:
            for module in ("hybrid", "kernel_plan", "matrix_steps"):
                plain.setattr(f"yolo_musgd.optim.{module}.runs_ahead", lambda device: False, raising=False)
            return trained(name, "cpu", **kind)[0]

    return make


def assert_alike(found, wanted, name, rtol):
    """Close, measured by how far the steps went from where all began."""
    for a, b, start in zip(found, wanted, parameters("cpu"), strict=True):
        moved = float((b - start.detach().float()).norm())
        assert float((a - b).norm()) <= rtol * moved + 1e-7, (name, tuple(b.shape))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "every" not in name])
def test_a_device_steps_as_the_cpu_does(place, twin, name):
    loose = {"MuSGD bf16": 0.05, "MuonSGD half state": 0.02}
    assert_alike(trained(name, place.device)[0], twin(name), name, loose.get(name, 2e-3))


def test_every_second_step_takes_each_matrix_once_in_two(place):
    """Which of the two it is depends on the plan, and that on the device."""
    params = parameters(place.device)
    optimizer = build("MuSGD every second", params)
    moved = []
    for step in range(4):
        before = [p.detach().clone() for p in params]
        give_gradients(params, step)
        optimizer.step()
        moved.append([not torch.equal(a, b) for a, b in zip(params, before, strict=True)])
    for p, turns in zip(params, zip(*moved, strict=True), strict=True):
        assert turns in ([(True,) * 4] if p.ndim == 1 else [(True, False) * 2, (False, True) * 2])


@pytest.mark.parametrize("name", RECIPES)
def test_the_zoo_on_a_device(place, name):
    ends = []
    for device in ("cpu", place.device):
        params = parameters(device)
        try:
            optimizer = build_zoo(name, [{"params": params, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}])
        except MissingExtraError as error:
            pytest.skip(str(error))
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        ends.append([p.detach().cpu() for p in params])
    assert_alike(*ends, name, 0.01)


@pytest.mark.parametrize("name", ["MuSGD", "MuonSGD", "MuonAdamW", "article"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(place, twin, name, dtype):
    found, wanted = trained(name, place.device, dtype=dtype)[0], twin(name, dtype=dtype)
    for a, b in zip(found, wanted, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["MuSGD", "MuSGD shared", "MuonSGD", "MuonAdamW", "article"])
def test_channels_last_steps_as_contiguous(place, name):
    plain, nhwc = (trained(name, place.device, nhwc=x)[0] for x in (False, True))
    assert_alike(nhwc, plain, name, 2e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_poisoned_step_changes_nothing(place, name, poison):
    _, optimizer = trained(name, place.device)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before, state = [p.detach().clone() for p in params], saved(optimizer)
    give_gradients(params, 9, poison)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert optimizer.skipped_steps == 1
    for entry, old in zip(saved(optimizer)["state"].values(), state["state"].values(), strict=True):
        for key, value in entry.items():
            value, was = (x[0] if isinstance(x, tuple) else x for x in (value, old[key]))
            if isinstance(value, torch.Tensor) and key != "step":
                assert torch.equal(value, was), key
    give_gradients(params, 10)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)


@pytest.mark.parametrize("name", ["MuSGD", "MuSGD fine-tuning", "MuonAdamW", "article"])
def test_a_grad_scaler_finds_an_overflow_and_goes_on(place, name):
    params = parameters(place.device)
    optimizer = build(name, params)
    scaler = torch.amp.GradScaler(place.device, init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.zeros((), device=place.device))  # makes its tensors
    for step, poison in enumerate([None, float("inf"), None]):
        give_gradients(params, step, poison)
        for p in params:
            p.grad.mul_(1024.0)
        before = [p.detach().clone() for p in params]
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, max_norm=10.0)
        scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(a, b) for a, b in zip(params, before, strict=True)]
        assert not any(moved) if poison else all(moved)
    assert scaler.get_scale() == 512.0
    assert all(torch.isfinite(p).all() for p in params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_where_it_would_have(place, name):
    whole, _ = trained(name, place.device, steps=4)
    half, first = trained(name, place.device, steps=2)
    params = parameters(place.device)
    for p, value in zip(params, half, strict=True):
        p.data.copy_(value)
    second = build(name, params)
    second.load_state_dict(saved(first))
    for step in (2, 3):
        give_gradients(params, step)
        second.step()
    tolerance = 1e-2 if "half state" in name else 1e-5  # its rounding is drawn at random
    for a, b in zip(params, whole, strict=True):
        torch.testing.assert_close(a.detach().cpu().float(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("MuSGD svd", "MuSGD cubic")])  # svd asks by itself
def test_neither_step_nor_telemetry_waits(place, name, tmp_path):
    params = parameters(place.device)
    optimizer = build(name, params)
    monitor = Monitor(tmp_path, torch.nn.ParameterList(params), optimizer, layers=True)
    for step in range(3):
        give_gradients(params, step)
        # The first step plans and makes its state; only from then on nothing waits.
        with place.never_waited_for() if step else nullcontext(), monitor.step():
            torch.nn.utils.clip_grad_norm_(params, max_norm=10.0)
            optimizer.step()
    assert len(monitor._rows) == 3
    assert {row.device.type for row in monitor._rows} == {place.device}
    assert monitor.end_epoch(1)["optim/skipped_steps"] == 0


@pytest.mark.parametrize(("name", "states"), [("MuSGD", 1), ("MuonSGD", 1), ("article", 1), ("MuSGD shared", 2)])
def test_memory(place, name, states):
    params = parameters(place.device)
    optimizer = build(name, params)
    give_gradients(params, 0)
    optimizer.step()
    own = sum(p.numel() * p.element_size() for p in params)
    assert state_bytes(optimizer) <= states * own
    peak = transient_bytes(optimizer.step, place.device)
    # A handful of copies of the parameters at once; 512 bytes is what CUDA hands out at least, of which there are many.
    assert peak is None or peak <= 8 * own + 512 * 40 * len(params)
