"""Damaged sound files by the thousand: none may crash or hang a reader, each is read or named with a reason.

Every format and encoding that libsndfile writes is damaged in every way that transport, disks and other programs do.
Each case is made from (seed, number) alone. They are read in another process, for a crash there would end the tests.
"""

from __future__ import annotations

import ast
import io
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from schurgan.audio import Spectrogram, read_audio
from schurgan.data import Shards, prepare
from schurgan.data.sources.folder import open_folder

SEED = 20
QUICK, ALL = 300, 2000
PATIENCE = 20.0  # seconds for one file of a quarter of a second; a sound one takes a hundredth
RATE, FRAMES = 16000, 4000
HEAD = 128  # bytes that hold the headers of most formats
LIES = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 0x10000000)

READER = """
import os, sys, warnings
from schurgan.audio import AudioError, read_audio
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders of GSM and MP3 print what they think of a damaged file
os.dup2(1, 2)
warnings.simplefilter("ignore")
for line in sys.stdin:
    path = line.rstrip("\\n")
    try:
        wave = read_audio(path)
        said = f"read {len(wave)} {bool(wave.isfinite().all())}"
    except AudioError as error:
        said = "refused " + str(error)
    except BaseException as error:
        said = f"escaped {type(error).__name__}: {error}"
    print(ascii(said), file=answers, flush=True)
"""


def encodings() -> Iterator[tuple[str, str]]:
    """(format, subtype) of all that soundfile writes, without RAW, which has no header, and SD2, which is two files."""
    for format_ in sorted(soundfile.available_formats()):
        if format_ not in ("RAW", "SD2"):
            for subtype in sorted(soundfile.available_subtypes(format_)):
                if soundfile.check_format(format_, subtype):
                    yield format_, subtype


@pytest.fixture(scope="module")
def sound_files() -> dict[str, bytes]:
    """A quarter of a second of a chord in noise in every encoding, every third in stereo."""
    generator = np.random.default_rng(SEED)
    files = {}
    for number, (format_, subtype) in enumerate(encodings()):
        time = np.arange(FRAMES) / RATE
        chord = sum(np.sin(2 * np.pi * f * time) for f in (220, 550, 1375)) / 4
        samples = chord[:, None] + 0.05 * generator.standard_normal((FRAMES, 2 if number % 3 == 0 else 1))
        for rate, channels in ((RATE, samples.shape[1]), (RATE, 1), (8000, 1)):  # some encodings know few of them
            file = io.BytesIO()
            try:
                soundfile.write(file, samples[:, :channels], rate, subtype, format=format_)
            except soundfile.LibsndfileError:
                continue
            files[f"{format_}-{subtype}"] = file.getvalue()
            break
    return files


def truncate(content: bytearray, chance: np.random.Generator) -> None:
    del content[int(chance.integers(HEAD if chance.random() < 0.4 else len(content) + 1)) :]


def flip(content: bytearray, chance: np.random.Generator) -> None:
    """Up to twenty bits, half of the time all of them in the header."""
    end = HEAD if chance.random() < 0.5 else len(content)
    for place in chance.integers(0, max(end, 1), int(chance.integers(1, 20))):
        if place < len(content):
            content[place] ^= 1 << int(chance.integers(8))


def lie(content: bytearray, chance: np.random.Generator) -> None:
    """A number in the header that is nothing, enormous or negative."""
    width, order = int(chance.choice([2, 4, 8])), str(chance.choice(["little", "big"]))
    place = int(chance.integers(HEAD))
    content[place : place + width] = (int(chance.choice(LIES)) % (1 << 8 * width)).to_bytes(width, order)


def zero(content: bytearray, chance: np.random.Generator) -> None:
    part = somewhere(content, chance)
    content[part] = bytes(len(content[part]))


def insert(content: bytearray, chance: np.random.Generator) -> None:
    part = somewhere(content, chance)
    content[part.start : part.start] = chance.bytes(part.stop - part.start)


def drop(content: bytearray, chance: np.random.Generator) -> None:
    del content[somewhere(content, chance)]


def swap(content: bytearray, chance: np.random.Generator) -> None:
    """The other order of bytes, from somewhere on."""
    start = somewhere(content, chance).start
    end = start + (len(content) - start) // 2 * 2
    content[start:end:2], content[start + 1 : end : 2] = content[start + 1 : end : 2], content[start:end:2]


def scramble(content: bytearray, chance: np.random.Generator) -> None:
    start = somewhere(content, chance).start
    content[start:] = chance.bytes(len(content) - start)


