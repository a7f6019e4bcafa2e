"""checks.py and batches.py: parameters, gradients and state that change: as in torch.optim, or one clear error."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from yolo_musgd.optim.checks import TensorError, check_devices
from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
from yolo_musgd.optim.musgd import MuSGD
from yolo_musgd.optim.registry import REGISTRY
from yolo_musgd.optim.zoo import RECIPES, zoo_class
from yolo_musgd.settings import SettingsError

MAKERS = {
    "MuSGD": MuSGD,
    "article": lambda params, **k: MuSGD(params, orthogonalize=False, **k),
    "article single": lambda params, **k: MuSGD(params, orthogonalize=False, backend="single", **k),
    "article foreach": lambda params, **k: MuSGD(params, orthogonalize=False, backend="foreach", **k),
    "second moment": lambda params, **k: MuSGD(params, orthogonalize=False, second_moment=0.9, **k),
    "share": lambda params, **k: MuSGD(params, muon_share=0.5, muon_rows=0.9, **k),
    "MuonSGD": MuonSGD,
    "MuonAdamW": MuonAdamW,
}
make = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
SGD_LIKE = {"lr": 0.1, "momentum": 0.9}


def parameters(widths=(8, 6, 5), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = widths
    shapes = [(a, b), (a,), (c, a, 3, 3), (c,), ()]
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def give(params, step=0, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        if p.requires_grad:
            p.grad = (torch.randn(p.shape, generator=generator).double() * scale).to(p.dtype)


def copies(params):
    return [p.detach().clone() for p in params]


def moved(params, before):
    return [not torch.equal(p, q) for p, q in zip(params, before, strict=True)]


# What is loaded


@make
@pytest.mark.parametrize("widths", [(10, 6, 5), (4, 6, 5), (8, 6, 9), (6, 8, 5)])
def test_state_of_other_widths_is_refused_by_name_and_nothing_is_loaded(make, widths):
    other = parameters(widths)
    foreign = make(other)
    give(other)
    foreign.step()
    params = parameters()
    optimizer = make(params)
    give(params)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(TensorError, match=r"parameter \d of group 0 \(shape .*\).* to load has shape .*other widths"):
        optimizer.load_state_dict(foreign.state_dict())
    after = optimizer.state_dict()
    for index, entry in before["state"].items():
        for key, value in entry.items():
            a, b = (v[0] if isinstance(v, tuple) else v for v in (value, after["state"][index][key]))
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    optimizer.step()


def saved(make, params):
    optimizer = make(params)
    give(params)
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@make
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda t: "text", "is no tensor but str"),
        (lambda t: t.tolist(), "is no tensor but (list|float)"),
        (lambda t: t * float("nan"), "is not finite"),
        (lambda t: t + float("inf"), "is not finite"),
    ],
)
def test_state_that_is_no_finite_tensor_is_refused_and_nothing_is_loaded(make, wrong, says):
    state_dict = saved(make, parameters())
    for entry in state_dict["state"].values():
        for key, value in entry.items():
            tensor = value[0] if isinstance(value, tuple) else value
            if isinstance(tensor, torch.Tensor) and key != "step":
                entry[key] = wrong(tensor)
    optimizer = make(parameters())
    with pytest.raises(TensorError, match=rf"parameter \d of group 0 \(shape .*: the \w+ to load {says}"):
        optimizer.load_state_dict(state_dict)
    assert not optimizer.state


@make
@pytest.mark.parametrize("wrong", ["text", float("nan"), -1, float("inf"), [1]])
def test_a_saved_count_that_is_none_is_refused(make, wrong):
    state_dict = saved(make, parameters())
    counted = [e for e in state_dict["state"].values() if {"step", "square_avg_steps"} & e.keys()]
    for entry in counted:
        entry.update(dict.fromkeys({"step", "square_avg_steps"} & entry.keys(), wrong))
    optimizer = make(parameters())
    if counted:
        with pytest.raises(TensorError, match=r"parameter \d of group 0 .*to load must be a number >= 0"):
            optimizer.load_state_dict(state_dict)
    else:
        optimizer.load_state_dict(state_dict)


@make
def test_state_that_is_none_is_begun_anew(make):
    """PyTorch before 2.0 saved ``momentum_buffer: None`` where it had none."""
    state_dict = saved(make, parameters())
    for entry in state_dict["state"].values():
        entry.update(dict.fromkeys(entry))
    params = parameters()
    optimizer = make(params)
    optimizer.load_state_dict(state_dict)
    before = copies(params)
    give(params)
    optimizer.step()
    assert all(moved(params, before))


@make
@pytest.mark.parametrize("wrong", [{}, {"state": {}}, {"param_groups": []}, {"state": [], "param_groups": []}])
def test_what_is_no_state_dict_is_refused(make, wrong):
    with pytest.raises(TensorError, match="a state dict has state and param_groups, this one has"):
        make(parameters()).load_state_dict(wrong)


@make
def test_an_entry_that_is_no_mapping_is_refused(make):
    state_dict = saved(make, parameters())
    state_dict["state"][2] = [1, 2]
    with pytest.raises(TensorError, match=r"parameter 2 of group 0 .*the state to load is no mapping"):
        make(parameters()).load_state_dict(state_dict)


@make
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1e9, "text", []])
def test_settings_that_are_loaded_are_checked_as_those_that_are_given(make, wrong):
    state_dict = saved(make, parameters())
    optimizer = make(parameters())
    before = copy.deepcopy(optimizer.state_dict())
    for key in ("lr", "momentum", "weight_decay", "muon_lr", "muon_steps"):
        broken = copy.deepcopy(state_dict)
        broken["param_groups"][0][key] = wrong
        with pytest.raises(SettingsError, match=f"^{key} must be "):
            optimizer.load_state_dict(broken)
    assert optimizer.state_dict() == before


@make
@pytest.mark.parametrize("key", ["lr", "momentum"])
def test_a_rate_that_a_schedule_makes_nan_is_an_error_and_no_weight(make, key):
    params = parameters()
    optimizer = make(params)
    optimizer.param_groups[0][key] = float("nan")
    give(params)
    before = copies(params)
    with pytest.raises(SettingsError, match=f"{key} of group 0 must be finite, got nan"):
        optimizer.step()
    assert not any(moved(params, before))


@pytest.mark.parametrize("name", RECIPES)
def test_state_of_other_widths_is_refused_by_the_zoo_too(name):
    if RECIPES[name].library != "torch.optim":
        pytest.importorskip("pytorch_optimizer")
    other, params = parameters((10, 6, 5))[:4], parameters()[:4]
    build = REGISTRY[name].build
    foreign, optimizer = (build([{"params": p, "lr": 0.01}], {}, nn.Linear(2, 2)) for p in (other, params))
    give(other)
    foreign.step()
    with pytest.raises(TensorError, match=r"parameter \d of group 0"):
        optimizer.load_state_dict(foreign.state_dict())


def test_a_named_parameter_is_named():
    model, wider = nn.Linear(4, 3), nn.Linear(4, 5)
    try:
        optimizer, foreign = MuSGD(model.named_parameters()), MuSGD(wider.named_parameters())
    except TypeError:
        pytest.skip("this torch takes no named parameters")
    give(wider.parameters())
    foreign.step()
    with pytest.raises(TensorError, match=r"parameter 0 of group 0 \(weight, shape \(3, 4\)\)"):
        optimizer.load_state_dict(foreign.state_dict())


# What changes between steps


@make
@pytest.mark.parametrize("change", ["shrunk", "view", "grown", "dtype"])
def test_a_parameter_that_no_longer_fits_its_state_is_an_error(make, change):
    params = parameters()
    optimizer = make(params)
    for step in range(2):
        give(params, step)
        optimizer.step()
    p = params[2]
    if change == "dtype":
        p.data = p.data.double()
    else:
        p.data = {"shrunk": p.data[:3].clone(), "view": p.data[:, :3], "grown": torch.ones(9, 8, 3, 3)}[change]
    p.grad = None
    give(params, 2)
    before = copies(params)
    with pytest.raises(TensorError, match=r"parameter 2 of group 0 \(shape .*: its \w+ is of shape"):
        optimizer.step()
    assert not any(moved(params, before))
    del optimizer.state[p]  # as the message says
    optimizer.step()
    assert all(moved(params, before))


@make
def test_a_gradient_that_no_longer_fits_is_an_error(make):
    params = parameters()
    optimizer = make(params)
    for step in range(2):
        give(params, step)
        optimizer.step()
    give(params, 2)
    params[0].data = params[0].data[:3]
    before = copies(params)
    with pytest.raises(TensorError, match=r"parameter 0 of group 0 .*has a gradient of shape \(8, 6\)"):
        optimizer.step()
    give(params, 3)
    params[1].grad.data = params[1].grad.data[:2]
    params[0].data = torch.ones(8, 6)
    with pytest.raises(TensorError, match=r"parameter [01] of group 0 .*has a gradient of shape"):
        optimizer.step()
    assert not any(moved(params[2:], before[2:]))


@make
@pytest.mark.parametrize("wrong", [lambda t: t[:-1], lambda t: t.double(), lambda t: t.half(), lambda t: t.to("meta")])
def test_replaced_state_that_does_not_fit_is_an_error(make, wrong):
    params = parameters()
    optimizer = make(params)
    give(params)
    optimizer.step()
    key = next(k for k, v in optimizer.state[params[1]].items() if isinstance(v, torch.Tensor) and v.ndim)
    optimizer.state[params[1]][key] = wrong(optimizer.state[params[1]][key])
    with pytest.raises(TensorError, match=rf"parameter 1 of group 0 \(shape \(8,\)\): its {key} is of shape"):
        optimizer.step()


@make
@pytest.mark.parametrize("wrong", [lambda t: t[:-1], lambda t: torch.cat([t, t])])
def test_state_that_changes_in_place_is_an_error(make, wrong):
    params = parameters()
    optimizer = make(params)
    for step in range(3):
        give(params, step)
        optimizer.step()
    key = next(k for k, v in optimizer.state[params[1]].items() if isinstance(v, torch.Tensor) and v.ndim)
    held = optimizer.state[params[1]][key]
    held.data = wrong(held.data)
    with pytest.raises(TensorError, match=rf"parameter 1 of group 0 \(shape \(8,\)\): its {key} is of shape"):
        optimizer.step()


@pytest.mark.parametrize("cls", [MuSGD, MuonSGD])
@pytest.mark.parametrize("how", ["in place", "new list", "twice"])
@pytest.mark.parametrize("orthogonalize", [True, False])
def test_replaced_parameters_are_trained_and_the_old_ones_are_not(cls, how, orthogonalize):
    old = parameters()
    optimizer = cls(old, orthogonalize=orthogonalize)
    for step in range(3):
        give(old, step)
        optimizer.step()
    for round_ in range(2 if how == "twice" else 1):
        new = parameters(seed=1 + round_)
        if how == "in place":
            optimizer.param_groups[0]["params"][:] = new
        else:
            optimizer.param_groups[0]["params"] = list(new)
        for step in range(15):
            give(new, step)
            give(old, step)
            before, still = copies(new), copies(old)
            optimizer.step()
            assert all(moved(new, before))
            assert not any(moved(old, still))
        old = new


def test_replaced_parameters_step_as_torch_sgd_steps_them():
    ours, theirs = parameters(), parameters()
    a = MuSGD(ours, orthogonalize=False, adapt_factor=0, backend="single", **SGD_LIKE)
    b = torch.optim.SGD(theirs, nesterov=True, foreach=False, **SGD_LIKE)
    for step in range(12):
        if step == 3:  # other widths under the same place
            for optimizer, params in ((a, ours), (b, theirs)):
                params[2] = nn.Parameter(torch.ones(4, 2, 3, 3))
                optimizer.param_groups[0]["params"][2] = params[2]
        if step == 5:
            for optimizer, params in ((a, ours), (b, theirs)):
                del params[1]
                optimizer.param_groups[0]["params"] = list(params)
        if step == 7:
            del a.state[ours[0]], b.state[theirs[0]]
        if step == 9:
            a.state.clear()
            b.state.clear()
            ours[0].grad = theirs[0].grad = None
            ours[0].requires_grad_(False)
            theirs[0].requires_grad_(False)
        give(ours, step)
        give(theirs, step)
        a.step()
        b.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True)), step
    assert set(a.state) == set(ours[1:])


@make
def test_deleted_state_starts_anew_as_in_a_new_optimizer(make):
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = make(params, lr=0.01)
    for step in range(4):
        give(params, step)
        optimizer.step()
    optimizer.state.clear()
    twins = [nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in params]
    fresh = make(twins, lr=0.01)
    for step in (4, 5):
        give(params, step)
        give(twins, step)
        optimizer.step()
        fresh.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert set(optimizer.state_dict()["state"]) == {1, 2, 3, 4}


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_running_norms_do_not_outlive_what_they_were_measured_on(scope):
    params = parameters()
    optimizer = MuSGD(params, norm_mode="relative", norm_scope=scope, adapt_factor=1.0)
    for step in range(3):
        give(params, step, scale=1e3)
        optimizer.step()
    optimizer.param_groups[0]["params"] = params = parameters(seed=4)[:3]
    give(params)
    optimizer.step()
    if scope == "tensor":
        assert optimizer.report()["beta_t"].tolist() == pytest.approx([0.45] * 3)  # the first norm is its own mean


# What cannot be stepped


@make
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("what", ["data", "gradient", "state"])
def test_memory_that_was_freed_is_an_error(make, place, what):
    """Fully sharded training frees weights like that; torch's kernels check it, its norms and products do not."""
    params = parameters()
    optimizer = make(params)
    for step in range(2):
        give(params, step)
        optimizer.step()
    p = params[place]
    state = next(v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor) and v.ndim)
    {"data": p, "gradient": p.grad, "state": state}[what].untyped_storage().resize_(0)
    with pytest.raises(TensorError, match=rf"parameter {place} of group 0 .*: its \w+ has no memory"):
        optimizer.step()


