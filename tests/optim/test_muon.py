"""MuonSGD and MuonAdamW against naive references and public implementations, and in every trap known.

Covers muon_update.py, matrix_steps.py, param_groups.py and state.py.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from ultralytics.optim import MuSGD as Native
from ultralytics.utils.torch_utils import convert_optimizer_state_dict_to_fp16

from yolo_musgd.lab.contenders import ultralytics_groups
from yolo_musgd.lab.steptime import real_gradients
from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
from yolo_musgd.optim.muon_update import update_scale
from yolo_musgd.optim.param_groups import muon_exclusions
from yolo_musgd.optim.registry import FINE_TUNES, find
from yolo_musgd.optim.settings import MuonSettings, MuSGDSettings
from yolo_musgd.optim.state import stochastic_round
from yolo_musgd.settings import SettingsError

FP32 = MuonSettings(muon_precision="float32")


@pytest.fixture(scope="module")
def yolo():
    """yolo26n with real gradients; tests copy it."""
    return real_gradients()


def clone(model):
    other = copy.deepcopy(model)
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        p.grad = None if q.grad is None else q.grad.clone()
    return other


def relative(params, others):
    a = torch.cat([p.detach().flatten() for p in params])
    b = torch.cat([p.detach().flatten() for p in others])
    return float((a - b).norm() / b.norm())


def moved(params, start):
    return [p.detach() - s for p, s in zip(params, start, strict=True)]


def vary(model, step):
    """Another gradient every step, in place: real ones, turned and scaled."""
    for i, p in enumerate(model.parameters()):
        if p.grad is not None:
            p.grad.mul_(0.5 + ((step * 7 + i * 3) % 11) / 10).copy_(p.grad.roll(step + 1, 0))


def quintic(m):
    x = m / m.norm() if m.norm() > 0 else m
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if m.shape[0] > m.shape[1] else x


def naive_muonsgd(groups, momenta, excluded, scale, adapt_factor=0.0, squares=None):
    """One step, a tensor at a time, as the papers write it; the past is shortened to beta_t where adapt_factor > 0.

    With ``squares`` (one dictionary a run) what Muon leaves over is normalised by its root mean square.
    """
    for group in groups:
        lr, mu = group["lr"], group["momentum"]
        for p in group["params"]:
            if p.grad is None:
                continue
            m = momenta.setdefault(p, torch.zeros_like(p))
            beta = mu / (1 + adapt_factor * float(p.grad.norm()) ** 2)
            if p.ndim == 4 and p not in excluded:
                m.mul_(beta).add_(p.grad, alpha=1 - mu)
                u = (beta * m + (1 - mu) * p.grad).flatten(1)
                p.data.sub_(lr * scale(u.shape) * quintic(u).view_as(p))
            else:
                g, rate = p.grad, lr
                if squares is not None:
                    count, mean = squares.get(p, (0, 0.0))
                    squares[p] = count, mean = count + 1, 0.99 * mean + 0.01 * g**2
                    g, rate = g / ((mean / (1 - 0.99**count)).sqrt() + 1e-8), 0.2 * lr * (1 - mu)
                g = g + group["weight_decay"] * p.data
                m.mul_(beta).add_(g)
                p.data.sub_(rate * (g + beta * m))


@pytest.mark.parametrize(("adapt_factor", "second"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.99)])
def test_muonsgd_is_the_naive_reference_over_100_steps(yolo, adapt_factor, second):
    model = clone(yolo)
    for p in model.parameters():  # the naive loop takes too long on the largest
        if p.ndim == 4 and min(p.shape[0], p[0].numel()) > 96:
            p.grad = None
    mirror = clone(model)
    ours = MuonSGD(
        ultralytics_groups(model),
        muon=MuonSettings(muon_precision="float32", muon_adapt=adapt_factor > 0),
        rest=MuSGDSettings(adapt_factor=adapt_factor, second_moment=second),
        exclude=muon_exclusions(model),
    )
    momenta, excluded, groups = {}, muon_exclusions(mirror), ultralytics_groups(mirror)
    squares = {} if second else None
    start = [p.detach().clone() for p in model.parameters()]
    for step in range(100):
        vary(model, step)
        vary(mirror, step)
        for g in (*ours.param_groups, *groups):
            g["momentum"] = 0.8 + step / 1000  # the warm-up
        ours.step()
        naive_muonsgd(groups, momenta, excluded, lambda shape: 0.2 * max(shape) ** 0.5, adapt_factor, squares)
    assert relative(moved(model.parameters(), start), moved(mirror.parameters(), start)) < 1e-5


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no torch.optim.Muon")
@pytest.mark.parametrize(("scale", "adjust"), [("keller", "original"), ("rms", "match_rms_adamw")])
def test_2d_parameters_as_torch_optim_muon(scale, adjust):
    torch.manual_seed(0)
    shapes = [(48, 96), (96, 48), (32, 32), (20, 200)]
    a = [nn.Parameter(torch.randn(s)) for s in shapes]
    b = [nn.Parameter(p.detach().clone()) for p in a]
    settings = MuonSettings(muon_scale=scale, muon_decay=1.0, muon_precision="bfloat16")
    ours = MuonSGD([{"params": a}], lr=0.02, momentum=0.95, weight_decay=0.1, muon=settings)
    theirs = torch.optim.Muon(b, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=adjust)
    start = [p.detach().clone() for p in a]
    for _ in range(100):
        for p, q in zip(a, b, strict=True):
            p.grad = q.grad = torch.randn_like(p)
        ours.step()
        theirs.step()
    assert relative(moved(a, start), moved(b, start)) < 0.02  # bf16 rounds differently in a batch


def native_groups(model):
    groups = ultralytics_groups(model)
    matrices = [p for p in groups[0]["params"] if p.ndim == 4]
    return [
        {**groups[0], "params": matrices, "use_muon": True},
        {**groups[1], "use_muon": False},
        {**groups[2], "use_muon": False},
    ]


def test_native_settings_follow_ultralytics_rule_within_bf16_noise(yolo):
    model, mirror = clone(yolo), clone(yolo)
    ours = MuonSGD(ultralytics_groups(model), muon=MuonSettings.native())
    theirs = Native(native_groups(mirror), muon=0.2, sgd=1.0)
    start = [p.detach().clone() for p in model.parameters()]
    for step in range(10):
        vary(model, step)
        vary(mirror, step)
        ours.step()
        theirs.step()
    assert relative(moved(model.parameters(), start), moved(mirror.parameters(), start)) < 0.02
    rest = [(p, q) for p, q in zip(model.parameters(), mirror.parameters(), strict=True) if p.ndim == 1]
    assert relative(*zip(*rest, strict=True)) < 1e-6


def test_musgd_native_is_ultralytics_own_class():
    assert find("musgd-native").host_name == "MuSGD"
    assert find("musgd-native").build is None


@pytest.mark.parametrize("method", ["quintic", "polar-express", "cubic", "svd"])
@pytest.mark.parametrize("cls", [MuonSGD, MuonAdamW])
def test_rms_scale_moves_by_a_fifth_of_the_learning_rate(cls, method):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(64, 32, 3, 3))
    optimizer = cls([p], lr=0.1, muon=MuonSettings(muon_method=method, muon_steps=12 if method == "cubic" else 5))
    before = p.detach().clone()
    p.grad = torch.randn_like(p)
    optimizer.step()
    rms = float((p.detach() - before).square().mean().sqrt())
    assert rms == pytest.approx(0.02, rel=0.25)  # Keller's singular values lie between 0.68 and 1.21
    assert float(optimizer.report()["update_rms"]) == pytest.approx(rms, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "rms", "keller", "native"),
    [
        ((64, 16), 1.6, 2.0, 2.0),
        ((16, 64), 1.6, 1.0, 1.0),
        ((64, 4, 3, 1), 1.6, (64 / 12) ** 0.5, 3**0.5),
        ((8, 8, 1, 1), 0.2 * 8**0.5, 1.0, 1.0),
    ],
)
def test_scales(shape, rms, keller, native):
    assert update_scale(shape, "rms") == pytest.approx(rms)
    assert update_scale(shape, "native") == pytest.approx(native)
    assert update_scale(shape, "keller") == pytest.approx(keller)


def test_decay_bounds_the_weights():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(16, 16) * 5)
    settings = MuonSettings(muon_scale="keller", muon_decay=1.0, muon_method="svd")
    optimizer = MuonSGD([p], lr=0.1, weight_decay=0.5, muon=settings)
    limit = max(float(torch.linalg.matrix_norm(p.detach(), 2)), 1 / 0.5)
    for _ in range(200):
        p.grad = torch.randn(16, 16) - p.detach()
        optimizer.step()
        assert float(torch.linalg.matrix_norm(p.detach(), 2)) <= limit * 1.001
    assert float(torch.linalg.matrix_norm(p.detach(), 2)) <= 2.001


def test_adaptive_rest_is_musgd(yolo):
    from yolo_musgd.optim.musgd import MuSGD

    model, mirror = clone(yolo), clone(yolo)
    rule = MuSGDSettings(adapt_factor=0.1)
    ours = MuonSGD(ultralytics_groups(model), rest=rule)
    theirs = MuSGD(ultralytics_groups(mirror), **rule.to_dict())
    for step in range(3):
        vary(model, step)
        vary(mirror, step)
        ours.step()
        theirs.step()
    for p, q in zip(model.parameters(), mirror.parameters(), strict=True):
        if p.ndim == 1:
            assert torch.equal(p, q)
    betas = ours.report()["beta_t"]
    assert len(betas) == sum(1 for p in model.parameters() if p.ndim == 1 and p.grad is not None)
    assert float(betas.min()) < 0.9


def test_musgd_by_name_is_the_hybrid_with_beta_t_on_every_momentum(yolo):
    model = clone(yolo)
    optimizer = find("MuSGD").build(ultralytics_groups(model), {"adapt_factor": 0.1}, model)
    optimizer.step()
    report = optimizer.report()
    with_gradient = sum(p.grad is not None for p in model.parameters())
    assert len(report["beta_t"]) == with_gradient  # matrices too
    assert len(report["update_rms"]) > 50
    assert optimizer.defaults["adapt_factor"] == 0.1


@pytest.mark.parametrize(("name", "plain"), [("MuonSGD", torch.optim.SGD), ("MuonAdamW", torch.optim.AdamW)])
def test_hybrids_by_name_without_orthogonal_steps_are_torchs_own(yolo, name, plain):
    ours, theirs = clone(yolo), clone(yolo)
    optimizer = find(name).build(ultralytics_groups(ours), {"orthogonalize": False}, ours)
    other = plain(ultralytics_groups(theirs), **({"momentum": 0.9} if name == "MuonSGD" else {"betas": (0.9, 0.999)}))
    for _ in range(3):
        optimizer.step()
        other.step()
    assert not any("update_rms" in name for name in optimizer.report())
    assert relative(ours.parameters(), theirs.parameters()) < 1e-6


@pytest.mark.parametrize("rest", ["sgd", "musgd"])
def test_muonsgd_by_name_takes_every_setting_of_its_rest(yolo, rest):
    model = clone(yolo)
    given = {"decoupled_decay": True, "second_moment": 0.9, "nesterov": False, "lr_in_velocity": True}
    groups = [{k: v for k, v in g.items() if k != "nesterov"} for g in ultralytics_groups(model)]
    optimizer = find("MuonSGD").build(groups, {**given, "muon_rest": rest}, model)
    assert {k: optimizer.param_groups[0][k] for k in given} == given
    assert optimizer.param_groups[0]["adapt_factor"] == (0.01 if rest == "musgd" else 0)


def test_musgd_without_orthogonal_steps_is_the_articles_rule(yolo):
    from yolo_musgd.optim.musgd import MuSGD

    model, mirror = clone(yolo), clone(yolo)
    ours = find("MuSGD").build(ultralytics_groups(model), {"orthogonalize": False, "adapt_factor": 0.0}, model)
    assert type(ours) is MuSGD
    assert not any(g["orthogonalize"] for g in ours.param_groups)
    theirs = torch.optim.SGD(ultralytics_groups(mirror), momentum=0.9, nesterov=True)
    for step in range(3):
        vary(model, step)
        vary(mirror, step)
        ours.step()
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), mirror.parameters(), strict=True))


@pytest.mark.parametrize(
    ("args", "rate"),
    [
        ({FINE_TUNES: False}, 2.0),
        ({}, 2.0),
        ({FINE_TUNES: True}, 0.3),
        ({FINE_TUNES: True, "muon_lr": 0.7}, 0.7),
    ],
)
@pytest.mark.parametrize("name", ["MuSGD", "MuonSGD", "MuonAdamW"])
def test_pretrained_weights_take_shorter_steps_on_resume_too(name, args, rate):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))

    def build(args):
        groups = [{"params": list(model.parameters()), "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}]
        return find(name).build(groups, args, model)

    optimizer = build(args)
    weight = model[1].weight
    before = weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    # 0.2*sqrt(8) times a matrix with singular values near 1 has an RMS of about 0.2
    assert float((weight - before).detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.01 * rate, rel=0.3)
    resumed = build({FINE_TUNES: True})  # of a checkpoint, which last.pt is
    resumed.load_state_dict(optimizer.state_dict())
    assert [g["muon_lr"] for g in resumed.param_groups] == [rate]
    if name == "MuSGD":
        second = 0.99 if args.get(FINE_TUNES) else 0.0
        assert optimizer.param_groups[0]["second_moment"] == resumed.param_groups[0]["second_moment"] == second
        assert optimizer.normalizes is (second > 0)


def test_rest_of_muonadamw_is_adamw():
    torch.manual_seed(0)
    a = [nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(4, 5))]
    b = [nn.Parameter(p.detach().clone()) for p in a]
    ours = MuonAdamW(a, lr=0.01, weight_decay=0.1, exclude=a)
    theirs = torch.optim.AdamW(b, lr=0.01, weight_decay=0.1)
    for _ in range(20):
        for p, q in zip(a, b, strict=True):
            p.grad = q.grad = torch.randn_like(p)
        ours.step()
        theirs.step()
    assert relative(a, b) < 1e-6


def test_normuon_evens_the_rows_and_keeps_the_norm():
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(8, 200))
    optimizer = MuonSGD([p], lr=1.0, momentum=0.0, muon=MuonSettings(muon_rows=0.9, muon_precision="float32"))
    p.grad = torch.randn(8, 200) * torch.logspace(-2, 0, 8)[:, None]
    plain = nn.Parameter(torch.zeros(8, 200))
    plain.grad = p.grad
    MuonSGD([plain], lr=1.0, momentum=0.0, muon=FP32).step()
    optimizer.step()
    rows, before = p.detach().norm(dim=1), plain.detach().norm(dim=1)
    assert float(rows.std() / rows.mean()) < 1e-3 < float(before.std() / before.mean())
    assert float(p.detach().norm()) == pytest.approx(float(plain.detach().norm()), rel=1e-4)
    assert optimizer.state[p]["exp_avg_sq"].shape == (8,)


def test_every_other_matrix():
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.zeros(16, 32)), nn.Parameter(torch.zeros(8, 20))
    optimizer = MuonSGD([a, b], muon=MuonSettings(muon_every=2))
    changes = {a: [], b: []}
    for _ in range(4):
        for p in (a, b):
            p.grad = torch.randn_like(p)
        before = {p: p.detach().clone() for p in (a, b)}
        optimizer.step()
        for p in (a, b):
            changes[p].append(not torch.equal(p, before[p]))
    assert sorted([changes[a], changes[b]]) == [[False, True] * 2, [True, False] * 2]


def test_stochastic_rounding_is_unbiased():
    value = torch.full((200_000,), 1.001)
    rounded = stochastic_round(value, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    assert float(rounded.double().mean()) == pytest.approx(1.001, abs=1e-4)


def test_bf16_state_halves_memory_and_survives_a_checkpoint():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(32, 64))
    settings = MuonSettings(muon_state="bfloat16", muon_precision="float32")
    optimizer = MuonSGD([p], muon=settings)
    g = torch.randn(32, 64)
    random = torch.random.get_rng_state()
    for _ in range(60):
        p.grad = g
        optimizer.step()
    assert torch.equal(random, torch.random.get_rng_state())
    momentum = optimizer.state[p]["exp_avg"]
    assert momentum.dtype == torch.bfloat16
    assert float((momentum.float() - g).norm() / g.norm()) < 0.02  # rounding to nearest would stop short of g
    saved = convert_optimizer_state_dict_to_fp16(copy.deepcopy(optimizer.state_dict()))
    other = MuonSGD([p], muon=settings)
    other.load_state_dict(saved)
    assert other.state[p]["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(other.state[p]["exp_avg"], momentum)


@pytest.mark.parametrize("settings", [MuonSettings(), MuonSettings(muon_rows=0.9), MuonSettings(muon_share=0.5)])
@pytest.mark.parametrize("cls", [MuonSGD, MuonAdamW])
def test_resume_from_a_halved_checkpoint_continues_alike(cls, settings):
    """Gradients of 1e-7: in fp16 the momentum of a matrix would be gone."""
    if cls is MuonAdamW and settings.muon_share < 1:
        pytest.skip("only MuonSGD has an SGD step beside Muon's")
    torch.manual_seed(0)

    def groups(ps):
        return [
            {"params": ps[:2], "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "param_group": "weight"},
            {"params": ps[2:], "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "param_group": "bn"},
            {"params": [], "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "param_group": "bias"},
        ]

    a = [nn.Parameter(torch.randn(s)) for s in ((16, 8, 3, 3), (8, 16, 1, 1), (16,))]
    first = cls(groups(a), muon=settings)
    for _ in range(3):
        for p in a:
            p.grad = torch.randn_like(p) * (1e-7 if p.ndim > 1 else 1.0)
        first.step()
    b = [nn.Parameter(p.detach().clone()) for p in a]
    second = cls(groups(b), muon=settings)
    second.load_state_dict(convert_optimizer_state_dict_to_fp16(copy.deepcopy(first.state_dict())))
    assert [g["param_group"] for g in second.param_groups] == ["weight", "bn", "bias"]
    for p, q in zip(a, b, strict=True):
        p.grad = q.grad = torch.randn_like(p) * (1e-7 if p.ndim > 1 else 1.0)
    start = [p.detach().clone() for p in a]
    first.step()
    second.step()
    assert relative(moved(b, start), moved(a, start)) < (1e-3 if cls is MuonSGD else 1e-6)


@pytest.mark.parametrize("cls", [MuonSGD, MuonAdamW])
def test_channels_last_is_the_same_step(cls):
    torch.manual_seed(0)
    a = nn.Parameter(torch.randn(16, 8, 3, 3))
    b = nn.Parameter(a.detach().clone(memory_format=torch.channels_last))
    first, second = cls([a], muon=FP32), cls([b], muon=FP32)
    for step in range(4):
        a.grad = torch.randn(16, 8, 3, 3)
        b.grad = a.grad.clone(memory_format=torch.channels_last if step % 2 else torch.contiguous_format)
        first.step()
        second.step()
    assert b.is_contiguous(memory_format=torch.channels_last)
    assert relative([b], [a]) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("cls", [MuonSGD, MuonAdamW])
def test_a_non_finite_gradient_skips_the_step(cls, value):
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(5))
    optimizer = cls([a, b])
    for p in (a, b):
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = {p: {k: v.clone() for k, v in entries.items()} for p, entries in optimizer.state.items()}
    before = [a.detach().clone(), b.detach().clone()]
    b.grad[2] = value
    optimizer.step()
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    for p, entries in optimizer.state.items():
        assert all(torch.equal(v, state[p][k]) for k, v in entries.items())
    assert optimizer.skipped_steps == int(optimizer.report()["skipped_steps"]) == 1
    b.grad = torch.randn(5)
    optimizer.step()
    assert not torch.equal(a, before[0])


ADAPTIVE = MuonSettings(muon_adapt=True)


@pytest.mark.parametrize("settings", [MuonSettings(), MuonSettings(muon_rows=0.9, muon_decay=1.0), ADAPTIVE])
def test_the_path_of_a_device_skips_without_looking(settings):
    """What a GPU does, on the CPU: the decision is a tensor that nobody reads."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(8, 16))
    optimizer = MuonSGD([p], weight_decay=0.1, muon=settings)
    group, good = optimizer.param_groups[0], torch.randn(8, 16)
    steps = optimizer.matrices

    @torch.no_grad()
    def step(grad, finite):
        steps.buffers(group, p, optimizer.state[p])
        betas = torch.tensor([0.5]) if settings.muon_adapt else None
        steps.step(group, [p], [grad], [optimizer.state[p]], torch.tensor(finite), betas)

    step(good, 1.0)
    before, state = p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items()}
    step(torch.full((8, 16), float("nan")), 0.0)
    assert torch.equal(p, before)
    assert all(torch.equal(v, optimizer.state[p][k]) for k, v in state.items())
    step(good, 1.0)
    assert p.isfinite().all()
    assert not torch.equal(p, before)


