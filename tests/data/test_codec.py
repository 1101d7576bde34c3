from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Manifest, Shards, prepare, summary
from schurgan.data.codec import ImageCodec, codec_for, open_codec, same_levels
from schurgan.data.sources.base import Item
from schurgan.data.verify import verify


def picture(number: int, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    """Uniform noise of all 256 values, another one each."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


@dataclass(frozen=True)
class Pictures:
    """45 pictures in three classes and five folds; those whose numbers are in `broken` cannot be read."""

    channels: int = 3
    broken: tuple[int, ...] = ()
    kind: str = "images"
    name: str = "pictures"
    skipped: tuple[tuple[str, str], ...] = ()

    def classes(self) -> tuple[str, ...]:
        return ("cat", "dog", "frog")

    def items(self) -> list[Item]:
        return [Item(f"{n:02}", self.classes()[n % 3], fold=n % 5 + 1) for n in range(45)]

    def load_image(self, item: Item) -> Tensor:
        if int(item.origin) in self.broken:
            raise ValueError("as commanded")
        return picture(int(item.origin), self.channels)

    def describe(self) -> dict[str, object]:
        return {"source": self.name}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pictures")
    prepare(Pictures(), out, ImageCodec(16), shard_clips=20, workers=1)
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_all_256_values_of_a_picture_of_native_size_survive_to_the_byte(channels):
    codec = ImageCodec(16, channels)
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(channels, -1, -1)
    images, _ = codec.encode([values])
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(codec.decode(images)[0], values)


def test_twice_the_size_is_the_mean_of_four_pixels():
    large = picture(0, 3, 32, 32)
    means = large.double().view(3, 16, 2, 16, 2).mean((2, 4))
    # One rounding to float32 of values up to 255.
    assert ((ImageCodec(16).encode([large])[0][0].double() + 1) * 127.5 - means).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(16, 29), (41, 16), (16, 17)])
def test_the_middle_square_is_kept(height, width):
    large = picture(1, 3, height, width)
    top, left = (height - 16) // 2, (width - 16) // 2
    codec = ImageCodec(16)
    assert torch.equal(codec.decode(codec.encode([large])[0])[0], large[:, top : top + 16, left : left + 16])


@pytest.mark.parametrize("side", [1, 5, 16, 37, 300])
def test_a_flat_picture_of_any_size_stays_flat(side):
    flat = torch.full((3, side, side + 4), 137, dtype=torch.uint8)
    codec = ImageCodec(16)
    assert (codec.decode(codec.encode([flat])[0]) == 137).all()


def test_pictures_of_different_sizes_and_colours_make_one_batch():
    images, _ = ImageCodec(16).encode([picture(0), picture(1, 1, 20, 40), picture(2, 3, 100, 7)])
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(images[1, 0], images[1, 2]), "grey has three equal channels"


def test_colour_becomes_the_grey_that_pillow_makes():
    pil = pytest.importorskip("PIL.Image")
    colour = picture(3)
    truth = torch.from_numpy(np.array(pil.fromarray(colour.permute(1, 2, 0).numpy()).convert("L")))
    codec = ImageCodec(16, 1)
    difference = codec.decode(codec.encode([colour])[0])[0, 0].int() - truth.int()
    assert difference.abs().max() <= 1  # it rounds its weights to 16 bits, and down


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 16, 16),
        torch.zeros(2, 16, 16, dtype=torch.uint8),
        torch.zeros(16, 16, dtype=torch.uint8),
        torch.zeros(3, 0, 16, dtype=torch.uint8),
    ],
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match=r"picture .*: uint8 \(C, H, W\) of 1 or 3 channels is needed"):
        ImageCodec(16).encode([wrong])


@pytest.mark.parametrize("options", [{"size": 7}, {"size": 2000}, {"size": 16, "channels": 2}])
def test_sizes_and_channels_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=r"(size|channels) \d+: .* needed"):
        ImageCodec(**options)


def test_a_transform_is_opened_from_its_configuration_as_json():
    for transform in (ImageCodec(24, 1), Spectrogram(size=32, n_samples=8000, channels=1)):
        again = open_codec(json.loads(json.dumps(transform.config)))
        assert type(again) is type(transform)
        assert again.config == transform.config


def test_pictures_come_back_from_shards_to_the_byte(made):
    shards = Shards(made)
    assert shards.shape == (3, 16, 16)
    stored = torch.from_numpy(shards.stored(range(45)))
    assert torch.equal(stored, torch.stack([picture(n) for n in range(45)]))
    assert torch.equal(ImageCodec(16).decode(shards.images([7, 3])), stored[[7, 3]])
    assert list(shards.origins) == [item.origin for item in Pictures().items()]
    assert list(shards.folds) == [item.fold for item in Pictures().items()]
    assert verify(shards.folder) == []


def test_a_set_of_pictures_has_no_sound_and_says_so(made):
    manifest = Manifest.load(made)
    assert manifest.kind == "images"
    assert manifest.transform == ImageCodec(16).config
    assert manifest.seconds == 0
    assert not list(made.glob("audio-*"))
    with pytest.raises(SchurganError, match="a set of images, which no recordings belong to"):
        Shards(made).recording(0)
    with pytest.raises(ValueError, match="no samples of sound"):
        _ = manifest.n_samples


def test_the_summary_counts_images(made):
    assert "45 images of 3 classes" in summary(Manifest.load(made))


def test_grey_pictures_are_stored_in_one_plane(tmp_path):
    manifest = prepare(Pictures(channels=1), tmp_path, ImageCodec(16, 1), workers=1)
    assert (manifest.planes, manifest.shape) == (1, (1, 16, 16))
    assert np.load(tmp_path / "images-00000.npy").shape == (45, 1, 16, 16)


def test_pictures_that_cannot_be_read_are_listed_with_their_reason(tmp_path):
    manifest = prepare(Pictures(broken=(4, 17)), tmp_path, ImageCodec(16), workers=1)
    assert [(each.origin, each.reason) for each in manifest.skipped] == [("04", "as commanded"), ("17", "as commanded")]
    assert len(manifest) == 43


def test_the_same_picture_under_two_names_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Pictures, "load_image", lambda self, item: picture(int(item.origin) % 44))
    (warning,) = prepare(Pictures(), tmp_path, ImageCodec(16), workers=1).warnings
    assert warning == "the same image 2 times in different classes in different folds: 00, 44"


def test_both_codecs_colour_levels_and_undo_it_without_being_asked_what_they_are():
    level = torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    for codec in (Spectrogram(size=16, n_samples=8000, colormap="magma"), Spectrogram(size=16, n_samples=8000)):
        coloured = codec.apply_colormap(level)
        assert (codec.kind, coloured.shape) == ("audio", (1, 3, 16, 16))
        assert (codec.invert_colormap(coloured) - level).abs().max() < 2e-3
    pictures = torch.rand(2, 3, 16, 16)
    codec = ImageCodec(16)
    assert codec.kind == "images"
    assert codec.invert_colormap(codec.apply_colormap(pictures)) is pictures


def test_a_run_may_recolour_spectrograms_and_no_pictures():
    grey = Spectrogram(size=16, n_samples=8000, channels=1)
    magma = grey.recolored(3, "magma")
    assert (magma.channels, magma.colormap) == (3, "magma")
    assert same_levels(grey, magma)
    assert not same_levels(grey, Spectrogram(size=16, n_samples=8000, scale="linear"))
    assert not same_levels(ImageCodec(16, 1), ImageCodec(16, 3))
    assert ImageCodec(16).recolored(3, None).config == ImageCodec(16).config
    for channels, colormap, argument in ((1, None, "channels"), (3, "magma", "colormap")):
        with pytest.raises(ValueError, match=f"^{argument}: {colormap or channels} given"):
            ImageCodec(16).recolored(channels, colormap)


def test_a_transform_of_the_other_kind_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"codec: .*audio.* pictures"):
        prepare(Pictures(), tmp_path, Spectrogram(size=16, n_samples=8000))
    with pytest.raises(ValueError, match=r"codec: .*images.* pictures"):
        prepare(Pictures(kind="audio"), tmp_path, ImageCodec(16))
    with pytest.raises(ValueError, match="no pitch to shift"):
        prepare(Pictures(), tmp_path, ImageCodec(16), pitches=(0.75,))
    assert not list(tmp_path.iterdir())


def test_the_size_of_small_square_pictures_is_told_from_the_first(monkeypatch):
    assert codec_for(Pictures()).size == 16
    assert codec_for(Pictures(broken=(0,))).size == 64
    for height, width in ((16, 17), (4, 4), (500, 500)):
        monkeypatch.setattr(Pictures, "load_image", lambda self, item, h=height, w=width: picture(0, 3, h, w))
        assert codec_for(Pictures()).size == 64


@pytest.mark.parametrize(("options", "shape"), [([], (3, 16, 16)), (["--images", "grey", "--size", "8"], (1, 8, 8))])
def test_the_command_keeps_pictures_at_their_size_and_in_colour_unless_told_otherwise(call, tmp_path, options, shape):
    pil = pytest.importorskip("PIL.Image")
    for label in ("cat", "dog"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(3):
            pixels = picture(number + 10 * (label == "dog")).permute(1, 2, 0).numpy()
            pil.fromarray(pixels).save(tmp_path / "in" / label / f"{number}.png")
    said = call("prepare", "folder", tmp_path / "in", "--out", tmp_path / "out", *options)
    assert said.status == 0, said
    shards = Shards(tmp_path / "out")
    assert shards.shape == shape
    assert "6 images of 2 classes" in said.out
    if shape[0] == 3:
        assert torch.equal(torch.from_numpy(shards.stored([4])[0]), picture(11))
