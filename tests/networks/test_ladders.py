"""A ladder is data: widths, scales and attention give the published parameter counts and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from schurgan.networks import IMAGE, LADDERS, Discriminator, Generator, Ladder, Stage, find_ladder


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def counts(ladder: Ladder, width: int, classes: int = 10) -> tuple[int, int]:
    """Parameters of both networks, without their weights being drawn or normalised."""
    with torch.device("meta"):
        generator = Generator(ladder, classes, width)
        discriminator = Discriminator(ladder, classes, width, spectral_norm=False)
    return parameters(generator), parameters(discriminator)


@pytest.mark.parametrize(
    ("name", "width", "classes", "generator", "discriminator"),
    [
        # Closed forms of Tables 5 and 6 of the paper.
        ("proposed-128", 64, 10, 8_431_364, 17_882_754),
        ("proposed-128", 96, 10, 18_010_884, 40_221_122),
        ("proposed-256", 64, 10, 9_905_668, 19_517_826),
        ("proposed-256", 96, 10, 21_213_828, 43_899_458),
        # What ajbrock/BigGAN-PyTorch builds.
        ("biggan-128", 16, 10, 2_331_428, 2_406_130),
        ("biggan-128", 32, 10, 8_416_580, 9_613_922),
        ("biggan-128", 64, 10, 31_851_908, 38_434_498),
        ("biggan-128", 96, 10, 70_307_268, 86_461_730),
        ("biggan-128", 96, 1000, 70_433_988, 87_982_370),
    ],
)
def test_preset_has_exactly_the_published_number_of_parameters(name, width, classes, generator, discriminator):
    assert counts(find_ladder(name), width, classes) == (generator, discriminator)


@pytest.mark.parametrize(("width", "expected"), [(64, 4_369_156), (96, 9_416_196)])
def test_cifar_generator_has_exactly_the_published_number_of_parameters(width, expected):
    assert counts(find_ladder("cifar-32"), width)[0] == expected


PROPOSED = find_ladder("proposed-128")
LITERAL_128 = dataclasses.replace(PROPOSED, generator=(Stage(16, 4, scale=4), Stage(4, 1, scale=8)))
LITERAL_256 = dataclasses.replace(PROPOSED, generator=(Stage(16, 4, 4), Stage(4, 4, 4), Stage(4, 1, 4)))
BIGGAN_LADDER = dataclasses.replace(
    PROPOSED, generator=(Stage(16, 16), Stage(16, 8), Stage(8, 4), Stage(4, 2), Stage(2, 1, attention=True))
)
SHORT = dataclasses.replace(
    PROPOSED,
    generator=(Stage(16, 4), Stage(4, 4), Stage(4, 1, attention=True)),
    discriminator=find_ladder("cifar-32").discriminator,
)


@pytest.mark.parametrize(
    ("ladder", "width", "expected"),
    [
        (dataclasses.replace(PROPOSED, skip_z="full"), 64, 10_696_964),
        (dataclasses.replace(PROPOSED, skip_z="full"), 96, 21_409_284),
        (dataclasses.replace(find_ladder("proposed-256"), skip_z="full"), 64, 12_747_268),
        (dataclasses.replace(find_ladder("proposed-256"), skip_z="full"), 96, 25_476_228),
        (BIGGAN_LADDER, 64, 31_836_548),
        (BIGGAN_LADDER, 96, 70_272_708),
        (LITERAL_128, 64, 4_233_731),
        (LITERAL_128, 96, 8_908_931),
        (LITERAL_256, 64, 5_631_235),
        (LITERAL_256, 96, 11_939_075),
        (SHORT, 64, 5_636_356),
        (SHORT, 96, 11_950_596),
    ],
)
def test_another_reading_of_the_tables_is_another_row_and_no_other_code(ladder, width, expected):
    assert counts(ladder, width)[0] == expected


def test_fifty_classes_add_an_embedding_row_each_and_nothing_else():
    generator, discriminator = counts(PROPOSED, 64, classes=50)
    assert generator == 8_431_364 + 40 * 128
    assert discriminator == 17_882_754 + 40 * 16 * 64


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_spectral_normalisation_adds_no_parameter(network):
    plain, normalised = (network.from_preset("cifar-32", width=2, spectral_norm=on) for on in (False, True))
    assert parameters(plain) == parameters(normalised)


@pytest.mark.parametrize("name", LADDERS)
def test_preset_maps_noise_to_images_of_the_size_in_its_name_and_scores_them(name):
    with torch.device("meta"):  # shapes alone: 256² would take seconds
        generator = Generator.from_preset(name, width=8)
        discriminator = Discriminator.from_preset(name, width=8, spectral_norm=False)
        labels = torch.zeros(2, dtype=torch.long)
        images = generator(torch.zeros(2, generator.latent_dim), labels)
        side = int(name.rsplit("-", 1)[1])
        assert images.shape == (2, 3, side, side)
        assert discriminator(images, labels).shape == (2,)


@pytest.mark.parametrize(("name", "length"), [("proposed-128", 120), ("proposed-256", 140), ("cifar-32", 80)])
def test_noise_has_a_chunk_of_twenty_for_the_first_layer_and_each_block(name, length):
    assert find_ladder(name).latent_dim == length


def test_attention_sits_at_the_resolutions_the_paper_names():
    def resolutions(stages, side, grow):
        found = []
        for stage in stages:
            side = side * stage.scale if grow else side // stage.scale
            found += [side] if stage.attention else []
        return found

    for name in ("proposed-128", "proposed-256"):
        ladder = find_ladder(name)
        assert resolutions(ladder.generator, 4, grow=True) == [128]
        assert resolutions(ladder.discriminator, ladder.size[0], grow=False) == [64]


def test_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r'preset "proposd-128": no such preset; did you mean "proposed-128"\?'):
        Generator.from_preset("proposd-128")


def test_unknown_preset_like_no_other_is_refused_with_all_names():
    with pytest.raises(ValueError, match="known: small-16, small-32"):
        Discriminator.from_preset("?")


SMALL = find_ladder("small-16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": ()}, "generator: no stages given"),
        ({"generator": (Stage(4, 2), Stage(4, 1))}, "stage 0 gives 2 multiples and stage 1 takes 4"),
        ({"discriminator": (Stage(3, 2), Stage(2, 4))}, "cin=IMAGE is needed"),
        ({"discriminator": (Stage(IMAGE, 2, scale=3),)}, "shrinks 3-fold"),
        ({"skip_z": "half"}, 'skip_z: "half" given'),
    ],
)
def test_stages_that_do_not_fit_are_refused_when_the_ladder_is_made(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("size", ["classes", "width", "channels"])
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_sizes_below_one_are_refused_by_name(network, size):
    with pytest.raises(ValueError, match=f"{size}: 0 given"):
        network.from_preset("small-16", **{size: 0})
