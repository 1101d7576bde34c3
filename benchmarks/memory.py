"""Peak memory of a training step, by what it is for; the table of docs/training.md.

    python benchmarks/memory.py --architecture proposed-256 --batch-size 512 --classes 50 --d-steps 2     two minutes

It follows what is alive through both passes, on tensors without memory: no GPU is needed, and none is measured.
"""

from __future__ import annotations

import argparse
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from schurgan.networks import Discriminator, Generator, find_architecture
from schurgan.networks.architectures import Architecture, check_sizes
from schurgan.networks.costs import bytes_of, storage_address, tensors_of
from schurgan.networks.spectral import SpectralNorm, constrain_layers


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that were alive at once of all storages made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.alive = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {storage_address(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(made):  # views and operations in place take nothing
            if isinstance(tensor, Tensor) and storage_address(tensor) not in (self._known.keys() | given):
                self._add(storage_address(tensor), tensor.untyped_storage())
        return made

    def _add(self, address: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._known[address]
            self.alive -= size

        self._known[address] = weakref.ref(storage, forget)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class LeanAttention(TorchFunctionMode):
    """Attention that makes what a fused kernel makes, and no map at any time; what it computes is not counted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return NoMap.apply(*args)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class NoMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, seen, seen[..., 0].clone())
        return seen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@dataclass(frozen=True)
class Peak:
    """Bytes that a step needs at its worst moment, by what they are for."""

    held: int
    """Weights, gradients, Adam's moments and the averaged generator: whatever the batch."""
    batch: int
    """Tensors of the size of the whole batch of images."""
    part: int
    """The most that one part of a batch needs while it is computed, forward or backward."""

    @property
    def total(self) -> int:
        """An allocator needs some per cent more: it leaves gaps, and convolutions may ask for room to work in."""
        return self.held + self.batch + self.part


def step_peak(
    architecture: Architecture,
    *,
    width: int | None = None,
    classes: int = 10,
    channels: int = 3,
    batch_size: int = 32,
    gradient_accumulation_steps: int = 1,
    d_steps: int = 1,
    half: bool = False,
) -> Peak:
    """Peak of a step whose batches come in `gradient_accumulation_steps` parts, D spectrally normalised; some seconds.

    Unlike `Costs.memory` it counts what is alive at each operation, those of the backward passes too. half: autocast to
    a format of 16 bits. Attention is a fused kernel, whose map is never whole. Not counted: the departures of DDFN.
    Raises ValueError for sizes below 1 and a batch that the parts do not divide.
    """
    check_sizes(batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, d_steps=d_steps)
    if batch_size % gradient_accumulation_steps:
        raise ValueError(f"batch_size: {batch_size} given, a multiple of {gradient_accumulation_steps} parts is needed")
    size = batch_size // gradient_accumulation_steps
    # Unlike meta tensors, fake ones are on a CPU, and so autocast knows them.
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        generator = Generator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        discriminator = Discriminator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        constrain_layers(discriminator, (), lambda weight: SpectralNorm(weight, warm_up=0).eval())
        z = torch.empty(size, generator.latent_dim)
        labels = torch.zeros(size, dtype=torch.int64)
        images = torch.empty(size, channels, *architecture.size)
        networks = (generator, discriminator)
        trained = [parameter for network in networks for parameter in network.parameters()]
        held = bytes_of(tensors_of(networks)) + 3 * bytes_of(trained) + bytes_of(tensors_of([generator]))
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)  # held already, and added to

        def generate() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                made: Tensor = generator(z, labels)
            return made.float()

        def judge(shown: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                scores: Tensor = discriminator(shown, labels.repeat(len(shown) // size))
            return scores.float().sum()

        with LeanAttention():
            with Live() as of_discriminator:
                with torch.no_grad():
                    fake = generate()
                judge(torch.cat([images, fake])).backward()  # type: ignore[no-untyped-call]
                del fake
            discriminator.requires_grad_(False)
            with Live() as of_generator:
                if gradient_accumulation_steps == 1:  # images once, held while D looks at them
                    made = generate()
                (gradient,) = torch.autograd.grad(judge(shown := images.detach().requires_grad_()), shown)
                if gradient_accumulation_steps > 1:
                    made = generate()
                (made * gradient).sum().backward()  # type: ignore[no-untyped-call]
    whole = 4 * batch_size * channels * architecture.size[0] * architecture.size[1]
    # Real images of every step of D; generated ones, their adversarial gradient, the conditions' and the sum of both.
    return Peak(held=held, batch=(d_steps + 4) * whole, part=max(of_discriminator.peak, of_generator.peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="proposed-256")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--d-steps", type=int, default=2)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4, 8], help="gradient accumulation steps")
    args = parser.parse_args()
    print("| width | precision | parts | weights, gradients, Adam, average | whole batch | a part | together, GiB |")
    for width in args.widths:
        for half in (False, True):
            for parts in args.parts:
                peak = step_peak(
                    find_architecture(args.architecture),
                    width=width,
                    classes=args.classes,
                    batch_size=args.batch_size,
                    gradient_accumulation_steps=parts,
                    d_steps=args.d_steps,
                    half=half,
                )
                sizes = [size / 2**30 for size in (peak.held, peak.batch, peak.part, peak.total)]
                figures = " | ".join(f"{size:.2f}" for size in sizes)
                print(f"| {width} | {'bf16' if half else 'fp32, tf32'} | {parts} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
