"""Singular values of weights: normalisation, clamp, and a record of the largest ones, layer by layer.

A weight counts as a matrix (out, everything else): the constraints act on it, not on the convolution's operator norm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schurgan.networks.architectures import check_sizes
from schurgan.networks.layers import attribute_set

WeightedLayer = nn.Conv2d | nn.Linear | nn.Embedding

_GUARD = 2
"""Columns beyond those asked for: a block converges as fast as the first value that it does not hold is smaller."""


class SpectralConstraint(nn.Module, ABC):
    """A parametrization that bounds leading singular values of a weight.

    It keeps singular vectors u and v as buffers. A training-mode call moves them on by `iterations` steps from where
    the last call left them; in eval mode they stay. u and v count as constants of the gradient. Reading `layer.weight`
    in training mode is one call, so what needs the unconstrained weight takes `raw_weight(layer)`.

    Our own in place of `torch.nn.utils.parametrizations.spectral_norm`, which divides a zero weight by zero, runs in
    half precision under autocast, and iterates in the other order (so that seeded runs would change).
    """

    u: Tensor
    v: Tensor

    def __init__(self, iterations: int) -> None:
        super().__init__()
        check_sizes(iterations=iterations)
        self.iterations = iterations

    def forward(self, weight: Tensor) -> Tensor:
        """Return the constrained weight, shaped as `weight`."""
        kind = "cpu" if weight.is_meta else weight.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):  # on a GPU it would run products in half precision
            matrix = as_matrix(weight)
            # The graph holds u and v, never the buffers: two forwards may come before one backward.
            if self.training:
                with torch.no_grad():
                    u, v = self.vectors(matrix)
                    self.u.copy_(u)
                    self.v.copy_(v)
            else:
                u, v = self.u.clone(), self.v.clone()
            return self.constrain(weight, matrix, u, v)

    @abstractmethod
    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and v, `iterations` steps on."""

    @abstractmethod
    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the constrained weight; `matrix` is `weight` as (out, everything else)."""


class SpectralNorm(SpectralConstraint):
    """W ↦ W / σ(W), σ the largest singular value of W (Miyato et al. 2018).

    σ = uᵀWv, where (u, v) follow the leading singular pair by `iterations` power iterations for each training-mode
    call, v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖, after `warm_up` of them at construction. The gradient flows through both W's;
    u and v count as constants, which is exact at the singular pair. Norms and σ are kept above 1e-6, 1e-4 in half
    types.
    """

    def __init__(self, weight: Tensor, warm_up: int = 15, *, iterations: int = 1) -> None:
        super().__init__(iterations)
        matrix = as_matrix(weight.detach())
        u = F.normalize(torch.randn(len(matrix), dtype=matrix.dtype, device=matrix.device), dim=0)
        v = torch.zeros_like(matrix[0])
        for _ in range(0 if weight.is_meta else warm_up):  # numbers that are not there need no steps
            u, v = self.iterate(matrix, u)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (m,) and v (n,) after `iterations` power iterations."""
        u = self.u
        for _ in range(self.iterations):
            u, v = self.iterate(matrix, u)
        return u, v

    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the weight over σ = uᵀWv."""
        sigma = torch.dot(u, torch.mv(matrix, v))
        return weight / sigma.clamp_min(self._floor(matrix))

    def iterate(self, matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return one power iteration: matrix (m, n), u (m,) -> u (m,), v (n,)."""
        floor = self._floor(matrix)
        v = F.normalize(torch.mv(matrix.mT, u), dim=0, eps=floor)
        # floor·u moves no fixed point (Wv = σu there), and keeps u a unit vector where W is zero.
        u = F.normalize(torch.addmv(u, matrix, v, beta=floor), dim=0, eps=torch.finfo(u.dtype).tiny)
        return u, v

    def _floor(self, matrix: Tensor) -> float:
        return 1e-4 if matrix.dtype in (torch.float16, torch.bfloat16) else 1e-6


