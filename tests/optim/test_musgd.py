"""The article's rule: MuSGD without orthogonalised steps; test_muon.py has those.

Covers kernels.py and settings.py.
"""

import copy
import functools
import itertools
import pickle

import pytest
import torch
from musgd_reference import musgd_reference_step

from yolo_musgd.optim import musgd
from yolo_musgd.optim.kernels import fused_available, squared_norms, wide_squared_norms
from yolo_musgd.settings import SettingsError

MuSGD = functools.partial(musgd.MuSGD, orthogonalize=False)
BACKENDS = ["single", "foreach", "fused"]
SHAPES = [(16, 3, 3, 3), (16,), (16,), (8, 16, 1, 1), (8,), (8, 1, 3, 3), (5, 8), ()]


def make_params(seed=0, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def set_grads(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


def groups_of(params, weight_decay):
    return [
        {"params": [p for p in params if p.ndim <= 1], "param_group": "bias"},
        {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay, "param_group": "weight"},
        {"params": [], "param_group": "bn"},
    ]


@pytest.fixture(scope="module")
def yolo26n_params():
    from ultralytics.nn.tasks import DetectionModel

    return [p.detach().float() for p in DetectionModel("yolo26n.yaml", verbose=False).parameters()]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("backend", "sgd"), [("single", {}), ("foreach", {"foreach": True}), ("fused", {"fused": True})]
)
def test_without_adaptation_it_is_torch_sgd_to_the_last_bit(yolo26n_params, backend, sgd, nesterov):
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in yolo26n_params] for _ in range(2))
    kwargs = {"lr": 0.01, "momentum": 0.9, "nesterov": nesterov}
    a = MuSGD(groups_of(ours, 5e-4), adapt_factor=0, backend=backend, **kwargs)
    b = torch.optim.SGD(groups_of(theirs, 5e-4), **kwargs, **({"foreach": False} | sgd))
    for step in range(100):
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=generator).mul_(0.01)
        a.step()
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


VARIANTS = list(
    itertools.product(["tensor", "global"], ["raw", "decayed"], [False, True], [False, True], [False, True])
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("norm_scope", "norm_source", "nesterov", "lr_in_velocity", "decoupled_decay"), VARIANTS)
def test_hundred_steps_equal_the_naive_loop(
    backend, norm_scope, norm_source, nesterov, lr_in_velocity, decoupled_decay
):
    rule = {
        "norm_scope": norm_scope,
        "norm_source": norm_source,
        "nesterov": nesterov,
        "lr_in_velocity": lr_in_velocity,
        "decoupled_decay": decoupled_decay,
        "beta_min": 0.05,
    }
    params, twin = make_params(), make_params()
    velocities = [torch.zeros_like(p) for p in twin]
    optimizer = MuSGD(params, lr=0.02, momentum=0.9, adapt_factor=0.05, weight_decay=0.01, backend=backend, **rule)
    for step in range(100):
        set_grads(params, step, scale=0.3)
        optimizer.step()
        want = musgd_reference_step(
            twin, [p.grad for p in params], velocities, 0.02, 0.9, 0.05, weight_decay=0.01, **rule
        )
        assert optimizer.report()["beta_t"].tolist() == pytest.approx(want, rel=1e-5)
    for p, q in zip(params, twin, strict=True):
        assert ((p - q).norm() / q.norm()).item() < 1e-6


def test_article_rule_on_yolo26n_equals_the_naive_loop(yolo26n_params):
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in yolo26n_params] for _ in range(2))
    velocities = [torch.zeros_like(p) for p in theirs]
    optimizer = MuSGD(ours, 0.01, 0.9, 5e-4, nesterov=False, adapt_factor=0.1, norm_source="decayed")
    for step in range(100):
        generator = torch.Generator().manual_seed(step)
        for p in ours:
            p.grad = torch.randn(p.shape, generator=generator).mul_(0.01)
        optimizer.step()
        musgd_reference_step(theirs, [p.grad for p in ours], velocities, 0.01, 0.9, 0.1, 5e-4)
    worst = max(((p - q).norm() / q.norm().clamp(min=1e-12)).item() for p, q in zip(ours, theirs, strict=True))
    assert worst < 1e-6


