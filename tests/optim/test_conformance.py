"""PyTorch's own optimizer tests, on our optimizers.

What the installed torch ships of them: `torch.testing._internal.common_optimizers` with its `OptimizerInfo`, its inputs
and its erroneous inputs. The tests themselves (test/test_optim.py, whose names stand here) are not part of a wheel;
each is stated here anew for optimizers with one implementation a device. What cannot hold is in ``CANNOT`` with its
reason, and a run with ``-rP -k counted`` prints how many of how many hold.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from yolo_musgd.optim.muon import MuonAdamW, MuonSGD
from yolo_musgd.optim.musgd import MuSGD

theirs = pytest.importorskip("torch.testing._internal.common_optimizers", exc_type=ImportError)
# Its import forbids the whole process to set torch's flags, which Ultralytics' trainer does.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True


class Article(MuSGD):
    """MuSGD without orthogonalised steps, under a class name as torch's tests want it."""

    def __init__(self, params, **settings):
        super().__init__(params, orthogonalize=False, **settings)


def inputs(of, known):
    """torch's own inputs of an optimizer, as far as ours knows their arguments."""

    def make(device, dtype=None):
        out = []
        for one in of(device, dtype):
            kwargs = {k: v for k, v in one.kwargs.items() if k in known}
            if not kwargs.get("momentum", 1):
                kwargs["nesterov"] = False
            if kwargs not in [o.kwargs for o in out]:
                out.append(theirs.OptimizerInput(params=None, kwargs=kwargs, desc=one.desc))
        return out

    return make


SGD_KEYS = ("lr", "momentum", "weight_decay", "nesterov")
INFOS = [
    theirs.OptimizerInfo(
        cls,
        optim_inputs_func=inputs(of, known),
        optim_error_inputs_func=None,
        supported_impls=(),
        supports_complex=False,
        supports_sparse=False,
    )
    for cls, of, known in (
        (Article, theirs.optim_inputs_func_sgd, SGD_KEYS),
        (MuSGD, theirs.optim_inputs_func_sgd, SGD_KEYS),
        (MuonSGD, theirs.optim_inputs_func_sgd, SGD_KEYS),
        (MuonAdamW, theirs.optim_inputs_func_adamw, ("lr", "weight_decay", "eps")),
    )
]
CASES = [(info.optim_cls, one.kwargs) for info in INFOS for one in info.optim_inputs_func("cpu")]
every = pytest.mark.parametrize(("cls", "kwargs"), CASES, ids=[f"{c.__name__}-{k}" for c, k in CASES])

MEMORY = "asks for the memory of a GPU"
SINGLE = "one implementation a device, chosen by backend; test_musgd.py holds the back ends to each other and to SGD"
CANNOT = {
    "test_complex": "complex parameters are refused",
    "test_complex_2d": "complex parameters are refused",
    "test_rosenbrock_sparse": "sparse gradients are refused",
    "test_sparse": "sparse gradients are refused",
    "test_foreach_large_tensor": MEMORY,
    "test_peak_memory_foreach": MEMORY,
    "test_defaults_changed_to_foreach": SINGLE,
    "test_fused_cpu_matches_cuda": "asks for a GPU",
    "test_fused_large_tensor": MEMORY,
    "test_fused_does_not_step_if_foundinf": "a non-finite gradient is found by the optimizer itself, see test_musgd.py",
    "test_forloop_goes_right_direction_multigpu": "asks for two devices",
    "test_state_dict_with_cuda_params": "asks for a GPU",
    "test_mixed_device_dtype": "asks for a GPU; test_mixed_dtypes is its half without",
    "test_less_than_one_step_capturable": "no capturable flag: nothing of a step waits for the device anyway",
    "test_differentiable": "no differentiable flag: a step is not recorded by autograd",
    "test_maximize": "no maximize flag: negate the loss",
}


