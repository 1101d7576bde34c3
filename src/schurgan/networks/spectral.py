"""Spectral normalisation: every weight divided by its largest singular value (Miyato et al. 2018)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schurgan.networks.architectures import check_sizes
from schurgan.networks.singular_values import at_least_single, exact_pairs
from schurgan.networks.weights import as_matrix, weighted_layers


class SpectralConstraint(nn.Module, ABC):
    """A parametrization that holds down leading singular values of a weight seen as a matrix (out, everything else).

    It keeps singular vectors u and v as buffers. A training-mode call moves them on by `iterations` steps from where
    the last one left them; in eval mode they stay as they are. With `exact` every call, in either mode, takes them from
    a full decomposition instead: for tests and small networks. u and v count as constants of the gradient.

    Reading `layer.weight` in training mode is one call, so what needs the raw weight (a regulariser, an average) takes
    `layer.parametrizations.weight.original`.
    """

    u: Tensor
    v: Tensor

    def __init__(self, iterations: int, exact: bool) -> None:
        super().__init__()
        check_sizes(iterations=iterations)
        self.iterations = iterations
        self.exact = exact

    def forward(self, weight: Tensor) -> Tensor:
        kind = "cpu" if weight.is_meta else weight.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):  # on a GPU it would run products in half precision
            matrix = as_matrix(weight)
            # The graph holds u and v, never the buffers: two forwards may come before one backward.
            if self.training or self.exact:
                with torch.no_grad():
                    u, v = self.vectors(matrix)
                    if self.training:
                        self.u.copy_(u)
                        self.v.copy_(v)
            else:
                u, v = self.u.clone(), self.v.clone()
            return self.constrain(weight, matrix, u, v)

    @abstractmethod
    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """What follows u and v: exact ones, or `iterations` steps on."""

    @abstractmethod
    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The constrained weight, shaped as `weight`; `matrix` is the same as (out, everything else)."""


class SpectralNorm(SpectralConstraint):
    """W ↦ W / σ(W), σ the largest singular value of W seen as a matrix (out, everything else).

    σ = uᵀWv, where (u, v) follow the leading singular pair by `iterations` power iterations for each training-mode
    call, v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖, after `warm_up` of them at construction. In eval mode they stay as they are.
    The gradient flows through both W's; u and v count as constants, which is exact at the singular pair. Norms and σ
    are kept above `eps`, and no less than 1e-4 in half types. With `exact`, u and v come from a full decomposition.
    """

    def __init__(
        self, weight: Tensor, eps: float = 1e-6, warm_up: int = 15, *, iterations: int = 1, exact: bool = False
    ) -> None:
        super().__init__(iterations, exact)
        if not eps > 0:
            raise ValueError(f"eps: {eps} given, a number above 0 is needed")
        self.eps = eps
        matrix = as_matrix(weight.detach())
        u = F.normalize(torch.randn(len(matrix), dtype=matrix.dtype, device=matrix.device), dim=0)
        v = torch.zeros_like(matrix[0])
        for _ in range(warm_up):
            u, v = self.iterate(matrix, u)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        if self.exact:
            left, right = exact_pairs(matrix.to(at_least_single(matrix.dtype)), 1)
            return left[:, 0].to(matrix.dtype), right[:, 0].to(matrix.dtype)
        u = self.u
        for _ in range(self.iterations):
            u, v = self.iterate(matrix, u)
        return u, v

    def iterate(self, matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """One power iteration: matrix (m, n), u (m,)  ->  u (m,), v (n,)."""
        v = F.normalize(torch.mv(matrix.mT, u), dim=0, eps=self.floor(matrix))
        # eps·u moves no fixed point (Wv = σu there), and keeps u a unit vector where W is zero.
        u = F.normalize(torch.addmv(u, matrix, v, beta=self.floor(matrix)), dim=0, eps=torch.finfo(u.dtype).tiny)
        return u, v

    def floor(self, matrix: Tensor) -> float:
        """What norms and σ are kept above: `eps`, and no less than 1e-4 in half types."""
        return max(self.eps, 1e-4) if matrix.dtype in (torch.float16, torch.bfloat16) else self.eps

    def constrain(self, weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        sigma = torch.dot(u, torch.mv(matrix, v))
        return weight / sigma.clamp_min(self.floor(matrix))


def apply_spectral_norm(
    network: nn.Module,
    keep: Collection[nn.Module] = (),
    *,
    eps: float = 1e-6,
    iterations: int = 1,
    exact: bool = False,
) -> None:
    """Normalise, in place, the weight of every convolution, linear layer and embedding of `network`, but for `keep`.

    Call it after initialisation: the power iterations start from the weights they find. Options are `SpectralNorm`'s.
    """
    constrain_layers(network, keep, lambda weight: SpectralNorm(weight, eps, iterations=iterations, exact=exact))


def constrain_layers(
    network: nn.Module, keep: Collection[nn.Module], make: Callable[[Tensor], SpectralConstraint]
) -> None:
    """Register `make(weight)` as parametrization of each layer's weight, but for those in `keep`, in place."""
    for layer in weighted_layers(network, keep).values():
        parametrize.register_parametrization(layer, "weight", make(layer.weight), unsafe=True)
