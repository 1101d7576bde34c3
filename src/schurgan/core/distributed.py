"""Several processes, one for each GPU (or part of a CPU), that train one network together.

with join("auto") as world:                       # alone, or one of what torchrun or srun started
    network = replicate(network, world)
    ...
    if world.is_main: save()

What the loop owes to the others:

- Every process calls the same collectives in the same order. So whatever decides about one (a stop that was asked for,
  a rollback, the end) is decided by one process and told by `broadcast_object`, or by a sum over all.
- What only the main process does (files, pictures, scores) must take less than the timeout, and must run no collective,
  nor a batch norm over processes: see `networks.cross_replica.local_statistics`.
- `torchrun --max-restarts N` answers a failed process by ending the others with SIGTERM and starting all of them anew,
  same command, up to N times. So a run goes on where its folder holds a state of its own: the main process looks for
  the newest whole checkpoint, tells the others its step, and all of them load it. SIGTERM asks for a checkpoint after
  the step in hand; with a process gone that step cannot end, and the error that `join` makes of it must end the process
  with a status other than 0.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schurgan.core.errors import UserError

Result = TypeVar("Result")
_FAILED = "schurgan/failed"
_MEETINGS = itertools.count()


@dataclass(frozen=True)
class World:
    """This process among all: its number `rank` of `size`, its number on this machine, and its device.

    The methods are collectives: every process calls them, in the same order. Alone, they give back what they are given.
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
        """Wait until every process is here. What they gave to a GPU may still be under way."""
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
        """The main process's value, on all of them: what JSON holds (so a tuple comes back as a list), never pickled.

        Raises TypeError on the main process for anything else.
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
        """Whether it is true on any process."""
        return bool(self.sum_over(torch.tensor(float(flag))) > 0)

    def check(self, task: Callable[[], object]) -> None:
        """Let the main process do something; its UserError is then raised on all of them."""
        said = None
        if self.is_main:
            try:
                task()
            except UserError as error:
                said = str(error)
        if (said := self.broadcast_object(said)) is not None:
            raise UserError(said)

    def in_turn(self, task: Callable[[], Result]) -> Result:
        """`task()` of each process, the main one's first: what it leaves in a cache, the others find there."""
        if self.is_main:
            result = task()
        self.barrier()
        return result if self.is_main else task()

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks, on all of them: (n, ...) each  ->  (Σ n, ...).

        n may differ and may be 0, the rest of the shape and the type may not. Not differentiable.
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


class Placement(NamedTuple):
    """Where a launcher put this process, and the address at which all of them meet."""

    rank: int
    size: int
    local_rank: int
    meeting: str


def find_placement(environment: Mapping[str, str]) -> Placement | None:
    """What torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) or srun set; None where neither did.

    Of SLURM only the variables of a step count: in a batch script, which is one process, those of the job speak of
    tasks that nobody started. The meeting place is the step's first machine, and a port made from the job's number,
    unless MASTER_ADDR and MASTER_PORT say otherwise. Raises UserError for variables that are no numbers or missing.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        rank, size, local = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        for name in ("MASTER_ADDR", "MASTER_PORT") if size > 1 else ():
            _text(environment, name)
        meeting = "env://"
    elif "SLURM_STEP_NUM_TASKS" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
        rank, size, local, job = (_number(environment, name) for name in names)
        host = environment.get("MASTER_ADDR") or first_host(_text(environment, "SLURM_STEP_NODELIST"))
        meeting = f"tcp://{host}:{environment.get('MASTER_PORT') or 15000 + job % 15000}"
    else:
        return None
    if not 0 <= rank < size:
        raise UserError(f"process {rank} of {size}: the launcher's variables name a process that cannot be")
    return Placement(rank, size, local, meeting)


def first_host(nodes: str) -> str:
    """The first of SLURM's list of machines: "gpu[03-05,9],fat1"  ->  "gpu03". UserError for what is no such list."""
    found = re.match(r"([^,\[\]]+)(?:\[(\w+)[^\]]*\]([^,\[\]]*))?(?:,|$)", nodes)
    if found is None:
        raise UserError(f'SLURM_STEP_NODELIST: "{nodes}" given, a list of machines is needed; set MASTER_ADDR')
    return "".join(part or "" for part in found.groups())


def choose_device(name: str, placement: Placement | None = None) -> torch.device:
    """The device called so; "auto" takes a GPU where there is one, and each of several processes its own.

    Raises UserError for a device that is not there, and where there are more processes than GPUs on a machine.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        needed = '"cpu", "cuda" or "auto" is needed'
        raise UserError(f'--train.device: "{name}" given, no such device here; {needed}') from None
    if placement is None or placement.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f'--train.device: "{name}" given to {placement.size} processes, "cuda" gives each its own')
    gpus = torch.cuda.device_count()
    if gpus == 1 and placement.meeting != "env://":
        return torch.device("cuda", 0)  # srun showed each of its processes one GPU alone
    if placement.local_rank >= gpus:
        raise UserError(
            f"process {placement.local_rank + 1} on this machine, which has {gpus} GPUs: one process a GPU is needed"
        )
    return torch.device("cuda", placement.local_rank)


def restarted() -> bool:
    """Whether torchrun started this process anew, because one of those before it was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def join(device: str = "auto", *, timeout: float = 600.0) -> Iterator[World]:
    """Inside, this process works together with those that the same launcher started; alone where there was none.

    NCCL carries what lies on GPUs and gloo what lies on a CPU. timeout: seconds after which a process that others wait
    for counts as lost. A process that leaves by an error tells the others why, and closes its connections; their next
    collective then ends in a UserError that repeats it, instead of waiting for the timeout. Raises UserError when the
    processes do not meet in that time, or a device is missing.
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
        raise UserError(reason) from error
    else:
        _leave(failed=False)


def replicate(network: nn.Module, world: World) -> nn.Module:
    """`network` such that its gradients are the means over the processes'; itself where there is one.

    It starts with the main process's parameters and buffers. Later each process has its own buffers: batch norm over
    all processes and spectral norm reach the same ones everywhere, and overwriting them between two forward passes of
    one backward pass would be an error. Run the plain network where no gradient of its own is wanted: what is
    generated for D, D in the step of G, gradient penalties.
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
    """Inside, gradients of a replicated network add up on this process; the first backward pass outside shares them.

    Forward and backward pass both belong inside. Nothing for a plain network.
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
        said = _one_line(error)
        raise UserError(
            f"process {world.rank} of {world.size} did not meet the others in {timeout:g} s: {said}"
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
            store.compare_set(_FAILED, "", f"process {world.rank} failed: {_one_line(error)}")
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


def _one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"


def _number(environment: Mapping[str, str], name: str) -> int:
    if name == "LOCAL_RANK":  # some launchers give each process a machine of its own, and leave it out
        environment = {name: "0"} | dict(environment)
    text = _text(environment, name)
    if not text.isdecimal():
        raise UserError(f'{name}: "{text}" given by the launcher, a whole number is needed')
    return int(text)


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UserError(
            f"{name}: not set by the launcher, and needed by several processes; start them by torchrun or srun"
        )
    return environment[name]
