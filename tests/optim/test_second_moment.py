"""MuSGD's second moment: RMSProp's rule with beta_t, against a naive loop and torch.optim.RMSprop."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import convert_optimizer_state_dict_to_fp16

from yolo_musgd.optim import musgd
from yolo_musgd.optim.momentum import adaptive_momentum
from yolo_musgd.settings import SettingsError

MuSGD = functools.partial(musgd.MuSGD, orthogonalize=False)


def make(seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(s)) for s in ((8, 4, 3, 3), (6, 5), (7,))]


def give(params, step, scale=1.0):
    random = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=random) * scale


@pytest.mark.parametrize("backend", ["auto", "single", "foreach", "fused"])
def test_is_the_naive_rule(backend):
    ours, naive = make(), make()
    optimizer = MuSGD(
        ours, lr=0.01, weight_decay=0.1, nesterov=False, adapt_factor=0.1, second_moment=0.9, backend=backend
    )
    velocity, mean = [torch.zeros_like(p) for p in naive], [torch.zeros_like(p) for p in naive]
    for step in range(1, 30):
        give(ours, step)
        optimizer.step()
        give(naive, step)
        for p, v, m in zip(naive, velocity, mean, strict=True):
            beta = adaptive_momentum(float(p.grad.square().sum()), 0.9, 0.1)
            m.mul_(0.9).add_(0.1 * p.grad**2)
            g = p.grad / ((m / (1 - 0.9**step)).sqrt() + 1e-8)
            v.mul_(beta).add_(g + 0.1 * p.detach())
            p.data.sub_(0.01 * v)
    for p, q in zip(ours, naive, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)


def test_without_momentum_it_is_rmsprop_once_the_mean_has_settled():
    ours, theirs = make(), make()
    a = MuSGD(ours, lr=0.01, momentum=0.0, nesterov=False, second_moment=0.5)
    b = torch.optim.RMSprop(theirs, lr=0.01, alpha=0.5)
    for step in range(60):
        give(ours, step)
        give(theirs, step)
        if step == 30:
            for p, q in zip(ours, theirs, strict=True):
                q.data.copy_(p.detach())
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_small_gradients_survive_a_checkpoint_and_bad_ones_do_not_enter():
    params = make()
    optimizer = MuSGD(params, second_moment=0.9)
    give(params, 0, 1e-4)
    optimizer.step()
    saved = convert_optimizer_state_dict_to_fp16(copy.deepcopy(optimizer.state_dict()))
    other = MuSGD(params, second_moment=0.9)
    other.load_state_dict(saved)
    assert other.param_groups[0]["second_moment_steps"] == 1
    assert torch.equal(other.state[params[0]]["square_avg"], optimizer.state[params[0]]["square_avg"])
    before = optimizer.state[params[0]]["square_avg"].clone()
    params[0].grad.fill_(float("nan"))
    optimizer.step()
    assert torch.equal(optimizer.state[params[0]]["square_avg"], before)


def test_no_step_waits_for_a_gpu(fake_gpu):
    with fake_gpu():
        params = [nn.Parameter(torch.empty(s, device="cuda")) for s in ((8, 4), (7,))]
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer = MuSGD(params, second_moment=0.9)
        optimizer.step()
        assert optimizer.state[params[0]]["square_avg"].device.type == "cuda"


def test_momentum_zero_works_on_every_backend():
    """Torch's fused kernel raises at momentum 0 when it is given velocities."""
    for backend in ("auto", "single", "foreach", "fused"):
        params, mirror = make(), make()
        ours = MuSGD(params, lr=0.1, momentum=0.0, nesterov=False, backend=backend)
        theirs = torch.optim.SGD(mirror, lr=0.1)
        for step in range(3):
            give(params, step)
            give(mirror, step)
            ours.step()
            theirs.step()
        assert all(torch.equal(p, q) for p, q in zip(params, mirror, strict=True))


def test_range():
    with pytest.raises(SettingsError, match=r"second_moment must be in \[0, 1\), got 1.0"):
        MuSGD(make(), second_moment=1.0)
