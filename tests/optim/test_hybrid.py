"""One engine: Python's MuSGD is what the command line trains with; its groups, names and checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import yolo_musgd
from yolo_musgd.lab.contenders import ultralytics_groups
from yolo_musgd.lab.steptime import real_gradients
from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
from yolo_musgd.optim.musgd import MuSGD
from yolo_musgd.optim.param_groups import is_matrix, muon_exclusions
from yolo_musgd.optim.registry import FINE_TUNES, find
from yolo_musgd.optim.settings import MuonSettings, MuSGDSettings
from yolo_musgd.settings import SettingsError

CLASSES = [MuSGD, MuonSGD, MuonAdamW]
RATES = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}


@pytest.fixture(scope="module")
def yolo():
    """yolo26n with real gradients; tests copy it."""
    return real_gradients(imgsz=64)


def clone(model):
    other = copy.deepcopy(model)
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        p.grad = None if q.grad is None else q.grad.clone()
    return other


def train(optimizer, model, steps=3):
    """Steps along gradients that turn from step to step, in place."""
    for step in range(steps):
        for i, p in enumerate(model.parameters()):
            if p.grad is not None:
                p.grad.mul_(0.5 + ((step * 7 + i * 3) % 11) / 10).copy_(p.grad.roll(step + 1, 0))
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("args", [{}, {"adapt_factor": 0.1, "norm_mode": "relative"}, {"muon_share": 0.5}])
@pytest.mark.parametrize("fine_tunes", [False, True])
def test_python_trains_to_the_weights_of_the_command(yolo, fine_tunes, args):
    model, mirror = clone(yolo), clone(yolo)
    theirs = find("MuSGD").build(ultralytics_groups(mirror), {FINE_TUNES: fine_tunes, **args}, mirror)
    start = {"muon_lr": 0.3, "second_moment": 0.99} if fine_tunes else {"muon_lr": 2.0, "second_moment": 0.0}
    ours = yolo_musgd.MuSGD(yolo_musgd.MuSGD.groups(model), **RATES, **start, **args)
    assert type(ours) is type(theirs)
    weights = train(ours, model)
    assert same(weights, train(theirs, mirror))
    assert not same(weights, list(yolo.parameters()))


def test_the_groups_decay_what_ultralytics_decays(yolo):
    ours = {p: g.get("weight_decay", 5e-4) for g in MuSGD.groups(yolo) for p in g["params"]}
    theirs = {p: g["weight_decay"] for g in ultralytics_groups(yolo) for p in g["params"]}
    assert ours == theirs


def test_muonsgd_is_musgd_with_a_constant_momentum(yolo):
    model, mirror = clone(yolo), clone(yolo)
    a = MuonSGD(MuSGD.groups(model), muon_rows=0.9, muon_precision="float32", **RATES)
    settings = {"adapt_factor": 0.0, "muon_adapt": False, "muon_rows": 0.9, "muon_precision": "float32"}
    b = MuSGD(MuSGD.groups(mirror), **settings, **RATES)
    assert same(train(a, model), train(b, mirror))
    assert isinstance(a, MuSGD)


def test_settings_together_are_settings_one_by_one(yolo):
    model, mirror = clone(yolo), clone(yolo)
    a = MuonSGD(
        ultralytics_groups(model),
        muon=MuonSettings(muon_adapt=True, muon_lr=2.0),
        rest=MuSGDSettings(adapt_factor=0.05),
        exclude=muon_exclusions(model),
    )
    b = MuSGD(ultralytics_groups(mirror), adapt_factor=0.05, muon_lr=2.0, exclude=muon_exclusions(mirror))
    assert same(train(a, model), train(b, mirror))


@pytest.mark.parametrize("cls", CLASSES)
def test_orthogonalize_is_a_setting_of_a_group(cls):
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 6))
    optimizer = cls([{"params": [a]}, {"params": [b], "orthogonalize": False}], muon_precision="float32")
    before = [a.detach().clone(), b.detach().clone()]
    a.grad, b.grad = torch.randn(8, 6), torch.randn(8, 6)
    optimizer.step()
    values = [torch.linalg.svdvals(p.detach() - q) for p, q in zip((a, b), before, strict=True)]
    spread = [float(v.max() / v.min()) for v in values]
    assert spread[0] < 2 < spread[1]
    assert optimizer.report()["update_rms"].shape == (1,)
    with pytest.raises(SettingsError, match="orthogonalize must be True or False, got 3"):
        cls([{"params": [a], "orthogonalize": 3}])


def test_every_setting_may_differ_between_groups():
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.zeros(16, 4)), nn.Parameter(torch.zeros(16, 4))
    groups = [{"params": [a]}, {"params": [b], "muon_scale": "keller", "muon_lr": 0.5}]
    optimizer = MuSGD(groups, lr=1.0, muon_method="svd")
    a.grad = b.grad = torch.randn(16, 4)
    optimizer.step()
    ratio = float(a.detach().norm() / b.detach().norm())
    assert ratio == pytest.approx(0.2 * 16**0.5 / (0.5 * 2.0), rel=1e-5)
    with pytest.raises(SettingsError, match=r"muon_share must be in \[0, 1\], got 2"):
        MuSGD([{"params": [a], "muon_share": 2}])


def test_plain_parameters_orthogonalise_every_matrix():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer = MuSGD(model.parameters(), lr=0.1)
    optimizer.step()
    assert len(optimizer.report()["update_rms"]) == sum(map(is_matrix, model.parameters())) == 2
    assert len(optimizer.report()["beta_t"]) == len(list(model.parameters()))


class Net(nn.Module):
    """Every kind of layer that is told apart, in no order that helps."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.LayerNorm([8, 4, 4])
        self.mix = nn.Conv2d(8, 12, 1)
        self.gain = nn.Parameter(torch.ones(12, 1, 1))
        self.out = nn.Linear(12, 5)


