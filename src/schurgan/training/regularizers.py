"""Orthogonal regularisation, eq. (12) and (13) of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from schurgan.core.errors import did_you_mean
from schurgan.networks.weights import as_matrix, raw_weight, weighted_layers

KINDS = ("relaxed", "full")


@dataclass(frozen=True)
class OrthogonalRegularizer:
    """β Σ ‖Gram(W) ∘ (1 − I)‖²_F ("relaxed", eq. (13)) or β Σ ‖Gram(W) − I‖²_F ("full", eq. (12)), β = `weight`.

    regularizer(network)  ->  scalar to add to the loss of that network: D's, G's or both. β = 0 is no regulariser.

    Gram(W) = WWᵀ holds the inner products of the filters of W (out, everything else); the paper's θᵀθ has them as
    columns. "full" (Brock et al. 2017) wants them orthonormal, "relaxed" (Brock et al. 2019) only orthogonal. The paper
    prints the latter without the ∘; the matrix product that this would be is another number.

    Included are the weights of all convolutions (1×1 shortcuts and attention's too) and linear layers (those of
    conditional batch norms too), as the optimiser holds them: raw, before any spectral constraint. Embeddings, biases,
    gains of batch norm and γ of attention are not. The gradient is the formula's, 4β (Gram(W) ∘ (1 − I)) W. Computed in
    float32 or more, whatever autocast says.

    Raises ValueError for a weight below 0 and an unknown kind.
    """

    weight: float
    kind: Literal["relaxed", "full"] = "relaxed"

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: {self.weight} given, a finite number of 0 or more is needed")
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise ValueError(f'kind: "{self.kind}" given, "relaxed" or "full" is needed{hint}')

    def __call__(self, network: nn.Module) -> Tensor:
        parameter = next(network.parameters())
        total = torch.zeros((), device=parameter.device)
        if self.weight == 0:
            return total
        distance = relaxed_distance if self.kind == "relaxed" else full_distance
        with torch.autocast(parameter.device.type, enabled=False):
            for layer in weighted_layers(network).values():
                if not isinstance(layer, nn.Embedding):
                    matrix = as_matrix(raw_weight(layer))
                    total = total + distance(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
            return self.weight * total


def full_distance(matrix: Tensor) -> Tensor:
    """‖WWᵀ − I‖²_F: W (m, n)  ->  scalar. With m > n it is ‖WᵀW − I‖²_F + m − n, the smaller matrix."""
    m, n = matrix.shape
    gram = matrix @ matrix.mT if m <= n else matrix.mT @ matrix
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum() + max(m - n, 0)


def relaxed_distance(matrix: Tensor) -> Tensor:
    """‖WWᵀ ∘ (1 − I)‖²_F, the squared inner products of unlike rows: W (m, n)  ->  scalar.

    With m > 2n it is ‖WᵀW‖²_F − Σᵢ‖wᵢ‖⁴: n² instead of m² numbers, which for a generator's first layer are 600
    million. So many rows cannot be near orthogonal, so little cancels there; with fewer, much would.
    """
    m, n = matrix.shape
    if m > 2 * n:
        return (matrix.mT @ matrix).square().sum() - matrix.square().sum(1).square().sum()
    gram = matrix @ matrix.mT
    return (gram - gram.diagonal().diag()).square().sum()