class SpectralClamp(SpectralConstraint):
    """W ↦ W − Σ_{i<k} max(0, σᵢ − σ_clamp) uᵢvᵢᵀ, σ₀ ≥ σ₁ ≥ … the singular values of W.

    Brock et al. 2019, section 3.1; eq. (2) of the paper for k = 1, which writes v₀u₀ for W = v₀σ₀u₀ᵀ: our u is the left
    vector. σ_clamp is `limit`, or, where that is None, sg(σ_k): the largest value that is not clamped, without
    gradient, so that a loss cannot raise it. A matrix with no more than k singular values then has fewer clamped, and
    one with a single row or column none.

    u (out, k+1) and v follow the leading singular vectors by `iterations` blocks of `leading_pairs` for each
    training-mode call, after `warm_up` of them at construction. One vector more than is clamped gives σ_k, and makes
    the others converge faster. The gradient loses its component along each uᵢvᵢᵀ that is clamped; how the vectors turn
    with W is left out, for that part has no bound where singular values meet. Half types are computed in float32.
    """

    def __init__(
        self, weight: Tensor, limit: float | None = None, k: int = 1, warm_up: int = 15, *, iterations: int = 1
    ) -> None:
        super().__init__(iterations)
        check_sizes(k=k)
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"limit: {limit} given, a finite number above 0, or None for sg(σ_k), is needed")
        self.limit = limit
        matrix = as_matrix(weight.detach())
        wide = matrix.to(_at_least_single(matrix.dtype))
        p = min(k + 1, *matrix.shape)
        self.count = min(k, p if limit is not None else p - 1)
        u, v = leading_pairs(wide, torch.randn(len(wide), p, dtype=wide.dtype, device=wide.device), max(warm_up, 1))
        self.register_buffer("u", u.to(matrix.dtype))
        self.register_buffer("v", v.to(matrix.dtype))

    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (m, p) and v (n, p) after `iterations` Krylov blocks."""
        matrix = matrix.to(_at_least_single(matrix.dtype))
        return leading_pairs(matrix, self.u.to(matrix.dtype), self.iterations)

    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the weight without what its leading singular values exceed the limit by."""
        dtype = _at_least_single(matrix.dtype)
        u, v = u.to(dtype), v.to(dtype)
        sigma = (u * (matrix.to(dtype) @ v)).sum(0)
        limit = sigma[-1].detach() if self.limit is None else self.limit
        excess = (sigma[: self.count] - limit).clamp_min(0)
        above = (u[:, : self.count] * excess) @ v[:, : self.count].mT
        return weight - above.reshape(weight.shape).to(weight.dtype)


def apply_spectral_norm(network: nn.Module, keep: Collection[nn.Module] = (), *, iterations: int = 1) -> None:
    """Normalise, in place, the weight of every convolution, linear layer and embedding of `network`, but for `keep`.

    Call it after initialisation: the power iterations start from the weights they find.
    """
    constrain_layers(network, keep, lambda weight: SpectralNorm(weight, iterations=iterations))


def apply_spectral_clamp(
    network: nn.Module,
    limit: float | None = None,
    k: int = 1,
    keep: Collection[nn.Module] = (),
    *,
    iterations: int = 1,
) -> None:
    """Clamp, in place, the k leading singular values of every convolution, linear layer and embedding but `keep`.

    Call it after initialisation, as `apply_spectral_norm`.
    """
    constrain_layers(network, keep, lambda weight: SpectralClamp(weight, limit, k, iterations=iterations))


def constrain_layers(
    network: nn.Module, keep: Collection[nn.Module], make: Callable[[Tensor], SpectralConstraint]
) -> None:
    """Register `make(weight)` as parametrization of each layer's weight, but for those in `keep`, in place."""
    for layer in weighted_layers(network, keep).values():
        parametrize.register_parametrization(layer, "weight", make(layer.weight), unsafe=True)


