"""One training step of biggan-128 on one thread: CPU seconds, where they go, and peak memory.

    python benchmarks/bench_step.py [--widths 16 32] [--repeats 5] [--biggan-pytorch FOLDER] [--also bf16 compiled]

128×128 pixels, batch 8, 10 classes, hinge loss, spectral norm on G and D, z of 120 in chunks, a shared embedding of
128, attention on 64×64, Adam; one update of D, one of G. Each round takes one step of every implementation, after one
that does not count, so that a busy machine slows all of them alike; the table has medians. `--biggan-pytorch` names a
checkout of ajbrock/BigGAN-PyTorch and runs its own classes beside ours. Parts are shares of the profiler's time: what
runs inside an attention layer, a convolution, a batch norm, a spectral norm or an optimiser, the innermost of them,
backward passes with the operation that they belong to. The peak is that of a process of its own, two steps, less what
it held after its imports.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile, record_function

from schurgan.networks import Discriminator, Generator, Latent, SelfAttention, SpectralNorm
from schurgan.networks.layers import ConditionalBatchNorm2d
from schurgan.training.losses import LOSSES

BATCH, CLASSES, PIXELS = 8, 10, 128
ADAM: dict[str, Any] = {"betas": (0.0, 0.999), "eps": 1e-6}
PARTS = ("attention", "convolutions", "batch norm", "spectral norm", "optimizer", "rest")
Step = Callable[[], None]
Networks = tuple[nn.Module, nn.Module]


def ours(width: int, variant: str = "") -> tuple[Step, Networks]:
    """As in training: channels_last networks, the fused optimiser, G's weights still in D's phase and D's in G's."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": width, "classes": CLASSES, "spectral_norm": True}
    g = Generator.from_preset("biggan-128", **options).to(memory_format=torch.channels_last)
    d = Discriminator.from_preset("biggan-128", **options).to(memory_format=torch.channels_last)
    adam_g = torch.optim.Adam(g.parameters(), 5e-5, fused=True, **ADAM)
    adam_d = torch.optim.Adam(d.parameters(), 2e-4, fused=True, **ADAM)
    latent, loss, labels = Latent(g.latent_dim), LOSSES["hinge"], torch.arange(BATCH)
    real = images()
    networks = (g, d)
    if variant == "compiled":
        g.compile()
        d.compile()

    def optimise(optimizer: torch.optim.Optimizer, value: Tensor) -> None:
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            with torch.no_grad():
                fake = g(latent.sample(BATCH), labels)
            both = torch.cat([real.to(fake), fake]).contiguous(memory_format=torch.channels_last)
            scores = d(both, labels.repeat(2)).float().chunk(2)
        optimise(adam_d, loss.discriminator(*scores))
        d.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            score = d(g(latent.sample(BATCH), labels), labels).float()
        optimise(adam_g, loss.generator(score[:0], score))
        d.requires_grad_(True)

    return step, networks


def biggan_pytorch(folder: Path, width: int) -> tuple[Step, Networks]:
    """The other's networks and optimisers as they are; its step, with gradients toggled, as its training function."""
    sys.path.insert(0, str(folder))
    import BigGAN
    import losses

    torch.manual_seed(0)
    common = {"resolution": PIXELS, "n_classes": CLASSES, "adam_eps": ADAM["eps"], "SN_eps": 1e-6}
    g = BigGAN.Generator(G_ch=width, dim_z=120, G_attn="64", G_shared=True, shared_dim=128, hier=True, **common)
    d = BigGAN.Discriminator(D_ch=width, D_attn="64", **common)
    both = BigGAN.G_D(g, d)
    real, labels = images(), torch.arange(BATCH)

    def step() -> None:
        d.requires_grad_(True)
        g.requires_grad_(False)
        g.optim.zero_grad()
        d.optim.zero_grad()
        fake_score, real_score = both(torch.randn(BATCH, 120), labels, real, labels, train_G=False)
        loss_real, loss_fake = losses.discriminator_loss(fake_score, real_score)
        (loss_real + loss_fake).backward()
        d.optim.step()
        d.requires_grad_(False)
        g.requires_grad_(True)
        g.optim.zero_grad()
        losses.generator_loss(both(torch.randn(BATCH, 120), labels, train_G=True)).backward()
        g.optim.step()

    return step, (g, d)


def images() -> Tensor:
    return torch.rand(BATCH, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)) * 2 - 1


