"""DDFN in two processes of torch.distributed (gloo) against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from schurgan.normality import DDFN

STEPS, SHARES = 3, (3, 5)  # of each batch, by process


def real() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    level = torch.tensor([0.4, 0.7, 1.0])[labels, None, None, None]
    return level * (2 * torch.rand(24, 1, 8, 8, generator=generator) - 1), labels


def noise(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(sum(SHARES), 4, generator=generator), torch.randint(3, (sum(SHARES),), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))


def train(generator: nn.Module, constraint: DDFN, mine: slice) -> dict[str, object]:
    optimizer = torch.optim.SGD(generator.parameters(), 0.05)
    penalties = []
    for step in range(STEPS):
        z, labels = noise(step)
        penalty, stats = constraint(generator(z[mine]), labels[mine])
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append([penalty.item(), *(float(each) for each in stats)])
    weights = torch.cat([p.detach().flatten() for p in generator.parameters()])
    return {"weights": weights, "penalties": penalties, "state": constraint.state_dict()}


def process(rank: int, folder: str, options: dict[str, object]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        images, labels = real()
        half = slice(0, 10) if rank == 0 else slice(10, 24)
        constraint = DDFN(**options)
        constraint.fit_real([(images[half], labels[half])], sharded=True)
        mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
        torch.save(train(DistributedDataParallel(network()), constraint, mine), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.5, "decay": 0.9},
        {"relative_epsilon": 0.02, "decay": 0.9, "per_class": True, "penalty": "augmented"},
    ],
)
def test_two_processes_give_the_weights_of_one_with_the_whole_batch(tmp_path: Path, options):
    mp.spawn(process, (str(tmp_path), options), nprocs=2)
    constraint = DDFN(**options)
    constraint.fit_real([real()])
    alone = train(network(), constraint, slice(None))
    for rank in (0, 1):
        # Written by this test. Batches of unequal size in the processes, and classes missing in one of them.
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared["weights"], alone["weights"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            torch.tensor(shared["penalties"]), torch.tensor(alone["penalties"]), rtol=1e-4, atol=1e-4
        )
        assert shared["state"]["_extra_state"] == alone["state"]["_extra_state"]  # the fingerprint and the counts
        for name in ("real_mean", "real_var", "real_share"):
            torch.testing.assert_close(shared["state"][name], alone["state"][name], rtol=1e-5, atol=0)
