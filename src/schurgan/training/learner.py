"""What a step wraps around a network: number formats, guarded updates, gradient accumulation and seeded noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from schurgan.core.distributed import World, accumulating, current_world, replicate
from schurgan.networks import Latent
from schurgan.networks.spectral import frozen_power_iterations

Format = Literal["fp32", "tf32", "bf16", "fp16"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the networks of a run compute on `device`. Weights, optimisers, losses and scores stay in float32.

    fp32   float32 throughout: a GPU's convolutions too, for which torch takes TF32 otherwise
    tf32   products of matrices and convolutions with 10 bits of mantissa on a GPU that can; on a CPU the same as fp32
    bf16   autocast to bfloat16: float32's range, 8 bits
    fp16   autocast to float16: 11 bits, and so small a range that losses need a `LossScale`
    """

    def __init__(self, name: Format, device: torch.device) -> None:
        if name not in get_args(Format):
            raise ValueError(f'precision: "{name}" given, one of {", ".join(get_args(Format))} is needed')
        self.name, self.device = name, device

    def autocast(self) -> AbstractContextManager[object]:
        """Around a network's forward pass, not around losses; without effect in float32."""
        half = _HALF.get(self.name)
        return torch.autocast(self.device.type, dtype=half, enabled=half is not None)

    def loss_scale(self) -> LossScale | None:
        """A new one for "fp16", which each optimiser needs for itself; None for the formats that need none."""
        return LossScale().to(self.device) if self.name == "fp16" else None

    @contextmanager
    def switches(self) -> Iterator[None]:
        """Around a run: torch's own switches for TF32 are as the format says, and after it as they were before."""
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        try:
            matmul.allow_tf32 = cudnn.allow_tf32 = self.name != "fp32"
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before


class LossScale(nn.Module):
    """A factor on a loss that keeps its gradients above what float16 rounds to 0 (Micikevicius et al. 2018).

    Halved at each step whose gradients are not finite, doubled after `interval` steps that were. As
    `torch.amp.GradScaler`, but that it can share its verdict with losses and other processes (`guarded_step`), and that
    its state may be saved without waiting for the device.
    """

    value: Tensor
    streak: Tensor
    interval = 2000

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(2.0**16))
        self.register_buffer("streak", torch.tensor(0))

    def apply(self, loss: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss times the scale."""
        return loss * self.value

    def update(self, skipped: Tensor) -> None:
        """Halve the scale after a step that was skipped; double it after `interval` that were not."""
        bad = skipped > 0
        streak = torch.where(bad, 0, self.streak + 1)
        grown = streak >= self.interval
        self.value.copy_(torch.where(bad, self.value / 2, torch.where(grown, self.value * 2, self.value)))
        self.streak.copy_(torch.where(grown, 0, streak))


@torch.no_grad()
def guarded_step(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], scale: LossScale | None = None) -> Tensor:
    """`optimizer.step()`, left out where a loss or the gradients' norm is not finite; on all processes if on one.

    A step left out changes no weight, no moment and no count of steps. What else a step changes (moving averages,
    running statistics) is the caller's. A norm above 1e19, whose square float32 cannot hold, counts as not finite.

    Args:
        optimizer: one with fused=True: its kernel reads on the device whether to do anything.
        losses: scalars that must be finite too, on each process.
        scale: the factor that the gradients have; it is updated.

    Returns:
        1.0 for a step left out, else 0.0; on the device.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ValueError(f"optimizer: {type(optimizer).__name__} is not fused, fused=True is needed to guard its steps")
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    numbers = torch.stack([norm, *(loss.detach().to(norm).sum() for loss in losses)])
    skipped = current_world().max_over(1 - numbers.isfinite().all().to(torch.float32))
    # Attributes that torch's own GradScaler sets, and every fused kernel reads.
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.grad_scale = None if scale is None else scale.value  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    if scale is not None:
        scale.update(skipped)
    return skipped


class Noise:
    """The random numbers of rows `start` to `start + count` − 1 of a batch of `total`.

    They are the same however many processes and parts the batch is shared out to: every draw is made for the whole
    batch, by a generator that `key` seeds, and cut.
    """

    def __init__(self, *key: int, start: int, count: int, total: int) -> None:
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        self.generator = torch.Generator().manual_seed(int(seed))
        self.rows, self.count, self.total = slice(start, start + count), count, total

    def uniform(self, n: int, *shape: int) -> Tensor:
        """U[0, 1) as (n, *shape), n a multiple of the rows: for each copy of the batch its own numbers."""
        draws = torch.rand(n // self.count, self.total, *shape, generator=self.generator)
        return draws[:, self.rows].flatten(0, 1)

    def latent(self, latent: Latent) -> Tensor:
        """Return z (count, dim)."""
        return latent.sample(self.total, self.generator)[self.rows]


def uniform(noise: torch.Generator | Noise, n: int, *shape: int) -> Tensor:
    """U[0, 1) as (n, *shape): plain ones of a loop that shares nothing out, or some rows of a batch's."""
    return noise.uniform(n, *shape) if isinstance(noise, Noise) else torch.rand(n, *shape, generator=noise)


@dataclass(frozen=True)
class Part:
    """A part of a process's share of a batch, with random numbers of its own."""

    rows: slice
    last: bool
    noise: Noise

    def power_iterations(self, network: nn.Module, again: bool = False) -> AbstractContextManager[object]:
        """Inside, power iterations of `network` move on with the first part alone, and only the first time."""
        return frozen_power_iterations(network) if self.rows.start or again else nullcontext()


def cut(count: int, size: int, key: tuple[int, int, int], *, first: int, total: int) -> list[Part]:
    """Cut a process's `count` rows, from `first` on in a batch of `total`, into parts of `size`.

    Each has the noise that its images have in the whole batch, seeded by `key`, (seed, phase, step).
    """
    parts = []
    for start in range(0, count, size):
        stop = min(start + size, count)
        noise = Noise(*key, start=first + start, count=stop - start, total=total)
        parts.append(Part(slice(start, stop), stop == count, noise))
    return parts


class Learner:
    """A network that a step trains: its optimiser, its loss scale, its compiled and its replicated form."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, world: World, compile: bool
    ) -> None:
        self.network, self.optimizer, self.scale = network, optimizer, precision.loss_scale()
        self.local = cast(nn.Module, torch.compile(network)) if compile else network
        self.replicated = replicate(self.local, world)  # averages gradients over the processes on the way
        self.rehearsing = False  # whether `update` does nothing

    def scaled(self, loss: Tensor) -> Tensor:
        """Apply the loss scale, if the precision needs one."""
        return loss if self.scale is None else self.scale.apply(loss)

    @contextmanager
    def backward_of(self, part: Part, again: bool = False) -> Iterator[None]:
        """Inside, a part goes forward and backward; the processes share gradients with the last part."""
        unshared = nullcontext() if part.last else accumulating(self.replicated)
        with part.power_iterations(self.network, again), unshared:
            yield

    def update(self, loss: Tensor) -> Tensor:
        """Take the optimiser's step unless something is not finite; return 1 for a fault, else 0, on the device.

        In float16 that is how the scale of the loss is found, and a fault where there is no scale left to try.
        """
        if self.rehearsing:
            return torch.zeros_like(loss)
        skipped = guarded_step(self.optimizer, [loss], self.scale)
        return skipped if self.scale is None else skipped * (self.scale.value < 1)


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `network` take no gradient."""
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
