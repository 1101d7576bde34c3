"""The clamp of leading singular values, eq. (2) of the paper (Brock et al. 2019, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from schurgan.networks.architectures import check_sizes
from schurgan.networks.singular_values import at_least_single, exact_pairs, leading_pairs, singular_values
from schurgan.networks.spectral import SpectralConstraint, constrain_layers
from schurgan.networks.weights import as_matrix


class SpectralClamp(SpectralConstraint):
    """W ↦ W − Σ_{i<k} max(0, σᵢ − σ_clamp) uᵢvᵢᵀ, W seen as (out, everything else), σ₀ ≥ σ₁ ≥ … its singular values.

    Eq. (2) for k = 1; the paper writes v₀u₀ for W = v₀σ₀u₀ᵀ, our u is the left vector. σ_clamp is `limit`, or, where
    that is None, sg(σ_k): the largest value that is not clamped, without gradient, so that a loss cannot raise it. A
    matrix with no more than k singular values then has fewer clamped, and one with a single row or column none.

    u (out, k+1) and v follow the leading singular vectors by `iterations` blocks of Golub-Kahan-Lanczos (see
    `leading_pairs`) for each training-mode call, after `warm_up` of them at construction; one vector more than is
    clamped gives σ_k, and makes the others converge faster. Vectors count as constants, so the gradient with
    respect to W loses its component along each uᵢvᵢᵀ that is clamped and is the same elsewhere; how they turn with W
    is left out: that part has no bound where singular values meet. With `exact`, they come from a full decomposition.

    Half types are computed in float32. Raises ValueError for k or iterations below 1 and a limit that is not positive.
    """

    def __init__(
        self,
        weight: Tensor,
        limit: float | None = None,
        k: int = 1,
        warm_up: int = 15,
        *,
        iterations: int = 1,
        exact: bool = False,
    ) -> None:
        super().__init__(iterations, exact)
        check_sizes(k=k)
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"limit: {limit} given, a finite number above 0, or None for sg(σ_k), is needed")
        self.limit = limit
        matrix = as_matrix(weight.detach())
        wide = matrix.to(at_least_single(matrix.dtype))
        p = min(k + 1, *matrix.shape)
        self.count = min(k, p if limit is not None else p - 1)
        u, v = leading_pairs(wide, torch.randn(len(wide), p, dtype=wide.dtype, device=wide.device), max(warm_up, 1))
        self.register_buffer("u", u.to(matrix.dtype))
        self.register_buffer("v", v.to(matrix.dtype))

    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        matrix = matrix.to(at_least_single(matrix.dtype))
        if self.exact:
            return exact_pairs(matrix, self.u.shape[1])
        return leading_pairs(matrix, self.u.to(matrix.dtype), self.iterations)

    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        dtype = at_least_single(matrix.dtype)
        u, v = u.to(dtype), v.to(dtype)
        sigma = singular_values(matrix.to(dtype), u, v)
        limit = sigma[-1].detach() if self.limit is None else self.limit
        excess = (sigma[: self.count] - limit).clamp_min(0)
        above = (u[:, : self.count] * excess) @ v[:, : self.count].mT
        return weight - above.reshape(weight.shape).to(weight.dtype)


def apply_spectral_clamp(
    network: nn.Module,
    limit: float | None = None,
    k: int = 1,
    keep: Collection[nn.Module] = (),
    *,
    iterations: int = 1,
    exact: bool = False,
) -> None:
    """Clamp, in place, the k leading singular values of every convolution, linear layer and embedding but `keep`.

    Call it after initialisation: the vectors start from the weights they find. Options are `SpectralClamp`'s.
    """

    def make(weight: Tensor) -> SpectralClamp:
        return SpectralClamp(weight, limit, k, iterations=iterations, exact=exact)

    constrain_layers(network, keep, make)
