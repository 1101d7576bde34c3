"""Leading singular values and vectors against a full decomposition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from schurgan.networks import Discriminator, Generator, apply_spectral_norm
from schurgan.networks.spectral import (
    apply_spectral_clamp,
    krylov_basis,
    leading_pairs,
    leading_singular_values,
    raw_weight,
    weighted_layers,
)

SHAPES = [(30, 30), (12, 50), (50, 12), (1, 9), (9, 1), (3, 4)]


def spectrum(m: int, n: int, values: list[float]) -> torch.Tensor:
    """A random float64 matrix with these leading singular values, the rest half the last or less."""
    torch.manual_seed(m * 100 + n)
    u, _, v = torch.linalg.svd(torch.randn(m, n, dtype=torch.float64), full_matrices=False)
    rest = values[-1] / 2 * torch.rand(min(m, n), dtype=torch.float64).sort(descending=True).values
    s = torch.cat([torch.tensor(values, dtype=torch.float64), rest])[: min(m, n)]
    return (u * s) @ v


def start(m: int, p: int) -> torch.Tensor:
    return torch.randn(m, p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def singular_values(matrix: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (u * (matrix @ v)).sum(0)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_leading_pairs_are_those_of_a_full_decomposition(m, n):
    matrix = spectrum(m, n, [5.0, 3.0, 2.0])
    p = min(3, m, n)
    u, v = leading_pairs(matrix, start(m, p), iterations=12)
    left, s, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(singular_values(matrix, u, v), s[:p], rtol=1e-12, atol=0)
    # Signs are free, but the same for both vectors of a pair. Vectors converge half as fast as values.
    signs = (u * left[:, :p]).sum(0).sign()
    torch.testing.assert_close(u * signs, left[:, :p], rtol=0, atol=1e-7)
    torch.testing.assert_close(v * signs, right[:p].mT, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_space_that_holds_everything_is_exact(m, n):
    matrix = start(m, n)
    p = min(2, m, n)
    u, v = leading_pairs(matrix, torch.eye(m, p, dtype=torch.float64), iterations=n)
    torch.testing.assert_close(singular_values(matrix, u, v), torch.linalg.svdvals(matrix)[:p], rtol=1e-12, atol=0)


def test_a_deeper_krylov_space_beats_as_many_power_iterations():
    torch.manual_seed(0)
    matrix, u = torch.randn(200, 200, dtype=torch.float64), torch.randn(200, 1, dtype=torch.float64)
    truth = torch.linalg.svdvals(matrix)[0]
    power = u
    for _ in range(10):
        power, v = leading_pairs(matrix, power)
    error = truth - singular_values(matrix, power, v)
    assert truth - singular_values(matrix, *leading_pairs(matrix, u, iterations=10)) < 0.1 * error


def test_one_iteration_of_one_vector_is_the_power_method():
    matrix, u = start(8, 6), start(8, 1)
    found_u, found_v = leading_pairs(matrix, u)
    v = matrix.T @ u
    torch.testing.assert_close(found_v @ found_v.T, v @ v.T / v.square().sum(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        found_u @ found_u.T, matrix @ v @ v.T @ matrix.T / (matrix @ v).square().sum(), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["orthogonal", "zero", "rank one", "random", "huge and tiny"])
def test_vectors_are_orthonormal_whatever_the_matrix_holds(kind, dtype):
    torch.manual_seed(0)
    matrix = {
        "orthogonal": torch.linalg.qr(torch.randn(20, 20)).Q,
        "zero": torch.zeros(20, 14),
        "rank one": torch.randn(20, 1) @ torch.randn(1, 14),
        "random": torch.randn(20, 14),
        "huge and tiny": torch.randn(20, 14) * torch.logspace(-8, 8, 14),
    }[kind].to(dtype)
    u, v = leading_pairs(matrix, torch.randn(20, 4).to(dtype), iterations=5)
    basis = krylov_basis(matrix, u, iterations=3)
    for columns in (u, v, basis):
        identity = torch.eye(columns.shape[1], dtype=dtype)
        torch.testing.assert_close(columns.T @ columns, identity, rtol=0, atol=40 * torch.finfo(dtype).eps)


def test_equal_singular_values_are_all_found_though_the_krylov_space_ends_at_once():
    torch.manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    u, v = leading_pairs(matrix, start(20, 3), iterations=4)
    torch.testing.assert_close(singular_values(matrix, u, v), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_matrix_that_is_not_finite_raises_nothing_and_its_values_say_so():
    matrix = torch.randn(6, 5)
    matrix[2, 3] = torch.nan
    u, v = leading_pairs(matrix, torch.randn(6, 2), iterations=2)
    assert u.isfinite().all()
    assert singular_values(matrix, u, v).isnan().any()


def test_recorded_values_are_just_under_the_true_ones_for_every_layer():
    torch.manual_seed(0)
    network = Discriminator.from_preset("cifar-32", width=16, init="normal", spectral_norm=False)
    found = leading_singular_values(network, k=3)
    assert found.keys() == weighted_layers(network).keys()
    for name, values in found.items():
        truth = torch.linalg.svdvals(network.get_submodule(name).weight.detach().double().flatten(1))[:3]
        assert values.shape == truth.shape, name
        assert (values <= truth * (1 + 1e-5)).all(), name  # float32 against float64
        assert (values >= truth * (1 - 1e-2)).all(), name  # what the documentation says of eight blocks


def test_names_are_those_of_the_layers_with_and_without_constraints():
    plain = Discriminator.from_preset("small-16", spectral_norm=False)
    constrained = Discriminator.from_preset("small-16", spectral_norm=True)
    names = list(leading_singular_values(plain))
    assert names == list(leading_singular_values(constrained, weights="raw"))
    assert "blocks.0.conv1" in names
    assert "embedding" in names


def test_raw_and_effective_values_are_those_before_and_after_the_constraint():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8))
    with torch.no_grad():
        network[2].weight.mul_(7)
    apply_spectral_norm(network[0])
    apply_spectral_clamp(network[2], limit=2.0)
    for weights in ("raw", "effective"):
        found = leading_singular_values(network, k=2, weights=weights)
        for name, layer in (("0", network[0]), ("2", network[2])):
            weight = raw_weight(layer) if weights == "raw" else copy.deepcopy(layer).eval().weight
            truth = torch.linalg.svdvals(weight.detach())[:2]
            torch.testing.assert_close(found[name], truth, rtol=1e-4, atol=0)  # ten dimensions: eight blocks hold all


def test_vectors_kept_by_a_constraint_make_one_block_enough():
    torch.manual_seed(0)
    network = nn.Linear(300, 200)
    plain = leading_singular_values(network, iterations=1)[""]
    apply_spectral_norm(network, iterations=200)
    _ = network.weight
    truth = torch.linalg.svdvals(raw_weight(network).detach())[:1]
    warm = leading_singular_values(network, weights="raw", iterations=1)[""]
    assert (truth - plain).item() > 0.1 * truth.item()
    torch.testing.assert_close(warm, truth, rtol=1e-4, atol=0)


def test_recording_changes_no_state_no_mode_and_no_random_number():
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4, spectral_norm=True)
    network.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()
    first, second = (leading_singular_values(network, k=2) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(values.requires_grad for values in first.values())


def test_no_number_is_read_on_the_host():
    with FakeTensorMode():  # tensors without numbers: whatever reads one raises
        network = Discriminator.from_preset("small-16", width=4)
        values = leading_singular_values(network, k=2)
    assert values["blocks.0.conv1"].shape == (2,)


def test_matrices_with_fewer_values_give_as_many_as_there_are():
    network = nn.ModuleDict({"row": nn.Linear(9, 1), "wide": nn.Linear(9, 5)})
    found = leading_singular_values(network, k=4)
    assert [len(found[name]) for name in ("row", "wide")] == [1, 4]
    torch.testing.assert_close(found["row"][0], network["row"].weight.detach().norm())


def test_a_weight_that_is_not_finite_is_recorded_as_nan_beside_the_others():
    network = nn.ModuleDict({"good": nn.Linear(9, 4), "bad": nn.Linear(9, 4)})
    with torch.no_grad():
        network["bad"].weight[0, 0] = torch.inf
    found = leading_singular_values(network, k=2)
    assert found["good"].isfinite().all()
    assert found["bad"].isnan().all()


def test_half_type_networks_are_recorded_in_single_precision():
    torch.manual_seed(0)
    network = nn.Linear(9, 4).to(torch.bfloat16)
    truth = torch.linalg.svdvals(network.weight.detach().float())[:2]
    torch.testing.assert_close(leading_singular_values(network, k=2)[""], truth, rtol=1e-5, atol=0)


def test_a_network_without_layers_has_no_values():
    assert leading_singular_values(nn.ReLU()) == {}


@pytest.mark.parametrize(("option", "value"), [("k", 0), ("iterations", 0), ("weights", '"both"')])
def test_options_that_make_no_sense_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option}: {value} given"):
        leading_singular_values(nn.Linear(3, 2), **{option: value if isinstance(value, int) else "both"})