def test_zero_gradients_leave_a_matrix_alone():
    p = nn.Parameter(torch.randn(8, 16))
    optimizer = MuonSGD([p])
    before = p.detach().clone()
    p.grad = torch.zeros(8, 16)
    optimizer.step()
    assert torch.equal(p, before)


def test_gradients_are_only_read_and_none_is_skipped(yolo):
    model = clone(yolo)
    params = list(model.parameters())
    params[0].grad = params[4].grad = None
    before = [None if p.grad is None else p.grad.clone() for p in params]
    start = [p.detach().clone() for p in (params[0], params[4])]
    for cls in (MuonSGD, MuonAdamW):
        cls(ultralytics_groups(model), exclude=muon_exclusions(model)).step()
    for p, g in zip(params, before, strict=True):
        assert (p.grad is None) == (g is None)
        assert g is None or torch.equal(p.grad, g)
    assert torch.equal(params[0], start[0])
    assert torch.equal(params[4], start[1])


def test_exclusions_are_found_by_structure(yolo):
    layers = yolo.model
    excluded = muon_exclusions(yolo)
    assert layers[0].conv.weight in excluded
    assert all(p in excluded for p in layers[-1].parameters())
    depthwise = [m for m in yolo.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels]
    assert depthwise
    assert all(m.weight in excluded for m in depthwise)
    assert layers[1].conv.weight not in excluded
    assert not muon_exclusions(yolo, stem=False, head=False, depthwise=False)
    plain = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
    wanted = {plain[0].weight, *plain[1].parameters(), *plain[4].parameters()}
    assert muon_exclusions(plain) == wanted


