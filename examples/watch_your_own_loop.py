"""A plain GAN that learns points on a ring, and a monitor of its health added in three places, marked 1, 2 and 3.

    python examples/watch_your_own_loop.py [--steps 1500] [--spoil 800] [--seed 0]

From step `--spoil` on it sees one of the eight places of the ring only, as from a loader that has lost its shuffle, and
so its points fall together. The monitor says since when; the loop goes back to the last step that it calls healthy, and
on with the whole ring. `--spoil 0` spoils nothing. It takes some seconds on a CPU and needs `schurgan.health` alone.
"""

import argparse
import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.health import Monitor

BATCH, Z, WIDTH, EVERY, RATE = 128, 8, 64, 50, 1e-3


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, outputs),
    )


def ring(count: int, places: int = 8) -> Tensor:
    """(count, 2): around so many of eight places on the unit circle."""
    angle = torch.randint(places, (count,)) * torch.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2)


def spread(points: Tensor) -> float:
    """Mean distance of two points."""
    return float(torch.pdist(points).mean())


def train(steps: int, spoil: int) -> nn.Module:
    """The trained generator. From step `spoil` on, unless that is 0, the data are not what they should be."""
    generator, discriminator = network(Z, 2), network(2, 1)
    for_g = torch.optim.Adam(generator.parameters(), RATE, betas=(0.0, 0.9))
    for_d = torch.optim.Adam(discriminator.parameters(), RATE, betas=(0.0, 0.9))
    parts = {"generator": generator, "discriminator": discriminator, "for_g": for_g, "for_d": for_d}

    monitor = Monitor(warm_up=300)  # 1: one for the whole run
    fixed, varied = torch.randn(500, Z), spread(ring(500))
    saved: dict[int, dict[str, Any]] = {}
    step = 0
    while step < steps:
        step += 1
        real = ring(BATCH, places=1 if 0 < spoil <= step else 8)
        fake = generator(torch.randn(BATCH, Z))
        of_real, of_fake = discriminator(real), discriminator(fake.detach())
        loss_d = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
        for_d.zero_grad()
        loss_d.backward()
        for_d.step()
        loss_g = F.softplus(-discriminator(fake)).mean()
        for_g.zero_grad()
        loss_g.backward()
        for_g.step()
        if step % EVERY:
            continue

        with torch.no_grad():
            made = generator(fixed)
        verdict = monitor.update(  # 2: now and then, whatever of its signals there is
            step,
            variety=spread(made) / varied,
            accuracy_d=float(torch.cat([of_real > 0, of_fake < 0]).float().mean()),
            loss_d=loss_d.item(),
            loss_g=loss_g.item(),
        )
        saved[step] = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
        saved[step]["monitor"] = monitor.state_dict()  # plain numbers, which go back with the networks
        if verdict.state != "healthy":
            print(f"step {step}: {verdict.state}: {verdict.reasons[0]}")
        if verdict.state == "collapsed":  # 3: and what you make of it
            back = verdict.healthy_step
            if back is None:
                print("it was never healthy; look at the data and the learning rates")
                break
            print(f"collapsed since step {verdict.onset}; back to step {back}")
            for name, part in parts.items():
                part.load_state_dict(saved[back][name])
            monitor.load_state_dict(saved[back]["monitor"])
            step, spoil = back, 0
    print(f"end: step {step}, variety {spread(generator(fixed).detach()) / varied:.2f} of the real points'")
    return generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--spoil", type=int, default=800, help="step from which on the data are wrong, 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    train(args.steps, args.spoil)


if __name__ == "__main__":
    main()
