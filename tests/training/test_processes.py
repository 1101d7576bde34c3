"""The same run in one process, in one process of torchrun, in two, and in two of which one is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from schurgan.core.distributed import World, join
from schurgan.data import Shards
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training import resume, train
from schurgan.training.build import build_trainer
from schurgan.training.checkpoint import Checkpoints, read

OPTIONS: dict[str, Any] = {
    "model": {"architecture": "small-16", "width": 4, "spectral_norm_g": True, "spectral_norm_d": True},
    "ddfn": {"per_class": True, "relative_epsilon": 0.0, "decay": 0.9},
    "moment_matching": {"descriptor": "gram", "decay": 0.9},
    "regularize": {"augment": "colour,translation,cutout", "r1": 1.0, "orthogonal_g": 1e-3},
}
STEPS = 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def place(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    where = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in where.items()}


def options(data: Path, **training: object) -> Config:
    """Adam divides by the gradient's size: with its usual eps a rounding error of a zero gradient is a whole step."""
    values = {"batch_size": 16, "d_steps": 2, "threads": 1, "device": "cpu", "eps": 1e-3}
    return Config.model_validate(OPTIONS | {"data": data, "train": values | training})


def take_steps(data: Path, world: World, **training: object) -> dict[str, Any]:
    """Weights and figures after three steps of a trainer, each process on its share of the same batches."""
    shards = Shards(data)
    trainer = build_trainer(options(data, **training), 8, world=world)
    for part in trainer.conditions.values():
        part.fit_real(shards.batches(64))
    share = 16 // world.size
    figures = []
    for step in range(STEPS):
        rows = [torch.arange((step + i) % 3, 48, 3)[share * world.rank : share * (world.rank + 1)] for i in range(2)]
        batches = [(shards.images(chosen.numpy()), torch.from_numpy(shards.labels[chosen.numpy()])) for chosen in rows]
        metrics = trainer.training_step(batches)
        figures.append({name: metrics[name].item() for name in ("ddfn", "ddfn_gap", "moment_matching", "not_finite")})
    networks = {name: getattr(trainer, name) for name in ("generator", "discriminator", "generator_ema")}
    state = {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in networks.items()}
    return {"state": state, "figures": figures}


