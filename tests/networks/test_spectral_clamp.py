"""The clamp of eq. (2) against the formula written with a full decomposition."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from schurgan.networks import Generator
from schurgan.networks.spectral import (
    SpectralClamp,
    apply_spectral_clamp,
    effective_weight,
    raw_weight,
    weighted_layers,
)


def clamped(layer: nn.Module, *arguments, **options) -> nn.Module:
    apply_spectral_clamp(layer, *arguments, **options)
    return layer


def clamp_of(layer: nn.Module) -> SpectralClamp:
    return layer.parametrizations.weight[0]


def svdvals(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(weight.detach().double().flatten(1))


def formula(weight: torch.Tensor, limit: float | None, k: int) -> torch.Tensor:
    """θ − Σ_{i<k} max(0, σᵢ − σ_clamp) uᵢvᵢᵀ, term by term."""
    u, s, v = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    ceiling = s[k] if limit is None else limit
    out = weight.detach().flatten(1)
    for i in range(k):
        out = out - max(0.0, (s[i] - ceiling).item()) * torch.outer(u[:, i], v[i])
    return out.reshape(weight.shape)


LAYERS = {
    "conv": lambda: nn.Conv2d(12, 20, 3),
    "linear": lambda: nn.Linear(30, 20),
    "square": lambda: nn.Linear(25, 25),
    "tall": lambda: nn.Linear(8, 40),
    "embedding": lambda: nn.Embedding(10, 24),
}
CASES = [(None, 1), (None, 3), (0.5, 1), (0.5, 3), (1e-3, 6), (100.0, 2)]


@pytest.mark.parametrize(("limit", "k"), CASES)
@pytest.mark.parametrize("kind", LAYERS)
def test_clamp_of_exact_vectors_is_the_formula_in_either_mode(kind, limit, k):
    torch.manual_seed(0)
    layer = clamped(LAYERS[kind]().double(), limit, k, iterations=40)  # a Krylov space that holds everything
    truth = formula(raw_weight(layer), limit, k)
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode).weight, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("limit", "k"), CASES)
@pytest.mark.parametrize("kind", LAYERS)
def test_followed_vectors_converge_to_the_formula(kind, limit, k):
    torch.manual_seed(0)
    layer = clamped(LAYERS[kind]().double(), limit, k)
    with torch.no_grad():
        raw_weight(layer).copy_(torch.randn_like(raw_weight(layer)))  # other vectors than at construction
    for _ in range(1000):
        weight = layer.weight
    # Even where the last value held and the next differ by a few per cent.
    torch.testing.assert_close(weight, formula(raw_weight(layer), limit, k), rtol=0, atol=1e-3)


def test_the_largest_value_falls_to_the_next_and_no_other_moves():
    torch.manual_seed(0)
    layer = clamped(nn.Linear(30, 20).double(), iterations=40)
    before, after = svdvals(raw_weight(layer)), svdvals(layer.weight)
    torch.testing.assert_close(after[0], before[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-12, atol=0)


def test_left_and_right_vectors_keep_their_sides():
    weight = torch.zeros(3, 3)
    weight[0, 1], weight[1, 2], weight[2, 0] = 5.0, 2.0, 1.0  # u₀ = e₀, v₀ = e₁: v₀u₀ᵀ would hit entry (1, 0)
    layer = nn.Linear(3, 3)
    layer.weight.data.copy_(weight)
    expected = weight.clone()
    expected[0, 1] = 2.0
    torch.testing.assert_close(clamped(layer).weight, expected, rtol=0, atol=1e-5)


def test_values_under_the_limit_leave_the_weight_as_it_is():
    torch.manual_seed(0)
    layer = clamped(nn.Linear(30, 20), limit=10.0, k=4)
    assert torch.equal(layer.weight, raw_weight(layer))


def test_equal_leading_values_are_clamped_as_many_as_were_asked_for():
    layer = nn.Linear(16, 16)
    torch.manual_seed(0)
    nn.init.orthogonal_(layer.weight)
    weight = clamped(layer, limit=0.25, k=3).weight
    expected = torch.tensor([1.0] * 13 + [0.25] * 3, dtype=torch.float64)
    torch.testing.assert_close(svdvals(weight), expected, rtol=0, atol=1e-5)


def test_orthogonal_weights_are_their_own_clamp_in_a_whole_generator():
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4, init="orthogonal")
    apply_spectral_clamp(network, keep=[network.shared])
    for name, layer in weighted_layers(network).items():
        assert parametrize.is_parametrized(layer) == (name != "shared"), name
        torch.testing.assert_close(layer.weight, raw_weight(layer), rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("k", [1, 4])
def test_one_iteration_a_step_keeps_up_with_a_weight_that_trains(k):
    torch.manual_seed(0)
    layer = clamped(nn.Linear(40, 30).double(), k=k)
    errors = []
    for _ in range(300):
        with torch.no_grad():
            raw_weight(layer).add_(2e-4 * torch.randn(30, 40))  # as Adam moves it
        truth = svdvals(formula(raw_weight(layer), None, k))[0]
        errors.append((svdvals(layer.weight)[0] / truth - 1).item())
    assert max(errors[100:]) < 0.01


def test_gradient_loses_what_lies_along_the_clamped_pairs_and_nothing_else():
    torch.manual_seed(0)
    target = torch.randn(6, 9, dtype=torch.float64)
    for limit, k in ((None, 2), (0.1, 2), (100.0, 2)):
        layer = clamped(nn.Linear(9, 6).double(), limit, k, iterations=40)
        (found,) = torch.autograd.grad((layer.weight * target).sum(), raw_weight(layer))
        u, _, v = torch.linalg.svd(raw_weight(layer).detach(), full_matrices=False)
        expected = target.clone()
        for i in range(k if limit != 100.0 else 0):
            expected -= (u[:, i] @ target @ v[i]) * torch.outer(u[:, i], v[i])
        # The pair of σ_k, whose gradient is stopped, keeps its part.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_gradient_and_its_gradient_are_those_of_the_map_at_fixed_vectors():
    torch.manual_seed(0)
    clamp = clamp_of(clamped(nn.Linear(5, 4).double(), limit=0.2, k=2)).eval()
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clamp, weight)
    assert torch.autograd.gradgradcheck(lambda w: clamp(w).tanh(), weight)


def test_training_forward_moves_the_vectors_and_eval_forward_leaves_them():
    torch.manual_seed(0)
    layer = clamped(nn.Linear(15, 10), limit=0.3, k=2)
    with torch.no_grad():
        raw_weight(layer).copy_(torch.randn(10, 15))
    clamp, before = clamp_of(layer), clamp_of(layer).u.clone()
    trained = layer(torch.zeros(1, 15)), layer.weight
    assert not torch.equal(clamp.u, before)
    kept = clamp.u.clone(), clamp.v.clone()
    torch.testing.assert_close(layer.eval().weight, effective_weight(layer), rtol=0, atol=0)
    assert torch.equal(clamp.u, kept[0])
    assert torch.equal(clamp.v, kept[1])
    torch.testing.assert_close(layer.weight, trained[1], rtol=1e-5, atol=1e-6)
    identity = torch.eye(3)
    torch.testing.assert_close(clamp.u.T @ clamp.u, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(clamp.v.T @ clamp.v, identity, rtol=0, atol=1e-5)


def test_several_iterations_a_call_come_nearer_than_one():
    torch.manual_seed(0)
    errors = []
    for iterations in (1, 5):
        layer = clamped(nn.Linear(60, 50).double(), limit=0.05, k=1, iterations=iterations)
        with torch.no_grad():
            raw_weight(layer).copy_(
                torch.randn(50, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            )
        errors.append((layer.weight - formula(raw_weight(layer), 0.05, 1)).norm().item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("limit", [None, 0.1])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 9)])
def test_matrices_with_few_values_keep_the_last_one_unless_a_limit_is_given(shape, limit):
    torch.manual_seed(0)
    layer = clamped(nn.Linear(*reversed(shape), bias=False).double(), limit, k=3)
    before, after = svdvals(raw_weight(layer)), svdvals(layer.weight)
    expected = before[-1:].expand_as(before) if limit is None else torch.full_like(before, limit)
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=0)


def test_zero_weight_stays_zero_and_recovers():
    torch.manual_seed(0)
    layer = clamped(nn.Linear(6, 5), k=2)
    with torch.no_grad():
        raw_weight(layer).zero_()
    for _ in range(3):
        assert torch.equal(layer.weight, torch.zeros(5, 6))
    with torch.no_grad():
        raw_weight(layer).copy_(torch.randn(5, 6))
    for _ in range(300):
        weight = layer.weight
    torch.testing.assert_close(weight, formula(raw_weight(layer), None, 2), rtol=0, atol=1e-3)


def test_a_weight_that_is_not_finite_shows_and_raises_nothing():
    layer = clamped(nn.Linear(6, 5))
    with torch.no_grad():
        raw_weight(layer)[0, 0] = torch.nan
    assert layer.weight.isnan().any()
    assert clamp_of(layer).u.isfinite().all()


def test_channels_last_weights_give_the_same_numbers_and_stay_channels_last():
    torch.manual_seed(0)
    layer = clamped(nn.Conv2d(6, 8, 3), limit=0.2, k=2)
    turned = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for _ in range(3):
        torch.testing.assert_close(turned.weight, layer.weight, rtol=1e-5, atol=1e-6)
    assert turned.weight.is_contiguous(memory_format=torch.channels_last)


def test_autocast_leaves_the_clamp_in_full_precision():
    torch.manual_seed(0)
    layer = clamped(nn.Linear(64, 64), limit=0.5, k=2).eval()
    outside = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, outside)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_type_weights_are_clamped_to_their_precision(dtype):
    torch.manual_seed(0)
    layer = clamped(nn.Linear(24, 16).to(dtype), limit=0.5, k=3)
    for mode in (True, False):
        weight = layer.train(mode).weight
        assert weight.dtype == dtype
        expected = svdvals(formula(raw_weight(layer).double(), 0.5, 3))
        torch.testing.assert_close(svdvals(weight), expected, rtol=0, atol=0.02)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layer_gives_the_same_numbers_and_moves_its_vectors(backend):
    torch.manual_seed(0)
    plain = clamped(nn.Conv2d(3, 5, 3), limit=0.1)
    x = torch.randn(2, 3, 6, 6)
    compiled = copy.deepcopy(plain)
    run = torch.compile(compiled, backend=backend)
    for _ in range(3):
        expected, found = plain(x), run(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found.sum().backward()
        expected.sum().backward()
    torch.testing.assert_close(clamp_of(compiled).u.abs(), clamp_of(plain).u.abs(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw_weight(compiled).grad, raw_weight(plain).grad, rtol=1e-4, atol=1e-5)


def test_clamped_networks_are_copied_and_saved_whole():
    torch.manual_seed(0)

    def make() -> Generator:
        network = Generator.from_preset("small-16", width=4)
        apply_spectral_clamp(network, k=2, keep=[network.shared])
        return network

    network = make()
    network(torch.randn(2, network.latent_dim), torch.arange(2))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    restored = make()
    restored.load_state_dict(torch.load(file, weights_only=True))
    z, labels = torch.randn(2, network.latent_dim), torch.arange(2)
    for other in (restored, copy.deepcopy(network)):
        assert torch.equal(other.eval()(z, labels), network.eval()(z, labels))
    assert {"output.parametrizations.weight.0.u", "output.parametrizations.weight.0.v"} <= network.state_dict().keys()


def test_two_training_forwards_may_come_before_one_backward():
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4)
    apply_spectral_clamp(network, limit=0.5, k=2)
    images = [network(torch.randn(2, network.latent_dim), torch.arange(2)) for _ in range(2)]
    (images[0] - images[1]).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("option", "value"), [("k", 0), ("iterations", 0), ("limit", 0.0), ("limit", -1.0), ("limit", float("inf"))]
)
def test_options_that_make_no_sense_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option}: {value} given"):
        SpectralClamp(torch.randn(3, 4), **{option: value})