def test_the_input_layer_of_a_distillation_is_the_students(yolo):
    """Ultralytics' DistillationModel holds its frozen teacher first."""
    model = torch.nn.Module()
    model.teacher_model = copy.deepcopy(yolo)
    model.student_model = yolo
    model.projector = torch.nn.ModuleList([torch.nn.Linear(64, 64)])
    found = {p for p in muon_exclusions(model) if any(p is q for q in yolo.parameters())}
    assert found == muon_exclusions(yolo)
    assert model.projector[0].weight not in muon_exclusions(model)


def test_pickle_and_deepcopy_keep_settings_and_exclusions():
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(4, 6))
    optimizer = MuonSGD([a, b], muon=MuonSettings(muon_scale="keller"), exclude=[b])
    for other in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        p, q = other.param_groups[0]["params"]
        assert other.param_groups[0]["muon_scale"] == "keller"
        assert other.matrices.takes(p)
        assert not other.matrices.takes(q)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: MuonSGD([p], momentum=1.2), r"momentum must be in \[0, 1\), got 1.2"),
        (lambda p: MuonSGD([p], lr=-1), "lr must be >= 0, got -1"),
        (lambda p: MuonAdamW([p], beta2=1.0), r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda p: MuonSettings(muon_scale="rmss"), "muon_scale must be one of rms, keller, native.*did you mean rms"),
        (lambda p: MuonSettings(muon_share=2.0), r"muon_share must be in \[0, 1\], got 2.0"),
        (lambda p: MuonSettings(muon_steps=0), r"muon_steps must be in \[1, 100\], got 0"),
    ],
)
def test_errors_say_value_and_range(call, message):
    with pytest.raises(SettingsError, match=message):
        call(nn.Parameter(torch.ones(2, 2)))


