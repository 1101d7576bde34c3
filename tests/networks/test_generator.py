"""The generator: what each part of z reaches, shapes, memory formats, statistics."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from schurgan.networks import Generator, Latent, SelfAttention, customise, find_architecture, standing_statistics

SMALL = find_architecture("small-32")


def seeded(*arguments, seed: int = 0, **options) -> Generator:
    torch.manual_seed(seed)
    return Generator(*arguments, **options)


def inputs(network: Generator, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, network.latent_dim), torch.arange(batch) % network.classes


def activations(network: Generator, z: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """What the linear layer and each block give."""
    seen: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        for module in (network.linear, *network.blocks)
    ]
    network(z, labels)
    for hook in hooks:
        hook.remove()
    return seen


def changed_places(network: Generator, piece: slice | None, batch: int = 4) -> list[bool]:
    """Which activations change with a piece of z, or with the labels for None."""
    z, labels = inputs(network, batch)
    other, other_labels = z.clone(), labels.clone()
    if piece is None:
        other_labels = (labels + 1) % network.classes
    else:
        other[:, piece] += 1
    pairs = zip(activations(network, z, labels), activations(network, other, other_labels), strict=True)
    return [not torch.equal(a, b) for a, b in pairs]


@pytest.mark.parametrize("chunk", range(4))
def test_chunk_of_noise_changes_nothing_before_its_own_block(chunk):
    network = seeded(SMALL, 10, width=8).eval()
    piece = slice(chunk * SMALL.chunk, (chunk + 1) * SMALL.chunk)
    assert changed_places(network, piece) == [place >= chunk for place in range(4)]


def test_class_reaches_every_block_but_not_the_linear_layer():
    assert changed_places(seeded(SMALL, 10, width=8).eval(), None) == [False, True, True, True]


@pytest.mark.parametrize(("skip_z", "condition"), [("chunks", 16 + 32), ("full", 64 + 32), ("none", 32)])
def test_noise_reaches_the_blocks_as_the_architecture_says(skip_z, condition):
    network = seeded(dataclasses.replace(SMALL, skip_z=skip_z), 10, width=8).eval()
    assert network.linear.in_features == (16 if skip_z == "chunks" else 64)
    assert {block.norm1.gain.in_features for block in network.blocks} == {condition}
    conditions: list[torch.Tensor] = []
    network.blocks[2].register_forward_pre_hook(lambda _module, args: conditions.append(args[1]))
    z, labels = inputs(network)
    network(z, labels)
    network(z + 1, labels)
    assert torch.equal(*conditions) == (skip_z == "none")


@pytest.mark.parametrize(
    ("skip_z", "reached"), [("chunks", [False, True, False]), ("full", [True] * 3), ("none", [False] * 3)]
)
def test_noise_reaches_the_norms_as_the_architecture_says_beside_embeddings_of_their_own(skip_z, reached):
    network = seeded(dataclasses.replace(SMALL, skip_z=skip_z, embedding=0), 10, width=8).eval()
    seen: list[torch.Tensor] = []
    for block in network.blocks:
        block.norm1.gain.register_forward_hook(lambda _module, _args, out: seen.append(out))
    z, labels = inputs(network)
    network(z, labels)
    other = z.clone()
    other[:, 2 * 16 : 3 * 16] += 1  # the second block's chunk
    network(other, labels)
    assert [not torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True)] == reached


def test_embeddings_of_their_own_change_every_block_with_the_class_and_nothing_else():
    network = seeded(find_architecture("sagan-32"), 10, width=8).eval()
    assert network.shared is None
    assert changed_places(network, None) == [False, True, True, True]
    z, labels = inputs(network, 10)
    images = network(z[:1].expand(10, -1), labels)
    assert len({image.numpy().tobytes() for image in images.detach()}) == 10
    with torch.no_grad():
        for block in network.blocks:
            for norm in (block.norm1, block.norm2):
                norm.gain.table.weight[3] += 1  # of class 3 alone
    changed = (network(z[:1].expand(10, -1), labels) != images).flatten(1).any(1)
    assert changed.tolist() == [label == 3 for label in range(10)]


def test_spectral_norm_leaves_every_embedding_of_the_generator_alone():
    for name, embeddings in (("small-32", 1), ("sagan-32", 3 * 4)):
        network = seeded(find_architecture(name), 10, width=4, spectral_norm=True)
        found = network.embeddings()
        assert len(found) == embeddings
        assert not any(parametrize.is_parametrized(module) for module in found)
        others = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert all(parametrize.is_parametrized(module) for module in others)


def test_the_class_beside_z_reaches_the_linear_layer():
    network = seeded(customise(SMALL, embedding="linear"), 10, width=8).eval()
    assert network.linear.in_features == 16 + 32
    assert changed_places(network, None) == [True] * 4


@pytest.mark.parametrize("name", ["small-32", "sagan-32"])
def test_strided_generators_make_images_of_the_same_size(name):
    network = Generator(customise(find_architecture(name), resample="strided"), 10, 8)
    images = network(*inputs(network))
    assert images.shape == (4, 3, 32, 32)
    assert images.isfinite().all()


def test_a_generator_has_the_changed_fields_of_its_architecture():
    torch.manual_seed(0)
    options = {"base": (4, 8), "skip_z": "full", "embedding": "separate", "attention_g": (8, 32)}
    network = Generator(customise(find_architecture("cifar-32"), **options), 10, 8, 1)
    assert [isinstance(block.attention, SelfAttention) for block in network.blocks] == [True, False, True]
    assert network(*inputs(network)).shape == (4, 1, 32, 64)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("base", [(4, 4), (4, 12), (2, 5)])
def test_images_have_the_architecture_size_any_channels_and_values_in_minus_one_to_one(channels, base):
    network = seeded(dataclasses.replace(SMALL, base=base), 3, width=4, channels=channels)
    images = network(*inputs(network))
    assert images.shape == (4, channels, base[0] * 8, base[1] * 8)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("name", ["small-32", "cifar-32", "sagan-32"])
@pytest.mark.parametrize("resample", ["nearest", "strided"])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_channels_last_gives_the_same_images_and_gradients(name, resample, spectral_norm):
    torch.manual_seed(0)
    network = Generator(customise(find_architecture(name), resample=resample), 10, 8, spectral_norm=spectral_norm)
    turned = copy.deepcopy(network).to(memory_format=torch.channels_last)
    z, labels = inputs(network)
    images, same = network(z, labels), turned(z, labels)
    assert same.is_contiguous(memory_format=torch.channels_last)
    # Values of order 1 through ten float32 layers whose sums run in another order.
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)
    images.square().mean().backward()
    same.square().mean().backward()
    gradients = [torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (network, turned)]
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[0].norm()  # ReLU masks may differ near zero


@pytest.mark.parametrize("name", ["cifar-32", "sagan-32"])
@pytest.mark.parametrize("resample", ["nearest", "strided"])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_gradients_reach_every_parameter(name, resample, spectral_norm):
    # In eval mode, because training-mode batch norm rightly cancels the biases before it.
    architecture = dataclasses.replace(find_architecture(name), resample=resample)
    network = seeded(architecture, 4, width=4, spectral_norm=spectral_norm).eval()
    for module in network.modules():
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.5)
    z, labels = inputs(network)
    (network(z, labels) * torch.randn(4, 3, 32, 32)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    first, same, other = (seeded(SMALL, 10, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_every_bias_starts_at_zero():
    biases = [p for name, p in seeded(SMALL, 10).named_parameters() if name.endswith("bias")]
    assert len(biases) == 12  # of the linear layer, three convolutions a block, the last batch norm and convolution
    assert not any(bias.any() for bias in biases)


def test_noise_of_another_length_is_refused_with_the_length_needed():
    network = seeded(SMALL, 10, width=4)
    with pytest.raises(ValueError, match=r"z: shape \(2, 65\) given, \(batch, 64\) is needed"):
        network(torch.zeros(2, 65), torch.zeros(2, dtype=torch.long))


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_standing_statistics_are_the_means_of_the_batches_own_statistics():
    network, latent = seeded(SMALL, 10, width=4), Latent(64)
    norms = batch_norms(network)
    for norm in norms:  # what was there before must not matter
        nn.init.constant_(norm.running_mean, 7)
    seen: list[list[torch.Tensor]] = [[] for _ in norms]
    hooks = [
        n.register_forward_pre_hook(lambda _m, args, kept=kept: kept.append(args[0]))
        for n, kept in zip(norms, seen, strict=True)
    ]
    standing_statistics(network, latent, batches=5, batch_size=6, generator=torch.Generator().manual_seed(1))
    for hook in hooks:
        hook.remove()
    for norm, kept in zip(norms, seen, strict=True):
        assert len(kept) == 5
        means = torch.stack([x.mean((0, 2, 3)) for x in kept]).mean(0)
        variances = torch.stack([x.var((0, 2, 3), correction=1) for x in kept]).mean(0)
        torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)


def test_standing_statistics_come_from_the_seed_and_change_nothing_else():
    network = seeded(SMALL, 10, width=4, spectral_norm=True)
    network.blocks[1].eval()  # a mixture of modes, to come back as it was
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed + len(results))
        standing_statistics(network, Latent(64), batches=3, batch_size=5, generator=torch.Generator().manual_seed(seed))
        results.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    running = {name for name in before if "running" in name or "num_batches" in name}
    assert all(torch.equal(results[0][name], before[name]) for name in before.keys() - running)
    assert all(torch.equal(results[0][name], results[1][name]) for name in before)
    assert not torch.equal(results[0]["norm.running_mean"], results[2]["norm.running_mean"])
    assert [module.training for module in network.modules()] == modes
    assert all(norm.momentum == 0.1 for norm in batch_norms(network))


def test_eval_images_do_not_depend_on_their_batch_after_standing_statistics():
    network = seeded(SMALL, 10, width=4)
    standing_statistics(network, Latent(64), batches=2, batch_size=8)
    network.eval()
    z, labels = inputs(network, 6)
    torch.testing.assert_close(network(z, labels)[:2], network(z[:2], labels[:2]), rtol=0, atol=1e-5)
