from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import schurgan
from schurgan.audio import Spectrogram, read_audio
from schurgan.core.errors import UserError
from schurgan.data import Manifest, Shards, prepare, summary
from schurgan.data.prepare import PITCHES
from schurgan.data.shards import dequantise, quantise
from schurgan.data.sources.base import Item
from schurgan.data.sources.folder import open_folder
from schurgan.data.verify import verify

RATE, N_SAMPLES, SIZE = 16000, 8000, 32
SMALL = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=1)


def write_clips(root: Path, counts: dict[str, int]) -> Path:
    """Half a second of decaying tone in noise a clip, another one each."""
    rng = np.random.default_rng(0)
    time_ = np.arange(N_SAMPLES) / RATE
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            tone = np.sin(2 * np.pi * rng.uniform(200, 4000) * time_) * np.exp(-rng.uniform(1, 9) * time_)
            noise = 0.05 * rng.standard_normal(N_SAMPLES)
            soundfile.write(root / label / f"{number:03}.wav", rng.uniform(0.1, 0.7) * tone + 0.1 * noise, RATE)
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), {"bell": 24, "drum": 30, "horn": 26})


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of what one process makes of the clips, five shards of 16, without a break."""
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(open_folder(clips), out, SMALL, shard_clips=16, workers=1)
    return checksums(out)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def wait_for_workers(done: int, total: int, seconds: float) -> None:
    """A progress callback that holds the parent until a worker runs: it would do so small a set all by itself."""
    while done == 16 and not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(0.05)


@dataclass(frozen=True)
class Faulty:
    """The first `count` clips of a folder; what happens on loading some of them can be commanded."""

    root: Path
    raising: tuple[tuple[str, type[BaseException]], ...] = ()
    deadly: str = ""
    pids: Path | None = None
    name: str = "faulty"
    kind: str = "audio"
    skipped: tuple[tuple[str, str], ...] = ()

    def classes(self) -> tuple[str, ...]:
        return open_folder(self.root).classes()

    def items(self) -> list[Item]:
        return open_folder(self.root).items()

    def load(self, item: Item, sample_rate: int) -> Tensor:
        if self.pids:
            (self.pids / str(os.getpid())).touch()
        if item.origin == self.deadly and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        for origin, error in self.raising:
            if item.origin == origin:
                raise error("as commanded")
        return read_audio(self.root / item.origin, sample_rate)

    def describe(self) -> dict[str, object]:
        return {"source": self.name}


def test_stored_images_are_the_spectrograms_of_the_files_to_half_a_step_of_uint8(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    shards = Shards(tmp_path)
    for index in (0, 30, 79):
        wave = read_audio(clips / shards.origins[index], RATE)
        truth = SMALL.encode((wave / wave.abs().max())[None])[0]
        # Half a step is 1/255; the transform of a batch of four differs from that of one clip in the last bits.
        assert (shards.images([index]) - truth).abs().max() <= 1 / 255 + 1e-4


def test_stored_recordings_are_the_files_at_peak_one_to_half_a_step_of_int16(clips, tmp_path):
    manifest = prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    shards = Shards(tmp_path)
    samples, _ = soundfile.read(clips / shards.origins[5])
    samples -= samples.mean()
    peak = np.abs(samples).max()
    assert np.abs(shards.recording(5).numpy() - samples / peak).max() <= 0.5 / 32767 + 1e-6
    assert manifest.clips.gain[5] == pytest.approx(peak, rel=1e-5)


def test_shards_are_plain_npy_files_that_numpy_maps(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, shard_clips=64, workers=1)
    arrays = {path.name: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "images-00000.npy": ((64, 1, SIZE, SIZE), "uint8"),
        "images-00001.npy": ((16, 1, SIZE, SIZE), "uint8"),
        "audio-00000.npy": ((64, N_SAMPLES), "int16"),
        "audio-00001.npy": ((16, N_SAMPLES), "int16"),
    }


def test_the_manifest_knows_the_transform_the_histogram_and_the_median_level_of_each_class(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    manifest = Manifest.load(tmp_path)
    assert Spectrogram(**manifest.transform).config == SMALL.config
    assert dict(zip(manifest.classes, manifest.histogram, strict=True)) == {"bell": 24, "drum": 30, "horn": 26}
    levels = [level for level, label in zip(manifest.clips.reference, manifest.clips.label, strict=True) if label == 1]
    assert manifest.references[1] == np.median(levels) > 0


@pytest.mark.parametrize(("scale", "dtype", "stored"), [("linear", None, "float16"), ("log", "float32", "float32")])
def test_linear_images_are_kept_as_float16_and_others_as_asked(clips, tmp_path, scale, dtype, stored):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=1, scale=scale)
    assert prepare(open_folder(clips), tmp_path, spectrogram, dtype=dtype, workers=1).dtype == stored
    wave = Shards(tmp_path).recording(3)
    error = (Shards(tmp_path).images([3]) - spectrogram.encode(wave[None])[0]).abs().max()
    assert error <= (2**-11 if stored == "float16" else 1e-2) + 1e-3  # the recording itself is of 16 bits


def test_equal_channels_are_stored_once_and_read_as_many(clips, tmp_path):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=3)
    manifest = prepare(open_folder(clips), tmp_path, spectrogram, keep_audio=False, workers=1)
    assert np.load(tmp_path / "images-00000.npy").shape[1:] == (1, SIZE, SIZE)
    images = Shards(tmp_path).images([0, 1])
    assert images.shape[1:] == manifest.shape == (3, SIZE, SIZE)
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_channels_of_a_colour_map_are_all_stored(clips, tmp_path):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=3, colormap="viridis")
    prepare(open_folder(clips), tmp_path, spectrogram, keep_audio=False, workers=1)
    assert np.load(tmp_path / "images-00000.npy").shape[1:] == (3, SIZE, SIZE)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_quantising_is_undone_to_half_a_step_and_both_ends_exactly(values):
    image = torch.tensor([*values, -1.0, 1.0])
    back = dequantise(quantise(image, "uint8"))
    assert (back - image).abs().max() <= 1 / 255 + 1e-6
    assert back[-2:].tolist() == [-1.0, 1.0]
    assert torch.equal(dequantise(quantise(image, "float32")), image)
    assert (dequantise(quantise(image, "float16")) - image).abs().max() <= 2**-12


def test_two_workers_write_the_same_bytes_as_one_process(clips, tmp_path, undisturbed):
    pids = tmp_path / "pids"
    pids.mkdir()
    prepare(open_folder(clips), tmp_path / "out", SMALL, shard_clips=16, workers=2, progress=wait_for_workers)
    assert checksums(tmp_path / "out") == undisturbed
    prepare(Faulty(clips, pids=pids), tmp_path / "traced", SMALL, workers=2, progress=wait_for_workers)
    assert {path.name for path in pids.iterdir()} - {str(os.getpid())}, "no worker did any work"


def test_any_executor_writes_the_same_bytes(clips, tmp_path, undisturbed):
    with ThreadPoolExecutor(3) as executor:
        prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, executor=executor)
    assert checksums(tmp_path) == undisturbed


class Lazy(Executor):
    """Works a task out when its result is asked for, and counts those that wait."""

    waiting = most = 0

    def submit(self, fn, /, *args, **kwargs):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        future: Future = Future()

        def result(timeout=None):
            self.waiting -= 1
            return fn(*args, **kwargs)

        future.result = result
        return future


def test_a_bounded_number_of_chunks_is_under_way(clips, tmp_path, undisturbed):
    executor = Lazy()
    prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, executor=executor, workers=2)
    assert executor.most == 4
    assert checksums(tmp_path) == undisturbed


def test_the_number_of_torch_threads_is_left_as_it_was(clips, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepare(open_folder(clips), tmp_path, SMALL, keep_audio=False, workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


KILLED = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources.folder import open_folder
from schurgan.data.prepare import PITCHES

def progress(done, total, seconds):
    while done and not (workers := multiprocessing.active_children()):
        time.sleep(0.01)
    if done > 32:
        print(*(worker.pid for worker in workers), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    spectrogram = Spectrogram(size=32, n_samples=8000, channels=1)
    prepare(open_folder(Path(sys.argv[1])), sys.argv[2], spectrogram, shard_clips=32, workers=2, progress=progress)
"""


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_a_killed_run_leaves_no_process_and_no_whole_looking_set_and_goes_on_to_the_same_bytes(clips, tmp_path):
    script, out, truth = tmp_path / "killed.py", tmp_path / "out", tmp_path / "truth"
    script.write_text(KILLED)
    killed = subprocess.run([sys.executable, script, clips, out], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deadline = time.monotonic() + 30
    while any(map(alive, killed.stdout.split())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, killed.stdout.split()))
    with pytest.raises(UserError, match="not finished"):
        Shards(out)
    assert any(path.name.endswith(".partial") for path in out.iterdir())

    seen: list[int] = []
    prepare(open_folder(clips), out, SMALL, shard_clips=32, workers=1, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 32, "the finished shard was made again"
    prepare(open_folder(clips), truth, SMALL, shard_clips=32, workers=1)
    assert checksums(out) == checksums(truth)


def test_a_worker_that_is_killed_is_one_sentence_and_what_was_finished_is_kept(clips, tmp_path):
    last = open_folder(clips).items()[-1].origin
    with pytest.raises(UserError, match=r"worker process .* was killed"):
        prepare(Faulty(clips, deadly=last), tmp_path, SMALL, shard_clips=16, workers=2, progress=wait_for_workers)
    names = [path.name for path in tmp_path.iterdir()]
    assert "part-00000.json" in names
    assert "manifest.json" not in names
    assert not [name for name in names if name.endswith(".partial")]


def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_made(clips, tmp_path):
    source = Faulty(clips, raising=(("bell/003.wav", ZeroDivisionError), ("drum/007.wav", MemoryError)))
    manifest = prepare(source, tmp_path, SMALL, workers=1)
    assert [(each.origin, each.reason) for each in manifest.skipped] == [
        ("bell/003.wav", "as commanded"),
        ("drum/007.wav", "as commanded"),
    ]
    assert manifest.histogram == (23, 29, 26)
    assert "bell/003.wav" not in Shards(tmp_path).origins


def test_files_that_are_no_sound_are_reasons_and_cut_off_ones_are_notes(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "drum": 11})
    (root / "bell" / "empty.wav").touch()
    (root / "bell" / "text.wav").write_text("no sound at all")
    whole = (root / "drum" / "000.wav").read_bytes()
    (root / "drum" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(root / "drum" / "silent.wav", np.zeros(N_SAMPLES), RATE)
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1)
    reasons = {each.origin: each.reason for each in manifest.skipped}
    assert set(reasons) == {"bell/empty.wav", "bell/text.wav", "drum/silent.wav"}
    assert not [reason for reason in reasons.values() if str(tmp_path) in reason], "the origin is said already"
    noted = {clip.origin: clip.warnings for clip in manifest.clips.rows() if clip.warnings}
    assert list(noted) == ["drum/cut.wav"]
    assert noted["drum/cut.wav"][0].startswith("cut off")


