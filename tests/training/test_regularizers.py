"""Orthogonal regularisation against its formulas, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from schurgan.networks import Discriminator, Generator
from schurgan.networks.spectral import raw_weight
from schurgan.training.regularizers import DiscriminatorPhase, GeneratorPhase, OrthogonalRegularizer

SHAPES = [(5, 12), (7, 7), (12, 9), (40, 6), (1, 8), (8, 1)]  # rows fewer, equal, more, far more than columns


def layer_of(m: int, n: int) -> nn.Linear:
    torch.manual_seed(m * 100 + n)
    layer = nn.Linear(n, m).double()
    nn.init.normal_(layer.weight)
    return layer


def inner_products(weight: torch.Tensor) -> torch.Tensor:
    rows = weight.detach().double().flatten(1)
    return torch.stack([torch.stack([a.dot(b) for b in rows]) for a in rows])


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_relaxed_is_the_sum_of_squared_inner_products_of_unlike_filters(m, n):
    layer = layer_of(m, n)
    products = inner_products(layer.weight)
    truth = sum(products[i, j] ** 2 for i in range(m) for j in range(m) if i != j)
    found = OrthogonalRegularizer(0.5)(layer)
    assert found.item() == pytest.approx(0.5 * float(truth), rel=1e-12)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_full_also_counts_how_far_the_filters_norms_are_from_one(m, n):
    layer = layer_of(m, n)
    products = inner_products(layer.weight)
    truth = sum((products[i, j] - float(i == j)) ** 2 for i in range(m) for j in range(m))
    found = OrthogonalRegularizer(0.5, "full")(layer)
    assert found.item() == pytest.approx(0.5 * float(truth), rel=1e-12)


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("kind", ["relaxed", "full"])
def test_gradient_is_four_times_the_masked_gram_matrix_times_the_weight(kind, m, n):
    layer, beta = layer_of(m, n), 3e-3
    OrthogonalRegularizer(beta, kind)(layer).backward()
    weight, products = layer.weight.detach(), inner_products(layer.weight)
    residual = products - (products.diag().diag() if kind == "relaxed" else torch.eye(m, dtype=torch.float64))
    torch.testing.assert_close(layer.weight.grad, 4 * beta * residual @ weight, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(Wrapped(layer, kind), {"layer.weight": w}, ()), layer.weight
    )


class Wrapped(nn.Module):
    """A regulariser's value as a function of a layer's parameters."""

    def __init__(self, layer: nn.Module, kind: str) -> None:
        super().__init__()
        self.layer, self.regularizer = layer, OrthogonalRegularizer(1.0, kind)

    def forward(self) -> torch.Tensor:
        return self.regularizer(self.layer)


def test_the_mask_is_a_product_of_entries_not_of_matrices():
    layer = layer_of(8, 8)
    gram = inner_products(layer.weight)
    mask = 1 - torch.eye(8, dtype=torch.float64)
    found = OrthogonalRegularizer(1.0)(layer).item()
    assert found == pytest.approx((gram * mask).square().sum().item(), rel=1e-12)
    assert abs(found / (gram @ mask).square().sum().item() - 1) > 0.5


def test_convolutions_are_taken_filter_by_filter_in_any_memory_format():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 6, 3)
    products = inner_products(layer.weight)
    truth = (products.square().sum() - products.diag().square().sum()).item()
    found = [OrthogonalRegularizer(1.0)(layer).item()]
    found.append(OrthogonalRegularizer(1.0)(layer.to(memory_format=torch.channels_last)).item())
    assert found == pytest.approx([truth, truth], rel=1e-5)


def test_only_convolutions_and_linear_layers_take_part():
    for network in (
        Generator.from_preset("cifar-32", width=2, init="normal", spectral_norm=True),
        Discriminator.from_preset("cifar-32", width=2, init="normal"),
    ):
        OrthogonalRegularizer(1.0)(network).backward()
        embeddings = [m for m in network.modules() if isinstance(m, nn.Embedding)]
        assert embeddings
        left_alone = {id(raw_weight(embedding)) for embedding in embeddings}
        for name, parameter in network.named_parameters():
            wanted = parameter.ndim > 1 and id(parameter) not in left_alone
            assert (parameter.grad is not None) == wanted, name


def test_raw_weights_are_what_counts_under_spectral_normalisation():
    networks = []
    for spectral_norm in (False, True):
        torch.manual_seed(0)
        networks.append(Discriminator.from_preset("small-16", init="normal", spectral_norm=spectral_norm))
    plain, normalised = networks
    before = {name: tensor.clone() for name, tensor in normalised.state_dict().items()}
    torch.testing.assert_close(raw_weight(plain.linear), raw_weight(normalised.linear), rtol=0, atol=0)
    for kind in ("relaxed", "full"):
        regularizer = OrthogonalRegularizer(1e-4, kind)
        torch.testing.assert_close(regularizer(normalised), regularizer(plain), rtol=0, atol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in normalised.state_dict().items())


def test_orthogonal_filters_cost_nothing():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3)
    nn.init.orthogonal_(layer.weight)
    for kind in ("relaxed", "full"):
        assert OrthogonalRegularizer(1.0, kind)(layer).item() < 1e-9  # 256 products of float32's rounding, squared


def test_descending_the_gradient_makes_filters_orthogonal():
    torch.manual_seed(0)
    layer = nn.Linear(20, 10)
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    first = OrthogonalRegularizer(1.0, "full")(layer).item()
    for _ in range(200):
        optimizer.zero_grad()
        OrthogonalRegularizer(1.0, "full")(layer).backward()
        optimizer.step()
    assert first > 1
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight), torch.ones(10), rtol=0, atol=1e-3)


def test_autocast_leaves_the_products_in_full_precision():
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    outside = OrthogonalRegularizer(1.0)(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = OrthogonalRegularizer(1.0)(layer)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_no_number_is_read_on_the_host():
    with FakeTensorMode():  # tensors without numbers: whatever reads one raises
        network = Discriminator.from_preset("small-16", width=4)
        penalty = OrthogonalRegularizer(1e-4)(network)
        penalty.backward()
    assert penalty.shape == ()


def test_it_is_added_to_the_loss_of_its_own_network_alone():
    network = Discriminator.from_preset("small-16", width=2, init="normal")
    none = torch.empty(0)
    of_d = DiscriminatorPhase(network, none, none, none, none, none, 0, torch.Generator())
    of_g = GeneratorPhase(network, none, none, 0)
    for owner in ("generator", "discriminator"):
        regularizer = OrthogonalRegularizer(0.5, network=owner)
        values = {"discriminator": regularizer.discriminator(of_d), "generator": regularizer.generator(of_g)}
        assert values.pop(owner) == regularizer(network) > 0
        assert list(values.values()) == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1e-4,), "weight: -0.0001 given"),
        ((0.0,), "weight: 0.0 given"),
        ((float("nan"),), "weight: nan given"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        OrthogonalRegularizer(*arguments)
    assert str(error.value).startswith(message)