def process(rank: int, data: str, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= place(rank, 2, port)
    with join("cpu", timeout=120) as world:
        found = {
            "plain": take_steps(Path(data), world),
            "parts": take_steps(Path(data), world, gradient_accumulation_steps=2),
        }
    torch.save(found, f"{out}/{rank}.pt")


@pytest.fixture(scope="module")
def two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    out = tmp_path_factory.mktemp("two")
    mp.spawn(process, (str(shards), free_port(), str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]  # written by this test


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    floating = [name for name, value in one.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert floating
    return max((one[name] - other[name]).abs().max().item() for name in floating)


def test_two_processes_take_the_steps_of_one_on_the_same_global_batch(two, shards):
    """Batch norm over both, spectral norm, DDFN per class, a condition, DiffAugment, R1: float32 in another order."""
    alone = take_steps(shards, World())
    for rank in range(2):
        for name, state in alone["state"].items():
            assert largest_difference(state, two[rank]["plain"]["state"][name]) <= 1e-5, (rank, name)
        for expected, got in zip(alone["figures"], two[rank]["plain"]["figures"], strict=True):
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["plain", "parts"])
def test_both_processes_hold_the_same_bits(two, kind):
    for name in ("generator", "discriminator", "generator_ema"):
        assert largest_difference(two[0][kind]["state"][name], two[1][kind]["state"][name]) == 0


def small(tiny: Callable[..., Config], **training: object) -> Config:
    """A run with its monitor on."""
    config = tiny(device="cpu", **training)
    health = {"every": 4, "images": 16, "budget": 0.0, "warm_up": 4, "patience": 2}
    return config.model_copy(update={"health": config.health.model_copy(update=health)})


def last_state(run: Path) -> dict[str, Any]:
    record, state = read(Checkpoints(run).paths()[-1])
    state["journal"].pop("size")
    return {"step": record.step, "state": state}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_one_process_of_torchrun_trains_the_weights_of_a_process_without_it(tiny, tmp_path, monkeypatch):
    train(small(tiny, steps=8), tmp_path / "without")
    for name, value in place(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)
    train(small(tiny, steps=8), tmp_path / "with")
    for name in ("generator.safetensors", "samples/step-00000008.png"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert equal(last_state(tmp_path / "with"), last_state(tmp_path / "without"))


def start(rank: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | place(rank, 2, port)
    command = [sys.executable, "-m", "schurgan", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(happened: Callable[[], bool], processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert all(each.poll() is None for each in processes), [each.communicate() for each in processes]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_of_two_processes_is_killed_the_other_ends_with_a_sentence_and_the_run_can_be_taken_up(
    tiny, tmp_path, lost
):
    config, run = small(tiny, steps=5000, checkpoint_every=2), tmp_path / "run"
    config.save(tmp_path / "options.yaml")
    port = free_port()
    both = [start(rank, port, "train", "--config", tmp_path / "options.yaml", "--out", run) for rank in range(2)]
    wait_for((run / "checkpoints" / "step-00000006.pt").exists, both)
    both[lost].kill()
    began = time.monotonic()
    _, said = both[1 - lost].communicate(timeout=120)
    assert time.monotonic() - began < 60  # the timeout of a collective is ten minutes: it is not waited for
    assert both[1 - lost].returncode == 2
    assert said.splitlines()[-1].startswith(f"schurgan: process {1 - lost} of 2 stops: another process ended")
    assert "Traceback" not in said
    both[lost].communicate()
    newest = Checkpoints(run).paths()[-1]
    record, _ = read(newest)  # whole
    text = (run / "config.yaml").read_text().replace("steps: 5000", f"steps: {record.step + 2}")
    (run / "config.yaml").write_text(text)
    port = free_port()
    again = [start(rank, port, "resume", run) for rank in range(2)]
    assert [each.wait(300) for each in again] == [0, 0], [each.communicate() for each in again]
    assert RunFolder(run).read_records().events[-1].kind == "finished"
    for each in again:
        each.communicate()


@pytest.mark.slow
def test_torchrun_brings_back_a_run_whose_worker_was_killed_and_it_ends_as_one_never_disturbed(tiny, tmp_path):
    config = small(tiny, steps=60, checkpoint_every=4)
    config.save(tmp_path / "options.yaml")

    def torchrun(run: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "-m", "schurgan", "train"]
        command += ["--config", str(tmp_path / "options.yaml"), "--out", str(run)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    calm = torchrun(tmp_path / "calm")
    said, _ = calm.communicate(timeout=300)
    assert calm.returncode == 0, said
    run = tmp_path / "run"
    disturbed = torchrun(run)
    wait_for(lambda: bool(list(run.glob("checkpoints/step-*08.pt"))), [disturbed])
    os.kill(workers(disturbed.pid)[1], signal.SIGKILL)
    said, _ = disturbed.communicate(timeout=300)
    assert disturbed.returncode == 0, said
    assert "resumed" in [event.kind for event in RunFolder(run).read_records().events]
    assert equal(last_state(run), last_state(tmp_path / "calm"))
    assert (run / "generator.safetensors").read_bytes() == (tmp_path / "calm/generator.safetensors").read_bytes()
    rates = ("steps_per_second",)
    rows, calmly = ([row.as_line() for row in RunFolder(each).read_records().rows] for each in (run, tmp_path / "calm"))
    assert [{k: v for k, v in row.items() if k not in rates} for row in rows] == [
        {k: v for k, v in row.items() if k not in rates} for row in calmly
    ]


def workers(launcher: int) -> list[int]:
    """Processes that torchrun started, which on Linux its own entry of /proc names."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
def test_a_run_of_two_processes_can_be_taken_up_by_one(tiny, tmp_path):
    config, run = small(tiny, steps=8, checkpoint_every=4), tmp_path / "run"
    config.save(tmp_path / "options.yaml")
    port = free_port()
    both = [start(rank, port, "train", "--config", tmp_path / "options.yaml", "--out", run) for rank in range(2)]
    assert [each.wait(300) for each in both] == [0, 0], [each.communicate() for each in both]
    for each in both:
        each.communicate()
    text = (run / "config.yaml").read_text().replace("steps: 8", "steps: 12")
    (run / "config.yaml").write_text(text)
    resume(run)
    assert RunFolder(run).read_records().events[-1].kind == "finished"