def test_strict_raises_at_the_first_unusable_item_in_order_and_leaves_no_manifest(clips, tmp_path):
    source = Faulty(clips, raising=(("horn/001.wav", ValueError), ("drum/020.wav", OSError)))
    with pytest.raises(UserError, match=r"^drum/020.wav: as commanded$"):
        prepare(source, tmp_path, SMALL, shard_clips=16, workers=1, strict=True)
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.glob(".*.partial"))
    prepare(source, tmp_path, SMALL, shard_clips=16, workers=1)
    assert len(Shards(tmp_path)) == 78


def test_strict_refuses_what_the_source_itself_could_not_list(clips, tmp_path):
    source = Faulty(clips, skipped=(("bell/notes.txt", "not a sound file"),))
    with pytest.raises(UserError, match=r"bell/notes.txt: not a sound file"):
        prepare(source, tmp_path, SMALL, strict=True)
    assert prepare(source, tmp_path, SMALL, workers=1).skipped[0].origin == "bell/notes.txt"


def test_an_interrupt_passes_and_leaves_no_half_file(clips, tmp_path):
    source = Faulty(clips, raising=(("drum/000.wav", KeyboardInterrupt),))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.json"]


def test_a_class_with_nothing_left_is_left_out_and_the_others_are_numbered_anew(clips, tmp_path):
    source = Faulty(clips, raising=tuple((f"bell/{number:03}.wav", ValueError) for number in range(24)))
    manifest = prepare(source, tmp_path, SMALL, shard_clips=16, workers=1)  # the first shard has no clip at all
    assert manifest.classes == ("drum", "horn")
    assert manifest.histogram == (30, 26)
    assert any('class "bell"' in warning for warning in manifest.warnings)
    assert not (tmp_path / "images-00000.npy").exists()
    shards = Shards(tmp_path)
    assert {origin.split("/")[0] for origin in np.asarray(shards.origins)[shards.labels == 1]} == {"horn"}
    assert verify(shards.folder) == []