def frozen_power_iterations(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, forward passes of `network` leave its constraints as they are: no power iteration moves on."""
    lists = (module for module in network.modules() if isinstance(module, parametrize.ParametrizationList))
    return attribute_set((part for parametrizations in lists for part in parametrizations), "training", False)


def krylov_basis(matrix: Tensor, u: Tensor, iterations: int = 1) -> Tensor:
    """Return an orthonormal basis of span{Wᵀu, (WᵀW)Wᵀu, …}, `iterations` blocks: W (m, n), u (m, p) -> (n, d), d ≤ n.

    Block Golub-Kahan-Lanczos (Golub, Luk & Overton 1981) with full re-orthogonalisation. Householder's QR gives
    orthonormal columns of any matrix, so a space that ends early (all singular values equal, W = 0) goes on in a
    direction of its own, without a branch on numbers or a random restart.
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
    """Approximate leading singular vectors: W (m, n), u (m, p) -> u (m, p), v (n, p), best first, p ≤ min(m, n).

    The best that `krylov_basis` holds (Rayleigh-Ritz). One iteration with p = 1 is one of the power method; started
    from the last call's u it follows a matrix that changes slowly. Columns are orthonormal for any finite W.

    Why not a library's: `torch.svd_lowrank` draws its start from the global random numbers, so it can neither follow a
    matrix from call to call nor repeat a step; `torch.lobpcg` works on WᵀW, squaring the condition, and reads its
    residuals on the host; SciPy's ARPACK runs on a CPU alone.
    """
    basis = krylov_basis(matrix, u, iterations)
    # Decomposing what is not finite raises; here it leaves vectors of some kind, and values that tell.
    left, _, right = torch.linalg.svd(_finite(matrix @ basis), full_matrices=False)
    p = u.shape[1]
    return left[:, :p], basis @ right[:p].mT


@torch.no_grad()
def leading_singular_values(
    network: nn.Module, k: int = 1, *, weights: Literal["effective", "raw"] = "effective", iterations: int = 8
) -> dict[str, Tensor]:
    """Return the k largest singular values of every convolution, linear layer and embedding, by its dotted name.

    It changes no state and no random number. Values are never above the true ones, within 1e-2 of them for a matrix of
    random numbers, and much closer for one with a constraint or a leading value that stands out. It waits for a GPU
    once.

    Args:
        network: any module.
        k: values of each layer.
        weights: "raw", as the optimiser holds them, or "effective", as an eval forward pass computes with.
        iterations: blocks of `krylov_basis`, from the vectors that a constraint keeps, or from fixed ones.

    Returns:
        Each (min(k, out, everything else),), descending, on the network's device. NaN for a weight that is not finite.
    """
    check_sizes(k=k, iterations=iterations)
    if weights not in ("effective", "raw"):
        raise ValueError(f'weights: "{weights}" given, "effective" or "raw" is needed')
    triangles, counts = {}, {}
    for name, layer in weighted_layers(network).items():
        matrix = as_matrix(raw_weight(layer) if weights == "raw" else effective_weight(layer))
        matrix = matrix.to(_at_least_single(matrix.dtype))
        basis = krylov_basis(matrix, _start(layer, matrix, k + _GUARD), iterations)
        triangles[name] = torch.linalg.qr(matrix @ basis).R  # with the singular values of W on the basis
        counts[name] = min(k, *matrix.shape)
    if not triangles:
        return {}
    size = max(len(r.mT) for r in triangles.values())
    stack = torch.stack([F.pad(r, (0, size - len(r.mT), 0, size - len(r))) for r in triangles.values()])
    values = torch.linalg.svdvals(_finite(stack))  # rows and columns of zeros add nothing but zeros
    values = values.where(stack.isfinite().all(2).all(1, keepdim=True), torch.nan)
    return {name: row[:count] for (name, count), row in zip(counts.items(), values, strict=True)}


def weighted_layers(network: nn.Module, keep: Collection[nn.Module] = ()) -> dict[str, WeightedLayer]:
    """Return every convolution, linear layer and embedding of `network` by its dotted name, but for those in `keep`."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, WeightedLayer) and not any(layer is kept for kept in keep)
    }


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight as (out, everything else): a convolution's filters, an embedding's classes are the rows."""
    return weight.reshape(len(weight), -1)  # not view: the weight may be channels_last


def raw_weight(layer: nn.Module) -> Tensor:
    """Return the parameter that the optimiser moves, before any parametrization. Reading it changes nothing."""
    weight = layer.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight


def effective_weight(layer: nn.Module) -> Tensor:
    """Return the weight that the layer computes with in eval mode: the raw one through its parametrizations."""
    if not parametrize.is_parametrized(layer, "weight"):
        return raw_weight(layer)
    with frozen_power_iterations(layer):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return weight


@torch.no_grad()
def unconstrained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of `network` for one built alike without constraints: effective weights, no parametrizations.

    (Removing the parametrizations of a copy would break the original, which shares its layers' classes with it.)
    """
    state = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in name}
    return state | {f"{name}.weight": effective_weight(layer) for name, layer in weighted_layers(network).items()}


def _start(layer: nn.Module, matrix: Tensor, p: int) -> Tensor:
    """Where a layer's Krylov space begins (m, ≤ p): the vectors that its constraints keep, then fixed random ones."""
    m = len(matrix)
    seeded = torch.Generator(matrix.device).manual_seed(0)
    columns = [torch.randn(m, p, dtype=matrix.dtype, device=matrix.device, generator=seeded)]
    if parametrize.is_parametrized(layer, "weight"):
        kept = dict(layer.parametrizations.weight.named_buffers())  # type: ignore[union-attr]
        columns = [u.reshape(m, -1).to(matrix) for name, u in kept.items() if name.endswith(".u")] + columns
    return torch.cat(columns, 1)[:, : min(p, *matrix.shape)]


def _finite(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, in which nothing is factorised; any other as it is."""
    return torch.promote_types(dtype, torch.float32)