def somewhere(content: bytearray, chance: np.random.Generator) -> slice:
    """Up to a quarter of the contents."""
    start = int(chance.integers(max(1, len(content))))
    return slice(start, start + int(chance.integers(1, max(2, len(content) // 4))))


DAMAGE = (truncate, flip, flip, lie, lie, zero, insert, drop, swap, scramble)
SUFFIXES = ("wav", "mp3", "flac", "ogg", "aiff", "caf", "au", "w64", "voc", "WAV")


def damaged(files: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """Case `number`: (name of the file, contents). Each encoding comes round in turn, damaged one to three times."""
    chance = np.random.default_rng([SEED, number])
    names = sorted(files)
    name = names[number % len(names)]
    content, suffix = bytearray(files[name]), name.partition("-")[0].lower()
    for _ in range(int(chance.integers(1, 4))):
        kind = int(chance.integers(len(DAMAGE) + 2))
        if kind < len(DAMAGE):
            DAMAGE[kind](content, chance)
        elif kind == len(DAMAGE):
            suffix = str(chance.choice(SUFFIXES))
        else:  # splice
            other = files[names[int(chance.integers(len(names)))]]
            content[somewhere(content, chance).start :] = other[int(chance.integers(len(other))) :]
    return f"{number:04}-{name}.{suffix}", bytes(content)


def test_the_fuzzer_knows_every_format_and_makes_the_same_cases_each_time(sound_files):
    written = {name.partition("-")[0] for name in sound_files}
    assert written >= {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "VOC", "NIST"}
    assert len(written) >= len(soundfile.available_formats()) - 3  # RAW and SD2, and one that may want other rates
    again = [damaged(sound_files, number) for number in range(50)]
    assert again == [damaged(sound_files, number) for number in range(50)]
    assert len({content for _, content in again}) > 45, "hardly anything is damaged"


@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)])
def test_no_damaged_file_crashes_or_hangs_the_reader_and_each_is_read_or_refused_in_a_sentence(
    sound_files, tmp_path, cases
):
    paths = []
    for number in range(cases):
        name, content = damaged(sound_files, number)
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    outcomes = read_elsewhere(paths)
    escaped = {path.name: said for path, said in outcomes.items() if not said.startswith(("read", "refused"))}
    assert not escaped
    for path, said in outcomes.items():
        if said.startswith("refused"):
            sentence = said.removeprefix("refused ")
            assert sentence.startswith(f"{path}: ")
            assert "\n" not in sentence
            assert len(sentence) > len(f"{path}: ")
        else:
            assert said.endswith("True"), f"{path.name}: samples that are no numbers"
            assert int(said.split()[1]) > 0
    read = sum(said.startswith("read") for said in outcomes.values())
    assert 0.2 * cases < read < 0.9 * cases, "damage that nothing or everything survives tests little"


def read_elsewhere(paths: list[Path]) -> dict[Path, str]:
    """What a process of its own says of each file; "crashed" with its exit status, or "hung", for those that end it."""
    outcomes: dict[Path, str] = {}
    while waiting := [path for path in paths if path not in outcomes]:
        reader = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        answers = Lines(reader)
        try:
            for path in waiting:
                reader.stdin.write(f"{path}\n")
                reader.stdin.flush()
                said = answers.next(PATIENCE + 60 * (path == waiting[0]))  # the first waits for imports
                outcomes[path] = said
                if said.startswith(("crashed", "hung")):
                    break
        finally:
            reader.kill()
            reader.wait()
    return outcomes


class Lines:
    """The lines that a process prints, waited for no longer than asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def next(self, seconds: float) -> str:
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return "hung"
        return f"crashed ({self.process.wait()})" if line is None else ast.literal_eval(line)


@pytest.mark.parametrize("cases", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_good_neighbours_of_damaged_files_are_unharmed_and_none_is_lost_from_the_account(sound_files, tmp_path, cases):
    generator = np.random.default_rng(SEED)
    good = {}
    for number in range(cases // 4):
        path = tmp_path / "in" / "good" / f"{number:03}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.2 * generator.standard_normal(FRAMES), RATE)
        good[f"good/{path.name}"] = read_audio(path)
    for number in range(cases):
        name, content = damaged(sound_files, number)
        path = tmp_path / "in" / ("good" if number % 2 else "bad") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    source = open_folder(tmp_path / "in")
    manifest = prepare(source, tmp_path / "out", Spectrogram(size=16, n_samples=FRAMES, channels=1), workers=1)
    shards = Shards(tmp_path / "out")
    accounted = sorted([*shards.origins, *(each.origin for each in manifest.skipped)])
    assert accounted == sorted([item.origin for item in source.items()] + [origin for origin, _ in source.skipped])
    assert all(each.reason and str(tmp_path) not in each.reason for each in manifest.skipped)
    for index, origin in enumerate(shards.origins):
        if origin in good:
            wave = good[origin]
            # int16 of peak one.
            assert (shards.recording(index) - wave / wave.abs().max()).abs().max() <= 0.5 / 32767 + 1e-6
    assert len(set(shards.origins) & set(good)) == len(good)
