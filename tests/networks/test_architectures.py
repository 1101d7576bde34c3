"""An architecture is data: widths, scales and attention give the published parameter counts and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from schurgan.networks import (
    ARCHITECTURES,
    IMAGE,
    Architecture,
    Discriminator,
    Generator,
    Stage,
    customise,
    find_architecture,
)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def counts(name: str, width: int, classes: int = 10, **changes) -> tuple[int, int]:
    """Parameters of both networks of a row, without their weights being drawn or normalised."""
    architecture = customise(find_architecture(name), **changes)
    with torch.device("meta"):
        generator = Generator(architecture, classes, width)
        discriminator = Discriminator(architecture, classes, width, spectral_norm=False)
    return parameters(generator), parameters(discriminator)


@pytest.mark.parametrize(
    ("name", "width", "classes", "generator", "discriminator"),
    [
        # Closed forms of Tables 5 and 6 of the paper, in three readings.
        ("proposed-128", 64, 10, 8_431_364, 17_882_754),
        ("proposed-128", 96, 10, 18_010_884, 40_221_122),
        ("proposed-256", 64, 10, 9_905_668, 19_517_826),
        ("proposed-256", 96, 10, 21_213_828, 43_899_458),
        ("proposed-ladder-128", 64, 10, 31_836_548, 17_882_754),
        ("proposed-ladder-128", 96, 10, 70_272_708, 40_221_122),
        ("proposed-ladder-256", 64, 10, 37_137_284, 19_517_826),
        ("proposed-ladder-256", 96, 10, 81_970_884, 43_899_458),
        ("proposed-literal-128", 64, 10, 4_233_731, 17_882_754),
        ("proposed-literal-128", 96, 10, 8_908_931, 40_221_122),
        ("proposed-literal-256", 64, 10, 5_631_235, 19_517_826),
        ("proposed-literal-256", 96, 10, 11_939_075, 43_899_458),
        ("proposed-32", 64, 10, 5_636_356, 17_882_754),
        ("proposed-32", 96, 10, 11_950_596, 40_221_122),
        # What ajbrock/BigGAN-PyTorch builds.
        ("biggan-128", 16, 10, 2_331_428, 2_406_130),
        ("biggan-128", 32, 10, 8_416_580, 9_613_922),
        ("biggan-128", 64, 10, 31_851_908, 38_434_498),
        ("biggan-128", 96, 10, 70_307_268, 86_461_730),
        ("biggan-128", 96, 1000, 70_433_988, 87_982_370),
        ("biggan-256", 64, 10, 37_198_724, 43_432_130),
        ("biggan-256", 96, 10, 82_109_124, 97_705_250),
    ],
)
def test_preset_has_exactly_the_published_number_of_parameters(name, width, classes, generator, discriminator):
    assert counts(name, width, classes) == (generator, discriminator)


@pytest.mark.parametrize("name", ["cifar-32", "biggan-32"])
@pytest.mark.parametrize(("width", "expected"), [(64, 4_369_156), (96, 9_416_196)])
def test_cifar_generator_has_exactly_the_published_number_of_parameters(name, width, expected):
    assert counts(name, width)[0] == expected


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("proposed-128", 64, 10_696_964),
        ("proposed-128", 96, 21_409_284),
        ("proposed-256", 64, 12_747_268),
        ("proposed-256", 96, 25_476_228),
    ],
)
def test_all_of_z_in_every_block_costs_exactly_what_it_must(name, width, expected):
    assert counts(name, width, skip_z="full")[0] == expected


@pytest.mark.parametrize("name", ["proposed-128", "proposed-256", "proposed-ladder-128", "biggan-128", "biggan-256"])
@pytest.mark.parametrize("width", [64, 96])
def test_fifty_classes_add_an_embedding_row_each_and_nothing_else(name, width):
    pairs = zip(counts(name, width, classes=50), counts(name, width), strict=True)
    assert [more - ten for more, ten in pairs] == [40 * 128, 40 * 16 * width]


@pytest.mark.parametrize(("name", "width", "more"), [("proposed-128", 64, 2_097_152), ("proposed-128", 96, 3_145_728)])
def test_the_class_beside_z_in_the_linear_layer_costs_exactly_what_it_must(name, width, more):
    assert counts(name, width, embedding="linear")[0] == counts(name, width)[0] + more


def sagan(pairs, attended: int, width: int, classes: int) -> int:
    """Parameters of SA-GAN's generator from its layers, `attended` the channels of the map with attention."""

    def conv(cin: int, cout: int, kernel: int) -> int:
        return cin * cout * kernel**2 + cout

    count = (128 + 1) * pairs[0][0] * width * 16
    for cin, cout in ((a * width, b * width) for a, b in pairs):
        count += conv(cin, cout, 3) + conv(cout, cout, 3) + conv(cin, cout, 1)
        count += 2 * classes * (cin + cout)  # gain and bias of both norms, an entry a class
    c = attended * width
    count += 2 * c * (c // 8) + 2 * c * (c // 2) + 1
    top = pairs[-1][1] * width
    return count + 2 * top + conv(top, 3, 3)


@pytest.mark.parametrize(
    ("name", "pairs", "attended"),
    [
        ("sagan-32", [(4, 4)] * 3, 4),
        ("sagan-64", [(16, 16), (16, 8), (8, 4), (4, 2)], 4),
        ("sagan-128", [(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)], 4),
        ("sagan-256", [(16, 16), (16, 8), (8, 8), (8, 4), (4, 2), (2, 1)], 8),
    ],
)
@pytest.mark.parametrize("classes", [10, 50])
def test_sa_gan_has_a_class_embedding_for_every_gain_and_bias_and_noise_in_the_first_layer_alone(
    name, pairs, attended, classes
):
    assert counts(name, 64, classes)[0] == sagan(pairs, attended, 64, classes)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "literal" not in name])