def test_groups_of_any_model_hold_every_tensor_once_and_print():
    model = Net()
    groups = MuSGD.groups(model)
    found = {g["name"]: g for g in groups}
    members = {name: set(g["params"]) for name, g in found.items()}
    assert members == {
        "matrices and filters": {model.mix.weight},
        "input layer": {model.stem.weight},
        "output layer": {model.out.weight},
        "depthwise": {model.depthwise.weight},
        "embedding": {model.words.weight},
        "normalisation": {model.norm.weight, model.norm.bias},
        "no matrix": {model.gain},
        "vector": {model.stem.bias, model.depthwise.bias, model.mix.bias, model.out.bias},
    }
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert [name for name, g in found.items() if g["orthogonalize"]] == ["matrices and filters"]
    assert {name for name, g in found.items() if g.get("weight_decay") == 0} == {"normalisation", "vector"}
    table = str(groups).splitlines()
    assert len(table) == 1 + len(groups)
    assert table[0].split() == ["group", "tensors", "parameters", "orthogonalised"]
    assert any(row.split() == ["matrices", "and", "filters", "1", "96", "yes"] for row in table)
    assert any(row.endswith("no: depthwise") and " 72 " in row for row in table)
    every = MuSGD.groups(model, stem=True, head=True, depthwise=True)
    taken = next(set(g["params"]) for g in every if g["orthogonalize"])
    assert taken == {model.mix.weight, model.stem.weight, model.out.weight, model.depthwise.weight}


@pytest.mark.parametrize("cls", CLASSES)
def test_groups_serve_every_hybrid(cls):
    model = Net()
    optimizer = cls(MuSGD.groups(model), lr=0.01, weight_decay=0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert len(optimizer.report()["update_rms"]) == 1
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups}["vector"] == 0.0


@pytest.mark.parametrize("name", ["MuSGD", "MuonSGD", "MuonAdamW"])
def test_a_checkpoint_of_an_older_release_continues_as_if_nothing_had_happened(yolo, name):
    """Older ones kept of Muon's settings only muon_lr in the groups, and no orthogonalize."""

    def build(model):
        return find(name).build(ultralytics_groups(model), {"muon_scale": "keller", "muon_rest": "musgd"}, model)

    model = clone(yolo)
    optimizer = build(model)
    train(optimizer, model)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for key in [k for k in group if k in (*MuonSettings.names(), "orthogonalize") and k != "muon_lr"]:
            del group[key]
    mirror = clone(model)
    resumed = build(mirror)
    resumed.load_state_dict(saved)
    assert [g["muon_scale"] for g in resumed.param_groups] == ["keller"] * 3
    assert same(train(optimizer, model), train(resumed, mirror))


def test_an_older_checkpoint_keeps_what_its_groups_were_told():
    a, b = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    groups = [{"params": [a]}, {"params": [b], "orthogonalize": False}]
    saved = MuSGD(copy.copy(groups)).state_dict()
    for group in saved["param_groups"]:
        del group["orthogonalize"]
    optimizer = MuSGD(copy.copy(groups))
    optimizer.load_state_dict(saved)
    assert [g["orthogonalize"] for g in optimizer.param_groups] == [True, False]


def test_nesterov_of_the_command_line_reaches_what_is_not_orthogonalised(yolo):
    for name in ("MuSGD", "MuonSGD"):
        model = clone(yolo)
        groups = [{k: v for k, v in g.items() if k != "nesterov"} for g in ultralytics_groups(model)]
        optimizer = find(name).build(groups, {"nesterov": False}, model)
        assert [g["nesterov"] for g in optimizer.param_groups] == [False] * 3