@make
def test_tensors_without_elements_are_stepped_over(make):
    params = [nn.Parameter(torch.ones(s)) for s in ((0,), (0, 4), (3, 0, 2), (3, 3), (2, 2, 0, 3))]
    optimizer = make(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.skipped_steps == 0
    assert not torch.equal(params[3], torch.ones(3, 3))


@make
def test_parameters_without_memory_are_one_clear_error(make):
    params = [*parameters(), nn.Parameter(torch.empty(4, device="meta"))]
    optimizer = make(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(TensorError, match=r"parameter 5 of group 0 .*has no memory: freed, or on the device meta"):
        optimizer.step()


@make
@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn])
def test_a_type_that_is_not_stepped_is_one_clear_error(make, dtype):
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3).to(dtype), requires_grad=False)
    optimizer = make([p, q])
    p.grad = torch.ones(3)
    optimizer.step()
    q.grad = torch.ones(3).to(dtype)
    with pytest.raises(TensorError, match=r"parameter 1 of group 0 .* is of (int64|float8_e4m3fn); \w+ steps float16"):
        optimizer.step()


def test_parameters_of_two_devices_are_one_clear_error():
    with pytest.raises(TensorError, match="parameters are on cpu and cuda:1; make an optimizer for each device"):
        check_devices(map(torch.device, ("cpu", "cuda:1", "cpu")))


