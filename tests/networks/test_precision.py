"""The same numbers, within stated tolerances, in either memory layout, other number formats, and compiled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from schurgan.networks import Discriminator, Generator, SelfAttention, customise, find_architecture
from schurgan.normality import DDFN
from schurgan.training.losses import LOSSES

# Attention that counts, every resampling convolution, both ways to embed classes, a chunked and a whole z.
ARCHITECTURES = {
    "small-16": (None, "nearest"),
    "cifar-32": (4, "nearest"),
    "sagan-32": (4, "strided"),
    "proposed-32": (4, "nearest"),
}


def pair(name: str) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    width, resample = ARCHITECTURES[name]
    architecture = customise(find_architecture(name), resample=resample)
    networks = tuple(network(architecture, 5, width, 2, spectral_norm=True) for network in (Generator, Discriminator))
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.7)
    return networks


def passes(generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor) -> list[Tensor]:
    """Images, scores and every gradient of a sum over scores whose terms differ, of a pass in training mode."""
    images = generator(z, labels)
    scores = discriminator(images, labels)
    parameters = [*generator.parameters(), *discriminator.parameters()]
    loss = (scores.float() * torch.arange(1, 1 + len(scores))).sum()
    return [images, scores, *torch.autograd.grad(loss, parameters)]


def inputs(generator: Generator, batch: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, generator.latent_dim, generator=torch.Generator().manual_seed(1)), torch.arange(batch) % 5


def error(here: Tensor, there: Tensor) -> float:
    """Of the whole tensor, relative to its norm."""
    return float((here.detach().double() - there.detach().double()).norm() / there.detach().double().norm())


def scale(gradients: list[Tensor]) -> float:
    return float(torch.stack([gradient.double().norm() for gradient in gradients]).norm())


def worst_gradient(here: list[Tensor], there: list[Tensor]) -> float:
    """The largest error of a parameter's gradient, relative to that of all parameters: some are 0 but for rounding."""
    return max(float((a.double() - b.double()).norm()) for a, b in zip(here, there, strict=True)) / scale(there)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_last_gives_what_contiguous_networks_give(name):
    networks = pair(name)
    others = [copy.deepcopy(network).to(memory_format=torch.channels_last) for network in networks]
    z, labels = inputs(networks[0])
    images, scores, *gradients = passes(*networks, z, labels)
    other_images, other_scores, *other_gradients = passes(*others, z, labels)
    # float32 sums of some hundred terms in another order, through a dozen layers.
    assert error(other_images, images) <= 1e-5
    assert error(other_scores, scores) <= 1e-5
    assert worst_gradient(other_gradients, gradients) <= 1e-4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_single_precision_is_double_precision_rounded(name, memory_format):
    networks = [network.to(memory_format=memory_format) for network in pair(name)]
    exact = [copy.deepcopy(network).double() for network in networks]
    z, labels = inputs(networks[0])
    images, scores, *gradients = passes(*networks, z, labels)
    true_images, true_scores, *true_gradients = passes(*exact, z.double(), labels)
    assert {tensor.dtype for tensor in (true_images, true_scores, *true_gradients)} == {torch.float64}
    # A rounding error is 6e-8; some hundred of them, partly averaged out, in each of a dozen layers.
    assert error(images, true_images) <= 1e-5
    assert error(scores, true_scores) <= 1e-5
    assert worst_gradient(gradients, true_gradients) <= 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_autocast_gives_single_precision_within_its_eight_bits(name):
    networks = pair(name)
    others = copy.deepcopy(networks)
    z, labels = inputs(networks[0])
    images, scores, *gradients = passes(*networks, z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        other_images, other_scores, *other_gradients = passes(*others, z, labels)
    assert other_images.dtype == torch.bfloat16
    # Inputs and result of each product are rounded, 2⁻⁹ each: after a dozen layers, √36 · 2⁻⁹ = 1.2e-2 if none is
    # amplified. Four times as much is allowed to images and scores, and that again for the way back to gradients.
    assert 2**-10 < error(other_images, images) <= 5e-2  # at least: autocast did something
    assert error(other_scores, scores) <= 5e-2
    assert worst_gradient(other_gradients, gradients) <= 1e-1
    assert {gradient.dtype for gradient in other_gradients} == {torch.float32}


def test_spectral_norms_follow_single_precision_weights_under_autocast():
    network = pair("cifar-32")[1]
    other = copy.deepcopy(network)
    images, labels = torch.rand(4, 2, 32, 32), torch.arange(4)
    network(images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        other(images, labels)
    for (name, here), there in zip(network.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(here, there), name


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_single_precision_scores_are_single_precision_under_autocast(name):
    loss = LOSSES[name]
    torch.manual_seed(0)
    real, fake = torch.randn(64), torch.randn(64)
    wanted = loss.discriminator(real, fake), loss.generator(real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        got = loss.discriminator(real, fake), loss.generator(real, fake)
    for here, there in zip(got, wanted, strict=True):
        assert here.dtype == torch.float32
        assert torch.equal(here, there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ddfn_is_single_precision_under_autocast_whatever_the_images(dtype):
    torch.manual_seed(0)
    real, fake = torch.rand(8, 1, 16, 16), (torch.rand(8, 1, 16, 16) * 2 - 1).to(dtype)

    def penalty(images: Tensor) -> Tensor:
        constraint = DDFN(epsilon=0.0, weight=10.0)
        constraint.fit_real([real])
        value: Tensor = constraint(images)[0]
        return value

    wanted = penalty(fake.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = penalty(fake)
    assert wanted > 0.1
    assert got.dtype == torch.float32
    # The images are the same numbers; Δ² and its means in float32 differ at most by a few roundings.
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


def compiled(network: nn.Module, backend: str) -> Callable[..., Tensor]:
    run: Callable[..., Tensor] = torch.compile(network, backend=backend, fullgraph=True)
    return run


def check_compiled(name: str, backend: str) -> None:
    networks = [network.to(memory_format=torch.channels_last) for network in pair(name)]
    others = copy.deepcopy(networks)
    z, labels = inputs(networks[0])
    torch._dynamo.reset()
    made = [compiled(network, backend) for network in others]
    for _ in range(2):  # power iterations and running statistics of the first pass count in the second
        images, scores, *gradients = passes(*networks, z, labels)
        other_images = made[0](z, labels)
        other_scores = made[1](other_images, labels)
        parameters = [parameter for network in others for parameter in network.parameters()]
        loss = (other_scores * torch.arange(1, 1 + len(scores))).sum()
        other_gradients = torch.autograd.grad(loss, parameters)
        # Fused loops sum in another order: as for the two layouts.
        assert error(other_images, images) <= 1e-5
        assert error(other_scores, scores) <= 1e-5
        assert worst_gradient(list(other_gradients), gradients) <= 1e-4
    for network, other in zip(networks, others, strict=True):
        for (key, here), there in zip(network.named_buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_a_traced_graph_without_breaks_gives_what_eager_networks_give():
    check_compiled("small-16", "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["small-16", "cifar-32"])
def test_compiled_networks_give_what_eager_networks_give(name):
    check_compiled(name, "inductor")