def test_worked_figure_through_the_optimizer():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 5.0)  # norm 10
    optimizer = MuSGD([p], momentum=0.9, adapt_factor=0.1)
    optimizer.step()
    assert optimizer.report()["beta_t"].tolist() == pytest.approx([0.9 / 11])


def test_momentum_example_of_the_articles():
    """Article "Momentum, from intuition to formula": f(w) = (w-1)^2 from w = 5, lr 0.1, mu 0.9; five steps."""
    w, path = torch.nn.Parameter(torch.tensor(5.0)), []
    optimizer = MuSGD([w], lr=0.1, momentum=0.9, nesterov=False, adapt_factor=0)
    for _ in range(5):
        optimizer.zero_grad()
        (w - 1).square().backward()
        optimizer.step()
        path.append(w.item())
    assert path == pytest.approx([4.2, 2.84, 1.248, -0.2344, -1.32168], rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm_scope", ["tensor", "global"])
def test_relative_norms_do_not_see_the_scale_of_the_loss(backend, norm_scope):
    traces = []
    for scale in (1.0, 1000.0):
        params = make_params()
        optimizer = MuSGD(params, lr=0, adapt_factor=0.5, norm_mode="relative", norm_scope=norm_scope, backend=backend)
        trace = []
        for step in range(20):
            set_grads(params, step, scale)
            optimizer.step()
            trace.append(optimizer.report()["beta_t"])
        traces.append(torch.stack(trace))
    torch.testing.assert_close(traces[0], traces[1], rtol=1e-5, atol=0)
    assert traces[0].unique().numel() > 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_skips_the_step_and_is_counted(backend, poison):
    params = make_params()
    optimizer = MuSGD(params, weight_decay=0.01, norm_mode="relative", backend=backend)
    set_grads(params, 0)
    optimizer.step()
    before, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict())
    set_grads(params, 1)
    params[3].grad.view(-1)[2] = poison
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    after = optimizer.state_dict()
    for index, entry in state["state"].items():
        assert torch.equal(entry["momentum_buffer"], after["state"][index]["momentum_buffer"])
    assert torch.equal(state["param_groups"][0]["norm_sq_mean"], after["param_groups"][0]["norm_sq_mean"])
    assert optimizer.skipped_steps == 1
    assert "beta_t" not in optimizer.report()
    set_grads(params, 2)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_skip_decided_on_the_device_equals_the_one_decided_on_the_host(nesterov, decoupled):
    """What a GPU does without waiting, run on the CPU: betas and the finite flag stay tensors."""
    from yolo_musgd.optim.kernels import Hyper, update, update_single

    hyper = Hyper(lr=0.1, weight_decay=0.01, nesterov=nesterov, decoupled_decay=decoupled)
    params, twin = make_params(), make_params()
    velocities, twin_velocities = [torch.ones_like(p) for p in params], [torch.ones_like(p) for p in twin]
    betas = torch.linspace(0.1, 0.9, len(params), dtype=torch.float64)
    set_grads(params, 0)
    grads = [p.grad for p in params]
    with torch.no_grad():
        update(params, grads, velocities, betas, hyper, torch.tensor(1.0))
        update_single(twin, grads, twin_velocities, betas.tolist(), hyper)
        for a, b in zip(params + velocities, twin + twin_velocities, strict=True):
            torch.testing.assert_close(a, b)
        before = [t.clone() for t in params + velocities]
        grads[0].view(-1)[0] = float("nan")
        update(params, grads, velocities, betas, hyper, torch.tensor(0.0))
    assert all(torch.equal(a, b) for a, b in zip(params + velocities, before, strict=True))


