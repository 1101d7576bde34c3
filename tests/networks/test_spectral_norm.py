"""Spectral normalisation against a singular value decomposition."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from schurgan.networks import Discriminator, Generator, SpectralNorm, apply_spectral_norm
from schurgan.networks.spectral import effective_weight, raw_weight, weighted_layers
from schurgan.training.trainer import update_average


def sigma(weight: torch.Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().double().flatten(1))[0].item()


def normalised(layer: nn.Module, **options) -> nn.Module:
    apply_spectral_norm(layer, **options)
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


@pytest.mark.parametrize("make", [Generator.from_preset, Discriminator.from_preset])
def test_orthogonal_weights_of_every_layer_are_their_own_normalisation(make):
    torch.manual_seed(0)
    network = make("cifar-32", width=8, spectral_norm=True, init="orthogonal")
    for name, layer in weighted_layers(network).items():
        torch.testing.assert_close(layer.weight, raw_weight(layer), rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("iterations", [2, 5])
def test_several_iterations_a_call_go_on_from_each_other(iterations):
    torch.manual_seed(0)
    several = normalised(nn.Linear(15, 10), iterations=iterations)
    with torch.no_grad():
        raw_weight(several).copy_(torch.randn(10, 15))  # far from what the vectors belong to
    single = copy.deepcopy(several)
    norm_of(single).iterations = 1
    truth, before = sigma(raw_weight(several)), norm_of(several).u.clone()
    for _ in range(iterations):
        weight = single.weight
    torch.testing.assert_close(several.weight, weight, rtol=1e-6, atol=0)
    assert torch.equal(norm_of(several).u, norm_of(single).u)
    # Iterations that all start from the same u would leave the error of the first.
    once = norm_of(several).iterate(raw_weight(several).detach(), before)
    first = once[0] @ raw_weight(several).detach() @ once[1]
    last = norm_of(several).u @ raw_weight(several).detach() @ norm_of(several).v
    assert truth - last.item() < 0.8 * (truth - first.item())


@pytest.mark.parametrize("kind", LAYERS)
def test_converged_it_is_the_weight_over_its_spectral_norm_in_either_mode(kind):
    torch.manual_seed(0)
    layer = normalised(LAYERS[kind]().double(), iterations=2000)
    with torch.no_grad():
        raw_weight(layer).copy_(torch.randn_like(raw_weight(layer)))
    before = norm_of(layer).v.clone()
    truth = raw_weight(layer) / sigma(raw_weight(layer))
    torch.testing.assert_close(layer.train().weight, truth, rtol=1e-12, atol=0)
    assert norm_of(layer).u.norm().item() == pytest.approx(1, abs=1e-12)
    assert not torch.equal(norm_of(layer).v, before)
    vectors = norm_of(layer).u.clone(), norm_of(layer).v.clone()
    torch.testing.assert_close(layer.eval().weight, truth, rtol=1e-12, atol=0)
    assert torch.equal(norm_of(layer).u, vectors[0])
    assert torch.equal(norm_of(layer).v, vectors[1])


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


def test_gradient_of_a_gradient_is_right():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(4, 3).double()).eval()
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm_of(layer), weight)


def test_gradient_penalty_reaches_the_weights_as_through_the_exact_norm():
    torch.manual_seed(0)
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        inputs = x.clone().requires_grad_()
        score = (torch.tanh(inputs @ weight.T) * y).sum()
        (slope,) = torch.autograd.grad(score, inputs, create_graph=True)
        return slope.square().sum()

    layer = normalised(nn.Linear(5, 4).double(), iterations=2000)  # converged, so u and v are the singular pair
    (found,) = torch.autograd.grad(penalty(layer.weight), raw_weight(layer))
    truth = raw_weight(layer).detach().clone().requires_grad_()
    penalty(truth / torch.linalg.matrix_norm(truth, 2)).backward()
    torch.testing.assert_close(found, truth.grad, rtol=1e-6, atol=1e-9)


def test_gradient_penalty_of_a_whole_discriminator_agrees_with_differences():
    torch.manual_seed(0)
    network = Discriminator.from_preset("small-16", width=2).double().eval()
    images, labels = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.arange(2)

    def penalty() -> torch.Tensor:
        inputs = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(inputs, labels).sum(), inputs, create_graph=True)
        return slope.square().sum()

    original = raw_weight(network.blocks[1].conv1)
    (gradient,) = torch.autograd.grad(penalty(), original)
    direction = torch.randn_like(original)
    with torch.no_grad():
        original.add_(direction, alpha=1e-6)
        above = penalty_value(penalty)
        original.sub_(direction, alpha=2e-6)
        below = penalty_value(penalty)
    slope = (above - below) / 2e-6
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5)  # differences lose half the digits


def penalty_value(penalty) -> float:
    with torch.enable_grad():
        return penalty().item()


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_type_weights_are_normalised_to_their_precision(dtype):
    torch.manual_seed(0)
    layer = normalised(nn.Linear(24, 16).to(dtype))
    for _ in range(50):
        weight = layer.weight
    assert weight.dtype == dtype
    assert sigma(weight) == pytest.approx(1, abs=0.02)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layer_gives_the_same_numbers_and_moves_its_vectors(backend):
    torch.manual_seed(0)
    plain = normalised(nn.Conv2d(3, 5, 3))
    x = torch.randn(2, 3, 6, 6)
    compiled = copy.deepcopy(plain)
    run = torch.compile(compiled, backend=backend)
    for _ in range(3):
        expected, found = plain(x), run(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found.sum().backward()
        expected.sum().backward()
    torch.testing.assert_close(norm_of(compiled).u, norm_of(plain).u, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(raw_weight(compiled).grad, raw_weight(plain).grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "floor"), [(torch.float32, 1e-6), (torch.float16, 1e-4), (torch.bfloat16, 1e-4)])
def test_a_weight_near_zero_is_divided_by_the_floor_of_its_type(dtype, floor):
    layer = normalised(nn.Linear(4, 3).to(dtype))
    with torch.no_grad():
        raw_weight(layer).fill_(floor / 100)
    torch.testing.assert_close(layer.weight.float(), raw_weight(layer).float() / floor, rtol=0.01, atol=0)


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


def test_average_of_a_network_keeps_unit_vectors():
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4, spectral_norm=True)
    average = copy.deepcopy(network)
    for step in range(3):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        network(torch.randn(2, network.latent_dim), torch.arange(2))
        update_average(average, network, 0.9, step)
    for name, buffer in average.named_buffers():
        if name.endswith((".u", ".v")):
            assert buffer.norm().item() == pytest.approx(1, abs=1e-5), name
            assert torch.equal(buffer, network.get_buffer(name)), name


def test_names_of_what_is_saved_stay():
    assert set(normalised(nn.Linear(3, 2)).state_dict()) == {
        "bias",
        "parametrizations.weight.original",
        "parametrizations.weight.0.u",
        "parametrizations.weight.0.v",
    }


def test_reading_the_effective_weight_moves_nothing():
    torch.manual_seed(0)
    layer = normalised(nn.Linear(6, 5))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    weight = effective_weight(layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert all(module.training for module in layer.modules())
    assert torch.equal(weight, layer.eval().weight)


def test_less_than_one_iteration_is_refused_by_name():
    with pytest.raises(ValueError, match="iterations: 0 given"):
        SpectralNorm(torch.randn(3, 4), iterations=0)
