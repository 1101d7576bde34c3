"""Colour maps against their published tables, and that they can be undone."""

from __future__ import annotations

import pytest
import torch

from schurgan.audio.colormap import COLORMAPS, apply_colormap, invert_colormap


def levels(count: int = 4096) -> torch.Tensor:
    return torch.linspace(-1, 1, count).view(1, 1, 64, -1)


@pytest.mark.parametrize("name", ["viridis", "magma", "turbo"])
def test_a_map_is_the_published_one(name):
    colormaps = pytest.importorskip("matplotlib").colormaps
    truth = torch.tensor(colormaps[name].colors)
    ours = (apply_colormap(torch.linspace(-1, 1, len(truth)).view(1, 1, 1, -1), name)[0, :, 0].T + 1) / 2
    # 33 knots instead of 256, interpolated linearly: within 8-bit rounding and the curve's bend between knots
    assert (ours - truth).abs().max() <= 0.02


def test_jet_runs_from_dark_blue_over_green_to_dark_red():
    ends = apply_colormap(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3), "jet")[0, :, 0].T
    truth = torch.tensor([[-1.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, -1.0]])
    assert torch.allclose(ends, truth, atol=0.01)  # the middle lies between two of 1,024 colours


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_level_comes_back_within_a_five_hundredth(name):
    level = levels()
    error = (invert_colormap(apply_colormap(level, name), name) - level).abs().max().item()
    assert error <= 1 / 500  # half a step of 1,024 colours is 1/1023; the rest for colours that nearly coincide


@pytest.mark.parametrize("name", COLORMAPS)
def test_rounding_to_eight_bits_moves_a_level_by_little(name):
    level = levels()
    stored = (apply_colormap(level, name) * 127.5 + 127.5).round() / 127.5 - 1
    error = (invert_colormap(stored, name) - level).square().mean().sqrt().item()
    assert error <= 0.01  # an 8-bit step is 0.008, and the slowest map changes its colour 1.1 steps a level step


@pytest.mark.parametrize("name", COLORMAPS)
def test_small_noise_off_the_curve_moves_a_level_by_no_more_than_twice_as_much(name):
    level = levels()
    noise = 0.05 * torch.randn(1, 3, *level.shape[-2:], generator=torch.Generator().manual_seed(0))
    error = (invert_colormap(apply_colormap(level, name) + noise, name) - level).square().mean().sqrt().item()
    assert error <= 0.1


def test_pixels_do_not_depend_on_how_many_there_are():
    level = torch.rand(5, 1, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    colour = apply_colormap(level, "turbo")
    assert colour.shape == (5, 3, 128, 128)
    assert torch.equal(invert_colormap(colour, "turbo")[3:4], invert_colormap(colour[3:4], "turbo"))


def test_levels_out_of_range_take_the_colour_of_the_nearest_end():
    assert torch.equal(
        apply_colormap(torch.tensor([[[[-3.0, 3.0]]]]), "magma"),
        apply_colormap(torch.tensor([[[[-1.0, 1.0]]]]), "magma"),
    )


def test_an_unknown_map_is_named_in_the_error():
    with pytest.raises(ValueError, match=r'colormap "rainbow": one of viridis, magma, turbo, jet is needed'):
        apply_colormap(levels(), "rainbow")