class Problem:
    """Least squares with a matrix and a vector, in any layout."""

    def __init__(self, dtype=torch.float32, gaps=False):
        generator = torch.Generator().manual_seed(0)

        def random(*shape):
            t = torch.randn(*shape, 2, generator=generator, dtype=torch.float32).to(dtype)
            return t[..., 0] if gaps else t[..., 0].contiguous()

        self.weight, self.bias = nn.Parameter(random(10, 5)), nn.Parameter(random(10))
        if gaps:
            self.weight.data, self.bias.data = random(10, 5), random(10)
        self.input = random(5).contiguous()

    @property
    def params(self):
        return [self.weight, self.bias]

    def closure(self, optimizer):
        def evaluate():
            optimizer.zero_grad()
            loss = (self.weight.mv(self.input) + self.bias).square().sum()
            loss.backward()
            return loss

        return evaluate


def primed(cls, kwargs, steps=5):
    problem = Problem()
    optimizer = cls(problem.params, **kwargs)
    for _ in range(steps):
        optimizer.step(problem.closure(optimizer))
    return problem, optimizer


def same(a, b):
    """Whether two state dicts hold equal values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("info", INFOS, ids=lambda i: i.optim_cls.__name__)
def test_optim_infos_do_not_specify_global_cliquey_kwargs(info):
    for one in info.optim_inputs_func("cpu"):
        assert not {"foreach", "fused", "differentiable"} & one.kwargs.keys()


ERRORS = theirs.get_error_inputs_for_all_optims("cpu", torch.float32)
OWN = [*theirs.optim_error_inputs_func_sgd("cpu", torch.float32)]


@pytest.mark.parametrize("cls", [i.optim_cls for i in INFOS])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.optimizer_error_input.desc)
def test_errors(cls, error):
    given = error.optimizer_error_input
    params = [nn.Parameter(torch.randn(1))] if given.params is None else given.params
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            cls(params, **given.kwargs)
    else:
        with pytest.raises(error.error_type, match=error.error_regex):
            cls(params, **given.kwargs)


@pytest.mark.parametrize("cls", [i.optim_cls for i in INFOS[:3]])
def test_errors_of_sgd(cls):
    """The erroneous inputs that torch has for its SGD are errors here too, in our words."""
    tried = 0
    for error in OWN:
        kwargs = error.optimizer_error_input.kwargs
        if error not in ERRORS and kwargs.keys() <= set(SGD_KEYS) and not kwargs.get("nesterov") and kwargs:
            if error.optimizer_error_input.desc in {e.optimizer_error_input.desc for e in ERRORS}:
                continue
            tried += 1
            with pytest.raises(ValueError, match=r"must be"):
                cls([nn.Parameter(torch.randn(1))], **kwargs)
    assert tried


@every
@pytest.mark.parametrize("gaps", [False, True])
def test_forloop_goes_right_direction(cls, kwargs, gaps):
    problem = Problem(gaps=gaps)
    optimizer = cls(problem.params, **{**kwargs, "lr": 1e-3})
    evaluate = problem.closure(optimizer)
    first = evaluate().item()
    for _ in range(20):
        optimizer.step(evaluate)
    assert evaluate().item() < first


@every
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: StepLR(o, gamma=0.9, step_size=10),
        lambda o: LinearLR(o, start_factor=0.4, total_iters=4),
        lambda o: ExponentialLR(o, gamma=0.99),
        ReduceLROnPlateau,
    ],
)
def test_param_group_with_lrscheduler_goes_right_direction(cls, kwargs, scheduler):
    problem = Problem()
    optimizer = cls([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.002}], **{**kwargs, "lr": 1e-3})
    follow = scheduler(optimizer)
    evaluate = problem.closure(optimizer)
    first = evaluate().item()
    for _ in range(20):
        loss = optimizer.step(evaluate)
        follow.step(loss) if isinstance(follow, ReduceLROnPlateau) else follow.step()
    assert evaluate().item() < first
    assert optimizer.param_groups[0]["lr"] <= 1e-3


@every
def test_tensor_lr(cls, kwargs):
    kwargs = {**kwargs, "lr": 0.001953125}
    problem, mirror = Problem(), Problem()
    ours, oracle = cls(problem.params, **{**kwargs, "lr": torch.tensor(kwargs["lr"])}), cls(mirror.params, **kwargs)
    for step in range(4):
        if step == 2:
            ours.param_groups[0]["lr"] = torch.tensor(0.25)
            oracle.param_groups[0]["lr"] = 0.25
        ours.step(problem.closure(ours))
        oracle.step(mirror.closure(oracle))
    assert same(problem.params, mirror.params)


def test_foreach_matches_forloop():
    check_backend_matches_forloop("foreach")


def test_fused_matches_forloop():
    check_backend_matches_forloop("fused")


def check_backend_matches_forloop(backend):
    for cls, kwargs in CASES:
        if not issubclass(cls, MuonAdamW):  # which has AdamW's fused implementation alone
            problem, mirror = Problem(), Problem()
            ours, oracle = (
                cls(problem.params, backend=backend, **kwargs),
                cls(mirror.params, backend="single", **kwargs),
            )
            for _ in range(4):
                ours.step(problem.closure(ours))
                oracle.step(mirror.closure(oracle))
            for p, q in zip(problem.params, mirror.params, strict=True):
                torch.testing.assert_close(p, q)


@every
def test_set_default_dtype_works_with_foreach(cls, kwargs):
    """Parameters keep their type, and their steps, when new tensors are fp64 by default."""
    problem, mirror = Problem(), Problem()
    kwargs = kwargs if issubclass(cls, MuonAdamW) else {**kwargs, "backend": "foreach"}
    ours, oracle = cls(problem.params, **kwargs), cls(mirror.params, **kwargs)
    for step in range(3):
        torch.set_default_dtype(torch.float64 if step else torch.float32)
        try:
            ours.step(problem.closure(ours))
        finally:
            torch.set_default_dtype(torch.float32)
        oracle.step(mirror.closure(oracle))
    assert [p.dtype for p in problem.params] == [torch.float32] * 2
    for p, q in zip(problem.params, mirror.params, strict=True):
        torch.testing.assert_close(p, q)


@every
def test_grad_scaling_autocast_fused_optimizers(cls, kwargs):
    """A GradScaler around the step: as without one, and no step where a gradient overflowed."""
    problem, mirror = Problem(), Problem()
    ours, oracle = cls(problem.params, **kwargs), cls(mirror.params, **kwargs)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        with torch.autocast("cpu"):
            losses = [(p.weight.mv(p.input) + p.bias).float().square().sum() for p in (problem, mirror)]
        ours.zero_grad()
        oracle.zero_grad()
        scaler.scale(losses[0]).backward()
        losses[1].backward()
        if step == 2:
            problem.bias.grad[0] = torch.inf
            before = [p.detach().clone() for p in problem.params]
        scaler.step(ours)
        scaler.update()
        if step == 2:
            assert same(before, problem.params)
        else:
            oracle.step()
    for p, q in zip(problem.params, mirror.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", [i.optim_cls for i in INFOS])
def test_mixed_dtypes(cls):
    torch.manual_seed(0)
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    params = [nn.Parameter(torch.randn(s).to(t)) for t in types for s in ((4, 6), (5,))]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    together = cls(params, lr=0.01)
    optimizers = [cls([p], lr=0.01) for p in alone]
    for _ in range(3):
        for p, q in zip(params, alone, strict=True):
            p.grad = torch.randn(p.shape).to(p.dtype)
            q.grad = p.grad.clone()
        together.step()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-2, atol=1e-3)


@every
def test_step_is_noop_when_params_have_no_grad(cls, kwargs):
    problem = Problem()
    before = [p.detach().clone() for p in problem.params]
    optimizer = cls(problem.params, **kwargs)
    optimizer.step()
    assert same(before, problem.params)
    assert not optimizer.state


@every
def test_step_is_noop_for_zero_grads(cls, kwargs):
    problem = Problem()
    optimizer = cls(problem.params, **{**kwargs, "weight_decay": 0.0})
    before = [p.detach().clone() for p in problem.params]
    for p in problem.params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(before, problem.params)


@every
def test_optimizer_can_be_printed(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    assert cls.__name__ in repr(optimizer)
    assert "weight_decay" in repr(optimizer)


@every
def test_state_dict_deterministic(cls, kwargs):
    problem, optimizer = primed(cls, kwargs)
    twin = copy.deepcopy(problem)
    other = cls(twin.params, **kwargs)
    given = copy.deepcopy(optimizer.state_dict())
    untouched = copy.deepcopy(given)
    other.load_state_dict(given)
    assert same(given, untouched)
    assert same(optimizer.state_dict(), other.state_dict())
    for _ in range(4):
        optimizer.step(problem.closure(optimizer))
        other.step(twin.closure(other))
        assert same(problem.params, twin.params)
    assert same(optimizer.state_dict(), other.state_dict())
    other.param_groups.extend(other.param_groups)  # repeated parameters look alike
    assert same(optimizer.state_dict()["param_groups"][-1], other.state_dict()["param_groups"][-1])


def check_goes_on(problem, optimizer):
    """One more step moves the parameters, to finite values."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in params]
    optimizer.step(problem.closure(optimizer))
    assert any(not torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in params)


