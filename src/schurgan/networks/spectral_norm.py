"""Spectral normalisation: every weight divided by its largest singular value (Miyato et al. 2018)."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SpectralNorm(nn.Module):
    """W ↦ W / σ(W), σ the largest singular value of W seen as a matrix (out, everything else).

    σ = uᵀWv, where (u, v) follow the leading singular pair by one power iteration for each training-mode call,
    v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖, after `warm_up` iterations at construction. In eval mode they stay as they are. The
    gradient flows through both W's; u and v count as constants, which is exact at the singular pair.

    Used as a parametrization (`apply_spectral_norm`): reading `layer.weight` in training mode is one call, so what
    needs the raw weight (a regulariser, an average) takes `layer.parametrizations.weight.original`.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, eps: float = 1e-6, warm_up: int = 15) -> None:
        super().__init__()
        self.eps = eps
        matrix = weight.detach().reshape(len(weight), -1)
        u = F.normalize(torch.randn(len(matrix), dtype=matrix.dtype, device=matrix.device), dim=0)
        v = torch.zeros_like(matrix[0])
        for _ in range(warm_up):
            u, v = self.iterate(matrix, u)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def iterate(self, matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """One power iteration: matrix (m, n), u (m,)  ->  u (m,), v (n,)."""
        v = F.normalize(torch.mv(matrix.mT, u), dim=0, eps=self.floor(matrix))
        # eps·u moves no fixed point (Wv = σu there), and keeps u a unit vector where W is zero.
        u = F.normalize(torch.addmv(u, matrix, v, beta=self.floor(matrix)), dim=0, eps=torch.finfo(u.dtype).tiny)
        return u, v

    def floor(self, matrix: Tensor) -> float:
        """What norms and σ are kept above: `eps`, and no less than 1e-4 in half types."""
        return max(self.eps, 1e-4) if matrix.dtype in (torch.float16, torch.bfloat16) else self.eps

    def forward(self, weight: Tensor) -> Tensor:
        kind = "cpu" if weight.is_meta else weight.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):  # on a GPU it would run mv in half precision
            matrix = weight.reshape(len(weight), -1)  # not view: the weight may be channels_last
            # The graph holds u and v, never the buffers: two forwards may come before one backward.
            if self.training:
                with torch.no_grad():
                    u, v = self.iterate(matrix, self.u)
                    self.u.copy_(u)
                    self.v.copy_(v)
            else:
                u, v = self.u.clone(), self.v.clone()
            sigma = torch.dot(u, torch.mv(matrix, v))
            return weight / sigma.clamp_min(self.floor(matrix))


def apply_spectral_norm(network: nn.Module, keep: Collection[nn.Module] = ()) -> None:
    """Normalise, in place, the weight of every convolution, linear layer and embedding of `network`, but for `keep`.

    Call it after initialisation: the power iterations start from the weights they find.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    for layer in layers:
        if not any(layer is kept for kept in keep):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight), unsafe=True)
