"""Folders of images: every mode and format to 8 bits, turned, on white, or refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import clip
from PIL import Image

from schurgan.core.errors import SchurganError
from schurgan.data.sources import Item, open_source
from schurgan.data.sources.image_files import MAX_PIXELS, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SchurganError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_colour_without_loss_is_kept_to_the_byte(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB), **options))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(RGB).permute(2, 0, 1))


def test_grey_keeps_one_channel_and_jpeg_is_near(tmp_path):
    assert torch.equal(read_image(saved(tmp_path / "a.png", Image.fromarray(GREY))), torch.from_numpy(GREY)[None])
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert torch.equal(
        read_image(saved(tmp_path / "b.png", bits)), torch.from_numpy((GREY > 127) * np.uint8(255))[None]
    )
    smooth = np.add.outer(np.arange(32), np.arange(32))[..., None] * np.ones(3)
    jpeg = read_image(saved(tmp_path / "c.jpg", Image.fromarray(smooth.astype(np.uint8)), quality=95))
    assert (jpeg.float() - torch.from_numpy(smooth).permute(2, 0, 1)).abs().max() <= 3  # steps of quantisation at 95


def test_16_bits_of_grey_are_their_upper_8(tmp_path):
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5040].reshape(63, 80)
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert torch.equal(image, torch.from_numpy((values // 256).astype(np.uint8))[None])


def test_palettes_and_cmyk_become_rgb(tmp_path):
    palette = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7) % 3, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image = read_image(saved(tmp_path / "a.png", palette))
    assert image.shape == (3, 5, 7)
    assert image[:, 0, 1].tolist() == [0, 255, 0]
    cmyk = np.zeros((4, 4, 4), np.uint8)
    cmyk[..., 1] = 255  # magenta ink alone lets no green through
    image = read_image(saved(tmp_path / "b.tif", Image.fromarray(cmyk, "CMYK")))
    assert image[:, 2, 2].tolist() == [255, 0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    if mode == "P":
        picture = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
        picture.putpalette([10, 10, 10])
        path = saved(tmp_path / "a.png", picture, transparency=0)
        assert read_image(path).unique().tolist() == [255]
        return
    colours = 1 if mode == "LA" else 3
    pixels = np.full((1, 3, colours + 1), 100, np.uint8)
    pixels[0, :, -1] = [255, 0, 51]  # opaque, clear, a fifth
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels, mode)))
    assert image.shape == (colours, 1, 3)
    expected = torch.tensor([100, 255, 0.2 * 100 + 0.8 * 255])
    assert (image[:, 0].float() - expected).abs().max() <= 1  # rounding


def test_exif_turns_the_picture_as_viewers_do(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held with its right side down: turn by 90 degrees clockwise
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif))
    assert torch.equal(image, torch.from_numpy(np.rot90(RGB, -1).copy()).permute(2, 0, 1))


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of grey that declares a size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    for name, side in (("a", 9_000), ("b", 60_000), ("c", 2**31 - 1)):
        (tmp_path / f"{name}.png").write_bytes(png(side, side, bytes(1000)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = refusal(tmp_path / f"{name}.png")
        assert f"{MAX_PIXELS}" in told or "damaged" in told
        assert ("9000 by 9000 pixels" in told) == (name == "a")
    text = b"tEXt" + b"a\0" + b"b" * 1000
    (tmp_path / "d.png").write_bytes(png(2, 2, bytes(6))[:33] + text)
    refusal(tmp_path / "d.png")


def test_what_is_no_image_is_told(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    (tmp_path / "b.png").write_bytes(b"")
    whole = saved(tmp_path / "whole.png", Image.fromarray(np.tile(RGB, (9, 9, 1)))).read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "d.png")
    saved(tmp_path / "e.tif", Image.fromarray(RGB[..., 0].astype(np.float32)))
    saved(tmp_path / "f.tif", Image.fromarray(RGB[..., 0].astype(np.int32)))
    (tmp_path / "g.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    assert "not an image (PNG JPEG" in refusal(tmp_path / "a.png")
    assert "not an image" in refusal(tmp_path / "b.png")
    assert "damaged (" in refusal(tmp_path / "c.png")
    assert "not a regular file" in refusal(tmp_path / "d.png")
    assert "pixels of floats" in refusal(tmp_path / "e.tif")
    assert "32-bit integers" in refusal(tmp_path / "f.tif")
    assert "not an image" in refusal(tmp_path / "g.eps")  # its decoder is another program
    assert "cannot be opened (No such file" in refusal(tmp_path / "none.png")


def test_damaged_images_of_every_format_are_read_or_refused(tmp_path):
    """400 of them; a decoder may make a picture of a damaged file, but of the size it declares."""
    rng = np.random.default_rng(0)
    formats = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]
    wholes = []
    for name in formats:
        buffer = io.BytesIO()
        Image.fromarray(np.tile(RGB, (4, 4, 1))).save(buffer, name)
        wholes.append(buffer.getvalue())
    told = []
    for number in range(400):
        data = bytearray(wholes[number % len(wholes)])
        where = int(rng.integers(0, len(data)))
        if number % 3 == 0:
            data = data[:where]
        elif number % 3 == 1:
            data[where] ^= 1 << int(rng.integers(0, 8))
        else:
            data[where:where] = rng.bytes(20)
        (tmp_path / "x").write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = read_image(tmp_path / "x")
        except SchurganError as error:
            told.append(str(error))
            continue
        assert image.dtype == torch.uint8
        assert image.shape[0] in (1, 3)
    assert 100 < len(told) < 400
    assert all(message.startswith(f"{tmp_path / 'x'}: ") and "\n" not in message for message in told)


def test_a_folder_of_images_is_told_from_one_of_recordings(tmp_path):
    saved(tmp_path / "pictures" / "cat" / "a.PNG", Image.fromarray(RGB))
    saved(tmp_path / "pictures" / "dog" / "deep" / "b.jpeg", Image.fromarray(RGB))
    (tmp_path / "pictures" / "dog" / "notes.txt").write_text("woof")
    source = open_source("folder", tmp_path / "pictures")
    assert source.kind == "images"
    assert source.items() == [Item("cat/a.PNG", "cat"), Item("dog/deep/b.jpeg", "dog")]
    assert source.skipped == (("dog/notes.txt", "not an image by its name"),)
    assert source.load_image(source.items()[0]).shape == (3, 5, 7)
    clip(tmp_path / "pictures" / "dog" / "bark.wav")  # an album with its cover is an album
    both = open_source("folder", tmp_path / "pictures")
    assert both.kind == "audio"
    assert [item.origin for item in both.items()] == ["dog/bark.wav"]
    asked = open_source("folder", tmp_path / "pictures", kind="images")
    assert asked.items() == source.items()
    assert len({str(each.describe()) for each in (both, asked)}) == 2


def test_a_table_of_images_and_folders_without_any(tmp_path):
    saved(tmp_path / "all" / "1.png", Image.fromarray(GREY))
    (tmp_path / "labels.csv").write_text("path,label,fold\nall/1.png,seven,3\n")
    source = open_source("folder", tmp_path, table="labels.csv")
    assert source.kind == "images"
    assert source.items() == [Item("all/1.png", "seven", 3)]
    assert source.load_image(source.items()[0]).shape == (1, 5, 7)
    with pytest.raises(SchurganError, match="1 images but no folders of them"):
        open_source("folder", tmp_path / "all")
    (tmp_path / "all" / "1.png").rename(tmp_path / "all" / "1.txt")
    with pytest.raises(SchurganError, match=r"no images found .* one folder of images \(PNG, JPEG, …\)"):
        open_source("folder", tmp_path / "all", kind="images")