def test_strided_convolutions_have_as_many_parameters_as_resampling_ones(name):
    assert counts(name, 16, resample="strided") == counts(name, 16)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_spectral_normalisation_adds_no_parameter(network):
    plain, normalised = (network.from_preset("cifar-32", width=2, spectral_norm=on) for on in (False, True))
    assert parameters(plain) == parameters(normalised)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_preset_maps_noise_to_images_of_the_size_in_its_name_and_scores_them(name):
    with torch.device("meta"):  # shapes alone: 256² would take seconds
        generator = Generator.from_preset(name, width=8)
        discriminator = Discriminator.from_preset(name, width=8, spectral_norm=False)
        labels = torch.zeros(2, dtype=torch.long)
        images = generator(torch.zeros(2, generator.latent_dim), labels)
        side = int(name.rsplit("-", 1)[1])
        assert images.shape == (2, 3, side, side)
        assert discriminator(images, labels).shape == (2,)


@pytest.mark.parametrize(
    ("name", "length"), [("proposed-128", 120), ("proposed-256", 140), ("cifar-32", 80), ("sagan-128", 128)]
)
def test_noise_has_a_chunk_of_twenty_for_the_first_layer_and_each_block_and_sa_gans_128(name, length):
    assert find_architecture(name).latent_dim == length


def test_attention_sits_at_the_resolutions_the_paper_names():
    def resolutions(stages, side, grow):
        found = []
        for stage in stages:
            side = side * stage.scale if grow else side // stage.scale
            found += [side] if stage.attention else []
        return found

    places = {"proposed": ([128], [64]), "proposed-ladder": ([128], [64]), "proposed-literal": ([], [64])}
    for family, (in_generator, in_discriminator) in places.items():
        for side in (128, 256):
            architecture = find_architecture(f"{family}-{side}")
            assert resolutions(architecture.generator, 4, grow=True) == in_generator
            assert resolutions(architecture.discriminator, side, grow=False) == in_discriminator


def test_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r'preset "proposd-128": no such preset; did you mean "proposed-128"\?'):
        Generator.from_preset("proposd-128")


def test_unknown_preset_like_no_other_is_refused_with_all_names():
    with pytest.raises(ValueError, match="known: small-16, small-32"):
        Discriminator.from_preset("?")


def attended(architecture: Architecture, part: str) -> list[int]:
    return [
        size[0]
        for stage, size in zip(getattr(architecture, part), architecture.maps(part), strict=True)
        if stage.attention
    ]


def test_a_row_is_customised_in_the_fields_that_are_given_and_in_no_other():
    row = find_architecture("proposed-128")
    other = customise(row, base=(4, 8), skip_z="full", resample="strided", embedding="separate", projection=False)
    assert (other.base, other.skip_z, other.resample, other.embedding) == ((4, 8), "full", "strided", 0)
    assert not other.projection
    assert other.size == (128, 256)
    assert (other.generator, other.discriminator, other.width) == (row.generator, row.discriminator, row.width)
    assert customise(row) == row


def test_attention_is_put_on_every_map_of_the_heights_given_and_on_no_other():
    row = find_architecture("biggan-128")
    both = customise(row, attention_g=(16, 64), attention_d=(4, 32))
    assert (attended(both, "generator"), attended(both, "discriminator")) == ([16, 64], [32, 4, 4])
    none = customise(row, attention_g=())
    assert (attended(none, "generator"), attended(none, "discriminator")) == ([], [64])
    with torch.device("meta"):
        assert parameters(Generator(none, 10, 64)) == counts("biggan-128", 64)[0] - (2 * 128 * 16 + 2 * 128 * 64 + 1)