@make
def test_the_default_device_is_not_the_parameters(make):
    params, twins = parameters(), parameters()
    optimizer, oracle = make(params), make(twins)
    for step in range(2):
        give(params, step)
        give(twins, step)
        with torch.device("meta"):
            optimizer.step()
        oracle.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@make
def test_sparse_gradients_are_one_clear_error(make):
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TensorError, match=r"parameter 0 of group 0 .* has a sparse gradient.*SparseAdam"):
        make(embedding.parameters()).step()


@make
def test_a_gradient_that_turns_sparse_later(make):
    p = nn.Parameter(torch.ones(4, 2))
    optimizer = make([p])
    p.grad = torch.ones(4, 2)
    optimizer.step()
    p.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(TensorError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize("name", RECIPES)
def test_sparse_gradients_in_the_zoo(name):
    if RECIPES[name].library != "torch.optim":
        pytest.importorskip("pytorch_optimizer")
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = zoo_class(name)(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TensorError, match=f"{name} does not support sparse"):
        optimizer.step()


@make
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters_are_one_clear_error(make, dtype):
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 2, dtype=dtype))
    with pytest.raises(TensorError, match=r"parameter 1 of group 0 .* is complex.*view_as_real"):
        make([p, q])
    optimizer = make([p])
    with pytest.raises(TensorError, match=r"parameter 0 of group 1 .* is complex"):
        optimizer.add_param_group({"params": [q]})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["params"].append(q)
    p.grad, q.grad = torch.ones(3), torch.ones(3, 2, dtype=dtype)
    with pytest.raises(TensorError, match=r"parameter 1 of group 0 .* is complex"):
        optimizer.step()


