"""DiffAugment: what each change does, that it has a gradient, and that it is a function of the generator given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.training.augment import GAIN_DB, POLICIES, DiffAugment

ALL = "colour,translation,cutout"
SOUNDS = ("log", "log_real", "linear")
KINDS = (*SOUNDS, "colormap", "photo")
MARK = 7.0  # a floor that no image has


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.rand(shape, generator=noise(seed), dtype=dtype) - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 2, 8, 24), (1, 3, 33, 7), (2, 4, 5, 5), (1, 1, 1, 1)])
def test_any_shape_and_any_channels_keep_shape_and_type(kind, shape):
    x = images(*shape)
    out = DiffAugment(ALL, images=kind)(x, noise())
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert out.isfinite().all()
    assert not torch.equal(out, x)


@pytest.mark.parametrize("nothing", [DiffAugment(""), DiffAugment(" , "), DiffAugment(ALL, strength=0.0)])
def test_no_policy_or_no_strength_is_absent(nothing):
    x, generator = images(4, 1, 16, 16), noise()
    assert nothing(x, generator) is x
    assert torch.equal(generator.get_state(), noise().get_state())  # later draws are those of a run without it


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_given_decides_alone(kind):
    augment, x = DiffAugment(ALL, images=kind), images(4, 3, 16, 16)
    torch.manual_seed(0)
    one = augment(x, noise(3))
    torch.rand(5)
    assert torch.equal(one, augment(x, noise(3)))
    assert not torch.equal(one, augment(x, noise(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_changed_in_a_way_of_its_own(kind):
    same = images(1, 3, 32, 32).expand(6, -1, -1, -1)
    for policy in POLICIES:
        out = DiffAugment(policy, images=kind)(same, noise(1))
        assert len({tuple(image.flatten().tolist()) for image in out}) == 6, policy


def test_an_images_change_does_not_depend_on_the_images_beside_it():
    x = images(6, 2, 16, 16)
    augment = DiffAugment(ALL)
    other = torch.cat([x[:3], images(3, 2, 16, 16, seed=9)])
    assert torch.equal(augment(x, noise())[:3], augment(other, noise())[:3])


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
@pytest.mark.parametrize("kind", SOUNDS)
def test_a_changed_sound_stays_in_range_and_silence_stays_silence(kind, policy):
    augment = DiffAugment(policy, images=kind)
    x = images(64, 1, 16, 16)
    x[:, :, 3:5] = 1
    x[:, :, 9:11] = -1
    out = augment(x, noise())
    assert -1 - 1e-6 <= out.min() <= out.max() <= 1 + 1e-6  # rounding of float32
    silence = torch.full((8, 1, 16, 16), -1.0)
    torch.testing.assert_close(augment(silence, noise()), silence, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_channels_stay_equal(kind, policy):
    x = images(8, 1, 16, 16).expand(-1, 3, -1, -1)
    out = DiffAugment(policy, images=kind)(x, noise())
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-6)  # saturation takes their mean


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind, policy):
    augment = DiffAugment(policy, images=kind)
    x = images(2, 3, 6, 8, dtype=torch.float64).requires_grad_()  # no value within 1e-6 of the kink at the floor
    assert torch.autograd.gradcheck(lambda given: augment(given, noise(2)), [x])


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_image_gets_a_gradient_where_it_is_seen_and_none_where_it_is_cut(kind):
    x = images(16, 1, 32, 32).mul(0.5).requires_grad_()
    augment = DiffAugment("cutout", images=kind, floor=MARK)
    out = augment(x, noise())
    out.sum().backward()
    assert torch.equal(x.grad, (out != MARK).float())


# Colour


def gains_db(kind: str, strength: float = 1.0) -> Tensor:
    """How many dB louder each of 4,000 images got that are at full scale, where the tone curve changes nothing."""
    full = torch.ones(4000, 1, 1, 1, dtype=torch.float64)
    out = DiffAugment("colour", strength, images=kind, floor_db=80)(full, noise()).flatten()
    return 20 * torch.log10((out + 1) / 2) if kind == "linear" else (out - 1) / 2 * 80


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("kind", SOUNDS)
def test_brightness_is_a_gain_uniform_in_decibels(kind, strength):
    gain = gains_db(kind, strength) / (-GAIN_DB * strength)
    assert 0 <= gain.min() < 0.01
    assert 0.99 < gain.max() <= 1
    assert abs(gain.mean().item() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5  # four standard errors of a uniform mean


@pytest.mark.parametrize("floor_db", [40.0, 80.0])
def test_the_gain_on_a_log_image_is_that_of_a_quieter_clip_on_the_same_scale(floor_db):
    torch.manual_seed(0)
    clip = torch.randn(1, 8000) * torch.linspace(0, 1, 8000) ** 4
    image, deep = (
        Spectrogram(size=16, channels=1, n_samples=8000, floor_db=floor).encode(clip)[0] for floor in (floor_db, 200.0)
    )
    decibels = (deep - 1) * 100  # under the maximum, of cells under the image's floor too
    truth = 1 + (decibels - 9).clamp_min(-floor_db) * 2 / floor_db
    draws = torch.tensor([[0.5, 9 / GAIN_DB, 0.5]])  # the tone as it is, 9 of 12 dB down
    out = DiffAugment("colour", floor_db=floor_db).colour(image, draws)
    assert 0.05 < (truth == -1).float().mean() < 0.95  # some of the clip falls under the floor
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-5)  # 200 dB in float32 to 1e-5 dB


@pytest.mark.parametrize("kind", SOUNDS)
def test_contrast_is_a_rising_curve_that_keeps_silence_and_bends_both_ways(kind):
    ramp = torch.linspace(-1, 1, 101, dtype=torch.float64).expand(500, 1, 1, -1)
    curve = DiffAugment("colour", images=kind)(ramp, noise())[:, 0, 0]
    assert (curve.diff() >= 0).all()
    top = curve[:, -1:] if kind == "linear" else None
    # Without its gain: a factor on the linear scale, a shift on the others.
    level = (curve + 1) / (top + 1) if top is not None else (curve + 1 - (curve[:, -1:] - 1)) / 2
    bend = 4 * (level[:, 50] - 0.5)  # m + k m (1 − m) at m = ½ is ½ + k/4
    assert bend.min() == pytest.approx(-0.5, abs=0.01)
    assert bend.max() == pytest.approx(0.5, abs=0.01)
    assert abs(bend.mean().item()) < 4 * (1 / 12 / 500) ** 0.5


def test_colours_of_photographs_are_those_of_the_original():
    """Brightness moves the mean by U[−½, ½], contrast scales about it by U[½, 1½], saturation by U[0, 2]."""
    x = images(1, 3, 8, 8, dtype=torch.float64).expand(4000, -1, -1, -1)
    out = DiffAugment("colour", images="photo")(x, noise())
    grey_in, grey = x.mean(1), out.mean(1)
    brightness = grey.mean((1, 2)) - grey_in.mean((1, 2))
    contrast = grey.std((1, 2)) / grey_in.std((1, 2))
    saturation = (out - grey[:, None]).std((1, 2, 3)) / (x - grey_in[:, None]).std((1, 2, 3)) / contrast
    for value, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        share = (value - low) / (high - low)
        assert -1e-9 <= share.min() < 0.01
        assert 0.99 < share.max() <= 1 + 1e-9
        assert abs(share.mean().item() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert torch.corrcoef(torch.stack([brightness, contrast, saturation])).triu(1).abs().max() < 4 / 4000**0.5


# Translation


def shifts(kind: str, height: int, width: int, strength: float = 1.0, count: int = 3000) -> Tensor:
    """(count, 2): by how much each image, a lit pixel in its middle, moved up and right."""
    x = torch.zeros(count, 1, height, width)
    x[:, :, height // 2, width // 2] = 1
    out = DiffAugment("translation", strength, images=kind, floor=0.0)(x, noise())
    where = out.flatten(1).argmax(1)
    assert torch.equal(out.flatten(1).sum(1), torch.ones(count))
    return torch.stack([where // width - height // 2, where % width - width // 2], 1)


@pytest.mark.parametrize(
    ("kind", "strength", "rows", "columns"),
    [("log", 1.0, 2, 4), ("log", 0.5, 1, 2), ("linear", 1.0, 2, 4), ("colormap", 1.0, 2, 4), ("photo", 1.0, 8, 4)],
)
def test_translation_reaches_its_share_of_each_axis_evenly(kind, strength, rows, columns):
    moved = shifts(kind, 64, 32, strength)  # 1/32 of 64 and 1/8 of 32 for sounds, 1/8 of both for photographs
    for axis, most in ((0, rows), (1, columns)):
        values, counts = moved[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(-most, most + 1))
        share = 1 / (2 * most + 1)
        assert (counts - 3000 * share).abs().max() < 4.5 * (3000 * share * (1 - share)) ** 0.5


def test_translation_moves_the_picture_and_lets_the_floor_in():
    x = images(32, 3, 32, 32)
    out = DiffAugment("translation", images="log", floor=MARK)(x, noise())
    for before, after in zip(x, out, strict=True):
        inside = (after[0] != MARK).nonzero()
        (top, left), (bottom, right) = inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
        height, width = bottom - top, right - left
        assert height >= 31
        assert width >= 28
        source_top = 0 if top else 32 - height  # what left on one side is what came in on the other
        source_left = 0 if left else 32 - width
        source = before[:, source_top : source_top + height, source_left : source_left + width]
        assert torch.equal(after[:, top:bottom, left:right], source)
        assert (after == MARK).sum() == 3 * (32 * 32 - height * width)


# Cutout


def test_a_sound_loses_one_band_of_time_and_one_of_frequency():
    x = images(500, 1, 32, 64)
    cut = DiffAugment("cutout", images="log", floor=MARK)(x, noise())[:, 0] == MARK
    rows, columns = cut.all(2), cut.all(1)  # (500, 32), (500, 64)
    assert torch.equal(cut, rows[:, :, None] | columns[:, None, :])  # nothing but whole bands
    for band, length in ((rows, 4), (columns, 8)):  # an eighth of each axis
        assert band.sum(1).max() == length
        assert band.sum(1).min() == length // 2  # a centre on the edge
        assert (band.int().diff(dim=1) == 1).sum(1).max() <= 1  # in one piece
        assert band.float().mean(0).min() > 0.05  # everywhere


def test_a_photograph_loses_one_box_of_half_its_sides():
    cut = DiffAugment("cutout", images="photo", floor=MARK)(images(500, 3, 32, 64), noise()) == MARK
    assert torch.equal(cut[:, 0], cut[:, 2])
    rows, columns = cut[:, 0].any(2), cut[:, 0].any(1)
    assert torch.equal(cut[:, 0], rows[:, :, None] & columns[:, None, :])
    for side, length in ((rows, 16), (columns, 32)):
        assert side.sum(1).max() == length
        assert side.sum(1).min() == length // 2


@pytest.mark.parametrize(("kind", "most"), [("log", 1 - (7 / 8) ** 2), ("photo", 1 / 4)])
def test_the_share_that_is_hidden_grows_with_strength(kind, most):
    x = images(2000, 1, 64, 64)
    hidden = [
        (DiffAugment("cutout", strength, images=kind, floor=MARK)(x, noise()) == MARK).float().mean((1, 2, 3))
        for strength in (0.25, 0.5, 1.0)
    ]
    assert hidden[0].mean() < hidden[1].mean() < hidden[2].mean()
    assert hidden[2].max().item() == pytest.approx(most, abs=1e-6)


# What a run needs


def test_leaving_one_change_out_leaves_the_others_as_they_were():
    x = images(8, 1, 32, 32)
    without_colour = DiffAugment("translation,cutout", floor=MARK)(x, noise())
    with_colour = DiffAugment("cutout,colour,translation", floor=MARK)(x, noise())
    assert torch.equal(without_colour == MARK, with_colour == MARK)


def test_a_floor_for_each_channel_fills_each_with_its_own():
    floor = (-0.5, 0.25, 0.75)
    out = DiffAugment("cutout", images="colormap", floor=floor)(torch.full((20, 3, 32, 32), 5.0), noise())
    cut = out[:, 0] != 5
    assert cut.any()
    for channel, value in enumerate(floor):
        assert (out[:, channel][cut] == value).all()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_stays_and_changes_no_number(layout):
    x = images(4, 3, 16, 16).contiguous(memory_format=layout)
    for kind in ("log", "photo"):
        out = DiffAugment(ALL, images=kind)(x, noise())
        assert out.is_contiguous(memory_format=layout)
        # The photographs' means over an image are summed in the order of the layout.
        torch.testing.assert_close(out, DiffAugment(ALL, images=kind)(x.contiguous(), noise()), rtol=0, atol=1e-6)


def test_it_has_nothing_to_save():
    assert not DiffAugment(ALL).state_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "color"}, 'policy "color": no such policy; did you mean "colour"'),
        ({"policy": "colour,cut-out"}, 'policy "cut-out": no such policy; did you mean "cutout"'),
        ({"policy": "xyz"}, 'policy "xyz": no such policy: colour, translation, cutout are known'),
    ],
)
def test_options_that_do_not_exist_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=message):
        DiffAugment(**given)