def test_attention_at_a_height_that_no_map_has_is_refused_with_those_that_there_are():
    message = "attention: 48 given, the stages of the generator give heights of 8, 16, 32, 64, 128 pixels"
    row = find_architecture("biggan-128")
    with pytest.raises(ValueError, match=message):
        customise(row, attention_g=(64, 48))
    with pytest.raises(ValueError, match="the stages of the discriminator give heights of 64, 32, 16, 8, 4 pixels"):
        customise(row, attention_d=(128,))


def test_attention_moves_with_the_base_where_the_old_places_would_not_fit():
    row = Architecture(generator=(Stage(2, 1, 1, attention=True), Stage(1, 1)), discriminator=(Stage(IMAGE, 1),))
    with pytest.raises(ValueError, match="3×3 pixels, even sides are needed"):
        customise(row, base=(3, 3))
    assert attended(customise(row, base=(3, 3), attention_g=(6,)), "generator") == [6]


def test_noise_in_chunks_again_has_the_length_of_the_chunks():
    assert customise(find_architecture("sagan-128"), skip_z="chunks").latent_dim == 120


SMALL = find_architecture("small-16")


@pytest.mark.parametrize(("name", "size"), [("small-16", 32), ("proposed-128", 128), ("sagan-128", 128)])
def test_the_class_embedding_of_any_row_can_be_shared_or_beside_z_or_separate(name, size):
    row = find_architecture(name)
    linear, shared, separate = (customise(row, embedding=kind) for kind in ("linear", "shared", "separate"))
    assert (linear.embedding, linear.class_in_linear) == (size, True)
    assert (shared.embedding, shared.class_in_linear) == (size, False)
    assert (separate.embedding, separate.class_in_linear) == (0, False)
    assert customise(linear, embedding="shared") == shared
    assert customise(linear, embedding="separate") == separate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": ()}, "generator: no stages given"),
        ({"generator": (Stage(4, 2), Stage(4, 1))}, "stage 0 gives 2 multiples and stage 1 takes 4"),
        ({"generator": (Stage(IMAGE, 2), Stage(2, 1))}, "generator: its first stage takes multiples of the width"),
        ({"discriminator": (Stage(3, 2), Stage(2, 4))}, "cin=IMAGE is needed"),
        ({"discriminator": (Stage(IMAGE, 2, scale=3),)}, "shrinks 3-fold"),
        ({"skip_z": "half"}, 'skip_z: "half" given, "chunks", "full" or "none" is needed'),
        ({"resample": "bilinear"}, 'resample: "bilinear" given, "nearest" or "strided" is needed'),
        ({"base": (0, 4)}, r"base: \(0, 4\) given, a height and a width of 1 or more pixels are needed"),
        ({"base": (4,)}, r"base: \(4,\) given"),
        ({"width": 0}, "width: 0 given, a whole number of 1 or more is needed"),
        ({"chunk": 0}, "chunk: 0 given"),
        ({"chunk": 2.5}, "chunk: 2.5 given"),
        ({"embedding": -1}, "embedding: -1 given, a whole number of 0 or more is needed"),
        ({"latent": 128}, 'latent: 128 given, with skip_z "chunks" it is 16 for each part'),
        ({"latent": 0, "skip_z": "none"}, "latent: 0 given"),
        ({"class_in_linear": True, "embedding": 0}, "class_in_linear: a shared embedding is needed"),
        ({"generator": (Stage(4, 1, scale=4),), "resample": "strided"}, "a scale of 4 .generator. would step over"),
        (
            {"base": (5, 4), "generator": (Stage(4, 2, scale=1, attention=True), Stage(2, 1, scale=4))},
            "attention: stage 0 of the generator gives 5×4 pixels, even sides are needed",
        ),
        (
            {"base": (3, 3), "discriminator": (Stage(IMAGE, 1), Stage(1, 2, attention=True))},
            "attention: stage 1 of the discriminator gives 3×3 pixels",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused_by_name_when_the_architecture_is_made(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((4, 2, 0), "scale: 0 given"), ((4, 0), "cout: 0 given"), ((-1, 4), "cin: -1 given"), ((4, 2, 1.5), "scale: 1.5")],
)
def test_a_stage_of_numbers_that_cannot_be_is_refused_by_name(numbers, message):
    with pytest.raises(ValueError, match=message):
        Stage(*numbers)


@pytest.mark.parametrize("size", ["classes", "width", "channels"])
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_sizes_below_one_are_refused_by_name(network, size):
    with pytest.raises(ValueError, match=f"{size}: 0 given"):
        network.from_preset("small-16", **{size: 0})
