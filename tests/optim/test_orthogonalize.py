"""Orthogonalisation against the SVD, against its own reference, and on the matrices that break it.

Covers kernel_plan.py.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.lab.steptime import real_gradients
from yolo_musgd.optim.kernel_plan import choose_kernels, has_fast_bf16, iteration_flops, make_plan
from yolo_musgd.optim.orthogonalize import (
    QUINTIC,
    Kernel,
    newton_schulz,
    ns_coefficients,
    orthogonalize,
    singular_value_entropy,
    tame,
)

BF16 = torch.bfloat16
KERNELS = (Kernel(), Kernel(restarts=(5,)), Kernel(restarts=(2, 3)), Kernel(BF16), Kernel(BF16, (1, 2, 2)))


def reference(matrix, coefficients, dtype=torch.float64):
    """The iteration as it is written in the papers, on one matrix."""
    x = matrix.to(dtype)
    x = x / x.norm() if x.norm() > 0 else x
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def polar(matrix):
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@functools.cache
def real_matrices():
    """Flattened gradients of yolo26n's filters at the first step, wide, without the zero ones."""
    found = []
    for p in real_gradients().parameters():
        if p.ndim == 4 and p.grad is not None and p.grad.norm() > 0 and min(p.shape[0], p[0].numel()) >= 16:
            m = p.grad.flatten(1)
            found.append(m if m.shape[0] <= m.shape[1] else m.T.contiguous())
    return found


