from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.evaluation.features import classifier as module
from schurgan.evaluation.features.cache import cache_folder
from schurgan.evaluation.features.classifier import cached_classifier, train_classifier
from schurgan.evaluation.features.extractor import ClassifierExtractor
from schurgan.evaluation.features.registry import open_extractor


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Twelve soundscapes of two classes as images of 16 by 16, three equal channels."""
    out = tmp_path_factory.mktemp("data")
    source = open_source("soundscape", per_class=6, seconds=0.5)
    prepare(source, out, Spectrogram(size=16, channels=3, n_samples=8000), workers=1)
    return Shards(out).select(classes=["siren", "rain"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHURGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shortens every training to a few steps, and holds an entry for each that was run."""
    runs: list[int] = []

    def counted(*arguments, **options):
        runs.append(1)
        return train_classifier(*arguments, **options)

    monkeypatch.setattr(module, "train_classifier", counted)
    monkeypatch.setattr(module, "FULL", {"epochs": 1, "least_steps": 6, "most_steps": 6})
    monkeypatch.setattr(module, "QUICK", {"epochs": 1, "least_steps": 3, "most_steps": 3})
    return runs


def kept(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


def test_features_are_what_the_last_layer_decides_by_and_probabilities_its_softmax(data):
    extractor = open_extractor("classifier", data)
    images = data.images(np.arange(12))
    features, probabilities = extractor(images)
    assert features.shape == (12, 64)
    assert features.dtype == probabilities.dtype == torch.float64
    head = extractor.trained.network.head
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    logits = features @ weight.T + bias
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert (probabilities - expected).abs().max() < 1e-6  # the layer itself is float32
    assert (probabilities.sum(1) - 1).abs().max() < 1e-12


def test_features_do_not_depend_on_how_many_images_come_at_once(data, monkeypatch):
    extractor = open_extractor("classifier", data)
    images = data.images(np.arange(12))
    together = extractor(images).features
    monkeypatch.setattr("schurgan.evaluation.features.extractor._CHUNK", 5)
    assert (extractor(images).features - together).abs().max() < 1e-5  # float32, other order of sums
    assert extractor(images[:0]).features.shape == (0, 64)


def test_extraction_leaves_no_gradient_and_refuses_what_is_not_finite(data):
    extractor = open_extractor("classifier", data)
    images = data.images(np.arange(2)).clone().requires_grad_()
    assert not extractor(images).features.requires_grad
    with torch.no_grad():
        images[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        extractor(images)


def test_a_second_call_finds_the_first_ones_classifier(data, cache, trainings):
    first, again = open_extractor("classifier", data), open_extractor("classifier", data)
    assert len(trainings) == 1
    assert first.digest == again.digest
    assert first.trained.accuracy == again.trained.accuracy
    assert first.trained.per_class == again.trained.per_class
    images = data.images(np.arange(4))
    assert torch.equal(first(images).features, again(images).features)


def test_whatever_changes_the_numbers_changes_the_digest(data, trainings):
    variants = [
        open_extractor("classifier", data),
        ClassifierExtractor(cached_classifier(data, seed=1)),
        open_extractor("classifier", data, quick=True),
        open_extractor("classifier", data.select(classes=["rain", "siren"])),
    ]
    assert len({each.digest for each in variants}) == 4
    assert len(trainings) == 4


def damage_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40  # within the weights, which safetensors itself does not check
    file.write_bytes(bytes(content))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [damage_bytes, cut_off, empty, make_folder])
def test_a_damaged_file_is_trained_again_never_trusted(data, cache, trainings, damage):
    good = open_extractor("classifier", data)
    damage(kept(cache))
    again = open_extractor("classifier", data)
    assert len(trainings) == 2
    assert again.digest == good.digest
    open_extractor("classifier", data)
    assert len(trainings) == (3 if damage is make_folder else 2)  # mended, where a file can be


def test_the_file_of_another_classifier_under_this_name_is_not_taken(data, cache, trainings):
    good = open_extractor("classifier", data)
    name = kept(cache)
    content = name.read_bytes()
    name.unlink()
    cached_classifier(data, seed=1)
    other = kept(cache)
    other.write_bytes(content)
    assert ClassifierExtractor(cached_classifier(data, seed=1)).digest != good.digest
    assert len(trainings) == 3


def test_an_unwritable_cache_only_costs_time(data, cache, trainings):
    cache.write_text("a file where the folder should be")
    assert open_extractor("classifier", data).digest == open_extractor("classifier", data).digest
    assert len(trainings) == 2


def test_two_processes_at_once_leave_one_whole_file(data, cache, trainings):
    context = multiprocessing.get_context("fork")  # what was set up above holds in them too
    processes = [context.Process(target=cached_classifier, args=(data,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert open_extractor("classifier", data).trained.n_test == 2
    assert not trainings  # none in this process: it found their file
    assert kept(cache).suffix == ".safetensors"


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SCHURGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "schurgan"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "schurgan"


def test_images_painted_in_colours_are_known_by_their_colours(tmp_path):
    source = open_source("soundscape", per_class=2, seconds=0.5)
    prepare(source, tmp_path / "set", Spectrogram(size=16, n_samples=8000, colormap="jet"), workers=1)
    shards = Shards(tmp_path / "set").select(classes=["siren", "rain"])
    extractor = open_extractor("classifier", shards)
    images = shards.images(np.arange(4))
    assert not torch.equal(extractor(images).features, extractor(images.flip(1)).features)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(SchurganError, match='did you mean "inception"'):
        open_extractor("inceptoin")
    with pytest.raises(ValueError, match="shards"):
        open_extractor("classifier")