def kind(module: nn.Module) -> str | None:
    """The part that a module belongs to, None for one that only holds others."""
    other: ModuleType | None = sys.modules.get("layers")
    groups = {
        "attention": (SelfAttention, getattr(other, "Attention", SelfAttention)),
        "batch norm": (
            ConditionalBatchNorm2d,
            nn.BatchNorm2d,
            *(getattr(other, n, nn.BatchNorm2d) for n in ("ccbn", "bn")),
        ),
        "spectral norm": (SpectralNorm,),
        "convolutions": (nn.Conv2d,),
    }
    return next((part for part, types in groups.items() if isinstance(module, types)), None)


def mark(networks: Networks) -> None:
    """Let every module of a part name it to the profiler while it runs."""
    for module in (module for network in networks for module in network.modules()):
        part = kind(module)
        if part is not None:
            module.forward = named(part, module.forward)  # type: ignore[method-assign]
        if hasattr(module, "W_"):  # the other's spectral norm is a method of its layers
            module.W_ = named("spectral norm", module.W_)


def named(part: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*arguments: Any) -> Tensor:
        with record_function(f"part:{part}"):
            return run(*arguments)

    return call


def shares(step: Step, networks: Networks) -> dict[str, float]:
    """The share of each part in the time of one step. Leaves the networks marked."""
    mark(networks)
    with profile() as profiler:
        step()
    events = [event for event in profiler.events() or [] if event.cpu_time_total or event.cpu_children]
    owners: dict[int, str] = {}  # of backward nodes: the last operation that had their number made them
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not is_backward(event):
            owners[event.sequence_nr] = place(event, owners)
    total: dict[str, float] = defaultdict(float)
    for event in events:
        total[place(event, owners)] += event.self_cpu_time_total
    return {part: total[part] / sum(total.values()) for part in PARTS}


def is_backward(event: FunctionEvent | None) -> bool:
    return event is not None and ("evaluate_function" in event.name or is_backward(event.cpu_parent))


def place(event: FunctionEvent | None, owners: dict[int, str]) -> str:
    """The innermost part that an event runs in."""
    if event is None:
        return "rest"
    if event.name.startswith("part:"):
        return event.name.removeprefix("part:")
    if event.name.startswith("Optimizer."):
        return "optimizer"
    if "evaluate_function" in event.name:
        return owners.get(event.sequence_nr, "rest")
    return place(event.cpu_parent, owners)


def peak(name: str, width: int, folder: Path | None) -> float:
    """MiB of a case in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--widths", str(width)]
    command += ["--biggan-pytorch", str(folder)] if folder else []
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def resident() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def build(name: str, folder: Path | None, width: int) -> tuple[Step, Networks]:
    if name == "BigGAN-PyTorch":
        assert folder is not None
        return biggan_pytorch(folder, width)
    return ours(width, name.removeprefix("schurgan").strip(", "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--biggan-pytorch", type=Path, metavar="FOLDER")
    parser.add_argument("--also", nargs="+", default=[], choices=["bf16", "compiled"], help="variants of ours")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.biggan_pytorch
    if options.peak is not None:
        before = resident()
        step, _ = build(options.peak, folder, options.widths[0])
        step()
        step()
        print(resident() - before)
        return
    names = ["schurgan", *(f"schurgan, {variant}" for variant in options.also)]
    names += ["BigGAN-PyTorch"] if folder else []
    # Before anything else: on Linux a new process's peak begins at that of the process that started it.
    peaks = {(width, name): peak(name, width, folder) for width in options.widths for name in names}
    print("| width | | CPU s | of the last | MiB | " + " | ".join(PARTS) + " |\n|" + "---|" * (5 + len(PARTS)))
    for width in options.widths:
        cases = {name: build(name, folder, width) for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for i in range(options.repeats + 1):
            for name, (step, _) in cases.items():
                start = time.process_time()
                step()
                if i:
                    times[name].append(time.process_time() - start)
        median = {name: statistics.median(values) for name, values in times.items()}
        for name in names:
            parts = {} if "compiled" in name else shares(*cases[name])
            row = [f"{median[name] * parts[part]:.2f}" if parts else "" for part in PARTS]
            figures = f"{median[name]:.2f} | {median[name] / median[names[-1]]:.2f}x | {peaks[width, name]:.0f}"
            print(f"| {width} | {name} | {figures} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
