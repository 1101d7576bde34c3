"""Blocks against their definitions, written out with torch's own primitives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from schurgan.networks.layers import (
    ClassTable,
    ConditionalBatchNorm2d,
    DBlock,
    DownConv2d,
    GBlock,
    StridedConv2d,
    TransposedConv2d,
    UpConv2d,
    initialise,
)

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, a few hundred additions of numbers near 1


def conv(x, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(1, 5))
def test_upsampling_convolution_equals_nearest_enlargement_then_convolution(shape, scale):
    batch, cin, cout, height, width = shape
    layer = UpConv2d(cin, cout, scale).double()
    x = torch.randn(batch, cin, height, width, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(F.interpolate(x, scale_factor=scale), layer), **EXACT)


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(1, 5))
def test_downsampling_convolution_equals_convolution_then_average_pooling(shape, scale):
    batch, cin, cout, height, width = shape
    layer = DownConv2d(cin, cout, scale).double()
    x = torch.randn(batch, cin, height * scale, width * scale, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.avg_pool2d(conv(x, layer), scale), **EXACT)


@pytest.mark.parametrize("scale", [2, 3])
def test_transposed_convolution_is_torchs_own_and_enlarges_by_its_stride(scale):
    layer = TransposedConv2d(3, 5, scale).double()
    torchs = nn.ConvTranspose2d(3, 5, 3, stride=scale, padding=1, output_padding=scale - 1).double()
    torchs.load_state_dict({"weight": layer.weight.transpose(0, 1), "bias": layer.bias})
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert layer(x).shape == (2, 5, 4 * scale, 5 * scale)
    torch.testing.assert_close(layer(x), torchs(x), **EXACT)


@pytest.mark.parametrize("scale", [2, 3])
def test_strided_convolution_takes_every_so_manieth_pixel_of_a_plain_one(scale):
    layer = StridedConv2d(3, 5, scale).double()
    x = torch.randn(2, 3, 4 * scale, 2 * scale, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x, layer)[:, :, ::scale, ::scale], **EXACT)


@pytest.mark.parametrize("kind", [TransposedConv2d, StridedConv2d])
def test_strided_layers_of_scale_one_are_plain_convolutions(kind):
    layer = kind(3, 5, 1).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x, layer), **EXACT)


@pytest.mark.parametrize("kind", [UpConv2d, DownConv2d, TransposedConv2d, StridedConv2d])
def test_resampling_convolution_is_differentiated_once_and_twice_correctly(kind):
    layer = kind(2, 2, 2).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def f(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("training", [True, False])
def test_conditional_batch_norm_with_zero_linears_is_plain_batch_norm(training):
    norm, plain = ConditionalBatchNorm2d(5, 7), nn.BatchNorm2d(5, eps=1e-4, affine=False)
    nn.init.zeros_(norm.gain.weight)
    nn.init.zeros_(norm.bias.weight)
    x, condition = 3 + 2 * torch.randn(8, 5, 4, 4), torch.randn(8, 7)
    for module in (norm, plain):
        module.train()(x, condition) if module is norm else module(x)  # both have seen the batch once
        module.train(training)
    torch.testing.assert_close(norm(x, condition), plain(x), rtol=0, atol=0)


def test_conditional_batch_norm_is_its_formula_with_gains_centred_on_one():
    norm = ConditionalBatchNorm2d(3, 4).double()
    x, condition = torch.randn(6, 3, 5, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    gain, bias = 1 + condition @ norm.gain.weight.T, condition @ norm.bias.weight.T
    truth = gain[:, :, None, None] * (x - mean) / (var + 1e-4).sqrt() + bias[:, :, None, None]
    torch.testing.assert_close(norm(x, condition), truth, **EXACT)


@pytest.mark.parametrize("noise", [0, 4])
def test_class_table_is_a_row_a_class_plus_the_noise_through_a_matrix(noise):
    table = ClassTable(5, noise, 3).double()
    labels, n = torch.tensor([4, 0, 4]), torch.randn(3, noise, dtype=torch.float64)
    truth = table.table.weight[labels] + (n @ table.noise.weight.T if noise else 0)
    torch.testing.assert_close(table((labels, n)), truth, **EXACT)
    assert (table.noise is None) == (noise == 0)


def test_batch_norm_with_its_own_tables_is_its_formula_and_with_zero_tables_plain_batch_norm():
    norm = ConditionalBatchNorm2d(3, 0, classes=4).double()
    x, labels = torch.randn(6, 3, 5, 5, dtype=torch.float64), torch.arange(6) % 4
    condition = labels, torch.empty(6, 0, dtype=torch.float64)
    plain = F.batch_norm(x, None, None, training=True, eps=1e-4)
    gain, bias = 1 + norm.gain.table.weight[labels], norm.bias.table.weight[labels]
    truth = gain[:, :, None, None] * plain + bias[:, :, None, None]
    torch.testing.assert_close(norm(x, condition), truth, **EXACT)
    nn.init.zeros_(norm.gain.table.weight)
    nn.init.zeros_(norm.bias.table.weight)
    torch.testing.assert_close(norm(x, condition), plain, **EXACT)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_strided_blocks_differ_from_biggans_in_the_resampling_convolution_alone(scale):
    c = torch.randn(5, 6, dtype=torch.float64)
    up = GBlock(4, 2, scale, condition=6, attention=False, resample="strided").double()
    x = torch.randn(5, 4, 4, 3, dtype=torch.float64)
    h = conv(F.relu(up.norm2(up.conv1(F.relu(up.norm1(x, c))), c)), up.conv2)
    torch.testing.assert_close(up(x, c), h + conv(F.interpolate(x, scale_factor=scale), up.shortcut), **EXACT)

    down = DBlock(2, 4, scale, attention=False, first=False, resample="strided").double()
    x = torch.randn(5, 2, 6, 12, dtype=torch.float64)
    h = down.conv2(F.relu(conv(F.relu(x), down.conv1)))
    torch.testing.assert_close(down(x), h + F.avg_pool2d(conv(x, down.shortcut), scale), **EXACT)


@pytest.mark.parametrize(("cin", "cout", "scale"), [(4, 2, 2), (3, 3, 2), (4, 2, 1), (3, 3, 1), (4, 2, 4)])
def test_generator_block_is_biggans(cin, cout, scale):
    block = GBlock(cin, cout, scale, condition=6, attention=False).double()
    x, c = torch.randn(5, cin, 4, 3, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)

    def up(x):
        return F.interpolate(x, scale_factor=scale)

    h = conv(up(F.relu(block.norm1(x, c))), block.conv1)
    h = conv(F.relu(block.norm2(h, c)), block.conv2)
    learned = cin != cout or scale != 1
    truth = h + (conv(up(x), block.shortcut) if learned else x)
    torch.testing.assert_close(block(x, c), truth, **EXACT)


@pytest.mark.parametrize(("cin", "cout", "scale"), [(2, 4, 2), (3, 3, 2), (2, 4, 1), (3, 3, 1)])
@pytest.mark.parametrize("first", [True, False])
def test_discriminator_block_is_biggans(cin, cout, scale, first):
    block = DBlock(cin, cout, scale, attention=False, first=first).double()
    x = torch.randn(5, cin, 8, 4, dtype=torch.float64)
    before = x.clone()
    h = conv(x if first else F.relu(x), block.conv1)
    h = F.avg_pool2d(conv(F.relu(h), block.conv2), scale)
    learned = cin != cout or scale != 1
    truth = h + (F.avg_pool2d(conv(x, block.shortcut), scale) if learned else x)
    torch.testing.assert_close(block(x), truth, **EXACT)
    assert torch.equal(x, before)  # ReLU is out of place


def sample_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(6, 9, 3), nn.Linear(40, 30), nn.Embedding(10, 50), nn.Linear(30, 20, bias=False))


def test_orthogonal_initialisation_makes_every_singular_value_one_and_every_bias_zero():
    network = sample_network()
    initialise(network, "orthogonal")
    for layer in network:
        values = torch.linalg.svdvals(layer.weight.flatten(1))
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)
        assert getattr(layer, "bias", None) is None or not layer.bias.any()


def test_glorot_and_normal_initialisations_have_their_spread():
    torch.manual_seed(0)
    layer = nn.Linear(300, 200)
    initialise(layer, "glorot")
    assert layer.weight.abs().max() <= (6 / 500) ** 0.5
    assert abs(layer.weight.std().item() / (2 / 500) ** 0.5 - 1) < 0.02  # 60,000 draws: a relative error of 0.2 %
    initialise(layer, "normal")
    assert abs(layer.weight.std().item() / 0.02 - 1) < 0.02


def test_unknown_initialisation_is_refused_by_name():
    with pytest.raises(ValueError, match='init: "kaiming" given, "orthogonal", "glorot" or "normal" is needed'):
        initialise(nn.Linear(2, 2), "kaiming")