def test_nothing_usable_at_all_is_an_error_with_the_first_reason_and_an_empty_folder(clips, tmp_path):
    source = Faulty(clips, raising=tuple((item.origin, ValueError) for item in open_folder(clips).items()))
    with pytest.raises(UserError, match=r"none of 80 recordings can be used; the first, bell/000.wav: as commanded"):
        prepare(source, tmp_path, SMALL, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_same_sound_under_two_names_is_named_and_two_classes_are_said(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "drum": 11})
    samples, _ = soundfile.read(root / "bell" / "004.wav", dtype="int16")
    soundfile.write(root / "drum" / "copy.flac", samples, RATE)
    (warning,) = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1).warnings
    assert warning == "the same sound 2 times in different classes: bell/004.wav, drum/copy.flac"


def test_one_class_few_clips_and_near_silence_are_warned_of(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 4})
    samples, _ = soundfile.read(root / "bell" / "000.wav")
    soundfile.write(root / "bell" / "faint.wav", 5e-4 * samples / np.abs(samples).max(), RATE, subtype="FLOAT")
    warnings = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1).warnings
    assert [warning.split(":")[0] for warning in warnings[:2]] == ['only one class, "bell"', 'class "bell"']
    assert "5 clips" in warnings[1]
    assert warnings[2].startswith("nearly silent")
    assert warnings[2].endswith("bell/faint.wav")