@every
def test_can_load_older_state_dict(cls, kwargs):
    problem, optimizer = primed(cls, kwargs)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for key in [k for k in group if k not in ("params", "lr")]:
            del group[key]
    optimizer.load_state_dict(saved)
    check_goes_on(problem, optimizer)


@every
def test_save_load_equality_with_weights_only(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    assert same(torch.load(buffer, weights_only=True), optimizer.state_dict())


@every
def test_load_nontensor_step(cls, kwargs):
    problem, optimizer = primed(cls, kwargs)
    saved = copy.deepcopy(optimizer.state_dict())
    for entry in saved["state"].values():
        if isinstance(entry.get("step"), torch.Tensor):
            entry["step"] = entry["step"].item()
    optimizer.load_state_dict(saved)
    check_goes_on(problem, optimizer)


@every
def test_deepcopy_copies_all_public_attrs(cls, kwargs):
    _, optimizer = primed(cls, kwargs)

    def public(o):
        return {k for k in vars(o) if not k.startswith("_")}

    assert public(optimizer) == public(copy.deepcopy(optimizer))


@every
def test_pickle_goes_on_alike(cls, kwargs):
    problem, optimizer = primed(cls, kwargs)
    twin, other = pickle.loads(pickle.dumps((problem, optimizer)))
    for _ in range(2):
        optimizer.step(problem.closure(optimizer))
        other.step(twin.closure(other))
    assert same(problem.params, twin.params)


@every
def test_step_pre_hook(cls, kwargs):
    counts = check_step_hooks(cls, kwargs, lambda o, hook: o.register_step_pre_hook(hook))
    assert counts == (6, 6)


@every
def test_step_post_hook(cls, kwargs):
    counts = check_step_hooks(cls, kwargs, lambda o, hook: o.register_step_post_hook(hook))
    assert counts == (6, 6)


def check_step_hooks(cls, kwargs, register):
    """Calls after six steps with the hook, and after six more without."""
    problem = Problem()
    optimizer = cls(problem.params, **kwargs)
    calls = []
    handle = register(optimizer, lambda o, args, kwargs: calls.append(o is optimizer))
    for _ in range(6):
        optimizer.step(problem.closure(optimizer))
    with_hook = len(calls)
    handle.remove()
    for _ in range(6):
        optimizer.step(problem.closure(optimizer))
    assert all(calls)
    return with_hook, len(calls)


@every
def test_step_all_hooks(cls, kwargs):
    problem = Problem()
    optimizer = cls(problem.params, **kwargs)
    order = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: order.append("global pre")),
        optimizer.register_step_pre_hook(lambda *_: order.append("local pre")),
        optimizer.register_step_post_hook(lambda *_: order.append("local post")),
        register_optimizer_step_post_hook(lambda *_: order.append("global post")),
    ]
    try:
        optimizer.step(problem.closure(optimizer))
    finally:
        for handle in handles:
            handle.remove()
    assert order == ["global pre", "local pre", "local post", "global post"]