RULES = [
    {},
    {"norm_scope": "global"},
    {"norm_mode": "relative"},
    {"norm_mode": "relative", "norm_scope": "global", "nesterov": False},
    {"norm_source": "decayed", "lr_in_velocity": True},
    {"decoupled_decay": True, "beta_min": 0.1},
]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_waits_for_a_gpu(rule, fake_gpu):
    """Fake CUDA tensors have no values: whatever needed one on the host would raise."""
    from torch._subclasses.fake_tensor import DataDependentOutputException

    with fake_gpu():
        params = [torch.nn.Parameter(torch.empty(s, device="cuda")) for s in SHAPES[:7]]
        optimizer = MuSGD(params, weight_decay=0.01, **rule)
        for _ in range(3):
            for p in params[1:]:  # the first is frozen
                p.grad = torch.empty_like(p)
            optimizer.step()
        report = optimizer.report()
        assert report["beta_t"].shape == (len(params) - 1,)
        assert {v.device.type for v in report.values()} == {"cuda"}
        with pytest.raises(DataDependentOutputException):  # the counter on the host does wait: the check can fail
            _ = optimizer.skipped_steps


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_without_gradient_and_zero_gradients(backend):
    params = make_params()
    optimizer = MuSGD(params, backend=backend, norm_mode="relative")
    set_grads(params, 0)
    params[1].grad, params[4].grad = None, torch.zeros_like(params[4])
    before = [p.detach().clone() for p in params]
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip(params, before, strict=True)]
    assert moved == [i not in (1, 4) for i in range(len(params))]
    assert params[1] not in optimizer.state
    set_grads(params, 1)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_replaced_state_is_honoured(backend):
    """As torch.optim does: what stands in optimizer.state is the velocity."""
    params, twin = make_params(), make_params()
    optimizer, oracle = MuSGD(params, backend=backend), MuSGD(twin, backend="single")
    for step in range(4):
        if step == 2:
            optimizer.state.clear()
            oracle = MuSGD(twin, backend="single")
        set_grads(params, step)
        set_grads(twin, step)
        optimizer.step()
        oracle.step()
    assert len(optimizer.state_dict()["state"]) == len(params)
    for p, q in zip(params, twin, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transposed_gradient_of_a_matrix(backend):
    p, q = (torch.nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2))
    gradient = torch.arange(12.0).view(4, 3).t()
    optimizer = MuSGD([p], lr=0.01, adapt_factor=0.0, backend=backend)
    oracle = torch.optim.SGD([q], lr=0.01, momentum=0.9, nesterov=True)
    for _ in range(3):
        p.grad, q.grad = gradient, gradient.contiguous()
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(p, q)


def test_values_of_a_group_are_normalised():
    group = {"params": make_params(), "norm_scope": "GLOBAL", "lr": torch.tensor(0.5), "adapt_factor": 1}
    optimizer = MuSGD([group])
    assert optimizer.param_groups[0]["norm_scope"] == "global"
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert isinstance(optimizer.param_groups[0]["adapt_factor"], float)


