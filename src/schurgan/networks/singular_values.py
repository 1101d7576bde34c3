"""Leading singular values and vectors by a Krylov method with a warm start, and a record of them layer by layer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schurgan.networks.architectures import check_sizes
from schurgan.networks.weights import as_matrix, effective_weight, raw_weight, weighted_layers

_GUARD = 2
"""Columns beyond those asked for: a block converges as fast as the first value that it does not hold is smaller."""


def krylov_basis(matrix: Tensor, u: Tensor, iterations: int = 1) -> Tensor:
    """Orthonormal basis of span{Wᵀu, (WᵀW)Wᵀu, …}, `iterations` blocks: W (m, n), u (m, p)  ->  (n, d), d ≤ n.

    Block Golub-Kahan-Lanczos (Golub, Luk & Overton 1981) with full re-orthogonalisation: with it the basis can be kept
    by QR factorisations alone, and the singular value decomposition of W restricted to it stands for that of the
    bidiagonal matrix. Householder's QR gives orthonormal columns of any matrix, so a space that ends early (all
    singular values equal, W = 0) goes on in a direction of its own, without a branch on numbers or a random restart.
    """
    basis: Tensor = torch.linalg.qr(matrix.mT @ u).Q
    last = basis
    for _ in range(iterations - 1):
        if basis.shape[1] == matrix.shape[1]:
            break
        # Columns of the old basis may change sign here, which changes no span.
        basis = torch.linalg.qr(torch.cat([basis, matrix.mT @ (matrix @ last)], 1)).Q
        last = basis[:, -u.shape[1] :]
    return basis


def leading_pairs(matrix: Tensor, u: Tensor, iterations: int = 1) -> tuple[Tensor, Tensor]:
    """Approximate leading singular vectors: W (m, n), u (m, p)  ->  u (m, p), v (n, p), best first, p ≤ min(m, n).

    The best that `krylov_basis` holds (Rayleigh-Ritz). One iteration with p = 1 is one of the power method; started
    from the last call's u it follows a matrix that changes slowly. Columns are orthonormal for any finite W, and σᵢ is
    `singular_values(matrix, u, v)`, never more than the true one.

    Why not a library's: `torch.svd_lowrank` draws its start from the global random numbers, so it can neither follow a
    matrix from call to call nor repeat a step, and knows subspace iteration only; `torch.lobpcg` works on WᵀW, squaring
    the condition, and reads its residuals on the host; SciPy's ARPACK runs on a CPU alone.
    """
    basis = krylov_basis(matrix, u, iterations)
    # Decomposing what is not finite raises; here it leaves vectors of some kind, and values that tell.
    left, _, right = torch.linalg.svd(finite(matrix @ basis), full_matrices=False)
    p = u.shape[1]
    return left[:, :p], basis @ right[:p].mT


def exact_pairs(matrix: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """The p leading singular vectors by a full decomposition: W (m, n)  ->  u (m, p), v (n, p)."""
    left, _, right = torch.linalg.svd(finite(matrix), full_matrices=False)
    return left[:, :p], right[:p].mT


def singular_values(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """σᵢ = uᵢᵀWvᵢ: W (m, n), u (m, p), v (n, p)  ->  (p,). Its gradient is exact where they are singular vectors."""
    return (u * (matrix @ v)).sum(0)


def finite(x: Tensor) -> Tensor:
    """x with 0 for what is no finite number."""
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, in which nothing is factorised; any other as it is."""
    return torch.promote_types(dtype, torch.float32)


@torch.no_grad()
def leading_singular_values(
    network: nn.Module,
    k: int = 1,
    *,
    weights: Literal["effective", "raw"] = "effective",
    iterations: int = 8,
) -> dict[str, Tensor]:
    """The k largest singular values of every convolution, linear layer and embedding, by the layer's dotted name.

    Each (k,), or (min(out, everything else),) where that is less, descending, on the network's device, of the weight
    seen as (out, everything else): what the constraints act on, not the operator norm of the convolution. "raw" weights
    are the optimiser's, "effective" ones those that an eval forward computes with. A NaN stands for a weight that is
    not finite.

    Changes no state and no random number. `iterations` blocks of `krylov_basis`, started from the vectors that a
    constraint keeps where there is one and from fixed ones elsewhere: never above the true values, and within 1e-2 of
    them for a matrix of random numbers, much closer for one with a constraint or a leading value that stands out.
    Nothing is read on the host; the small decomposition, one for all layers, is the only point where it waits for a
    GPU. Raises ValueError for k or iterations below 1 or another `weights`.
    """
    check_sizes(k=k, iterations=iterations)
    if weights not in ("effective", "raw"):
        raise ValueError(f'weights: "{weights}" given, "effective" or "raw" is needed')
    triangles, counts = {}, {}
    for name, layer in weighted_layers(network).items():
        matrix = as_matrix(raw_weight(layer) if weights == "raw" else effective_weight(layer))
        matrix = matrix.to(at_least_single(matrix.dtype))
        basis = krylov_basis(matrix, _start(layer, matrix, k + _GUARD), iterations)
        triangles[name] = torch.linalg.qr(matrix @ basis).R  # with the singular values of W on the basis
        counts[name] = min(k, *matrix.shape)
    if not triangles:
        return {}
    size = max(len(r.mT) for r in triangles.values())
    stack = torch.stack([F.pad(r, (0, size - len(r.mT), 0, size - len(r))) for r in triangles.values()])
    values = torch.linalg.svdvals(finite(stack))  # rows and columns of zeros add nothing but zeros
    values = values.where(stack.isfinite().all(2).all(1, keepdim=True), torch.nan)
    return {name: row[:count] for (name, count), row in zip(counts.items(), values, strict=True)}


def _start(layer: nn.Module, matrix: Tensor, p: int) -> Tensor:
    """Where a layer's Krylov space begins (m, ≤ p): the vectors that its constraints keep, then fixed random ones."""
    m = len(matrix)
    seeded = torch.Generator(matrix.device).manual_seed(0)
    columns = [torch.randn(m, p, dtype=matrix.dtype, device=matrix.device, generator=seeded)]
    if parametrize.is_parametrized(layer, "weight"):
        kept = dict(layer.parametrizations.weight.named_buffers())  # type: ignore[union-attr]
        columns = [u.reshape(m, -1).to(matrix) for name, u in kept.items() if name.endswith(".u")] + columns
    return torch.cat(columns, 1)[:, : min(p, *matrix.shape)]
