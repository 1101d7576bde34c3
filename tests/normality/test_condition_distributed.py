"""Conditions in two processes of torch.distributed (gloo) against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reference_images import HINGE
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from schurgan.normality import DDFN, MomentMatching

STEPS, SHARES = 3, (3, 5)  # of each batch, by process
BUILD = {
    "DDFN": lambda: DDFN(0.5, decay=0.9),
    "DDFN per class": lambda: DDFN(relative_epsilon=0.02, decay=0.9, per_class=True, penalty="augmented"),
    "DDFN per image": lambda: DDFN(0.5, constraint="image"),
    "witness": lambda: MomentMatching("gram", classes=4, decay=0.8),
    "hinge": lambda: MomentMatching("dfn", classes=4, epsilon=0.02, **HINGE),
}


def real() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(32) % 3, torch.full((4,), 3)])  # the last class has few images
    level = torch.tensor([0.4, 0.7, 1.0, 0.2])[labels, None, None, None]
    return level * (2 * torch.rand(36, 1, 8, 8, generator=generator) - 1), labels


def noise(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(sum(SHARES), 4, generator=generator), torch.randint(4, (sum(SHARES),), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))


def train(generator: nn.Module, condition: DDFN | MomentMatching, mine: slice) -> dict[str, object]:
    """Brightness stands for the adversary, its mean over all images of the batch."""
    optimizer = torch.optim.SGD(generator.parameters(), 0.05)
    figures = []
    processes = dist.get_world_size() if dist.is_initialized() else 1
    for step in range(STEPS):
        z, labels = (each[mine] for each in noise(step))
        with torch.no_grad():
            condition.observe(generator(z), labels)
        fake = generator(z)
        images = fake.detach().requires_grad_()
        loss = images.square().mean((1, 2, 3)).sum() * processes / sum(SHARES)
        (adversarial,) = torch.autograd.grad(loss, images)
        penalty, stats = condition(images, labels)
        (pull,) = torch.autograd.grad(penalty, images)
        scale = condition.scale(adversarial, pull)
        optimizer.zero_grad()
        fake.backward(adversarial + scale * pull)
        optimizer.step()
        figures.append([penalty.item(), scale.item(), *(float(each) for each in stats)])
    weights = torch.cat([p.detach().flatten() for p in generator.parameters()])
    return {"weights": weights, "figures": figures, "state": condition.state_dict()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        images, labels = real()
        half = slice(0, 10) if rank == 0 else slice(10, 36)
        mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
        for kind, build in BUILD.items():
            condition = build()
            condition.fit_real([(images[half], labels[half])], sharded=True)
            torch.save(train(DistributedDataParallel(network()), condition, mine), f"{folder}/{kind} {rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What two processes made of every condition."""
    folder = tmp_path_factory.mktemp("two processes")
    mp.spawn(process, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", BUILD)
def test_two_processes_with_unequal_shares_give_the_weights_of_one_with_the_whole_batch(shared: Path, kind):
    condition = BUILD[kind]()
    condition.fit_real([real()])
    alone = train(network(), condition, slice(None))
    assert any(row[-1] for row in alone["figures"])  # the penalty pulled
    for rank in (0, 1):
        # Written by this test. Batches of unequal size in the processes, and classes missing in one of them.
        one = torch.load(shared / f"{kind} {rank}.pt", weights_only=True)
        # float32 sums in another order.
        torch.testing.assert_close(one["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.tensor(one["figures"]), torch.tensor(alone["figures"]), rtol=1e-4, atol=1e-4)
        extra, expected = (dict(each["state"]["_extra_state"]) for each in (one, alone))
        assert extra.pop("interpolation", {}) == pytest.approx(expected.pop("interpolation", {}), rel=1e-9)
        assert extra == expected  # the fingerprint and the counts
        for name in {"real_mean", "real_var", "real_share", "spread_within", "centre"} & alone["state"].keys():
            torch.testing.assert_close(one["state"][name], alone["state"][name], rtol=1e-5, atol=1e-6)