# Numbers


@make
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 0.0, 1.0])
def test_other_precisions_stay_finite_and_follow_fp32(make, dtype, scale):
    params, twins = parameters(dtype=dtype), parameters()
    for p, q in zip(params, twins, strict=True):
        q.data = p.data.float()
    optimizer, oracle = make(params, lr=0.01), make(twins, lr=0.01)
    start = copies(twins)
    for step in range(6):
        give(params, step, scale)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.float()
        optimizer.step()
        oracle.step()
    for p, q, s in zip(params, twins, start, strict=True):
        assert p.isfinite().all()
        tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-3}[dtype]
        torch.testing.assert_close(p.float(), q, rtol=tolerance, atol=tolerance)
        assert (q - s).abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["second moment", "MuonAdamW", "share"])
def test_statistics_of_half_precision_are_fp32_and_survive_a_checkpoint(name, dtype):
    params = parameters(dtype=dtype)
    optimizer = MAKERS[name](params)
    for step in range(3):
        give(params, step, 1e-4)
        optimizer.step()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    other = MAKERS[name](twins)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    statistics = {"square_avg", "exp_avg_sq", "exp_avg"}
    seen = 0
    for p, q in zip(params, twins, strict=True):
        for key in statistics & optimizer.state[p].keys():
            seen += 1
            assert optimizer.state[p][key].dtype == other.state[q][key].dtype == torch.float32
            assert torch.equal(optimizer.state[p][key], other.state[q][key])
    assert seen
    give(params, 3, 1e-4)
    give(twins, 3, 1e-4)
    optimizer.step()
    other.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@make
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e19), (torch.float32, 1e37), (torch.float64, 1e200)])
def test_large_finite_gradients_are_no_reason_to_skip(make, dtype, scale):
    if dtype == torch.float64 and make in (MAKERS["MuonAdamW"], MAKERS["second moment"]):
        scale = 1e30
    params = parameters(dtype=dtype)
    optimizer = make(params, lr=1e-3 / scale if make is not MuonAdamW else 1e-3)
    for step in range(2):
        give(params, step, scale)
        optimizer.step()
    assert optimizer.skipped_steps == 0
    assert all(p.isfinite().all() for p in params)
    params[1].grad[0] = float("inf")
    optimizer.step()
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("name", RECIPES)
def test_large_finite_gradients_are_no_reason_to_skip_in_the_zoo(name):
    if RECIPES[name].library != "torch.optim":
        pytest.importorskip("pytorch_optimizer")
    p = nn.Parameter(torch.ones(3))
    optimizer = zoo_class(name)([p], lr=1e-3)
    p.grad = torch.full((3,), 2e19)
    optimizer.step()
    assert int(optimizer.report()["skipped_steps"]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("cls", [MuSGD, MuonSGD, MuonAdamW])
def test_bf16_momentum_of_every_precision(cls, dtype):
    params = parameters(dtype=dtype)
    optimizer = cls(params, muon_state="bfloat16")
    for step in range(3):
        give(params, step)
        optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.bfloat16
    other = cls(params, muon_state="bfloat16")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(other.state[params[0]]["exp_avg"], optimizer.state[params[0]]["exp_avg"])
    other.step()
    assert all(p.isfinite().all() for p in params)


@make
def test_gradients_and_parameters_with_gaps_or_no_stride(make):
    """Raw memory may not be walked there: every other column, a reversed order, one number for all."""
    params, twins = parameters(), parameters()
    for p, q in zip(params[:2], twins, strict=False):
        p.data = torch.stack([q.data, torch.full_like(q, 7.0)], -1)[..., 0]
    gaps = params[1].data.as_strided((16,), (1,))
    optimizer, oracle = make(params, lr=0.01), make(twins, lr=0.01)
    for step in range(3):
        give(params, step)
        params[1].grad = torch.full((1,), 0.5).expand(8)
        params[3].grad = torch.stack([params[3].grad, params[3].grad], -1)[:, 0]
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone().contiguous()
        optimizer.step()
        oracle.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)
    assert (gaps[1::2] == 7.0).all()