@every
def test_state_dict_pre_hook(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    handle = optimizer.register_state_dict_pre_hook(lambda o: setattr(o, "test", 1))
    optimizer.state_dict()
    handle.remove()
    assert optimizer.test == 1


@every
def test_state_dict_post_hook(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    handle = optimizer.register_state_dict_post_hook(lambda o, given: {**given, "ran": True})
    assert optimizer.state_dict()["ran"]
    handle.remove()
    assert "ran" not in optimizer.state_dict()


@every
def test_load_state_dict_pre_hook_and_prepend(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    order = []
    optimizer.register_load_state_dict_pre_hook(lambda o, given: order.append("second"))
    optimizer.register_load_state_dict_pre_hook(lambda o, given: order.append("first"), prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    assert order == ["first", "second"]
    optimizer.load_state_dict(optimizer.state_dict())
    assert order == ["first", "second"] * 2


@every
def test_load_state_dict_post_hook(cls, kwargs):
    _, optimizer = primed(cls, kwargs)
    seen = []
    handle = optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.125
    optimizer.load_state_dict(saved)
    handle.remove()
    optimizer.load_state_dict(saved)
    assert seen == [0.125]


@every
def test_load_state_dict_pre_post_hook(cls, kwargs):
    _, optimizer = primed(cls, kwargs)

    def halve(_, given):
        given = copy.deepcopy(given)
        given["param_groups"][0]["lr"] = 0.5
        return given

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(lambda o: o.param_groups[0].update(weight_decay=0.25))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


@every
def test_can_load_from_to_named_state_dict(cls, kwargs):
    def build(named):
        problem = Problem()
        params = list(zip(("weight", "bias"), problem.params, strict=True)) if named else problem.params
        return problem, cls(params, **kwargs)

    try:
        build(named=True)
    except TypeError:
        pytest.skip("this torch takes no named parameters")
    for source in (True, False):
        for target in (True, False):
            problem, optimizer = build(source)
            optimizer.step(problem.closure(optimizer))
            twin, other = build(target)
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            other.step(twin.closure(other))
            names = other.param_groups[0].get("param_names")
            assert names == (["weight", "bias"] if source or target else None)


@every
def test_non_empty_state(cls, kwargs):
    problem, optimizer = primed(cls, kwargs, steps=1)
    for p in problem.params:
        assert optimizer.state[p]


@every
def test_cpu_load_state_dict(cls, kwargs):
    """Into parameters of another type: what follows the parameter is cast, statistics are not."""
    _, optimizer = primed(cls, kwargs)
    half = Problem(dtype=torch.float16)
    other = cls(half.params, **kwargs)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for entry in other.state.values():
        for key, value in entry.items():
            if key == "momentum_buffer":
                assert value.dtype == torch.float16
            elif isinstance(value, torch.Tensor):
                assert value.dtype == torch.float32
    other.step(half.closure(other))
    assert all(p.isfinite().all() for p in half.params)


def test_an_empty_group_may_stand_between_others():
    problem = Problem()
    for cls, kwargs in CASES:
        optimizer = cls([{"params": [problem.weight]}, {"params": []}, {"params": [problem.bias]}], **kwargs)
        optimizer.step(problem.closure(optimizer))
        optimizer.load_state_dict(optimizer.state_dict())
        assert [len(g["params"]) for g in optimizer.param_groups] == [1, 0, 1]


def test_they_are_counted():
    """Prints N of M; a name is either tested here or among those that cannot hold."""
    held = {name for name in globals() if name.startswith("test_") and name != "test_they_are_counted"}
    assert not held & CANNOT.keys()
    print(f"{len(held)} of {len(held) + len(CANNOT)} of torch's optimizer tests hold; not:")
    for name, reason in CANNOT.items():
        print(f"  {name}: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(held) > len(CANNOT)