def test_plan_is_printable_and_made_once(yolo):
    model = clone(yolo)
    optimizer = MuonSGD(ultralytics_groups(model), exclude=muon_exclusions(model))
    optimizer.step()
    plans = optimizer.matrices._plans
    known = next(iter(plans.values()))
    optimizer.step()
    assert len(plans) == 1
    assert next(iter(plans.values())) is known
    assert "256 x 384" in str(optimizer.plan())
    assert "plan" not in str(optimizer.state_dict().keys())


@pytest.mark.parametrize("cls", [MuonSGD, MuonAdamW])
@pytest.mark.parametrize("settings", [MuonSettings(), MuonSettings(muon_rows=0.9, muon_decay=1.0), ADAPTIVE])
def test_no_step_waits_for_a_gpu(cls, settings, monkeypatch, fake_gpu):
    """Fake CUDA tensors have no values: whoever asks for one gets an exception."""
    monkeypatch.setattr("yolo_musgd.optim.kernel_plan.has_fast_bf16", lambda device: True)
    with fake_gpu():
        shapes = [(16, 8, 3, 3), (8, 16, 1, 1), (32, 16), (16, 8, 3, 3), (16,)]
        params = [nn.Parameter(torch.empty(s, device="cuda")) for s in shapes]
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer = cls(params, weight_decay=0.1, muon=settings)
        for _ in range(2):
            optimizer.step()
        report = optimizer.report()
        assert {v.device.type for v in report.values()} == {"cuda"}
        assert report["update_rms"].shape == (4,)