def test_a_full_disk_is_one_sentence_leaves_no_half_file_and_can_be_gone_on_from(
    clips, tmp_path, undisturbed, monkeypatch
):
    synced = 0

    def fill_up(descriptor: int, sync=os.fsync) -> None:
        nonlocal synced
        synced += 1
        if synced == 11:  # the images of the second shard, of which the recordings are there
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill_up)
        with pytest.raises(UserError, match="No space left on device"):
            prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, workers=1)
    assert (tmp_path / "part-00000.json").exists()
    assert not list(tmp_path.glob(".*.partial"))
    assert not (tmp_path / "manifest.json").exists()
    prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, workers=1)
    assert checksums(tmp_path) == undisturbed


def test_an_output_that_cannot_be_a_folder_is_one_sentence(clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written"):
        prepare(open_folder(clips), tmp_path / "file", SMALL)


def test_a_finished_folder_is_returned_as_it_is_without_loading_anything(clips, tmp_path):
    first = prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    before = checksums(tmp_path)
    seen: list[int] = []
    again = prepare(open_folder(clips), tmp_path, SMALL, workers=1, progress=lambda done, *_: seen.append(done))
    assert again == first
    assert seen == []
    assert checksums(tmp_path) == before


def test_a_finished_folder_with_a_truncated_file_is_refused_by_its_name(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    os.truncate(tmp_path / "audio-00000.npy", 1000)
    with pytest.raises(UserError, match=r"audio-00000.npy: 1000 bytes instead of .*overwrite"):
        prepare(open_folder(clips), tmp_path, SMALL, workers=1)


@pytest.mark.parametrize("finished", [True, False])
def test_another_option_is_refused_until_overwriting_and_foreign_files_are_never_touched(clips, tmp_path, finished):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine")
    source = open_folder(clips)
    if finished:
        prepare(source, tmp_path, SMALL, shard_clips=16, workers=1)
    else:
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path, SMALL, shard_clips=16, workers=1, progress=interrupt_after(40))
    before = checksums(tmp_path)
    with pytest.raises(UserError, match="overwrite"):
        prepare(source, tmp_path, SMALL, shard_clips=64, workers=1)
    assert checksums(tmp_path) == before
    prepare(source, tmp_path, SMALL, shard_clips=64, workers=1, overwrite=True)
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".npy"]) == 4
    assert foreign.read_text() == "mine"


