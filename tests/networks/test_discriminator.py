"""The discriminator: projection, independence of the batch, shapes, memory formats."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from schurgan.networks import Discriminator, SelfAttention, customise, find_architecture


def seeded(name: str, changes: dict | None = None, classes: int = 10, **options) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(customise(find_architecture(name), **(changes or {})), classes, **options)


def test_score_is_a_linear_layer_plus_the_class_embeddings_projection_of_the_summed_features():
    network = seeded("small-32", width=4, classes=5).eval()
    nn.init.constant_(network.linear.bias, 0.3)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 5
    features = F.relu(network.blocks(images)).flatten(2).sum(2)
    weight = network.linear.weight[0] + network.embedding.weight[labels]
    torch.testing.assert_close(network(images, labels), (features * weight).sum(1) + 0.3, rtol=1e-5, atol=1e-5)


def test_without_projection_the_score_is_the_linear_layer_whatever_the_class():
    network = seeded("small-32", {"projection": False}, width=4).eval()
    assert not [name for name in network.state_dict() if "embedding" in name]
    images = torch.randn(6, 3, 32, 32)
    scores = network(images, torch.arange(6))
    assert torch.equal(scores, network(images, torch.zeros(6, dtype=torch.long)))
    features = F.relu(network.blocks(images)).sum((2, 3))
    torch.testing.assert_close(scores, network.linear(features).squeeze(1))


def test_a_discriminator_has_the_changed_fields_of_its_architecture():
    changes = {"attention_d": (32, 4), "resample": "strided", "base": (4, 8)}
    network = seeded("biggan-64", changes, width=4, channels=1)
    places = [isinstance(block.attention, SelfAttention) for block in network.blocks]
    assert places == [True, False, False, True, True]
    assert network.architecture.size == (64, 128)
    scores = network(torch.randn(2, 1, 64, 128), torch.arange(2))
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", ["small-32", "cifar-32"])
def test_real_and_generated_images_score_the_same_in_one_batch_as_in_two(name):
    network = seeded(name, width=4).eval()
    real, fake, labels = torch.randn(5, 3, 32, 32), torch.rand(5, 3, 32, 32), torch.arange(5)
    together = network(torch.cat([real, fake]), torch.cat([labels, labels]))
    apart = torch.cat([network(real, labels), network(fake, labels)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-4)  # sums over 64 pixels of values of order 10


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (32, 96), (16, 40)])
def test_images_of_any_channels_and_rectangular_sizes_are_scored(channels, size):
    network = seeded("small-32", width=4, channels=channels)
    scores = network(torch.randn(2, channels, *size), torch.arange(2))
    assert scores.shape == (2,)
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", ["small-32", "cifar-32"])
@pytest.mark.parametrize("resample", ["nearest", "strided"])
def test_channels_last_gives_the_same_scores_and_gradients(name, resample):
    network = seeded(name, {"resample": resample}, width=8)
    turned = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    scores, same = network(images, labels), turned(images.contiguous(memory_format=torch.channels_last), labels)
    assert (scores - same).abs().max() <= 1e-5 * scores.abs().max()
    scores.mean().backward()
    same.mean().backward()
    gradients = [torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (network, turned)]
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[0].norm()  # ReLU masks may differ near zero


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_gradients_reach_every_parameter_and_the_images(spectral_norm):
    network = seeded("cifar-32", width=4, classes=4, spectral_norm=spectral_norm)
    for module in network.modules():
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.5)
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    (network(images, torch.arange(4)) * torch.randn(4)).sum().backward()
    assert images.grad.any()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_frozen_discriminator_passes_gradients_to_the_images_and_collects_none():
    network = seeded("small-16").requires_grad_(False)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    network(images, torch.arange(2)).sum().backward()
    assert images.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())
