"""What a folder sounds like, by sounds whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from schurgan.core.errors import SchurganError
from schurgan.data import survey as module
from schurgan.data.sources import open_source
from schurgan.data.sources.base import FileSource
from schurgan.data.survey import Survey, survey

RATE = 16000


def look(root: Path) -> Survey:
    return survey(open_source("folder", root))


def write(path: Path, sound: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.8 * sound / np.abs(sound).max(), rate)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * rate))


def word(seconds: float, seed: int) -> np.ndarray:
    """A voice that rises for 150 ms and dies away: pulses at a pitch of 100 to 200 Hz through a formant."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = np.random.default_rng(seed).uniform(100, 200)
    voice = sum(np.sin(2 * np.pi * k * pitch * time) / (1 + (k * pitch / 600 - 1) ** 2) for k in range(1, 20))
    return voice * np.minimum(time / 0.15, 1) * np.exp(-3 * np.maximum(time - 0.15, 0))


def test_hits_words_and_ambiences_are_told_apart(tmp_path):
    for number in range(6):
        time = np.arange(RATE // 2) / RATE
        write(tmp_path / "hits/snare" / f"{number}.wav", noise(0.5, number) * np.exp(-12 * time))
        tom = np.sin(2 * np.pi * (90 + 10 * number) * time) * np.exp(-8 * time)
        write(tmp_path / "hits/tom" / f"{number}.wav", tom)
        write(tmp_path / "words/one" / f"{number}.wav", word(0.6, number))
        write(tmp_path / "fields/rain" / f"{number}.wav", noise(5, number))
    kinds = {name: look(tmp_path / name).kind for name in ("hits", "words", "fields")}
    assert kinds == {"hits": "one-shots", "words": "spoken words", "fields": "field recordings"}


def test_lengths_silence_and_bandwidth_are_those_of_the_sound(tmp_path):
    time = np.arange(RATE) / RATE
    for number in range(8):
        sound = np.sin(2 * np.pi * 2000 * time) * (time >= 0.2) * (time < 0.5)
        write(tmp_path / "beep" / f"{number}.wav", sound)
    looked = look(tmp_path)
    assert looked.seconds == pytest.approx(1.0)
    assert looked.sounding == pytest.approx(0.3, abs=0.021)  # two levels of 10 ms
    assert looked.silence == pytest.approx(0.7, abs=0.021)
    assert looked.highest == pytest.approx(2000, rel=0.1)


def test_a_file_of_low_rate_has_no_highs_whatever_it_holds(tmp_path):
    write(tmp_path / "noise/a.wav", noise(1, rate=8000), 8000)
    assert 3500 < look(tmp_path).highest < 4100


def test_of_thousands_of_files_sixty_of_all_classes_are_read(tmp_path, monkeypatch):
    for label in ("a", "b", "c"):
        write(tmp_path / label / "0.wav", noise(0.1))
        for number in range(1, 100):
            (tmp_path / label / f"{number}.wav").symlink_to(tmp_path / label / "0.wav")
    heard: list[str] = []
    load = FileSource.load_loudest
    monkeypatch.setattr(
        FileSource, "load_loudest", lambda self, item, *rest: heard.append(item.label) or load(self, item, *rest)
    )
    assert look(tmp_path).looked == 60
    assert [heard.count(label) for label in "abc"] == [20, 20, 20]


def test_no_more_are_read_once_time_is_up(tmp_path, monkeypatch):
    for number in range(5):
        write(tmp_path / "a" / f"{number}.wav", noise(0.2, number))
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    assert look(tmp_path).looked == 1


def test_what_cannot_be_read_is_counted_and_nothing_at_all_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/broken.wav").write_bytes(b"RIFF")
    write(tmp_path / "a/silent.wav", np.concatenate([np.zeros(RATE), [1e-9]]))
    (tmp_path / "a/silent.wav").write_bytes((tmp_path / "a/silent.wav").read_bytes()[:44])
    with pytest.raises(SchurganError, match="none of 2 recordings"):
        look(tmp_path)
    write(tmp_path / "a/good.wav", noise(0.3))
    looked = look(tmp_path)
    assert (looked.looked, len(looked.refused)) == (1, 2)


@pytest.mark.parametrize("length", [1, 40, 700])
def test_a_recording_of_a_few_samples_is_no_trouble(tmp_path, length):
    write(tmp_path / "a/a.wav", np.concatenate([np.ones(length), -np.ones(length)]))
    assert look(tmp_path).kind == "one-shots"


def test_pictures_have_a_size(tmp_path):
    (tmp_path / "red").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 24), (200, 10, number)).save(tmp_path / "red" / f"{number}.png")
    assert look(tmp_path) == Survey("pictures", 3, size=24)
