"""Δ² by every method: cost beside `torch.linalg.eigvals`, share of a training step, two threads against one.

    python benchmarks/bench_normality.py [--data build/esc10-128] [--rounds 9]

Costs are CPU time on one thread of forward and backward on 16 images. Each round times everything once, and ratios to
`torch.linalg.eigvals` in float64, forward alone, are taken within a round: their medians are printed. Two threads
against one is wall time, and means something on a quiet machine only: the load is printed with it. Shares of a training
step are of proposed-128, 16 wide, 32 images, one step of D and one of G.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.data.shards import Shards
from schurgan.data.sources import open_source
from schurgan.networks import Discriminator, Generator, Latent
from schurgan.normality import departure_from_normality
from schurgan.training.losses import LOSSES

TIMED = 16
METHODS: dict[str, dict[str, object]] = {
    "exact": {},
    "hybrid": {},
    "hybrid, factor 4": {"method": "hybrid", "factor": 4},
    "perron": {},
    "asymmetry": {},
    "moments": {},
    "paper_symmetric": {},
    "paper_determinant": {},
}
AIMS = {"exact": 2.2, "hybrid": 0.9, "hybrid, factor 4": 0.25, "perron": 0.1, "asymmetry": 0.03}
SHARES = {"hybrid": 0.1, "perron": 0.01}


def departure(x: Tensor, name: str) -> Tensor:
    return departure_from_normality(x, **({"method": name} | METHODS[name]))  # type: ignore[arg-type]


def forward_backward(x: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def naive(x: Tensor) -> Tensor:
    """‖x‖² − Σ|λ|² as torch differentiates it."""
    return x.square().sum((-2, -1)) - torch.linalg.eigvals(x.double()).abs().square().sum(-1)


def schur(x: np.ndarray) -> float:
    triangle, _ = scipy.linalg.schur(x, output="complex")
    return float(np.square(np.abs(np.triu(triangle, 1))).sum())


def rounds(runs: dict[str, Callable[[], object]], count: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each run in each round; what raises is left out, with a line that says so."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(count + 1):
        for name in list(times):
            start = clock()
            try:
                runs[name]()
            except torch.linalg.LinAlgError as error:
                print(f"{name}: not measured, it raises ({str(error).splitlines()[0]})")
                del times[name]
                continue
            if number:  # the first warms up
                times[name].append(clock() - start)
    return times


def verdict(ratio: float, aim: float | None) -> str:
    return "" if aim is None else f"≤ {aim:g} {'held' if ratio <= aim else 'MISSED'}"


def costs(title: str, x: Tensor, count: int) -> None:
    doubles = x.double()
    runs: dict[str, Callable[[], object]] = {"torch.linalg.eigvals": lambda: torch.linalg.eigvals(doubles)}
    for name in METHODS:
        # perron is for [0, 1]; it costs the same whatever the entries
        runs[name] = partial(forward_backward, x, partial(departure, name=name))
    runs["exact, no gradient"] = lambda: departure(x, "exact")
    runs["hybrid, no gradient"] = lambda: departure(x, "hybrid")
    runs["naive autograd of eigvals"] = partial(forward_backward, x, naive)
    runs["SciPy's complex Schur form, no gradient"] = lambda: [schur(each) for each in doubles.numpy()]
    times = rounds(runs, count, time.process_time)
    unit = times["torch.linalg.eigvals"]
    print(f"\n| {title}, {x.shape[-1]}², one thread | CPU ms a matrix | over eigvals | aim |\n|---|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, unit, strict=True))
        cost = 1e3 * statistics.median(values) / len(x)
        print(f"| {name} | {cost:.3f} | {ratio:.3g}x | {verdict(ratio, AIMS.get(name))} |")


def threads(x: Tensor, count: int) -> None:
    def run(number: int, name: str) -> None:
        torch.set_num_threads(number)
        forward_backward(x, partial(departure, name=name))

    print(f"\nLoad before: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    print("\n| 64 matrices, forward and backward | one thread, ms | two, ms | gain, median | best round |")
    print("|---|---|---|---|---|")
    for name in ("exact", "hybrid"):
        times = rounds({"1": partial(run, 1, name), "2": partial(run, 2, name)}, count, time.perf_counter)
        gains = [a / b for a, b in zip(times["1"], times["2"], strict=True)]
        best = min(times["1"]) / min(times["2"])
        medians = [1e3 * statistics.median(values) for values in times.values()]
        print(f"| {name} | {medians[0]:.0f} | {medians[1]:.0f} | {statistics.median(gains):.2f}x | {best:.2f}x |")
    torch.set_num_threads(1)


def shares(count: int, channels: int, batch: int = 32) -> None:
    torch.manual_seed(0)
    shape = {"width": 16, "classes": 10, "channels": channels}
    generator = Generator.from_preset("proposed-128", **shape)
    discriminator = Discriminator.from_preset("proposed-128", **shape)
    latent, loss = Latent(generator.latent_dim), LOSSES["hinge"]
    noise = torch.Generator().manual_seed(0)
    labels = torch.arange(batch) % 10
    real = 2 * torch.rand(batch, channels, 128, 128, generator=noise) - 1
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    optimizers = [torch.optim.Adam(network.parameters(), 1e-5, fused=True) for network in (generator, discriminator)]

    def step() -> None:
        with torch.no_grad():
            fake = generator(latent.sample(batch, noise), labels)
        both = torch.cat([real, fake]).contiguous(memory_format=torch.channels_last)
        scores = discriminator(both, labels.repeat(2)).chunk(2)
        optimizers[1].zero_grad()
        loss.discriminator(*scores).backward()
        optimizers[1].step()
        discriminator.requires_grad_(False)
        optimizers[0].zero_grad()
        fake = generator(latent.sample(batch, noise), labels)
        loss.generator(labels[:0], discriminator(fake, labels)).backward()
        optimizers[0].step()
        discriminator.requires_grad_(True)

    with torch.no_grad():
        images = generator(latent.sample(batch, noise), labels)
    runs: dict[str, Callable[[], object]] = {"step without": step}
    for name in ("exact", "hybrid", "hybrid, factor 4", "perron", "asymmetry", "moments"):
        x = (images + 1) / 2 if name == "perron" else images
        runs[name] = partial(forward_backward, x, partial(departure, name=name))
    times = rounds(runs, count, time.process_time)
    without = times.pop("step without")
    print(f"\n| proposed-128, width 16, {batch} images of {channels} channels | CPU ms | share of the step | aim |")
    print(f"|---|---|---|---|\n| step without | {1e3 * statistics.median(without):.0f} | | |")
    for name, values in times.items():
        share = statistics.median(a / (a + b) for a, b in zip(values, without, strict=True))
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {share:.2%} | {verdict(share, SHARES.get(name))} |")


def soundscapes(count: int) -> Tensor:
    source = open_source("soundscape", per_class=-(-count // 8), seconds=2.0)
    encode = Spectrogram(size=128, channels=1, n_samples=32_000).encode
    return torch.cat([encode(source.load(item, 16_000)[None, :32_000])[0][:, 0] for item in source.items()[:count]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder made by `schurgan prepare`; soundscapes at 128² by default")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data:
        shards = Shards(args.data)
        images = shards.images(np.linspace(0, len(shards) - 1, 64).astype(int))[:, 0].contiguous()
    else:
        images = soundscapes(64)
    gauss = torch.randn(TIMED, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    costs(args.data.name if args.data else "soundscapes", images[:: len(images) // TIMED], args.rounds)
    costs("Gaussian", gauss, args.rounds)
    threads(images, args.rounds)
    for channels in (1, 3):
        shares(min(args.rounds, 3), channels)  # a step takes many seconds


if __name__ == "__main__":
    main()
