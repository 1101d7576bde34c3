"""What several tests share: a small prepared set, a small finished run, and two ways to call the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from schurgan.audio import Spectrogram
from schurgan.commands.main import main
from schurgan.core import progress
from schurgan.core.errors import SchurganError
from schurgan.data import prepare
from schurgan.data.sources import open_source
from schurgan.runs.config import Config
from schurgan.training import train

SIZE, RATE, N_SAMPLES = 16, 16000, 8000
HASH = r"\b(?=\w*\d)(?=\w*[a-f])[0-9a-f]{12,}\b"
CLASSES = ("siren", "bark", "rain", "clock", "bell", "engine", "bird", "footsteps")


@dataclass(frozen=True)
class Said:
    """What a call of the command line said, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes long enough for a line of progress, however busy the machine is."""
    monkeypatch.setattr(progress, "FIRST", 1e9)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run side by side, and a run sets the threads of its process."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Classifiers that tests train stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SCHURGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def sentences_without_hashes() -> Iterator[None]:
    """No error that a test meets shows a hash: nobody can act on one."""
    whole = SchurganError.__init__

    def check(error: SchurganError, *texts: object) -> None:
        whole(error, *texts)
        assert not re.search(HASH, str(error)), error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SchurganError, "__init__", check)
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of six soundscapes of half a second each, as images of 16 by 16. Not to be changed."""
    out = tmp_path_factory.mktemp("shards")
    source = open_source("soundscape", per_class=6, seconds=0.5)
    prepare(source, out, Spectrogram(size=SIZE, channels=1, sample_rate=RATE, n_samples=N_SAMPLES), workers=1)
    return out


@pytest.fixture(scope="session")
def tiny(shards: Path) -> Callable[..., Config]:
    """`tiny(steps=4)`: options of a run that takes a second, on 16 by 16 images, with these options of training."""

    def config(**train: object) -> Config:
        options = {
            "steps": 6,
            "batch_size": 8,
            "log_every": 2,
            "checkpoint_every": 3,
            "sample_every": 100,
            "threads": 1,
        }
        model = {"architecture": "small-16", "width": 4}
        return Config.model_validate({"data": shards, "model": model, "train": options | train})

    return config


@pytest.fixture(scope="session")
def finished_run(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints after three and six. Not to be changed: `copied_run` may be."""
    return train(tiny(), tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of four short recordings. Not to be changed."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(N_SAMPLES) / RATE
    for label, frequency in (("bell", 880), ("drum", 110)):
        (root / label).mkdir()
        for number in range(4):
            sound = np.sin(2 * np.pi * frequency * (1 + 0.1 * number) * time) * np.exp(-4 * time)
            noisy = 0.5 * sound + 0.01 * rng.standard_normal(N_SAMPLES)
            soundfile.write(root / label / f"{number}.wav", noisy, RATE)
    return root


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`call("sample", RUN, ...)`: the command line in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        said = Said(status, *capsys.readouterr())
        assert not re.search(HASH, f"{said.out}{said.err}"), said
        return said

    return run


@pytest.fixture
def refused(call: Callable[..., Said]) -> Callable[..., str]:
    """`refused("sample", RUN, ...)`: the one sentence, and that nothing but it was said, with exit status 2."""

    def run(*arguments: object) -> str:
        said = call(*arguments)
        assert said.status == 2, said
        assert re.fullmatch(r"(taken as classes: .*\n)?", said.out)  # which comes before the work
        assert said.err.startswith("schurgan: ")
        assert said.err.count("\n") == 1
        assert said.err.endswith("\n")
        return said.err.removeprefix("schurgan: ").rstrip("\n")

    return run


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """`spawn("train", ...)`: the command line as a process of its own, its output in pipes."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "schurgan", *map(str, arguments)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    return run


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`with full_disk(after=3)`: the disk is full from the fourth os.fsync (or other call) on."""

    @contextlib.contextmanager
    def fill(call: str = "fsync", after: int = 0) -> Iterator[None]:
        real, count = getattr(os, call), 0

        def refuse(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            yield

    return fill


@pytest.fixture
def renamed_and_synced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], bool]:
    """`renamed_and_synced(path)`: whether its folder was fsynced after it got its name, as a power cut needs."""
    calls: list[tuple[str, object]] = []
    rename, fsync = os.replace, os.fsync

    def note_rename(source: Any, target: Any) -> None:
        rename(source, target)
        calls.append(("rename", os.path.abspath(target)))

    def note_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", note_rename)
    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(os, "fsync", note_fsync)

    def durable(path: Path) -> bool:
        last = len(calls) - calls[::-1].index(("rename", os.path.abspath(path)))
        return ("fsync", path.parent.stat().st_ino) in calls[last:]

    return durable
