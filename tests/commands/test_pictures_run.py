"""A data set of pictures goes the whole way: prepared, trained on, sampled from, reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import schurgan
from schurgan.commands.main import main
from schurgan.core.errors import SchurganError
from schurgan.data import Shards


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of ten colour pictures of 16 by 16: reddish ones with a bright top, bluish ones with a dark top."""
    root = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for label, (colour, top) in {"red": ((220, 40, 40), 30), "blue": ((40, 40, 220), -30)}.items():
        (root / label).mkdir()
        for number in range(10):
            pixels = np.array(colour) + chance.integers(-20, 20, (16, 16, 3))
            pixels[:8] += top
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = {"--model.architecture": "small-16", "--model.width": 2, "--model.channels": 3, "--train.steps": 4}
    options |= {"--train.batch-size": 6, "--train.threads": 1, "--regularize.augment": "colour,translation,cutout"}
    assert not main(["prepare", "folder", str(pictures), "--out", str(folder / "data")])
    chosen = [str(part) for option in options.items() for part in option]
    assert not main(["train", "--data", str(folder / "data"), "--out", str(folder / "run"), *chosen])
    return folder / "run"


def test_prepared_pictures_are_the_pictures_to_the_byte(pictures, run):
    shards = Shards(run.parent / "data")
    assert shards.shape == (3, 16, 16)
    for image, origin in zip(shards.images(range(len(shards))), shards.origins, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(pictures / origin))).permute(2, 0, 1)
        assert torch.equal(((image + 1) * 127.5).round().to(torch.uint8), pixels)


def test_samples_are_pictures_right_way_up_without_sound(run, tmp_path):
    model = schurgan.load(run)
    made = model.sample("red", 2)
    assert made.audio is None
    assert made.sample_rate is None
    (path, _) = made.save(tmp_path)
    assert not list(tmp_path.glob("*.wav"))
    shown = np.asarray(Image.open(path)).astype(float)
    scale = shown.shape[0] // 16
    expected = ((made.images[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
    assert np.array_equal(shown[::scale, ::scale], expected)


def test_a_model_of_pictures_says_that_it_makes_no_sounds(run):
    with pytest.raises(SchurganError, match="pictures"):
        _ = schurgan.load(run).spectrogram


def test_the_page_shows_pictures_and_plays_nothing(run, call):
    assert call("report", run).status == 0
    page = (run / "report.html").read_text("utf-8")
    assert "<h2>Look</h2>" in page
    assert "<audio" not in page
    assert page.count('alt="picture"') == 2 * 2 * 3  # classes, real and generated, three of each


def test_channels_that_the_pictures_do_not_have_are_refused(run, refused, tmp_path):
    options = ("--data", run.parent / "data", "--out", tmp_path / "other", "--model.architecture", "small-16")
    assert "--model.channels: 1 given" in refused("train", *options, "--model.channels", 1)


def test_classes_of_any_name_are_trained_resumed_and_each_is_sampled_into_files_of_its_own(pictures, tmp_path, capsys):
    labels = ("a+b", "a&b", "x" * 240, "X" * 240, "🐶", "🐱")
    for number, label in enumerate(labels):
        shutil.copytree(pictures / ("red", "blue")[number % 2], tmp_path / "in" / label)
    data = schurgan.prepare(tmp_path / "in", out=tmp_path / "data", workers=1)
    model = {"architecture": "small-16", "width": 2, "channels": 3}
    options = {"model": model, "batch_size": 6, "threads": 1, "sample_every": 2}
    for steps in (2, 4):  # the second resumes the first
        schurgan.train(data, out=tmp_path / "run", steps=steps, **options)
    capsys.readouterr()
    assert not main(["sample", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "out")])
    assert "12 pictures in " in capsys.readouterr().out
    assert len(list((tmp_path / "out").iterdir())) == 12
    assert len(list((tmp_path / "run" / "samples" / "step-00000004").iterdir())) == 6
