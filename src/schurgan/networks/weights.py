"""The weights that spectral constraints and orthogonal regularisation act on, and how they are seen as matrices."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

WeightedLayer = nn.Conv2d | nn.Linear | nn.Embedding


def weighted_layers(network: nn.Module, keep: Collection[nn.Module] = ()) -> dict[str, WeightedLayer]:
    """Every convolution, linear layer and embedding of `network` by its dotted name, but for those in `keep`."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, WeightedLayer) and not any(layer is kept for kept in keep)
    }


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as (out, everything else): a convolution's filters, an embedding's classes are the rows."""
    return weight.reshape(len(weight), -1)  # not view: the weight may be channels_last


def raw_weight(layer: nn.Module) -> Tensor:
    """The parameter that the optimiser moves, before any parametrization. Reading it changes nothing."""
    weight = layer.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer computes with in eval mode: the raw one through its parametrizations, as they stand."""
    if not parametrize.is_parametrized(layer, "weight"):
        return raw_weight(layer)
    modes = [(module, module.training) for module in layer.parametrizations.modules()]  # type: ignore[union-attr]
    layer.parametrizations.eval()  # type: ignore[union-attr]
    try:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return weight
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def unconstrained_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` for one built alike without constraints: effective weights, no parametrizations.

    (Removing the parametrizations of a copy would break the original, which shares its layers' classes with it.)
    """
    state = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in name}
    return state | {f"{name}.weight": effective_weight(layer) for name, layer in weighted_layers(network).items()}