# State dicts and hooks


@make
def test_a_state_without_its_newer_keys(make):
    """Whatever entry of a state or setting of a group is missing is begun anew."""
    params = parameters()
    optimizer = make(params)
    for step in range(2):
        give(params, step)
        optimizer.step()
    saved = optimizer.state_dict()
    keys = {k for entry in saved["state"].values() for k in entry}
    settings = set(saved["param_groups"][0]) - {"params"}
    for missing in (*sorted(keys), *sorted(settings)):
        partial = copy.deepcopy(saved)
        for entry in (*partial["state"].values(), *partial["param_groups"]):
            entry.pop(missing, None)
        twins = [nn.Parameter(p.detach().clone()) for p in params]
        other = make(twins)
        other.load_state_dict(partial)
        give(twins, 2)
        other.step()
        assert all(p.isfinite().all() for p in twins), missing
        assert other.skipped_steps == 0


@pytest.mark.parametrize("name", [*MAKERS, *RECIPES])
@pytest.mark.parametrize("parents_first", [False, True])
def test_hooks_are_called_once_a_step(name, parents_first):
    if name in RECIPES:
        if RECIPES[name].library != "torch.optim":
            pytest.importorskip("pytorch_optimizer")
        cls = zoo_class(name)
        optimizer = cls(parameters()[:4], lr=0.01)
    else:
        optimizer = MAKERS[name](parameters(), lr=0.01)
    if parents_first:  # a class' step gets its hooks with its first instance
        for parent in type(optimizer).__mro__[1:]:
            if issubclass(parent, torch.optim.Optimizer) and not getattr(parent, "__abstractmethods__", None):
                try:
                    parent([nn.Parameter(torch.ones(2, 2))], lr=0.1)
                except (TypeError, NotImplementedError):
                    continue
        if name in RECIPES:
            optimizer = type(optimizer)(parameters()[:4], lr=0.01)
        else:
            optimizer = MAKERS[name](parameters(), lr=0.01)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global after")),
    ]
    try:
        give([p for g in optimizer.param_groups for p in g["params"]])
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(calls) == ["after", "before", "global after", "global before"]


def test_hooks_see_the_state_dict_and_may_change_it():
    params = parameters()
    optimizer = MuonSGD(params)
    give(params)
    optimizer.step()
    other = MuonSGD(params)

    def double(_, state_dict):
        out = copy.deepcopy(state_dict)
        for entry in out["state"].values():
            for value in entry.values():
                value.mul_(2)
        return out

    other.register_load_state_dict_pre_hook(double)
    other.load_state_dict(optimizer.state_dict())
    for p in params:
        for key, value in optimizer.state[p].items():
            assert torch.equal(other.state[p][key], 2 * value)
