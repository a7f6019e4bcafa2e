"""beta_t is bounded and falls as the norm grows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.optim.momentum import adaptive_momentum, relative_to_mean

norms = st.floats(0, 1e12)
betas = st.floats(0, 0.999)
factors = st.floats(0, 1e3)


def test_worked_figure_of_the_article():
    assert adaptive_momentum(10.0**2, beta_max=0.9, adapt_factor=0.1) == pytest.approx(0.9 / 11)
    assert round(adaptive_momentum(100.0, 0.9, 0.1), 4) == 0.0818


@given(norms, betas, factors, betas)
def test_bounded_by_beta_min_and_beta_max(norm_sq, beta_max, factor, beta_min):
    beta = adaptive_momentum(norm_sq, beta_max, factor, beta_min)
    assert min(beta_min, beta_max) <= beta <= beta_max


@given(norms, norms, betas, factors)
def test_falls_as_the_norm_grows(a, b, beta_max, factor):
    low, high = sorted((a, b))
    assert adaptive_momentum(high, beta_max, factor) <= adaptive_momentum(low, beta_max, factor)


@given(norms, betas)
def test_no_adaptation_is_plain_momentum(norm_sq, beta_max):
    assert adaptive_momentum(norm_sq, beta_max, 0.0) == beta_max


@given(st.lists(norms, min_size=1, max_size=8), betas, factors, betas)
def test_tensors_give_what_numbers_give(values, beta_max, factor, beta_min):
    got = adaptive_momentum(torch.tensor(values, dtype=torch.float64), beta_max, factor, beta_min)
    want = [adaptive_momentum(v, beta_max, factor, beta_min) for v in values]
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_infinite_norm_gives_the_floor():
    assert adaptive_momentum(math.inf, 0.9, 0.1, 0.2) == 0.2
    assert adaptive_momentum(math.inf, 0.9, 0.0) == 0.9
    assert adaptive_momentum(torch.tensor([math.inf]), 0.9, 0.0).tolist() == pytest.approx([0.9])


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=20), st.floats(1e-6, 1e6))
def test_relative_norm_ignores_the_scale_of_the_loss(values, scale):
    def ratios(factor):
        mean, out = torch.zeros((), dtype=torch.float64), []
        for value in values:
            ratio, mean = relative_to_mean(torch.tensor(value * factor, dtype=torch.float64), mean, 0.9)
            out.append(float(ratio))
        return out

    assert ratios(scale) == pytest.approx(ratios(1.0), rel=1e-9)


def test_relative_norm_of_a_zero_gradient_is_zero():
    ratio, mean = relative_to_mean(torch.zeros(2), torch.zeros(2), 0.9)
    assert ratio.tolist() == [0, 0]
    assert mean.tolist() == [0, 0]
    ratio, _ = relative_to_mean(torch.ones(2), mean, 0.9)
    assert ratio.tolist() == [1, 1]