def interrupt_after(count: int):
    def progress(done: int, total: int, seconds: float) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_somebody_else_under_our_names_are_never_replaced(clips, tmp_path, overwrite):
    foreign = tmp_path / "images-00000.npy"
    foreign.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"images-00000.npy: is not of this program's making"):
        prepare(open_folder(clips), tmp_path, SMALL, workers=1, overwrite=overwrite)
    assert foreign.read_bytes() == b"mine"


def test_half_files_of_a_killed_run_are_removed_and_those_of_others_are_not(clips, tmp_path):
    for name in (".images-00003.npy.4711.partial", ".unfinished.json.4711.partial", ".other.npy.4711.partial"):
        (tmp_path / name).write_bytes(b"half")
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.glob(".*")] == [".other.npy.4711.partial"]


def test_progress_counts_every_item_and_the_seconds_of_sound(clips, tmp_path):
    calls: list[tuple[int, int, float]] = []
    source = Faulty(clips, raising=(("bell/003.wav", ValueError),))
    prepare(source, tmp_path, SMALL, shard_clips=32, workers=1, progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == [0, 16, 32, 48, 64, 80]
    assert {total for _, total, _ in calls} == {80}
    assert calls[-1][2] == pytest.approx(79 * 0.5)


def test_the_summary_shows_the_histogram_the_warnings_and_what_was_skipped(clips, tmp_path):
    source = Faulty(clips, raising=tuple((f"drum/{number:03}.wav", ValueError) for number in range(15)))
    lines = summary(prepare(source, tmp_path, SMALL, workers=1), width=26, most=3)
    assert lines[:3] == ["bell  24  " + "█" * 24, "drum  15  " + "█" * 15, "horn  26  " + "█" * 26]
    assert lines[3] == "65 clips of 3 classes, 0 min 32 s of sound"
    assert lines[-4] == "skipped: drum/000.wav: as commanded"
    assert "12 more skipped" in lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of arbitrary bytes")
def test_names_in_any_script_and_of_any_bytes_reach_the_manifest(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "Glöckchen 鐘": 11})
    os.rename(os.fsencode(root / "bell" / "000.wav"), os.fsencode(root / "bell") + b"/caf\xe9.wav")
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1)
    assert "Glöckchen 鐘" in manifest.classes
    assert "Glöckchen 鐘" in json.loads((tmp_path / "out" / "manifest.json").read_bytes())["classes"]
    assert Manifest.load(tmp_path / "out") == manifest
    assert len(manifest) == 22 - len(manifest.skipped)


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of half a second in each of two classes, and one of 2.1 s."""
    root = write_clips(tmp_path_factory.mktemp("short"), {"bell": 12, "drum": 12})
    generator = np.random.default_rng(1)
    soundfile.write(root / "drum" / "long.wav", 0.1 * generator.standard_normal(round(2.1 * RATE)), RATE)
    return root


@pytest.fixture(scope="module")
def augmented(short_and_long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("augmented")
    prepare(open_folder(short_and_long), out, SMALL, shard_clips=16, pitches=PITCHES, workers=1)
    return out


def test_recordings_of_two_seconds_or_less_get_a_copy_of_each_pitch_that_knows_its_origin(augmented):
    shards = Shards(augmented)
    assert len(shards) == 24 * 5 + 1
    assert list(shards.origins[:6]) == ["bell/000.wav", *(f"bell/000.wav@pitch={p:g}" for p in PITCHES), "bell/001.wav"]
    assert list(shards.parents[:6]) == [None, *["bell/000.wav"] * 4, None]
    assert [origin for origin in shards.origins if "long" in origin] == ["drum/long.wav"]
    assert all(shards.labels[i] == 0 for i in range(60))


def test_evaluation_leaves_copies_out_and_training_takes_them(augmented, short_and_long, tmp_path):
    shards = Shards(augmented)
    plain = shards.select(augmented=False)
    prepare(open_folder(short_and_long), tmp_path, SMALL, workers=1)
    alone = Shards(tmp_path)
    assert plain.origins == alone.origins
    assert not plain.augmented.any()
    assert torch.equal(plain.recording(13), alone.recording(13))
    assert shards.select(augmented=True).augmented.all()
    assert sorted([*plain.origins, *shards.select(augmented=True).origins]) == sorted(shards.origins)
    with pytest.raises(UserError, match="no clip is left"):
        alone.select(augmented=True)


def test_a_copy_is_the_recording_at_another_pitch_and_its_image_is_its_own(augmented):
    shards = Shards(augmented)

    def peak(index: int) -> float:
        return float(np.abs(np.fft.rfft(shards.recording(index).numpy())).argmax())

    for first in (0, 25, 90):
        for copy, ratio in enumerate(PITCHES, 1):
            assert peak(first + copy) == pytest.approx(
                ratio * peak(first), abs=6
            )  # a decaying tone is as broad, in bins
    again = SMALL.encode(shards.recording(2)[None])[0]
    assert (again - shards.images([2])).abs().mean() < 0.02


def test_copies_share_the_fold_of_their_recording(clips, tmp_path, monkeypatch):
    folded = [Item(item.origin, item.label, number % 5) for number, item in enumerate(open_folder(clips).items())]
    monkeypatch.setattr(Faulty, "items", lambda self: folded)
    prepare(Faulty(clips), tmp_path, SMALL, pitches=(0.9,), workers=1)
    fold_of = {item.origin: item.fold for item in folded}
    shards = Shards(tmp_path)
    assert [fold_of[origin.removesuffix("@pitch=0.9")] for origin in shards.origins] == list(shards.folds)


def test_copies_count_neither_as_items_nor_as_seconds_nor_as_clips_enough_to_learn_from(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 4, "drum": 16})
    calls: list[tuple[int, int, float]] = []
    options = {"pitches": PITCHES, "workers": 1, "shard_clips": 16}
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, **options, progress=lambda *call: calls.append(call))
    assert calls == [(0, 20, 0), (16, 20, 8.0), (20, 20, 10.0)]
    assert manifest.seconds == 10
    assert any(warning.startswith('class "bell": 4 clips, too few') for warning in manifest.warnings)
    lines = summary(manifest)
    assert "100 clips of 2 classes, 0 min 10 s of sound" in lines
    assert "80 of them are altered copies of the other 20" in lines


def test_a_copy_of_which_nothing_is_left_is_a_note_on_its_recording(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 2, "drum": 2})
    time_ = np.arange(N_SAMPLES) / RATE
    whistle = 0.5 * np.sin(2 * np.pi * 6500 * time_) * np.hanning(N_SAMPLES)
    soundfile.write(root / "bell" / "whistle.wav", whistle, RATE, subtype="FLOAT")
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, pitches=(0.75, 1.5), workers=1, strict=True)
    (notes,) = (clip.warnings for clip in manifest.clips.rows() if clip.origin == "bell/whistle.wav")
    assert notes[0].startswith("no copy at pitch 1.5: silent")
    assert "bell/whistle.wav@pitch=0.75" in manifest.clips.origin


def test_a_stopped_augmentation_goes_on_to_the_same_bytes_on_two_workers(short_and_long, augmented, tmp_path):
    source, options = open_folder(short_and_long), {"shard_clips": 16, "pitches": PITCHES}
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, SMALL, workers=1, progress=interrupt_after(20), **options)
    seen: list[int] = []
    prepare(
        open_folder(short_and_long), tmp_path, SMALL, workers=2, progress=lambda done, *_: seen.append(done), **options
    )
    assert seen[0] == 16, "the finished shard was made again"
    assert checksums(tmp_path) == checksums(augmented)


def test_other_pitches_are_other_data(short_and_long, augmented, tmp_path):
    copy = Path(shutil.copytree(augmented, tmp_path / "copy"))
    for pitches in ((), (0.75,)):
        with pytest.raises(UserError, match="overwrite"):
            prepare(open_folder(short_and_long), copy, SMALL, shard_clips=16, pitches=pitches, workers=1)
    prepare(open_folder(short_and_long), copy, SMALL, shard_clips=16, pitches=PITCHES, workers=1)


def test_a_set_without_copies_is_written_as_it_was_before_there_were_any(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    columns = json.loads((tmp_path / "manifest.json").read_text())["clips"]
    assert list(columns) == ["origin", "label", "fold", "seconds", "gain", "reference", "digest", "warnings"]


@pytest.mark.parametrize("pitches", [(1.0,), (0.1,), (0.9, 0.9), (-4.98,)])
def test_pitches_that_are_no_ratios_or_none_at_all_are_refused(clips, tmp_path, pitches):
    with pytest.raises(ValueError, match="pitches"):
        prepare(open_folder(clips), tmp_path, SMALL, pitches=pitches)


def test_the_command_adds_the_papers_four_pitches(call, short_and_long, tmp_path):
    options = ["--size", "32", "--seconds", "0.5", "--workers", "1"]
    said = call("prepare", "folder", short_and_long, "--out", tmp_path / "out", "--augment-pitch", *options)
    assert said.status == 0, said
    assert "96 of them are altered copies of the other 25" in said.out
    shards = Shards(tmp_path / "out")
    assert {parent for parent in shards.parents if parent} == set(shards.select(augmented=False).origins) - {
        "drum/long.wav"
    }


PEAK = """
import resource, sys, tempfile
from dataclasses import dataclass
import torch
from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources.base import Item

