"""Preparation on a Dask cluster of a scheduler and two workers, processes of this machine that tests may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from layouts import checksums
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import prepare
from schurgan.data.sources.base import Item
from schurgan.data.sources.soundscape import Soundscape

distributed = pytest.importorskip("distributed")

SMALL = Spectrogram(size=32, n_samples=8000, channels=1)
SOURCE = Soundscape(per_class=40, seconds=0.5)  # 320 clips, 20 chunks


@dataclass
class Cluster:
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler and two workers of one thread on localhost. No nanny restarts those that are killed."""
    found = tmp_path / "scheduler.json"
    # Where this file lies the workers find it too, as they have to find the package.
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    dask = [sys.executable, "-m", "dask"]
    local = ["--no-dashboard", "--scheduler-file", str(found)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path, "env": env}
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *local], **quiet)
    workers = [
        subprocess.Popen([*dask, "worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", *local], **quiet)
        for _ in range(2)
    ]
    try:
        with distributed.Client(scheduler_file=str(found), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield Cluster(address, scheduler, workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_of_which_a_worker_is_killed_in_the_middle_makes_the_same_shards(cluster, tmp_path):
    prepare(SOURCE, tmp_path / "here", SMALL, shard_clips=64, workers=1)
    seen: list[int] = []

    def kill_one(done: int, total: int, seconds: float) -> None:
        seen.append(done)
        if done >= 96 and cluster.workers[0].poll() is None:
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
            cluster.workers[0].wait()

    prepare(SOURCE, tmp_path / "there", SMALL, shard_clips=64, cluster=cluster.address, progress=kill_one)
    assert cluster.workers[0].returncode == -signal.SIGKILL
    assert seen == list(range(0, 321, 16)), "each chunk is taken once"
    assert checksums(tmp_path / "there") == checksums(tmp_path / "here")


@dataclass(frozen=True)
class Elsewhere:
    """Clips that say in which process they are made, by their number of periods."""

    name: str = "elsewhere"
    kind: str = "audio"
    skipped: tuple[tuple[str, str], ...] = ()
    deadly: bool = False

    def classes(self) -> tuple[str, ...]:
        return ("one",)

    def items(self) -> list[Item]:
        return [Item(str(number), "one") for number in range(32)]

    def load(self, item: Item, sample_rate: int) -> Tensor:
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.origin == "3":
            raise ValueError("as commanded")
        return torch.sin(torch.arange(8000) * (os.getpid() % 1000 + 200) * 2 * torch.pi / 8000)

    def describe(self) -> dict[str, object]:
        return {}


@pytest.mark.slow
def test_the_work_is_done_by_the_workers_and_what_cannot_be_used_is_listed_as_elsewhere(cluster, tmp_path):
    from schurgan.data import Shards

    manifest = prepare(Elsewhere(), tmp_path / "out", SMALL, cluster=cluster.address)
    assert [(each.origin, each.reason) for each in manifest.skipped] == [("3", "as commanded")]
    shards = Shards(tmp_path / "out")
    made_in = {int(torch.fft.rfft(shards.recording(index)).abs().argmax()) - 200 for index in range(len(shards))}
    assert made_in <= {worker.pid % 1000 for worker in cluster.workers}


@pytest.mark.slow
def test_a_cluster_that_is_lost_is_one_sentence_and_can_be_gone_on_without(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("schurgan.data.workers.PATIENCE", 5.0)

    def lose(done: int, total: int, seconds: float) -> None:
        if done >= 96 and cluster.scheduler.poll() is None:
            for process in (cluster.scheduler, *cluster.workers):
                process.kill()
                process.wait()

    with pytest.raises(SchurganError, match=r"cluster at tcp://127.0.0.1:.* failed"):
        prepare(SOURCE, tmp_path / "out", SMALL, shard_clips=64, cluster=cluster.address, progress=lose)
    assert not list((tmp_path / "out").glob(".*.partial"))
    prepare(SOURCE, tmp_path / "out", SMALL, shard_clips=64, workers=1)
    prepare(SOURCE, tmp_path / "here", SMALL, shard_clips=64, workers=1)
    assert checksums(tmp_path / "out") == checksums(tmp_path / "here")


def test_an_address_where_nobody_answers_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("schurgan.data.workers.PATIENCE", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "nonsense://x"):
        with pytest.raises(SchurganError, match=f"cluster: {wrong} given, no Dask scheduler answers there"):
            prepare(SOURCE, tmp_path / "out", SMALL, cluster=wrong)


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SchurganError, match=r"pip install schurgan\[cluster\]"):
        prepare(SOURCE, tmp_path / "out", SMALL, cluster="tcp://127.0.0.1:1")
