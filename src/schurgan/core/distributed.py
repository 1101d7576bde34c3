"""Several processes, one for each GPU (or part of a CPU), that train one network together.

with join("auto") as world:                       # alone, or one of what torchrun or srun started
    network = replicate(network, world)
    ...
    if world.is_main: save()

- Every process calls the same collectives in the same order. So one process decides about a stop, a rollback or the end
  and tells the others by `broadcast_object`, or all decide by a sum.
- What only the main process does (files, pictures, scores) must take less than the timeout and run no collective, nor a
  batch norm over processes: see `networks.batch_norm.local_statistics`.
- `torchrun --max-restarts N` answers a failed process by ending the others with SIGTERM and starting all of them anew,
  up to N times. The main process then looks for the newest whole checkpoint, and all of them load it.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schurgan.core.errors import SchurganError, one_line, writing
from schurgan.core.files import lock
from schurgan.core.launch import Placement, choose_device, find_placement

Result = TypeVar("Result")
_FAILED = "schurgan/failed"
_MEETINGS = itertools.count()


@dataclass(frozen=True)
class World:
    """This process among all: its number `rank` of `size`, its number on this machine, and its device.

    The methods are collectives: every process calls them, in the same order. Alone, they return what they get.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here; work on a GPU may still be under way."""
        self.sum_over(torch.zeros(()))

    def sum_over(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, which have the same shape."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max_over(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum of the processes' tensors, which have the same shape."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        result = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, operation)
        return result

    def stack(self, values: Tensor) -> Tensor:
        """Return the processes' tensors, which have the same shape, in the order of their ranks: (size, ...)."""
        if self.size == 1:
            return values.detach()[None]
        own = values.detach().contiguous()
        as_bytes = own[None].view(torch.uint8) if own.ndim else own[None, None].view(torch.uint8)
        parts = [torch.empty_like(as_bytes) for _ in range(self.size)]  # not every backend carries every type
        dist.all_gather(parts, as_bytes)
        return torch.stack([part.view(own.dtype).view(own.shape) for part in parts])

    def broadcast_object(self, value: Any = None) -> Any:
        """Return the main process's value, which JSON must be able to hold; a tuple comes back as a list.

        Raises:
            TypeError: JSON cannot hold the value (on the main process).
        """
        if self.size == 1:
            return value
        text = torch.tensor(list(json.dumps(value).encode()) if self.is_main else [], dtype=torch.uint8)
        length = self.sum_over(torch.tensor(len(text)))
        if not self.is_main:
            text = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""
        return bool(self.sum_over(torch.tensor(float(flag))) > 0)

    def check(self, task: Callable[[], object]) -> None:
        """Let the main process do something; raise its SchurganError on all of them."""
        message = None
        if self.is_main:
            try:
                task()
            except SchurganError as error:
                message = str(error)
        if (message := self.broadcast_object(message)) is not None:
            raise SchurganError(message)

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold the lock of a folder, see `core.files.lock`: the main process has it for all of them."""
        with ExitStack() as held:

            def take() -> None:
                with writing(folder):
                    held.enter_context(lock(folder))

            self.check(take)
            yield

    def in_turn(self, task: Callable[[], Result]) -> Result:
        """Return `task()`, which the main process does first: what it leaves in a cache, the others find there."""
        if self.is_main:
            result = task()
        self.barrier()
        return result if self.is_main else task()

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of their ranks: (n, ...) each -> (Σ n, ...).

        n may differ and may be 0; the rest of the shape and the type may not. Not differentiable.
        """
        if self.size == 1:
            return rows.detach()
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        lengths = self.sum_over(counts).tolist()
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        if not padded.numel():
            return rows.new_zeros((sum(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        return torch.cat([part[:length] for part, length in zip(self.stack(padded), lengths, strict=True)])

    def share(
        self,
        count: int,
        work: Callable[[int], tuple[Tensor, ...]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Tensor, ...]:
        """Do work(0), ..., work(count - 1), each process a stretch of them, and return their rows on every process.

        One process does a piece as it would alone, so the result is the same to the bit where the machines are.

        Args:
            count: pieces of work, 1 or more.
            work: returns for each piece tensors with equally many rows, of the same types and widths.
            progress: is called with the pieces done here and their number.

        Returns:
            The rows of all pieces, in their order.
        """
        mine = range(self.rank * count // self.size, (self.rank + 1) * count // self.size)
        parts = []
        for number in mine:
            parts.append(work(number))
            progress(number - mine.start + 1, len(mine))
        if not parts:  # more processes than work: no rows, of the right shapes
            parts = [tuple(rows[:0] for rows in work(0))]
        return tuple(self.gather_rows(torch.cat(rows)) for rows in zip(*parts, strict=True))


def current_world() -> World:
    """Return the processes of the default process group, or one process where there is none; its device is the CPU."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def join(device: str = "auto", *, timeout: float = 600.0) -> Iterator[World]:
    """Work together with the processes that the same launcher started; alone where there was none.

    NCCL carries what lies on GPUs and gloo what lies on a CPU. A process that leaves by an error tells the others why,
    and closes its connections; their next collective then ends in a SchurganError that repeats it.

    Args:
        device: see `choose_device`.
        timeout: seconds after which a process that others wait for counts as lost.

    Raises:
        SchurganError: the processes do not meet in that time, or a device is missing.
    """
    placement = find_placement(os.environ)
    world = World(device=choose_device(device, placement))
    if placement is None or placement.size == 1:
        yield world
        return
    world = World(placement.rank, placement.size, placement.local_rank, world.device)
    store = _meet(placement, world, timeout)
    try:
        yield world
    except BaseException as error:
        reason = _why(error, store, world, timeout)
        _leave(failed=True)
        if reason is None:
            raise
        raise SchurganError(reason) from error
    else:
        _leave(failed=False)


def replicate(network: nn.Module, world: World) -> nn.Module:
    """Wrap `network` so that its gradients are the means over the processes; return it as it is where there is one.

    It starts with the main process's parameters and buffers. Later each process has its own buffers: batch norm over
    all processes and spectral norm reach the same ones everywhere, and overwriting them between two forward passes of
    one backward pass would be an error. Run the plain network where its weights need no gradient: images for D, D in
    the step of G, gradient penalties.
    """
    if world.size == 1:
        return network
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
    # torch 2.13 renamed the option, and warns of the old name.
    known = signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    gpu = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=gpu, gradient_as_bucket_view=True, **options)


def accumulating(network: nn.Module) -> AbstractContextManager[None]:
    """Add up gradients of a replicated network on this process; the first backward pass outside shares them.

    Forward and backward pass both belong inside. Does nothing for a plain network.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def _meet(placement: Placement, world: World, timeout: float) -> dist.Store:
    limit = timedelta(seconds=timeout)
    try:
        store, _, _ = next(dist.rendezvous(placement.meeting, placement.rank, placement.size, timeout=limit))
        # torchrun keeps its store over restarts, and from one meeting to the next; in it are the addresses of processes
        # that are gone, which would be waited for.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"{start}.{next(_MEETINGS)}", store)
        backend = "gloo"
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        if dist.is_initialized():
            _leave(failed=True)
        raise SchurganError(
            f"process {world.rank} of {world.size} did not meet the others in {timeout:g} s: {one_line(error)}"
        ) from error
    return store


def _why(error: BaseException, store: dist.Store, world: World, timeout: float) -> str | None:
    """The sentence about another process that failed first, None if it is this one; and tell the others of it."""
    first = None
    with suppress(RuntimeError):  # the store is gone where its process is
        store.set_timeout(timedelta(seconds=5))
        if _is_of_others(error):
            if store.check([_FAILED]):
                first = store.get(_FAILED).decode()
        else:
            kind = "" if isinstance(error, SchurganError) else f"{type(error).__name__}: "
            store.compare_set(_FAILED, "", f"process {world.rank} failed: {kind}{one_line(error)}")
    if not _is_of_others(error):
        return None
    first = first or f"another process ended, or did not answer for {timeout:g} s"
    return f"process {world.rank} of {world.size} stops: {first}"


def _is_of_others(error: BaseException) -> bool:
    """Whether a collective failed. gloo has no class of errors of its own, but names its source file in each."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _leave(failed: bool) -> None:
    # Replicas that are garbage hold the group until they are collected. Its threads end with it, and one that outlived
    # the interpreter would abort the process at its exit.
    gc.collect()
    group = dist.group.WORLD
    if failed and group is not None and hasattr(group, "abort"):
        with suppress(RuntimeError):
            group.abort()  # a collective that another process will never join must not be waited for
    with suppress(RuntimeError):
        dist.destroy_process_group()
