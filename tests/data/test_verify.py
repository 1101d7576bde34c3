from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Manifest, prepare
from schurgan.data.codec import ImageCodec
from schurgan.data.sources import open_source
from schurgan.data.sources.base import Item
from schurgan.data.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 clips of half a second, as images of 16 by 16, in shards of five, five, five and one."""
    out = tmp_path_factory.mktemp("made")
    source = open_source("soundscape", per_class=2, seconds=0.5)
    prepare(source, out, Spectrogram(size=16, n_samples=8000, channels=1), shard_clips=5, workers=1)
    return out


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A set that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_a_set_as_it_was_written_has_no_problems_and_every_byte_of_it_is_counted(made):
    calls: list[tuple[int, int]] = []
    assert verify(made, lambda done, total: calls.append((done, total))) == []
    total = sum(path.stat().st_size for path in made.glob("*.npy"))
    assert {each for _, each in calls} == {total}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (total, total)


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), number=st.integers(0, 7))
def test_any_flipped_bit_of_any_shard_is_found_and_its_file_named(made, where, bit, number):
    path = sorted(made.glob("*.npy"))[number]
    byte = int(where * path.stat().st_size)
    flip(path, byte, bit)
    try:
        (problem,) = verify(made)
    finally:
        flip(path, byte, bit)
    assert problem.startswith(f"{path}: ")
    assert "not what was written" in problem


@pytest.mark.parametrize(("sample", "clip"), [(0, 5), (8000 * 3, 8), (8000 * 4 - 1, 8), (8000 * 5 - 1, 9)])
def test_a_changed_recording_is_named_by_its_clip(own, sample, clip):
    path = own / "audio-00001.npy"
    np.load(path, mmap_mode="r+")[sample // 8000, sample % 8000] ^= 64
    origin = Manifest.load(own).clips.origin[clip]
    assert verify(own) == [f"{path}: {origin} is not what was written"]


def test_several_changed_recordings_are_named_together(own):
    path = own / "audio-00000.npy"
    shard = np.load(path, mmap_mode="r+")
    origins = Manifest.load(own).clips.origin
    shard[[1, 4], 77] ^= 1
    assert verify(own)[0] == f"{path}: {origins[1]}, {origins[4]} are not what was written"
    shard[[0, 2], 77] ^= 1
    listed = f"{origins[0]}, {origins[1]}, {origins[2]} and 1 more"
    assert verify(own)[0] == f"{path}: {listed} are not what was written"


def test_a_changed_file_of_images_says_whose_it_holds(own):
    path = own / "images-00001.npy"
    flip(path, path.stat().st_size - 1)
    origins = Manifest.load(own).clips.origin[5:10]
    named = f"{origins[0]}, {origins[1]}, {origins[2]} and 2 more"
    assert verify(own) == [f"{path}: is not what was written; it holds {named}"]


@dataclass(frozen=True)
class Pictures:
    """Six pictures of 16 by 16 in one class."""

    name: str = "pictures"
    kind: str = "images"
    skipped: tuple[tuple[str, str], ...] = ()

    def classes(self) -> tuple[str, ...]:
        return ("noise",)

    def items(self) -> list[Item]:
        return [Item(f"{number}.png", "noise") for number in range(6)]

    def load_image(self, item: Item) -> Tensor:
        chance = torch.Generator().manual_seed(int(item.origin[0]))
        return torch.randint(256, (3, 16, 16), generator=chance, dtype=torch.uint8)

    def describe(self) -> dict[str, object]:
        return {"source": self.name}


def test_a_changed_picture_of_a_set_of_images_is_named(tmp_path):
    prepare(Pictures(), tmp_path, ImageCodec(16), workers=1)
    assert verify(tmp_path) == []
    np.load(tmp_path / "images-00000.npy", mmap_mode="r+")[4, 2, 15, 15] ^= 1
    assert verify(tmp_path) == [f"{tmp_path / 'images-00000.npy'}: 4.png is not what was written"]


def test_a_changed_header_is_told_from_changed_recordings(own):
    path = own / "audio-00002.npy"
    flip(path, 20)
    (problem,) = verify(own)
    assert problem == f"{path}: is not what was written, though its clips are: its header or the manifest has changed"


def test_missing_short_long_and_added_files_are_all_named_in_one_go(own):
    (own / "images-00000.npy").unlink()
    short, long_, added = own / "audio-00001.npy", own / "images-00002.npy", own / "images-00099.npy"
    short.write_bytes(short.read_bytes()[:-100])
    long_.write_bytes(long_.read_bytes() + b"\0")
    added.write_bytes(b"x")
    (own / ".audio-00000.npy.4711.partial").write_bytes(b"x")
    (own / "notes.txt").write_text("mine")
    problems = verify(own)
    assert problems[0].startswith(f"{own / 'images-00000.npy'}: missing")
    assert problems[1] == f"{short}: shorter than it was written"
    assert problems[2] == f"{long_}: longer than it was written"
    assert [problem.partition(":")[0] for problem in problems[3:]] == [
        str(own / ".audio-00000.npy.4711.partial"),
        str(added),
    ]
    assert all("is not in the manifest" in problem for problem in problems[3:])
    assert len(problems) == 5


def test_a_file_that_cannot_be_read_is_named_with_the_reason(own, monkeypatch):
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("schurgan.data.verify.open_regular", refuse)
    problems = verify(own)
    assert len(problems) == 8
    assert problems[0] == f"{own / 'images-00000.npy'}: cannot be read (Permission denied)"


def test_a_changed_manifest_is_one_sentence(own):
    path = own / "manifest.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["shards"][1]["images"]["sha256"] = "0" * 64
    del fields["checksum"]
    path.write_text(json.dumps(fields), "utf-8")
    (problem,) = verify(own)
    assert problem.startswith(f"{own / 'images-00001.npy'}: is not what was written")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SchurganError, match=r"manifest\.json: damaged"):
        verify(own)


def test_the_command_says_that_all_is_well(call, made):
    said = call("data", "verify", made)
    size = sum(path.stat().st_size for path in made.glob("*.npy"))
    assert said.status == 0
    assert said.out == f"{made}: 8 files, {size / 1e6:.1f} MB, all as they were written\n"


def test_the_command_says_a_sentence_a_problem_and_ends_with_status_2(call, own):
    (own / "images-00002.npy").unlink()
    flip(own / "audio-00003.npy", -1)
    said = call("data", "verify", own)
    lines = [line for line in said.err.splitlines() if line.startswith("schurgan: ")]
    assert (said.status, said.out) == (2, "")
    assert [line.split(":")[1].strip() for line in lines] == [
        str(own / "images-00002.npy"),
        str(own / "audio-00003.npy"),
        str(own),
    ]
    assert "2 problems found" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data"], "data: one word more is needed, as in `schurgan data verify`"),
        (["data", "verfy", "x"], '"data verfy": no such command; did you mean "verify"?'),
        (["dat", "verify", "x"], '"dat": no such command; did you mean "data"?'),
        (["data", "verify"], "DIR: missing; an example: `schurgan data verify "),
        (["data", "verify", "a", "b"], '"b": one argument too many; an example: `schurgan data verify '),
    ],
)
def test_what_is_wrong_with_a_command_of_two_words_is_one_sentence(refused, arguments, sentence):
    assert refused(*arguments).startswith(sentence)


def test_a_folder_without_a_set_is_one_sentence(refused, tmp_path):
    assert refused("data", "verify", tmp_path).startswith(f"{tmp_path}: an empty folder, not prepared data")


def test_the_first_word_alone_lists_the_commands_that_share_it(call):
    said = call("data", "--help")
    assert said.status == 0
    listed = [line for line in said.out.splitlines() if line.startswith("  ")]
    assert listed
    assert all(line.startswith("  data ") for line in listed)