def test_nothing_to_do_without_any_gradient():
    params = make_params()
    optimizer = MuSGD(params)
    optimizer.step()
    assert optimizer.report()["skipped_steps"] == 0
    assert "beta_t" not in optimizer.report()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_follow_fp32(backend, dtype):
    params, twin = make_params(dtype=dtype), make_params()
    optimizer = MuSGD(params, lr=0.01, adapt_factor=0.05, backend=backend)
    oracle = MuSGD(twin, lr=0.01, adapt_factor=0.05, backend="single")
    for step in range(10):
        set_grads(params, step)
        set_grads(twin, step)
        optimizer.step()
        oracle.step()
    assert {p.dtype for p in params} == {dtype}
    tolerance = {torch.float64: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for p, q in zip(params, twin, strict=True):
        assert ((p.float() - q).norm() / q.norm()).item() < tolerance


def test_a_fused_kernel_that_is_wrong_in_its_vector_loop_is_not_used(monkeypatch):
    """As torch 2.4's in bf16: its first elements are right."""

    def wrong(params, grads, buffers, **hyper):
        for p, v in zip(params, buffers, strict=True):
            v.fill_(1.5)
            p.fill_(0.25)
            v[8:] = 7.0

    assert fused_available.__wrapped__("cpu", torch.float32)
    monkeypatch.setattr(torch, "_fused_sgd_", wrong)
    assert not fused_available.__wrapped__("cpu", torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["param", "grad", "both"])
def test_channels_last(backend, which):
    params, twin = make_params(), make_params()
    if which != "grad":
        for p in params:
            if p.ndim == 4:
                p.data = p.data.to(memory_format=torch.channels_last)
    optimizer, oracle = MuSGD(params, backend=backend), MuSGD(twin, backend="single")
    for step in range(3):
        set_grads(params, step)
        set_grads(twin, step)
        for p in params:
            if which != "param" and p.ndim == 4:
                p.grad = p.grad.to(memory_format=torch.channels_last)
        optimizer.step()
        oracle.step()
    for p, q in zip(params, twin, strict=True):
        torch.testing.assert_close(p.detach().contiguous(), q.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_may_change_between_steps(backend):
    params, twin = make_params(), make_params()
    optimizer, oracle = MuSGD(params, backend=backend), MuSGD(twin, backend="single")
    for step in range(4):
        if step == 2:  # what model.to(memory_format=torch.channels_last) does
            for p in params:
                if p.ndim == 4:
                    p.data = p.data.to(memory_format=torch.channels_last)
        set_grads(params, step)
        set_grads(twin, step)
        optimizer.step()
        oracle.step()
    for p, q in zip(params, twin, strict=True):
        torch.testing.assert_close(p.detach().contiguous(), q.detach())
        assert optimizer.state[p]["momentum_buffer"].is_contiguous() == p.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_only_read(backend):
    params = make_params()
    set_grads(params, 0)
    before = [p.grad.clone() for p in params]
    MuSGD(params, weight_decay=0.1, norm_source="decayed", backend=backend).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))


def test_state_is_exactly_one_copy_of_the_parameters(yolo26n_params):
    params = [torch.nn.Parameter(p.clone()) for p in yolo26n_params]
    optimizer = MuSGD(params, norm_scope="tensor")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    stored = [t for s in optimizer.state.values() for t in s.values()]
    assert sum(t.numel() * t.element_size() for t in stored) == sum(p.numel() * p.element_size() for p in params)


@pytest.mark.parametrize("norm_mode", ["absolute", "relative"])
def test_state_dict_round_trip_continues_the_same_run(norm_mode):
    def run(optimizer, params, steps):
        for step in steps:
            set_grads(params, step)
            optimizer.step()

    kwargs = {"adapt_factor": 0.05, "norm_mode": norm_mode, "weight_decay": 0.01}
    straight = make_params()
    run(MuSGD(straight, **kwargs), straight, range(10))
    params = make_params()
    first = MuSGD(params, **kwargs)
    run(first, params, range(5))
    second = MuSGD(params)  # the checkpoint brings the hyper-parameters back
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.param_groups[0]["adapt_factor"] == 0.05
    run(second, params, range(5, 10))
    assert all(torch.equal(p, q) for p, q in zip(params, straight, strict=True))


def test_survives_ultralytics_half_precision_checkpoint():
    from ultralytics.utils.torch_utils import convert_optimizer_state_dict_to_fp16

    params = make_params()
    optimizer = MuSGD(params, norm_mode="relative")
    for step in range(5):
        set_grads(params, step, scale=1e-4)
        optimizer.step()
    saved = convert_optimizer_state_dict_to_fp16(copy.deepcopy(optimizer.state_dict()))
    fresh = MuSGD(params, norm_mode="relative")
    fresh.load_state_dict(saved)
    for p in params:
        got, want = fresh.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-7)
    mean = fresh.param_groups[0]["norm_sq_mean"]
    assert torch.equal(mean, optimizer.param_groups[0]["norm_sq_mean"])
    assert (mean > 0).all()


def test_old_checkpoint_without_the_newer_settings():
    params = make_params()
    saved = MuSGD(params).state_dict()
    for name in ("norm_mode", "norm_decay", "beta_min"):
        del saved["param_groups"][0][name]
    fresh = MuSGD(params)
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["norm_mode"] == "absolute"
    set_grads(params, 0)
    fresh.step()
    assert fresh.report()["beta_t"].numel() == len(params)


