"""Every optimizer of the zoo: Ultralytics' groups in, training, fp16 checkpoints out and in again.

Covers registry.py.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import convert_optimizer_state_dict_to_fp16

from yolo_musgd.optim import zoo
from yolo_musgd.optim.registry import REGISTRY, find
from yolo_musgd.optim.zoo import RECIPES, MissingExtraError, build

LR0 = {name: REGISTRY[name].lr0 for name in RECIPES}


def groups(params, lr):
    weights, biases = [p for p in params if p.ndim > 1], [p for p in params if p.ndim == 1]
    common = {"lr": lr, "momentum": 0.9}
    return [
        {"params": weights, "weight_decay": 5e-4, "param_group": "weight", **common},
        {"params": [], "weight_decay": 0.0, "param_group": "bn", **common},
        {"params": biases, "weight_decay": 0.0, "param_group": "bias", **common},
    ]


def parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(s) * 0.1) for s in ((16, 8, 3, 3), (8, 16, 1, 1), (12, 20), (16,), (8,))]


def make(name, params):
    if RECIPES[name].library != "torch.optim":
        pytest.importorskip("pytorch_optimizer")
    return build(name, groups(params, LR0[name]))


def give(params, step, scale=1e-4):
    """Gradients as small as a detector's: their squares vanish in fp16."""
    random = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=random) * scale


@pytest.mark.parametrize("name", RECIPES)
def test_groups_keep_count_order_and_rate(name):
    optimizer = make(name, parameters())
    assert [g["param_group"] for g in optimizer.param_groups] == ["weight", "bn", "bias"]
    assert all(g["lr"] == LR0[name] for g in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-4, 0.0, 0.0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_least_squares_problem_is_learnt(name):
    torch.manual_seed(0)
    x, w = torch.randn(64, 20), torch.randn(20, 6)
    weight, bias = nn.Parameter(torch.randn(20, 6) * 0.1), nn.Parameter(torch.zeros(6))
    optimizer = make(name, [weight, bias])
    for g in optimizer.param_groups:  # the recommended rates are for long runs
        g["lr"] *= 1 if name == "LARS" else 5
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (x @ weight + bias - x @ w).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_frozen_parameter_is_left_alone_and_changes_nothing_for_the_others(name):
    """Such as the DFL of YOLOv8 and YOLO11 always is, or the layers of freeze=."""
    whole, less = parameters(), parameters()
    frozen, alone = whole[0], whole[0].detach().clone()
    both = [(whole, make(name, whole)), (less, make(name, less[1:]))]
    for step in range(3):
        for params, optimizer in both:
            give(params, step)
            params[0].grad = None
            optimizer.step()
    assert torch.equal(frozen, alone)
    for p, q in zip(whole[1:], less[1:], strict=True):
        torch.testing.assert_close(p, q)
    for step in range(3, 15):  # thawed
        give(whole, step)
        both[0][1].step()
    assert all(p.isfinite().all() for p in whole)
    assert not torch.equal(frozen, alone)


@pytest.mark.parametrize("name", RECIPES)
def test_state_survives_an_fp16_checkpoint(name, tmp_path):
    first_params = parameters()
    first = make(name, first_params)
    for step in range(4):
        give(first_params, step)
        first.step()
    saved = convert_optimizer_state_dict_to_fp16(copy.deepcopy(first.state_dict()))
    torch.save(saved, tmp_path / "last.pt")
    second_params = [nn.Parameter(p.detach().clone()) for p in first_params]
    second = make(name, second_params)
    second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=False))
    for p, q in zip(first_params, second_params, strict=True):
        for key, value in first.state[p].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second.state[q][key]), key
    for step in (4, 5):
        for optimizer, params in ((first, first_params), (second, second_params)):
            give(params, step)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(first_params, second_params, strict=True))


def test_without_the_wrapping_adagrads_sum_would_be_zero():
    p = nn.Parameter(torch.ones(3))
    plain = torch.optim.Adagrad([p])
    p.grad = torch.full((3,), 1e-4)
    plain.step()
    saved = convert_optimizer_state_dict_to_fp16(copy.deepcopy(plain.state_dict()))
    assert not saved["state"][0]["sum"].any()
    assert plain.state[p]["sum"].all()


@pytest.mark.parametrize("name", RECIPES)
def test_a_non_finite_gradient_is_skipped_and_counted(name):
    params = parameters()
    optimizer = make(name, params)
    give(params, 0)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    params[0].grad = torch.full_like(params[0], float("nan"))
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert int(optimizer.report()["skipped_steps"]) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_registry_builds_it_in_any_case(name):
    if RECIPES[name].library != "torch.optim":
        pytest.importorskip("pytorch_optimizer")
    entry = find(name.upper())
    optimizer = entry.build(groups(parameters(), entry.lr0), {}, nn.Linear(2, 2))
    assert type(optimizer).__name__ == name


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(zoo.importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"optimizer=Lion needs pytorch_optimizer.*: pip install .*\[zoo\]"):
        zoo.zoo_class("Lion")


def test_arguments_of_its_own_reach_an_optimizer_and_the_log(monkeypatch):
    from yolo_musgd.optim import zoo
    from yolo_musgd.optim.registry import OptimizerInfo, builder
    from yolo_musgd.settings import Settings, SettingsError, setting

    @dataclasses.dataclass(frozen=True)
    class ToySettings(Settings):
        toy_dampening: float = setting(0.0, "of the momentum", low=0.0, high=1.0)

    recipe = zoo.Recipe("torch.optim", "SGD", momentum=True, settings=ToySettings)
    monkeypatch.setitem(zoo.RECIPES, "Toy", recipe)
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}]
    optimizer = builder("Toy")(groups, {"toy_dampening": 0.25, "adapt_factor": 0.5}, None)
    assert optimizer.param_groups[0]["dampening"] == 0.25
    assert OptimizerInfo("Toy", "", "", "1x", 0.1, make=builder("Toy")).known == {"toy_dampening"}
    with pytest.raises(SettingsError, match="toy_dampening must be in"):
        builder("Toy")(groups, {"toy_dampening": 2.0}, None)