def distance_to_polar(result, matrix):
    """Relative Frobenius distance to U V^T over the singular values above 1e-3 of the largest."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    keep = s > 1e-3 * s[0]
    inside = u[:, keep].T @ result.double() @ vt[keep].T
    return float((inside - torch.eye(int(keep.sum()))).norm() / math.sqrt(int(keep.sum())))


def test_table_of_the_source_s2():
    torch.manual_seed(42)
    g = torch.randn(256, 1024)
    o, target = orthogonalize(g, steps=3), polar(g)
    s = torch.linalg.svdvals(o)
    assert float((o - target).norm()) == pytest.approx(2.37, abs=0.02)
    assert float((o * target).sum() / o.norm() / target.norm()) == pytest.approx(0.993, abs=0.001)
    assert float(s.min()) == pytest.approx(0.75, abs=0.01)
    assert float(s.max()) == pytest.approx(1.205, abs=0.01)
    assert float(s.mean()) == pytest.approx(1.077, abs=0.002)


def test_scalar_map_of_the_source_s2():
    a, b, c = QUINTIC
    x, seen = 0.7, []
    for _ in range(5):
        x = a * x + b * x**3 + c * x**5
        seen.append(x)
    assert seen == pytest.approx([1.11476, 0.72220, 1.08809, 0.69504, 1.12032], abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 5), (16, 40), (40, 16), (64, 576), (1, 7), (400, 420)])
@pytest.mark.parametrize("restarts", [(), (5,), (1, 2, 2), (3, 2)])
def test_every_fp32_kernel_is_the_papers_iteration(shape, restarts):
    torch.manual_seed(0)
    g = torch.randn(3, *shape)
    o = orthogonalize(g, kernel=Kernel(torch.float32, restarts))
    for one, result in zip(g, o, strict=True):
        assert relative(result, reference(one, ns_coefficients())) < 1e-4


@pytest.mark.parametrize("method", ["polar-express", "cubic"])
def test_other_coefficients_too(method):
    torch.manual_seed(0)
    g = torch.randn(32, 96)
    o = orthogonalize(g, method, 6, normalize="frobenius")
    assert relative(o, reference(g, ns_coefficients(method, 6))) < 1e-4


def test_batches_of_different_shapes_share_their_products():
    torch.manual_seed(0)
    batches = [torch.randn(2, 24, 60), torch.randn(1, 50, 24), torch.randn(3, 24, 24)]
    together = newton_schulz([b.clone() for b in batches], ns_coefficients())
    for batch, result in zip(batches, together, strict=True):
        assert relative(result, orthogonalize(batch)) < 1e-5


def test_orthogonality_on_real_gradients():
    matrices = real_matrices()
    assert len(matrices) > 90

    def mean(method, kernel):
        return sum(distance_to_polar(orthogonalize(m, method, kernel=kernel), m) for m in matrices) / len(matrices)

    for kernel in KERNELS:
        assert mean("quintic", kernel) <= 0.25, str(kernel)
    for kernel in (Kernel(), Kernel(restarts=(5,)), Kernel(BF16)):
        assert mean("polar-express", kernel) <= 0.15, str(kernel)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 10, 32])
def test_rank_deficient_matrices_stay_bounded(kernel, rank):
    torch.manual_seed(rank)
    for scale in (1.0, 1e-8, 1e8):
        g = torch.randn(64, rank) @ torch.randn(rank, 576) * scale
        for method in ("quintic", "polar-express") if kernel.restarts != (1, 2, 2) else ("quintic",):
            o = orthogonalize(g, method, kernel=kernel)
            assert float(torch.linalg.matrix_norm(o, 2)) < 1.5
            assert float(torch.linalg.matrix_norm(o, 2)) > 0.5


def hadamard(size):
    h = torch.ones(1, 1)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / math.sqrt(size)


@given(
    spectrum=st.lists(st.floats(-12, 0), min_size=1, max_size=64),
    basis=st.sampled_from(["hadamard", "identity", "random"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_restarted_gram_is_safe_in_bf16_for_any_spectrum(spectrum, basis, seed):
    """Equal rounding errors add up in a Hadamard basis: the worst case of restarts."""
    torch.manual_seed(seed)
    rank = len(spectrum)
    values = torch.tensor(spectrum).exp()
    if basis == "random":
        u, v = (torch.linalg.qr(torch.randn(n, rank))[0] for n in (64, 256))
    else:
        make = hadamard if basis == "hadamard" else torch.eye
        u, v = make(64)[:, :rank], make(256)[:, :rank]
    o = orthogonalize((u * values) @ v.T, kernel=Kernel(BF16, (1, 2, 2)))
    assert float(torch.linalg.matrix_norm(o, 2)) < 1.5


@pytest.mark.parametrize("method", ["quintic", "polar-express", "cubic", "svd"])
def test_zero_and_non_finite_matrices_keep_to_themselves(method):
    torch.manual_seed(0)
    g = torch.randn(4, 20, 30)
    g[1] = 0
    g[2, 3, 4] = math.nan
    o = orthogonalize(g, method)
    assert torch.equal(o[1], torch.zeros(20, 30))
    assert not o[2].isfinite().all()
    for i in (0, 3):
        assert relative(o[i], orthogonalize(g[i], method)) < 1e-4


def test_svd_masks_what_is_no_direction():
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(30, 4))[0], torch.linalg.qr(torch.randn(50, 4))[0]
    g = (u * torch.tensor([3.0, 2.0, 1.0, 0.5])) @ v.T
    assert relative(orthogonalize(g, "svd"), u @ v.T) < 1e-4


@given(st.floats(-17, 17), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_scale_of_the_input_does_not_matter(exponent, seed):
    torch.manual_seed(seed)
    g = torch.randn(12, 30)
    for kernel in (Kernel(), Kernel(restarts=(5,))):
        assert relative(orthogonalize(g * 10**exponent, kernel=kernel), orthogonalize(g, kernel=kernel)) < 1e-3


def test_tall_is_the_transpose_of_wide():
    torch.manual_seed(0)
    g = torch.randn(96, 40)
    assert relative(orthogonalize(g), orthogonalize(g.T.contiguous()).T) < 1e-5


def test_input_is_never_written():
    g = torch.randn(2, 8, 9)
    before = g.clone()
    for kernel in KERNELS[:3]:
        orthogonalize(g, kernel=kernel)
    assert torch.equal(g, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonalize(torch.ones(3)), "rows, columns"),
        (lambda: orthogonalize(torch.eye(3), "qr"), "must be one of quintic, polar-express, cubic, got 'qr'"),
        (lambda: ns_coefficients(steps=0), r"ns_steps must be in \[1, 100\], got 0"),
        (lambda: ns_coefficients(safety=0.9), "safety must be >= 1, got 0.9"),
        (lambda: orthogonalize(torch.eye(3), kernel=Kernel(restarts=(2, 2))), "must sum to the 5 steps"),
        (lambda: orthogonalize(torch.eye(3), normalize="l1"), "frobenius or spectral, got 'l1'"),
        (lambda: make_plan([(3, 3)], "cpu", ns_coefficients(), "float16"), "precision must be one of"),
    ],
)
def test_errors_say_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_entropy_of_singular_values():
    assert float(singular_value_entropy(torch.eye(8))) == pytest.approx(1.0, abs=1e-6)
    assert float(singular_value_entropy(torch.ones(8, 4, 3, 3))) == pytest.approx(0.0, abs=1e-5)
    assert float(singular_value_entropy(torch.zeros(4, 4))) == 0.0
    s = torch.tensor([2.0, 1.0])
    p = s.square() / s.square().sum()
    assert float(singular_value_entropy(torch.diag(s))) == pytest.approx(float(-(p * p.log()).sum() / math.log(2)))


def test_flops_are_those_of_the_products():
    s, n, steps = 64, 576, ns_coefficients()
    r = n / s
    assert iteration_flops(s, n, steps) == pytest.approx(s**3 * (20 * r + 10))
    assert iteration_flops(n, s, steps, (5,)) == pytest.approx(s**3 * (4 * r + 34))
    assert iteration_flops(s, n, steps, (1, 2, 2)) == pytest.approx(s**3 * (12 * r + 22))


def test_plan_takes_only_safe_kernels_and_is_readable():
    shapes = [(512, 4608), (512, 512), (64, 64), (64, 576), (256, 64)]
    for method in ("quintic", "polar-express"):
        for kernel in choose_kernels(dict.fromkeys(shapes, 2), torch.device("cpu"), ns_coefficients(method)).values():
            if kernel.dtype == BF16:
                assert has_fast_bf16(torch.device("cpu"))
                assert not kernel.restarts or (method == "quintic" and max(kernel.restarts) <= 2)
    plan = make_plan(shapes, "cpu", ns_coefficients(), "float32")
    assert {b.kernel.dtype for b in plan.buckets} == {torch.float32}
    assert "512 x 4608" in str(plan)


def test_matrices_are_scaled_before_they_are_squared():
    """What a device does ahead of the Gram matrices, here on the CPU: norms above 1.8e19 square to infinity."""
    torch.manual_seed(0)
    plain = torch.randn(3, 4, 6)
    batch = plain * torch.tensor([1e-3, 1.0, 1e30])[:, None, None]
    kept = batch.clone()
    assert torch.bmm(batch, batch.mT)[2].isinf().any()
    tame([batch])
    assert torch.equal(batch[:2], kept[:2])
    assert torch.bmm(batch, batch.mT).isfinite().all()
    torch.testing.assert_close(batch[2] / batch[2].norm(), plain[2] / plain[2].norm())
    kept[0, 0, 0] = torch.inf
    tame([kept])
    assert kept[0, 0, 0].isinf()