def test_pickle():
    params = make_params()
    optimizer = MuSGD(params, adapt_factor=0.03, backend="single")
    set_grads(params, 0)
    optimizer.step()
    clone = pickle.loads(pickle.dumps(optimizer))
    assert clone.backend == "single"
    assert clone.param_groups[0]["adapt_factor"] == 0.03
    assert clone.skipped_steps == 0


def test_closure_scheduler_and_warm_up():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = MuSGD([p], lr=0.1, momentum=0.9, adapt_factor=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    for group in optimizer.param_groups:  # what Ultralytics' warm-up does
        group["momentum"] = 0.8
    optimizer.step(closure)
    assert optimizer.report()["beta_t"].tolist() == pytest.approx([0.8])


def test_grad_scaler_unscales_before_the_norm():
    try:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"no GradScaler for the CPU: {error}")
    params, twin = make_params(), make_params()
    optimizer, oracle = MuSGD(params, adapt_factor=0.1), MuSGD(twin, adapt_factor=0.1)
    scaler.scale(sum((p * p).sum() for p in params)).backward()
    scaler.step(optimizer)
    sum((p * p).sum() for p in twin).backward()
    oracle.step()
    torch.testing.assert_close(optimizer.report()["beta_t"], oracle.report()["beta_t"])
    for p, q in zip(params, twin, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, r"lr must be >= 0, got -1"),
        ({"momentum": 1.2}, r"momentum must be in \[0, 1\), got 1.2"),
        ({"weight_decay": -0.1}, r"weight_decay must be >= 0, got -0.1"),
        ({"adapt_factor": -0.5}, r"adapt_factor must be >= 0, got -0.5"),
        ({"adapt_factor": float("nan")}, r"adapt_factor must be >= 0, got nan"),
        ({"beta_min": 1.0}, r"beta_min must be in \[0, 1\), got 1.0"),
        ({"norm_scope": "globl"}, r"norm_scope must be one of tensor, global, got 'globl'; did you mean global\?"),
        ({"norm_mode": 3}, r"norm_mode must be one of absolute, relative"),
        ({"nesterov": "yes"}, r"nesterov must be True or False, got 'yes'"),
        ({"backend": "cuda"}, r"backend must be one of auto, single, foreach, fused"),
    ],
)
def test_bad_values_name_value_and_range(arguments, message):
    with pytest.raises(SettingsError, match=message):
        MuSGD(make_params(), **arguments)


def test_bad_value_in_a_group():
    with pytest.raises(SettingsError, match=r"adapt_factor must be >= 0, got -2"):
        MuSGD([{"params": make_params(), "adapt_factor": -2}])


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        MuSGD(embedding.parameters()).step()


def test_fused_kernel_is_probed():
    assert fused_available("cpu", torch.float32)
    assert not fused_available("cuda", torch.float32)
    assert not fused_available("cpu", torch.int64)


@pytest.mark.parametrize("shapes", [SHAPES[:1], SHAPES[1:3], SHAPES[:5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_squared_norms(dtype, shapes):
    tensors = [p.detach() * 10.0**i for i, p in enumerate(make_params(dtype=dtype, shapes=shapes))]
    want = [float(t.double().square().sum()) for t in tensors]
    assert squared_norms(tensors).tolist() == pytest.approx(want, rel=1e-5)
    assert wide_squared_norms(tensors).tolist() == pytest.approx(want, rel=1e-5)


def test_norms_of_a_device_do_not_overflow():
    """What a GPU computes, here on the CPU: finite gradients have a finite norm, and no other have."""
    tensors = [torch.full((4,), 1e30), torch.full((2, 2), 3e38), torch.full((3,), 1e-30)]
    assert wide_squared_norms(tensors).tolist() == pytest.approx([4e60, 36e76, 3e-60])
    assert not wide_squared_norms([torch.tensor([1.0, torch.inf])]).isfinite().any()
    assert not wide_squared_norms([torch.tensor([1.0, torch.nan])]).isfinite().any()
    half = [torch.full((4,), 6e4, dtype=torch.float16), torch.full((4,), 1e38, dtype=torch.bfloat16)]
    assert wide_squared_norms(half).tolist() == pytest.approx([4 * 59999.9**2, 4e76], rel=1e-2)
