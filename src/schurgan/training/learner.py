"""What a step wraps around a network: gradient accumulation, loss scales, power iterations that move once a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from schurgan.core.distributed import World, accumulating, replicate
from schurgan.networks.spectral import frozen_power_iterations
from schurgan.training.noise import Noise
from schurgan.training.precision import Precision, guarded_step


@dataclass(frozen=True)
class Part:
    """A part of a process's share of a batch, with random numbers of its own."""

    rows: slice
    last: bool
    noise: Noise

    @contextmanager
    def power_iterations(self, network: nn.Module, again: bool = False) -> Iterator[None]:
        """Inside, power iterations of `network` move on with the first part alone, as with a whole batch.

        Args:
            network: what the part goes through.
            again: whether all parts went through it in this step before.
        """
        with ExitStack() as stack:
            if self.rows.start or again:
                stack.enter_context(frozen_power_iterations(network))
            yield


def cut(count: int, size: int, key: tuple[int, int, int], *, first: int, total: int) -> list[Part]:
    """Cut `count` rows into parts of `size`, each with the noise that its images have in the whole batch.

    Args:
        count: rows of this process.
        size: rows of a part.
        key: seeds the noise: (seed, phase, step).
        first: place of this process's first row in the whole batch.
        total: rows of the whole batch.
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
        self.rehearsing = False
        """Whether `update` does nothing."""

    def scaled(self, loss: Tensor) -> Tensor:
        """Apply the loss scale, if the precision needs one."""
        return loss if self.scale is None else self.scale.apply(loss)

    @contextmanager
    def backward_of(self, part: Part, again: bool = False) -> Iterator[None]:
        """Inside, a part goes forward and backward; the processes share gradients with the last part."""
        with ExitStack() as stack:
            stack.enter_context(part.power_iterations(self.network, again))
            if not part.last:
                stack.enter_context(accumulating(self.replicated))
            yield

    def update(self, loss: Tensor) -> Tensor:
        """Take the optimiser's step unless something is not finite.

        In float16 that is how the scale of the loss is found, and a fault where there is no scale left to try.

        Returns:
            1 where it is a fault, else 0; a scalar on the device.
        """
        if self.rehearsing:
            return torch.zeros_like(loss)
        skipped = guarded_step(self.optimizer, [loss], self.scale).skipped
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