@dataclass(frozen=True)
class Noise:
    count: int
    name: str = "noise"
    kind: str = "audio"
    skipped: tuple = ()
    def classes(self):
        return ("noise",)
    def items(self):
        return [Item(str(number), "noise") for number in range(self.count)]
    def load(self, item, sample_rate):
        return torch.randn(16000, generator=torch.Generator().manual_seed(int(item.origin)))
    def describe(self):
        return {}

if __name__ == "__main__":
    torch.set_num_threads(1)
    spectrogram = Spectrogram(size=64, n_samples=16000, channels=1)
    with tempfile.TemporaryDirectory() as out:
        prepare(Noise(int(sys.argv[1])), out, spectrogram, shard_clips=10_000, workers=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in units of KiB")
def test_peak_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    script = tmp_path / "peak.py"
    script.write_text(PEAK)

    def peak(count: int) -> int:
        ran = subprocess.run(
            [sys.executable, script, str(count)], capture_output=True, text=True, timeout=300, check=True
        )
        return int(ran.stdout)

    # 1,200 more clips of 36 kB are 43 MB in one shard, if they were held; their records are under 1 MB.
    assert peak(1300) - peak(100) < 12_000


def test_the_python_call_makes_what_the_command_makes(call, clips, tmp_path):
    folder = schurgan.prepare(clips, out=tmp_path / "python", size=32, seconds=0.5, workers=1)
    assert folder == tmp_path / "python"
    options = ("--size", 32, "--seconds", 0.5, "--workers", 1)
    assert call("prepare", "folder", clips, "--out", tmp_path / "command", *options).status == 0
    assert checksums(folder) == checksums(tmp_path / "command")


def test_the_python_call_takes_a_source_by_name_or_as_an_object(clips, tmp_path, monkeypatch):
    options = {"size": 16, "workers": 1}
    named = schurgan.prepare("soundscape", out=tmp_path / "named", seconds=0.5, **options)
    assert Manifest.load(named).n_samples == 8000
    own = schurgan.prepare(
        Faulty(clips), out=tmp_path / "own", seconds=0.25, sample_rate=8000, scale="linear", **options
    )
    assert (Manifest.load(own).n_samples, Manifest.load(own).dtype) == (2000, "float16")
    with pytest.raises(UserError, match="esc50"):
        schurgan.prepare("esc50", out=tmp_path / "none")
    with pytest.raises(ValueError, match="seconds"):
        schurgan.prepare(clips, out=tmp_path / "none", seconds=0.01)
    monkeypatch.chdir(clips.parent)
    clips.parent.joinpath("esc50").symlink_to(clips)  # a folder that is called like a source
    assert len(Manifest.load(schurgan.prepare("esc50", out=tmp_path / "folder", seconds=0.5, **options))) == 80
