from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from schurgan.audio.pictures import fitted, grid, picture, png, save_png, text_font


def brightness(drawn: Image.Image) -> np.ndarray:
    return np.asarray(drawn.convert("L")).astype(float)


def test_high_frequencies_are_on_top_and_loud_is_bright():
    image = torch.full((1, 8, 8), -1.0)
    image[0, 7, :4] = 1.0  # the highest row, the first half of the clip
    seen = brightness(picture(image))
    assert seen[0, :4].min() > 200
    assert seen[1:].max() < 10
    assert seen[0, 4:].max() < 10


def test_brightness_rises_with_the_level():
    ramp = torch.linspace(-1, 1, 64).expand(1, 64, 64)
    assert (np.diff(brightness(picture(ramp))[0]) >= -1).all()  # a step of rounding at most


def test_three_equal_channels_look_as_one_and_three_different_ones_as_they_are():
    level = torch.rand(1, 8, 8) * 2 - 1
    assert png(picture(level)) == png(picture(level.expand(3, -1, -1)))
    colour = torch.rand(3, 8, 8) * 2 - 1
    shown = torch.from_numpy(np.array(picture(colour))).permute(2, 0, 1)
    assert ((colour.flip(1) + 1) * 127.5 - shown).abs().max() <= 0.51


def test_each_pixel_is_as_wide_as_asked_for():
    image = torch.rand(1, 8, 8) * 2 - 1
    once, thrice = np.asarray(picture(image)), np.asarray(picture(image, 3))
    assert (thrice == once.repeat(3, 0).repeat(3, 1)).all()


def test_a_grid_holds_its_pictures_with_white_between_them_and_where_rows_are_short():
    images = [[torch.zeros(1, 8, 8)] * 3, [torch.ones(1, 8, 8)] * 2]
    sheet = np.asarray(grid(images, scale=2, gap=2))
    assert sheet.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    assert (sheet[:16, 18:34] == np.asarray(picture(images[0][1], 2))).all()
    assert (sheet[16:18] == 255).all()
    assert (sheet[18:, 36:] == 255).all()


NAMES = ("dog", "Möwe", "глушитель", "鼓", "tyre " * 40, "a\nb\tc", "\x1b[31m\ud800", "")


@pytest.mark.parametrize("size", [33, 64, 256])
def test_the_name_of_each_row_stands_at_its_left_and_nowhere_in_its_pictures(size):
    images = [[torch.zeros(1, size, size)] * 2 for _ in NAMES]
    sheet, bare = np.asarray(grid(images, names=NAMES)), np.asarray(grid(images))
    left = sheet.shape[1] - bare.shape[1]
    assert (sheet[:, left:] == bare).all()
    assert left <= 10 * max(12, size // 5)  # also of the longest
    for row, name in enumerate(NAMES):
        letters = (sheet[row * (size + 2) :][:size, :left] < 128).all(2)
        assert letters.any() == bool(name)
        high = np.flatnonzero(letters.any(1))
        assert not name or 4 <= high[-1] - high[0] + 1 <= size // 2  # to be read, and within its row
    between = np.arange(len(sheet)) % (size + 2) >= size
    assert (sheet[between, :left] == 255).all()


def test_letters_beyond_ascii_have_shapes_of_their_own():
    drawn = {text_font(20).getmask(letter).getbbox() and bytes(text_font(20).getmask(letter)) for letter in "ößшθع"}
    assert len(drawn) == 5


def test_of_a_long_name_both_ends_stay_and_a_short_one_stays_as_it_is():
    font = text_font(12)
    assert fitted("sea waves", font, 200) == "sea waves"
    short = fitted("washing machine in the cellar, spinning", font, 100)
    assert font.getlength(short) <= 100
    assert short.startswith("wash")
    assert short.endswith("ing")
    assert fitted("x" * 10**6, font, 50).count("x") > 3


def test_a_png_reads_back_pixel_by_pixel_and_a_full_disk_leaves_none(tmp_path, full_disk):
    drawn = picture(torch.rand(1, 16, 16) * 2 - 1)
    assert (np.asarray(Image.open(io.BytesIO(png(drawn)))) == np.asarray(drawn)).all()
    save_png(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == png(drawn)
    with full_disk(), pytest.raises(OSError, match="No space left"):
        save_png(drawn, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
