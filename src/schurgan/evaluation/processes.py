"""What an evaluation needs of the processes that share it, and the one process that shares it with nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from schurgan.core.progress import Bar

Result = TypeVar("Result")


class Processes(Protocol):
    """As `training.distributed.World` is, whose methods are collectives."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        ...

    def check(self, task: Callable[[], object]) -> None: ...
    def in_turn(self, task: Callable[[], Result]) -> Result: ...
    def gather_rows(self, rows: Tensor) -> Tensor: ...
    def broadcast_object(self, value: Any = None) -> Any: ...


@dataclass(frozen=True)
class Alone:
    """One process on one device."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1
    is_main: bool = True

    def check(self, task: Callable[[], object]) -> None:
        task()

    def in_turn(self, task: Callable[[], Result]) -> Result:
        return task()

    def gather_rows(self, rows: Tensor) -> Tensor:
        return rows.detach()

    def broadcast_object(self, value: Any = None) -> Any:
        return value


def shared(
    world: Processes,
    count: int,
    work: Callable[[int], tuple[Tensor, ...]],
    progress: Callable[[int, int], None],
) -> tuple[Tensor, ...]:
    """The rows of work(0), …, work(count − 1), one after another, on every process: each does a stretch of them.

    A piece of work is done by one process as it would be by one that is alone, so the result is the same to the bit
    where the machines are. `count` is 1 or more; work(k) returns tensors with the same number of them, types and
    widths for every k. progress is called with the pieces done here and their number.
    """
    mine = range(world.rank * count // world.size, (world.rank + 1) * count // world.size)
    parts = []
    for number in mine:
        parts.append(work(number))
        progress(number - mine.start + 1, len(mine))
    if not parts:  # more processes than work: the shape of nothing is that of something
        parts = [tuple(rows[:0] for rows in work(0))]
    return tuple(world.gather_rows(torch.cat(rows)) for rows in zip(*parts, strict=True))


class Meter:
    """`with Meter(world, "real images") as meter: meter(done, total)`: a bar of the main process, once called."""

    def __init__(self, world: Processes, what: str, unit: str = "it") -> None:
        self._what, self._unit, self._quiet = what, unit, not world.is_main
        self._bar: Bar | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._bar is None:
            self._bar = Bar(self._what, total, self._unit).__enter__()
        self._bar.update(done)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
