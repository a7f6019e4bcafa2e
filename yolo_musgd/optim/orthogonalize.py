"""Orthogonalisation of batches of matrices: G = U S V^T becomes (nearly) U V^T by matrix products alone.

Every method is an odd polynomial iteration ``X <- aX + b(XX^T)X + c(XX^T)^2 X`` with its own coefficients per step:

- ``quintic``: Keller Jordan's coefficients (https://kellerjordan.github.io/posts/muon/). Singular values end in
  0.68 .. 1.21, which is all that Muon needs.
- ``polar-express``: step-wise optimal coefficients of Amsel et al. 2025 (arXiv 2505.16932): closer for the same work.
- ``cubic``: the classical Newton-Schulz step (1.5, -0.5, 0), which needs two to three times as many steps.
- ``svd``: exact, for reference; singular values below ``1e-6`` of the largest are treated as zero.

and one of three kernels, which compute the same polynomial (see :mod:`yolo_musgd.optim.kernel_plan` for the choice):

- standard: iterate on X itself;
- Gram: iterate on the small Gram matrix R = XX^T and multiply back once. fp32 only: in bf16 the rounding of R turns
  into negative eigenvalues, which five steps blow up;
- Gram with restarts: the same, but X is updated and R recomputed after two or three steps, before that rounding has
  grown. Safe in bf16, and cheaper than the standard kernel for matrices at least twice as wide as high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Step = tuple[float, float, float]

TINY = 1e-36  # squared Frobenius norm below which a matrix counts as zero (a float32 cannot square less reliably)
SVD_CUTOFF = 1e-6
BLOCKED_SIDE, BLOCKS = 384, 4  # from this side on, symmetric products of a CPU skip the blocks above the diagonal
QUINTIC: Step = (3.4445, -4.7750, 2.0315)
CUBIC: Step = (1.5, -0.5, 0.0)
# Amsel et al. 2025, for singular values in [1e-3, 1]; later steps repeat the last entry.
POLAR_EXPRESS: tuple[Step, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
METHODS = ("quintic", "polar-express", "cubic", "svd")


@dataclass(frozen=True)
class Kernel:
    """How to evaluate the iteration.

    Attributes:
        dtype: precision of the products.
        restarts: steps between two recomputations of the Gram matrix; empty for the standard kernel. Must sum to the
            number of steps.
    """

    dtype: torch.dtype = torch.float32
    restarts: tuple[int, ...] = ()

    def __str__(self) -> str:
        kind = "standard" if not self.restarts else "gram " + "+".join(map(str, self.restarts))
        return f"{kind} {str(self.dtype).removeprefix('torch.')}"


def ns_coefficients(method: str = "quintic", steps: int = 5, safety: float = 1.02) -> tuple[Step, ...]:
    """Coefficients (a, b, c) of every step.

    Args:
        method: ``quintic``, ``polar-express`` or ``cubic``.
        steps: number of steps, 1 to 100.
        safety: Polar Express only: every step but the last sees its input divided by this factor, so that rounding
            cannot push a singular value beyond the interval in which the polynomial is bounded.

    Raises:
        ValueError: unknown method, or a number out of range.
    """
    if not 1 <= steps <= 100:
        raise ValueError(f"ns_steps must be in [1, 100], got {steps}")
    if safety < 1:
        raise ValueError(f"safety must be >= 1, got {safety}")
    if method == "quintic":
        return (QUINTIC,) * steps
    if method == "cubic":
        return (CUBIC,) * steps
    if method == "polar-express":
        table = [POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(steps)]
        safe = [(a / safety, b / safety**3, c / safety**5) for a, b, c in table[:-1]]
        return (*safe, table[-1])
    raise ValueError(f"method must be one of quintic, polar-express, cubic, got {method!r}")


def orthogonalize(
    matrices: Tensor,
    method: str = "quintic",
    steps: int = 5,
    kernel: Kernel | None = None,
    normalize: str | None = None,
) -> Tensor:
    """Nearest (semi-)orthogonal matrices U V^T of matrices U S V^T.

    Args:
        matrices: shape (..., rows, columns), floating point; never written to.
        method: one of ``METHODS``.
        steps: iterations; ignored by ``svd``.
        kernel: evaluation; the standard fp32 kernel unless told.
        normalize: ``frobenius`` (default but for cubic) or ``spectral`` (default of cubic, which converges slowly from
            small singular values).

    Returns:
        A tensor of the shape and dtype of ``matrices``. Zero matrices stay zero; a matrix that holds NaN or inf becomes
        NaN and leaves its neighbours alone.

    Raises:
        ValueError: fewer than two dimensions, unknown method, or a kernel that does not fit the number of steps.
    """
    if matrices.ndim < 2:
        raise ValueError(f"expected matrices of shape (..., rows, columns), got {tuple(matrices.shape)}")
    batch = matrices.reshape(-1, *matrices.shape[-2:])
    if method == "svd":
        return svd_orthogonalize(batch).to(matrices.dtype).reshape(matrices.shape)
    coefficients = ns_coefficients(method, steps)
    kernel = kernel or Kernel()
    normalize = normalize or ("spectral" if method == "cubic" else "frobenius")
    if normalize not in ("frobenius", "spectral"):
        raise ValueError(f"normalize must be frobenius or spectral, got {normalize!r}")
    if batch.numel() == 0:
        return matrices.clone()
    work = batch.to(kernel.dtype, copy=True, memory_format=torch.contiguous_format)
    (result,) = newton_schulz([work], coefficients, kernel.restarts, normalize == "spectral")
    return result.to(matrices.dtype).reshape(matrices.shape)


def svd_orthogonalize(batch: Tensor, cutoff: float = SVD_CUTOFF) -> Tensor:
    """Exact U V^T of a batch (b, rows, columns), over the singular values above ``cutoff`` times the largest.

    Without the mask a zero or rank-deficient matrix would get an arbitrary orthonormal basis of its null space.
    """
    finite = batch.isfinite().all(-1).all(-1)[:, None, None]
    work = batch.to(torch.float32 if batch.dtype != torch.float64 else torch.float64)
    u, s, vt = torch.linalg.svd(torch.where(finite, work, torch.zeros_like(work)), full_matrices=False)
    keep = (s > cutoff * s[..., :1]) & (s[..., :1] > math.sqrt(TINY))
    return torch.where(finite, (u * keep[..., None, :]) @ vt, torch.full_like(work, math.nan))


def newton_schulz(
    batches: Sequence[Tensor], coefficients: Sequence[Step], restarts: Sequence[int] = (), spectral: bool = False
) -> list[Tensor]:
    """Run the iteration on batches of matrices whose smaller side is the same.

    All products of Gram matrices are shared by all batches. The norm comes for free, from the Gram matrices' traces.

    Args:
        batches: contiguous, shapes (b, s, n) or (b, n, s) with one s for all, fp32 or bf16, of any magnitude above
            1e-18; overwritten.
        coefficients: (a, b, c) per step.
        restarts: see :class:`Kernel`; empty runs the standard kernel (one step per restart).
        spectral: divide by an estimate of the spectral norm instead of the Frobenius norm.

    Returns:
        The orthogonalised batches, in the shapes and precision given.

    Raises:
        ValueError: ``restarts`` does not sum to the number of steps.
    """
    restarts = tuple(restarts) or (1,) * len(coefficients)
    if sum(restarts) != len(coefficients):
        raise ValueError(f"restarts {restarts} must sum to the {len(coefficients)} steps")
    X, out = list(batches), [torch.empty_like(x) for x in batches]
    side = min(X[0].shape[-2:])
    sizes = [len(x) for x in X]
    R = X[0].new_empty(sum(sizes), side, side)
    slots = torch.split(R, sizes)
    work = [torch.empty_like(R) for _ in range(1 if max(restarts) == 1 else 3)]
    scale = None
    done = 0
    if R.device.type != "cpu":
        tame(X)
    for length in restarts:
        for x, slot in zip(X, slots, strict=True):
            gram_matrix(x, slot)
        if not done:
            scale = _inverse_norm(R, spectral)
            if R.device.type == "cpu" and not bool((scale > 0).all()):  # zero, or squares above the largest number
                tame(X)
                for x, slot in zip(X, slots, strict=True):
                    gram_matrix(x, slot)
                scale = _inverse_norm(R, spectral)
            R.mul_(scale.square().to(R.dtype))
            if len(restarts) > 1:  # else the scale rides on the one polynomial that multiplies X
                for x, factor in zip(X, torch.split(scale.to(R.dtype), sizes), strict=True):
                    x.mul_(factor)
        Q = _gram_polynomial(R, coefficients[done : done + length], work)
        if len(restarts) == 1 and scale is not None:
            Q.mul_(scale.to(Q.dtype))
        for x, q, y in zip(X, torch.split(Q, sizes), out, strict=True):
            torch.bmm(*((q, x) if x.shape[-2] <= x.shape[-1] else (x, q)), out=y)
        X, out = out, X
        done += length
    return X


def few_launches(X: Tensor, coefficients: Sequence[Step]) -> Tensor:
    """The standard kernel in three products a step and nothing else, for a device that products do not keep busy.

    Args:
        X: contiguous, (b, s, n) with s <= n, fp32 or bf16; overwritten.
        coefficients: (a, b, c) per step.

    Returns:
        The orthogonalised batch, of the shape and type of ``X``; zero matrices stay zero.
    """
    wide = torch.float32 if X.device.type == "mps" else torch.float64  # squares of elements above 1e19 fit too
    norm = torch.linalg.vector_norm(X, dim=(1, 2), keepdim=True, dtype=wide)
    X = X.div_(norm.clamp_(math.sqrt(TINY), 3e38).float())
    Y, R = torch.empty_like(X), X.new_empty(len(X), X.shape[1], X.shape[1])
    P = torch.empty_like(R)
    for a, b, c in coefficients:
        torch.bmm(X, X.mT, out=R)
        torch.baddbmm(R, R, R, beta=b, alpha=c, out=P)
        torch.baddbmm(X, P, X, beta=a, out=Y)
        X, Y = Y, X
    return X


def tame(X: Sequence[Tensor]) -> None:
    """Divide matrices (b, rows, columns) whose squares may leave fp32's range by their largest element, in place.

    Those are norms above 1e19. Nothing waits for a device: there it is done ahead, on a CPU only where it is needed.
    """
    for x in X:
        peak = torch.linalg.vector_norm(x, torch.inf, (1, 2), keepdim=True)
        x.div_(torch.where(peak.isfinite() & (peak > 1e15), peak, 1.0))


def gram_matrix(X: Tensor, out: Tensor) -> Tensor:
    """X X^T of wide matrices (b, s, n), X^T X of tall ones (b, n, s), into ``out`` (b, s, s)."""
    left, right = (X, X.mT) if X.shape[-2] <= X.shape[-1] else (X.mT, X)
    return symmetric_product(left, right, out)


def symmetric_product(left: Tensor, right: Tensor, out: Tensor, add: float = 0.0, factor: float = 1.0) -> Tensor:
    """``add * left + factor * left @ right``, known to be symmetric; ``add`` needs a square ``left``.

    Large products on a CPU compute the blocks on and below the diagonal and mirror the rest: 5/8 of the operations,
    three quarters of the time.
    """
    side = out.shape[-1]
    if side < BLOCKED_SIDE or out.device.type != "cpu":
        if add:
            return torch.baddbmm(left, left, right, beta=add, alpha=factor, out=out)
        return torch.bmm(left, right, out=out)
    cuts = [side * i // BLOCKS for i in range(BLOCKS + 1)]
    for a, b, c in zip(left.unbind(0), right.unbind(0), out.unbind(0), strict=True):
        for low, high in pairwise(cuts):
            target = c[low:high, :high]
            if add:
                torch.addmm(a[low:high, :high], a[low:high], b[:, :high], beta=add, alpha=factor, out=target)
            else:
                torch.mm(a[low:high], b[:, :high], out=target)
        for low, high in pairwise(cuts[1:]):
            c[:low, low:high] = c[low:high, :low].T
    return out


def _inverse_norm(R: Tensor, spectral: bool) -> Tensor:
    """1 / norm of the matrices behind the Gram matrices R (b, s, s), shape (b, 1, 1), fp32; 0 for zero matrices."""
    size_sq = _spectral_norm_sq(R) if spectral else R.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=torch.float32)
    return torch.where(size_sq < TINY, 0.0, size_sq.rsqrt())[:, None, None]


def _gram_polynomial(R: Tensor, steps: Sequence[Step], work: Sequence[Tensor]) -> Tensor:
    """The polynomial in R by which these steps multiply X; ``R`` and ``work`` are overwritten.

    All matrices here are symmetric and commute. A step multiplies by Z = aI + bR + cR^2 and takes R to R Z^2.
    """
    Q = Z = _step_polynomial(R, steps[0], work[0])
    if len(steps) == 1:
        return Q
    free, other = work[1:]
    for step in steps[1:]:
        symmetric_product(R, Z, free)
        symmetric_product(free, Z, R)
        if Z is Q:  # the first Z is also the product so far: keep it
            Z = other
        _step_polynomial(R, step, Z)
        symmetric_product(Q, Z, free)
        Q, free = free, Q
    return Q


def _step_polynomial(R: Tensor, step: Step, out: Tensor) -> Tensor:
    """A I + b R + c R^2."""
    a, b, c = step
    if c:
        symmetric_product(R, R, out, add=b, factor=c)
    else:
        torch.mul(R, b, out=out)
    out.diagonal(dim1=-2, dim2=-1).add_(a)
    return out


def _spectral_norm_sq(R: Tensor, rounds: int = 12) -> Tensor:
    """Largest eigenvalue of each Gram matrix (b, s, s) by power iteration, 2 % on the safe side; shape (b,), fp32."""
    R = R.float()
    v = R.diagonal(dim1=-2, dim2=-1).clone().unsqueeze(-1) + R.abs().mean(-1, keepdim=True)
    for _ in range(rounds):
        v = R @ (v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_min(1e-30))
    largest: Tensor = torch.linalg.vector_norm(v, dim=-2).squeeze(-1)
    return largest * 1.02


def singular_value_entropy(matrix: Tensor) -> Tensor:
    """Evenness of the singular values, ``-(1 / log n) sum p_i log p_i`` with ``p_i = s_i^2 / sum_j s_j^2``.

    Source: the article "Muon, continued: why we try Muon".

    Args:
        matrix: shape (rows, ...): trailing dimensions are flattened, as for a conv filter.

    Returns:
        A 0-d fp32 tensor in [0, 1]: 1 for an orthogonal matrix, 0 for rank one, for zero and for a single row; NaN for
        one that is not finite.
    """
    flat = matrix.detach().float().reshape(matrix.shape[0], -1)
    if not flat.isfinite().all():  # which LAPACK refuses
        return flat.new_full((), math.nan)
    s: Tensor = torch.linalg.svdvals(flat)
    if s.numel() < 2:
        return s.new_zeros(())
    energy = torch.square(s)
    p = energy / torch.sum(energy).clamp_min(TINY)
    entropy: Tensor = torch.sum(torch.xlogy(p, p)) / -math.log(s.numel())
    return entropy.clamp(0.0, 1.0)
