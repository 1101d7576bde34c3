"""Processes that work together: meeting, telling, gathering, failing; and three GAN steps in two of them."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import schurgan
from schurgan.core.distributed import World, accumulating, join, replicate
from schurgan.core.errors import SchurganError
from schurgan.core.files import lock
from schurgan.core.launch import Placement, find_placement, first_host
from schurgan.networks import Discriminator, Generator, Latent, apply_spectral_norm
from schurgan.networks.batch_norm import convert_batch_norm
from schurgan.training.losses import Hinge
from schurgan.training.regularizers import R1, DiscriminatorPhase

Job = Callable[[World], Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process(rank: int, jobs: tuple[Job, ...], ports: list[int], folder: str) -> None:
    """One job after another, each as torchrun would start it; what they return or raise in a file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    done = {}
    for job, port in zip(jobs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        began = time.monotonic()
        try:
            with join("cpu", timeout=120) as world:
                out = job(world)
        except ValueError as error:
            out = f"{type(error).__name__}: {error}"
        left = not dist.is_initialized()
        alive = sum(replica() is not None for replica in REPLICAS)
        done[job.__name__] = {"out": out, "seconds": time.monotonic() - began, "left": left, "alive": alive}
        torch.save(done, f"{folder}/{rank}.pt")


REPLICAS: list[weakref.ref[nn.Module]] = []


def leave_a_replica(world: World) -> None:
    """Garbage in a cycle, which stays until it is collected, as a trainer is."""
    gc.disable()
    network = replicate(nn.Linear(2, 2), world)
    object.__setattr__(network, "itself", network)
    REPLICAS.append(weakref.ref(network))


def rows_of(batch: int, rank: int, size: int, micro: int = 0, parts: int = 1) -> slice:
    """Rows of a batch that process `rank` of `size` has in its micro-batch `micro` of `parts`."""
    start, stop = rank * batch // size, (rank + 1) * batch // size
    share = stop - start
    return slice(start + micro * share // parts, start + (micro + 1) * share // parts)


def talk(world: World) -> dict[str, Any]:
    mine = torch.arange(6.0, dtype=torch.float64).view(3, 2)[: 3 - 2 * world.rank] + 10 * world.rank
    world.barrier()
    return {
        "main": world.is_main,
        "told": world.broadcast_object({"step": 7, "name": "é", "list": [1, None]} if world.is_main else "ignored"),
        "rows": world.gather_rows(mine),
        "types": [
            world.gather_rows(torch.full((1 + world.rank, 3), world.rank + 1).to(kind))
            for kind in (torch.bool, torch.bfloat16, torch.int64, torch.complex64)
        ],
        "one row": world.gather_rows(torch.ones(world.rank, 5)),
        "none": world.gather_rows(torch.ones(0, 5)),
        "vector": world.gather_rows(torch.full((2 - world.rank,), float(world.rank))),
        "sum": world.sum_over(torch.tensor([1, 2]) * (world.rank + 1)),
    }


def take_locks(world: World) -> list[str]:
    """What each process is told that asks for a lock while all have it, and all when one of them has it."""
    folder, told = Path(tempfile.gettempdir()) / f"schurgan-{os.environ['MASTER_PORT']}", list[str]()
    for by_all in (True, False):
        with ExitStack() as held:
            if by_all:
                held.enter_context(world.lock(folder))
            elif not world.is_main:
                held.enter_context(lock(folder))
            world.barrier()
            try:
                with lock(folder) if by_all else world.lock(folder):
                    told.append("had")
            except SchurganError as error:
                told.append(str(error))
            world.barrier()
        world.barrier()  # not before it was let go
    return [*told, f"process {os.getpid()} "]


def fail(world: World) -> str:
    if world.rank == 1:
        raise ValueError("no such\nclip")
    world.barrier()
    return "waited"


def fail_main(world: World) -> str:
    if world.is_main:
        raise SchurganError("disk full")
    world.barrier()
    return "waited"


def vanish(world: World) -> str:
    if world.rank == 1:
        os._exit(0)  # as by a kill: without a word
    world.barrier()
    return "waited"


def gan(world: World) -> Tensor:
    """Three steps on shares of a batch of seven, D's in two pieces: the weights of both networks.

    In double precision: biases before a batch norm have the gradient 0, and Adam makes steps of its rounding error.
    """
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 4, "classes": 3, "channels": 1}
    generator = convert_batch_norm(Generator.from_preset("small-16", **options)).double()
    discriminator = Discriminator.from_preset("small-16", **options).double()
    apply_spectral_norm(generator)
    if world.rank:  # a replica starts from the main process's
        for value in (*generator.parameters(), *discriminator.buffers()):
            value.detach().zero_()
    replica_g, replica_d = (replicate(network, world) for network in (generator, discriminator))
    for_g, for_d = (
        torch.optim.Adam(network.parameters(), 0.002, betas=(0.0, 0.9), eps=1e-6, fused=True)
        for network in (generator, discriminator)
    )
    loss, penalty, latent, chance = Hinge(), R1(0.5), Latent(generator.latent_dim), torch.Generator().manual_seed(1)
    batch, parts = 7, 2
    for step in range(3):
        images = 2 * torch.rand(batch, 1, 16, 16, generator=chance, dtype=torch.float64) - 1
        labels, z = torch.arange(batch) % 3, latent.sample(batch, chance).double()
        whole = rows_of(batch, world.rank, world.size)
        with torch.no_grad():
            made = generator(z[whole], labels[whole])
        for_d.zero_grad()
        discriminator.eval()  # else spectral norm moves on with every piece, and each meets another D
        for micro in range(parts):
            rows = rows_of(batch, world.rank, world.size, micro, parts)
            factor = (rows.stop - rows.start) * world.size / batch
            real, fake, y = images[rows], made[rows.start - whole.start : rows.stop - whole.start], labels[rows]
            with accumulating(replica_d) if micro < parts - 1 else nullcontext():
                scores = replica_d(torch.cat([real, fake]), y.repeat(2)).chunk(2)
                none = torch.empty(0)
                phase = DiscriminatorPhase(discriminator, real, fake, y, none, none, step, chance)
                slope = penalty.discriminator(phase)
                (factor * (loss.discriminator(*scores) + slope)).backward()
        for_d.step()
        discriminator.train().requires_grad_(False)
        made = replica_g(z[whole].flip(1), labels[whole])
        seen = made.detach().requires_grad_()
        factor = (whole.stop - whole.start) * world.size / batch
        (gradient,) = torch.autograd.grad(
            factor * loss.generator(seen.new_empty(0), discriminator(seen, labels[whole])), seen
        )
        for_g.zero_grad()
        made.backward(gradient)
        for_g.step()
        discriminator.requires_grad_(True)
    networks = (generator, discriminator)
    return torch.cat([value.detach().flatten() for network in networks for value in network.state_dict().values()])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes had of each job; written by this test."""
    folder, jobs = tmp_path_factory.mktemp("shared"), (talk, take_locks, leave_a_replica, gan, fail, fail_main, vanish)
    mp.spawn(process, (jobs, [free_port() for _ in jobs], str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_tell_and_gather_the_same_everywhere(shared: list[dict[str, Any]]):
    for rank, each in enumerate(shared):
        out = each["talk"]["out"]
        assert each["talk"]["left"]
        assert out["main"] is (rank == 0)
        assert out["told"] == {"step": 7, "name": "é", "list": [1, None]}
        assert out["rows"].tolist() == [[0, 1], [2, 3], [4, 5], [10, 11]]
        for rows, kind in zip(out["types"], (torch.bool, torch.bfloat16, torch.int64, torch.complex64), strict=True):
            assert torch.equal(rows, torch.tensor([[1] * 3, [2] * 3, [2] * 3]).to(kind))
            assert rows.dtype == kind
        assert torch.equal(out["one row"], torch.ones(1, 5))
        assert out["none"].shape == (0, 5)
        assert out["vector"].tolist() == [0, 0, 1]
        assert out["sum"].tolist() == [3, 6]


def test_the_main_process_has_a_lock_for_all_and_all_are_told_when_another_has_it(shared: list[dict[str, Any]]):
    (first, refused, main), (second, also_refused, other) = (each["take_locks"]["out"] for each in shared)
    assert first == "had"
    assert main in second
    assert refused == also_refused
    assert other in refused


def test_replicas_are_gone_when_a_process_has_left_the_others(shared: list[dict[str, Any]]):
    """One that is alive keeps the group's threads, which abort the process where they outlive the interpreter."""
    assert [each["leave_a_replica"]["alive"] for each in shared] == [0, 0]


def test_a_process_that_fails_ends_the_other_at_once_with_what_it_said(shared: list[dict[str, Any]]):
    survivor, culprit = (each["fail"] for each in shared)
    assert culprit["out"] == "ValueError: no such\nclip"
    assert survivor["out"] == "SchurganError: process 0 of 2 stops: process 1 failed: ValueError: no such clip"
    assert max(survivor["seconds"], culprit["seconds"]) < 60  # the timeout is 120
    assert survivor["left"]
    assert culprit["left"]


def test_the_main_process_failing_ends_the_other_too(shared: list[dict[str, Any]]):
    culprit, survivor = (each["fail_main"] for each in shared)
    assert culprit["out"] == "SchurganError: disk full"
    # The main process holds what was said, and may be gone before it is read.
    assert survivor["out"].startswith("SchurganError: process 1 of 2 stops: ")
    assert survivor["seconds"] < 60


def test_a_process_that_vanishes_ends_the_other_too(shared: list[dict[str, Any]]):
    survivor, gone = shared
    assert "vanish" not in gone
    assert survivor["vanish"]["out"].startswith(
        "SchurganError: process 0 of 2 stops: another process ended, or did not"
    )
    assert survivor["vanish"]["seconds"] < 60


def test_three_steps_of_a_gan_in_two_processes_are_those_of_one_with_the_whole_batch(shared: list[dict[str, Any]]):
    first, second = (each["gan"]["out"] for each in shared)
    assert torch.equal(first, second)  # running statistics and spectral norm's vectors too
    torch.testing.assert_close(first, gan(World()), rtol=1e-9, atol=1e-9)  # rounding, through three steps of Adam


RESTARTED = """
import json, sys
from pathlib import Path
import torch
from schurgan.core.files import write_json
from schurgan.core.distributed import join

state, crashed = Path(sys.argv[1]) / "state.json", Path(sys.argv[1]) / "crashed"
with join("cpu", timeout=120) as world:
    kept = json.loads(state.read_text()) if world.is_main and state.exists() else {"step": 0, "total": 0.0, "begun": []}
    kept = world.broadcast_object(kept)
    kept["begun"].append(kept["step"])
    while kept["step"] < 6:
        if kept["step"] == 4 and world.rank == 1 and not crashed.exists():
            crashed.touch()
            raise ValueError("crashed once")
        kept["total"] += world.sum_over(torch.tensor(float(kept["step"] + world.rank))).item()
        kept["step"] += 1
        if world.is_main and kept["step"] % 3 == 0:
            write_json(state, kept)
"""


@pytest.mark.slow
def test_torchrun_starts_a_failed_run_again_from_its_newest_state(tmp_path: Path):
    script = tmp_path / "run.py"
    script.write_text(RESTARTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "ValueError: crashed once" in done.stderr
    # Two processes add 2 · step + 1 in each of six steps; after three of them the run went on.
    assert json.loads((tmp_path / "state.json").read_text()) == {"step": 6, "total": 36.0, "begun": [0, 3]}


def test_a_process_without_a_launcher_is_alone_and_forms_no_group(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with join("cpu") as world:
        assert world == World()
        assert world.is_main
        assert not dist.is_initialized()
        world.barrier()
        assert world.broadcast_object((1, 2)) == (1, 2)
        network = nn.Linear(2, 2)
        assert replicate(network, world) is network
        with accumulating(network):
            pass


def test_one_process_of_torchrun_is_alone_too(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with join("cpu") as world:
        assert world == World()
        assert not dist.is_initialized()


def test_processes_that_never_meet_are_told_so(monkeypatch: pytest.MonkeyPatch):
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (variables | {"MASTER_PORT": str(free_port())}).items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(SchurganError, match=r"process 1 of 2 did not meet the others in 1 s: \S"),
        join("cpu", timeout=1),
    ):
        pass


SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[03-05,9],fat1",
}


@pytest.mark.parametrize(
    ("environment", "placement"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, None),  # a batch script
        (SLURM, Placement(5, 8, 1, "tcp://gpu03:19711")),
        (SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"}, Placement(5, 8, 1, "tcp://10.0.0.1:99")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Placement(0, 1, 0, "env://")),
        (
            SLURM | {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            Placement(3, 4, 1, "env://"),
        ),
    ],
)
def test_a_process_finds_its_place_in_what_launchers_set(environment: dict[str, str], placement: Placement | None):
    assert find_placement(environment) == placement


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0"}, "WORLD_SIZE: not set"),
        ({"RANK": "zero", "WORLD_SIZE": "2"}, 'RANK: "zero"'),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "process 2 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "MASTER_PORT: not set"),
        (SLURM | {"SLURM_STEP_NODELIST": "[1-"}, "SLURM_STEP_NODELIST"),
    ],
)
def test_a_broken_environment_is_named(environment: dict[str, str], said: str):
    with pytest.raises(SchurganError) as caught:
        find_placement(environment)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "host"), [("n1", "n1"), ("n[7,9]-ib,m", "n7-ib"), ("a-1,b", "a-1"), ("n[01-20]", "n01")]
)
def test_the_first_machine_of_slurms_list(nodes: str, host: str):
    assert first_host(nodes) == host


def test_torch_distributed_is_used_in_one_file_above_normality():
    """All else asks `World`, which pickles nothing."""
    package = Path(schurgan.__file__).parent
    users = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"torch\.distributed\b|\w_object_list|all_gather_object", _code(file))
    }
    assert {user for user in users if not user.startswith("normality/")} == {"core/distributed.py"}


def _code(file: Path) -> str:
    """The imports and calls of a file, without its comments and docstrings."""
    tree = ast.parse(file.read_text("utf-8"))
    wanted = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute)]
    return "\n".join(map(ast.unparse, wanted))
