"""Costs of a step against sums written out, and against what real tensors keep."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from schurgan.networks import ARCHITECTURES, IMAGE, Architecture, Discriminator, Generator, Stage, find_architecture
from schurgan.networks.costs import cost_table, step_costs

TINY = Architecture(
    generator=(Stage(2, 1),),
    discriminator=(Stage(IMAGE, 1, attention=True), Stage(1, 2, scale=1)),
    width=8,
    chunk=3,
    embedding=5,
)


def test_arithmetic_of_a_small_architecture_is_the_sum_over_its_layers():
    batch = 6

    def conv(cin: int, cout: int, kernel: int, pixels: int) -> int:
        return 2 * cin * cout * kernel**2 * pixels  # of one image, forward; each of the two gradients costs the same

    g_linear = 2 * 3 * 16 * 16
    g_norms = 2 * 8 * (2 * 16 + 2 * 8)  # gain and bias of a condition of 8, for 16 and 8 features
    # The first 3×3 convolution comes with the enlargement: 4×4 taps on the 4×4 pixels.
    g_convs = conv(16, 8, 4, 16) + conv(8, 8, 3, 64) + conv(16, 8, 1, 16) + conv(8, 3, 3, 64)
    generator = g_linear + g_norms + g_convs
    # z and the labels want no gradient, so the linear layer has one gradient; the embedding of the norms has both.
    generator_backward = g_linear + 2 * g_norms + 2 * g_convs

    d_image = conv(3, 8, 3, 64) + conv(3, 8, 1, 16)
    # The second comes with the pooling: 4×4 taps for each of 4×4 pixels. Then block 2, whose input is as wide as half
    # of its output, and the linear layer.
    d_rest = conv(8, 8, 4, 16) + conv(8, 16, 3, 16) + conv(16, 16, 3, 16) + conv(8, 16, 1, 16) + 2 * 16
    # θ, φ, g, o on 4×4 pixels with 8 channels: 1, 1, 4 and 8 of 4.
    d_rest += conv(8, 1, 1, 16) + conv(8, 1, 1, 16) + conv(8, 4, 1, 16) + conv(4, 8, 1, 16)
    product = 2 * 16 * 4 * 16  # one of attention: 16 pixels, 4 pooled ones, q, k and v padded to 16 columns
    discriminator = d_image + d_rest + 2 * product
    # Of D the image wants no gradient; for G the weights of D want none. Attention has four products and makes its map
    # anew.
    discriminator_backward = d_image + 2 * d_rest + 5 * product
    through_discriminator = d_image + d_rest + 5 * product
    total = (
        generator
        + 2 * (discriminator + discriminator_backward)  # of real and generated images
        + (generator + discriminator)
        + (generator_backward + through_discriminator)
    )
    # Whatever the batch, 3×3 kernels are spread to 4×4 ones, by a matrix of 16×9 for each pair of channels: in two
    # forward passes of either network, and in the one backward pass that wants its weights' gradients.
    spreading = (2 + 1) * 2 * 16 * 9 * (16 * 8 + 8 * 8)
    assert step_costs(TINY, batch_size=batch).flops == batch * total + spreading


def kept_by_real_tensors(architecture: Architecture, batch: int, spectral_norm: bool) -> int:
    """What autograd keeps in the larger phase of a step on the CPU, by the memory that it occupies."""
    torch.manual_seed(0)
    generator = Generator(architecture, 10)
    discriminator = Discriminator(architecture, 10, spectral_norm=spectral_norm)
    own = {t.untyped_storage().data_ptr() for n in (generator, discriminator) for t in n.state_dict().values()}
    z, labels = torch.randn(batch, generator.latent_dim), torch.arange(batch) % 10
    images = torch.randn(2 * batch, 3, *architecture.size)
    sizes = []
    for phase in ("discriminator", "generator"):
        kept = {}

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage
            return tensor

        discriminator.requires_grad_(phase == "discriminator")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if phase == "discriminator":
                score = discriminator(images, labels.repeat(2))
            else:
                score = discriminator(generator(z, labels), labels)
        sizes.append(sum(storage.nbytes() for storage in kept.values()))
        del score
    return max(sizes)


@pytest.mark.parametrize("name", ["small-16", "small-32", "cifar-32", "sagan-32"])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_activations_are_what_real_tensors_keep(name, spectral_norm):
    architecture = dataclasses.replace(find_architecture(name), width=8)
    found = step_costs(architecture, batch_size=4, spectral_norm_d=spectral_norm).activations
    # Kernels keep a few numbers a channel of their own, attention a normaliser or two a row.
    assert found == pytest.approx(kept_by_real_tensors(architecture, 4, spectral_norm), rel=0.01)


def test_memory_is_the_sum_of_what_a_step_holds():
    costs = step_costs(find_architecture("small-16"), batch_size=4, spectral_norm_d=False)
    networks = [Generator.from_preset("small-16"), Discriminator.from_preset("small-16", spectral_norm=False)]
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in networks[0].buffers())
    assert [costs.generator, costs.discriminator] == counts
    assert costs.state == 16 * sum(counts) + buffers + 4 * counts[0] + buffers  # weights, gradients, moments; average
    assert costs.memory == costs.state + costs.activations


def test_activations_and_arithmetic_grow_with_the_batch_and_nothing_else_does():
    one, two, three = (step_costs(find_architecture("small-32"), batch_size=n) for n in (8, 16, 24))
    assert three.flops - two.flops == two.flops - one.flops > 0.99 * one.flops  # kernels are spread once a batch
    assert three.activations - two.activations == two.activations - one.activations > 0
    assert one.memory - one.activations == two.memory - two.activations


def test_the_map_of_attention_is_never_held():
    with_map = 4 * 128**2 * 64**2 * 4  # of G's four images alone
    assert step_costs(find_architecture("proposed-128"), width=8, batch_size=4).activations < with_map / 4


def test_spectral_norm_holds_each_normalised_weight_once_more():
    architecture = find_architecture("small-32")
    plain, normalised = (step_costs(architecture, batch_size=1, spectral_norm_d=on) for on in (False, True))
    more = normalised.activations - plain.activations
    # Linear layers and convolutions; those that resample hold a kernel made of the weight either way.
    weights = 4 * plain.discriminator
    assert 0.5 * weights < more < 1.1 * weights
    assert normalised.generator == plain.generator


def test_networks_far_beyond_this_machines_memory_are_counted():
    costs = step_costs(find_architecture("biggan-256"), width=4096, batch_size=2048)
    assert costs.memory > 2**40
    assert costs.flops > 2**50


def test_counting_leaves_the_global_random_numbers_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    step_costs(find_architecture("small-16"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", ["width", "classes", "channels", "batch_size"])
def test_sizes_below_one_are_refused_by_name(size):
    with pytest.raises(ValueError, match=f"{size}: 0 given"):
        step_costs(find_architecture("small-16"), **{size: 0})


def test_table_has_an_aligned_line_for_each_ladder_with_its_own_figures(monkeypatch):
    monkeypatch.setattr(
        "schurgan.networks.costs.ARCHITECTURES", {n: ARCHITECTURES[n] for n in ("small-16", "proposed-literal-128")}
    )
    *_, head, first, second = cost_table(width=4, classes=7, channels=1, batch_size=2)
    assert head.split() == ["architecture", "pixels", "width", "generator", "discriminator", "GiB", "GFLOP"]
    assert len({len(line) for line in (head, first, second)}) == 1  # aligned
    for line, name, pixels in ((first, "small-16", "16×16"), (second, "proposed-literal-128", "128×128")):
        costs = step_costs(find_architecture(name), width=4, classes=7, channels=1, batch_size=2)
        numbers = [f"{costs.generator:,}", f"{costs.discriminator:,}"]
        assert line.split()[:5] == [name, pixels, "4", *numbers]
        assert float(line.split()[5]) == pytest.approx(costs.memory / 2**30, abs=0.005)
        assert float(line.split()[6].replace(",", "")) == pytest.approx(costs.flops / 1e9, abs=0.05)
