"""The networks in batches cut in pieces, one after another or over two processes of torch.distributed (gloo)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from schurgan.networks import Discriminator, Generator, Latent
from schurgan.training.losses import Hinge

LOSS = Hinge()


def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator.from_preset("small-16", width=4, classes=3, channels=1, spectral_norm=True)
    return generator, Discriminator.from_preset("small-16", width=4, classes=3, channels=1)


def test_gradients_of_d_accumulated_over_pieces_are_those_of_the_whole_batch():
    chance = torch.Generator().manual_seed(1)
    real, fake = (2 * torch.rand(12, 1, 16, 16, generator=chance) - 1 for _ in range(2))
    labels = torch.arange(12) % 3
    _, discriminator = networks()
    discriminator.eval()  # the power iterations rest: they go on with every forward pass, whatever its size

    def gradients(pieces: int) -> list[torch.Tensor]:
        discriminator.zero_grad()
        for r, f, y in zip(real.chunk(pieces), fake.chunk(pieces), labels.chunk(pieces), strict=True):
            (LOSS.discriminator(discriminator(r, y), discriminator(f, y)) / pieces).backward()
        return [parameter.grad.clone() for parameter in discriminator.parameters()]

    for whole, summed in zip(gradients(1), gradients(4), strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        plain_g, plain_d = networks()
        generator, discriminator = (DistributedDataParallel(network) for network in (plain_g, plain_d))
        for_g, for_d = (torch.optim.SGD(network.parameters(), 0.01) for network in (plain_g, plain_d))
        latent = Latent(plain_g.latent_dim)
        noise = torch.Generator().manual_seed(rank)  # each has images of its own
        for _ in range(3):
            labels = torch.randint(3, (4,), generator=noise)
            real = 2 * torch.rand(4, 1, 16, 16, generator=noise) - 1
            with torch.no_grad():
                fake = generator(latent.sample(4, noise), labels)
            # Two forward passes before one backward: buffers that are overwritten in between would raise here.
            loss = LOSS.discriminator(discriminator(real, labels), discriminator(fake, labels))
            for_d.zero_grad()
            loss.backward()
            for_d.step()
            loss = LOSS.generator(labels[:0], discriminator(generator(latent.sample(4, noise), labels), labels))
            for_g.zero_grad()
            loss.backward()
            for_g.step()
        state = [value.detach() for network in (plain_g, plain_d) for value in network.parameters()]
        torch.save(torch.cat([value.flatten() for value in state]), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_end_with_equal_weights_though_d_runs_twice_before_its_backward_pass(tmp_path: Path):
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    start = torch.cat([value.detach().flatten() for network in networks() for value in network.parameters()])
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert not torch.equal(first, start)
