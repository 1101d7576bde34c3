"""Preparation on workers, stopped, killed and gone on with; and folders that hold something else."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from layouts import SMALL, Faulty, checksums, interrupt_after, wait_for_workers

from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.sources.folder import open_folder


def test_two_workers_of_a_daemon_write_the_same_bytes_as_one_process(clips, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # which may have no such children
    pids = tmp_path / "pids"
    pids.mkdir()
    source, out = Faulty(clips, pids=pids), tmp_path / "out"
    prepare(source, out, SMALL, shard_clips=16, workers=2, progress=wait_for_workers)
    written = checksums(out)
    assert {name: sum for name, sum in written.items() if name.endswith(".npy")}.items() <= undisturbed.items()
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
import os, signal, sys, time
from pathlib import Path
from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources.folder import open_folder
from schurgan.data.workers import answered

def progress(done, total, seconds):
    while done and not answered:
        time.sleep(0.01)
    if done > 32:
        print(*answered, flush=True)
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
    with pytest.raises(SchurganError, match="not finished"):
        Shards(out)
    assert any(path.name.endswith(".partial") for path in out.iterdir())

    seen: list[int] = []
    prepare(open_folder(clips), out, SMALL, shard_clips=32, workers=1, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 32, "the finished shard was made again"
    prepare(open_folder(clips), truth, SMALL, shard_clips=32, workers=1)
    assert checksums(out) == checksums(truth)


def test_a_worker_that_is_killed_is_one_sentence_and_what_was_finished_is_kept(clips, tmp_path):
    last = open_folder(clips).items()[-1].origin
    with pytest.raises(SchurganError, match=r"worker process .* was killed"):
        prepare(Faulty(clips, deadly=last), tmp_path, SMALL, shard_clips=16, workers=2, progress=wait_for_workers)
    names = [path.name for path in tmp_path.iterdir()]
    assert "part-00000.json" in names
    assert "manifest.json" not in names
    assert not [name for name in names if name.endswith(".partial")]


def test_an_interrupt_passes_and_leaves_no_half_file(clips, tmp_path):
    source = Faulty(clips, raising=(("drum/000.wav", KeyboardInterrupt),))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.json"]


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
        with pytest.raises(SchurganError, match="No space left on device"):
            prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, workers=1)
    assert (tmp_path / "part-00000.json").exists()
    assert not list(tmp_path.glob(".*.partial"))
    assert not (tmp_path / "manifest.json").exists()
    prepare(open_folder(clips), tmp_path, SMALL, shard_clips=16, workers=1)
    assert checksums(tmp_path) == undisturbed


def test_an_output_that_cannot_be_a_folder_is_one_sentence(clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SchurganError, match="file: cannot be written"):
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
    with pytest.raises(SchurganError, match=r"audio-00000.npy: shorter .*overwrite"):
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
    with pytest.raises(SchurganError, match="overwrite"):
        prepare(source, tmp_path, SMALL, shard_clips=64, workers=1)
    assert checksums(tmp_path) == before
    prepare(source, tmp_path, SMALL, shard_clips=64, workers=1, overwrite=True)
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".npy"]) == 4
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_somebody_else_under_our_names_are_never_replaced(clips, tmp_path, overwrite):
    foreign = tmp_path / "images-00000.npy"
    foreign.write_bytes(b"mine")
    with pytest.raises(SchurganError, match=r"images-00000.npy: is not of this program's making"):
        prepare(open_folder(clips), tmp_path, SMALL, workers=1, overwrite=overwrite)
    assert foreign.read_bytes() == b"mine"


def test_half_files_of_a_killed_run_are_removed_and_those_of_others_are_not(clips, tmp_path):
    for name in (".images-00003.npy.4711.partial", ".unfinished.json.4711.partial", ".other.npy.partial"):
        (tmp_path / name).write_bytes(b"half")
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.glob(".*")] == [".other.npy.partial"]


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
