"""Spectral normalisation against a singular value decomposition."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from schurgan.networks import Discriminator, Generator, SpectralNorm, apply_spectral_norm


def sigma(weight: torch.Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().double().flatten(1))[0].item()


def normalised(layer: nn.Module) -> nn.Module:
    apply_spectral_norm(layer)
    return layer


def norm_of(layer: nn.Module) -> SpectralNorm:
    return layer.parametrizations.weight[0]


LAYERS = {
    "conv": lambda: nn.Conv2d(12, 20, 3),
    "linear": lambda: nn.Linear(30, 20),
    "embedding": lambda: nn.Embedding(10, 24),
    "single row": lambda: nn.Linear(30, 1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_largest_singular_value_becomes_one_after_a_hundred_training_forwards(kind):
    torch.manual_seed(0)
    layer = normalised(LAYERS[kind]())
    for _ in range(100):
        weight = layer.weight
    assert sigma(weight) == pytest.approx(1, abs=1e-3)  # the gap of random matrices of this size leaves a lot less
    original = layer.parametrizations.weight.original
    torch.testing.assert_close(weight * sigma(original), original, rtol=1e-3, atol=1e-6)


def test_a_new_layer_is_already_near_its_spectral_norm():
    torch.manual_seed(0)
    assert sigma(normalised(nn.Conv2d(64, 64, 3)).eval().weight) < 1.05  # one iteration alone leaves about 1.5


def test_after_orthogonal_initialisation_normalising_changes_nothing():
    networks = []
    for spectral_norm in (False, True):
        torch.manual_seed(3)
        networks.append(Discriminator.from_preset("small-16", spectral_norm=spectral_norm).eval())
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    plain, with_norm = (network(images, labels) for network in networks)
    torch.testing.assert_close(with_norm, plain, rtol=1e-5, atol=1e-5)


def test_training_forward_moves_u_by_one_power_iteration_and_eval_forward_leaves_it():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(15, 10))
    norm, weight = norm_of(layer), layer.parametrizations.weight.original.detach()
    u = norm.u.clone()
    v = weight.T @ u
    expected = weight @ v / (weight @ v).norm()
    layer(torch.zeros(1, 15))
    torch.testing.assert_close(norm.u, expected, rtol=0, atol=1e-5)
    layer.eval()
    before = norm.u.clone(), norm.v.clone()
    layer(torch.zeros(1, 15))
    assert torch.equal(norm.u, before[0])
    assert torch.equal(norm.v, before[1])


def test_eval_forward_divides_by_the_norm_that_training_last_found():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(15, 10))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(10, 15))  # another leading pair than at the start
    for _ in range(200):
        trained = layer.weight
    torch.testing.assert_close(layer.eval().weight, trained, rtol=1e-5, atol=1e-6)
    assert sigma(layer.weight) == pytest.approx(1, abs=1e-3)


def test_u_and_v_stay_unit_vectors():
    torch.manual_seed(0)
    layer = normalised(nn.Conv2d(5, 6, 3))
    for _ in range(50):
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(0.8).add_(0.1 * torch.randn(6, 5, 3, 3))
        _ = layer.weight
    assert norm_of(layer).u.norm().item() == pytest.approx(1, abs=1e-6)
    assert norm_of(layer).v.norm().item() == pytest.approx(1, abs=1e-6)


def test_gradient_is_that_of_the_weight_over_its_exact_spectral_norm():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(7, 5).double())
    for _ in range(2000):
        _ = layer.weight  # converged, so u and v are the singular pair
    target = torch.randn(5, 7, dtype=torch.float64)
    original = layer.parametrizations.weight.original
    (found,) = torch.autograd.grad((layer.weight * target).sum(), original)
    truth = original.detach().clone().requires_grad_()
    (truth / torch.linalg.matrix_norm(truth, 2) * target).sum().backward()
    torch.testing.assert_close(found, truth.grad, rtol=1e-6, atol=1e-9)


def test_two_training_forwards_may_come_before_one_backward():
    discriminator, labels = Discriminator.from_preset("small-16"), torch.arange(4)
    real = discriminator(torch.randn(4, 3, 16, 16), labels)
    fake = discriminator(torch.randn(4, 3, 16, 16), labels)
    (fake.mean() - real.mean()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in discriminator.parameters())


def test_an_eval_and_a_training_forward_may_come_before_one_backward():
    layer = normalised(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    loss = layer.eval()(x).sum() + layer.train()(x).sum()
    loss.backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()


def test_zero_weight_stays_zero_and_recovers():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(6, 5))
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        original.zero_()
    for _ in range(3):
        assert torch.equal(layer.weight, torch.zeros(5, 6))
    with torch.no_grad():
        original.copy_(torch.randn(5, 6))
    for _ in range(200):
        weight = layer.weight
    assert sigma(weight) == pytest.approx(1, abs=1e-3)


def test_channels_last_weights_give_the_same_numbers_and_stay_channels_last():
    torch.manual_seed(0)
    layer = normalised(nn.Conv2d(6, 8, 3))
    turned = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for _ in range(3):
        torch.testing.assert_close(turned.weight, layer.weight, rtol=1e-5, atol=1e-6)
    assert turned.weight.is_contiguous(memory_format=torch.channels_last)


def test_autocast_leaves_the_spectral_norm_in_full_precision():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(64, 64)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.weight
    norm, original = norm_of(layer), layer.parametrizations.weight.original.double()
    truth = original / (norm.u.double() @ original @ norm.v.double())
    torch.testing.assert_close(inside.double(), truth, rtol=1e-5, atol=0)  # bfloat16 would leave 1e-3


def test_half_types_keep_norms_above_a_larger_floor():
    norm = SpectralNorm(torch.randn(3, 4))
    assert norm.floor(torch.zeros(1)) == 1e-6
    assert norm.floor(torch.zeros(1, dtype=torch.float16)) == 1e-4
    assert norm.floor(torch.zeros(1, dtype=torch.bfloat16)) == 1e-4


def test_every_layer_is_normalised_but_the_generators_shared_embedding():
    generator = Generator.from_preset("cifar-32", width=4, spectral_norm=True)
    discriminator = Discriminator.from_preset("cifar-32", width=4)
    for network in (generator, discriminator):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                assert hasattr(layer, "parametrizations") == (name != "shared"), name


@pytest.mark.parametrize("make", [Generator.from_preset, Discriminator.from_preset])
def test_normalised_networks_are_copied_and_saved_whole(make):
    network = make("small-16", spectral_norm=True)
    network(
        torch.randn(2, network.latent_dim) if make == Generator.from_preset else torch.randn(2, 3, 16, 16),
        torch.arange(2),
    )
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    restored = make("small-16", spectral_norm=True)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for other in (restored, copy.deepcopy(network)):
        theirs, ours = other.state_dict(), network.state_dict()
        assert theirs.keys() == ours.keys()
        assert any(name.endswith(".u") for name in ours)
        for name, tensor in ours.items():
            assert torch.equal(theirs[name], tensor), name
            assert theirs[name].data_ptr() != tensor.data_ptr(), name
