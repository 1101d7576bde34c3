"""Where a launcher (torchrun or srun) put this process, on which device it works, and new processes beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from schurgan.core.errors import SchurganError


class Placement(NamedTuple):
    """Where a launcher put this process, and the address at which all of them meet."""

    rank: int
    size: int
    local_rank: int
    meeting: str


def find_placement(environment: Mapping[str, str]) -> Placement | None:
    """Return what torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) or srun set, None without either.

    Of SLURM only the variables of a step count: in a batch script, which is one process, those of the job count tasks
    that nobody started. The processes meet on the step's first machine, at a port made from the job's number, unless
    MASTER_ADDR and MASTER_PORT say otherwise.

    Raises:
        SchurganError: a variable is missing or no number.
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
        raise SchurganError(f"process {rank} of {size}: the launcher's variables name a process that cannot be")
    return Placement(rank, size, local, meeting)


def first_host(nodes: str) -> str:
    """Return the first of SLURM's list of machines: "gpu[03-05,9],fat1" -> "gpu03"."""
    found = re.match(r"([^,\[\]]+)(?:\[(\w+)[^\]]*\]([^,\[\]]*))?(?:,|$)", nodes)
    if found is None:
        raise SchurganError(f'SLURM_STEP_NODELIST: "{nodes}" given, a list of machines is needed; set MASTER_ADDR')
    return "".join(part or "" for part in found.groups())


def choose_device(name: str, placement: Placement | None = None) -> torch.device:
    """Return the device of that name; "auto" takes a GPU where there is one, each of several processes its own.

    Raises:
        SchurganError: there is no such device, or a machine has fewer GPUs than processes.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        needed = '"cpu", "cuda" or "auto" is needed'
        raise SchurganError(f'--train.device: "{name}" given, no such device here; {needed}') from None
    if placement is None or placement.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise SchurganError(f'--train.device: "{name}" given to {placement.size} processes, "cuda" gives each its own')
    gpus = torch.cuda.device_count()
    if gpus == 1 and placement.meeting != "env://":
        return torch.device("cuda", 0)  # srun showed each of its processes one GPU alone
    if placement.local_rank >= gpus:
        raise SchurganError(
            f"process {placement.local_rank + 1} on this machine, which has {gpus} GPUs: one process a GPU is needed"
        )
    return torch.device("cuda", placement.local_rank)


def count_cores() -> int:
    """CPU cores that this process may use: a scheduler or a container may have given it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_python(function: Callable[[], None], **options: Any) -> subprocess.Popen[bytes]:
    """Call a function of this package in a new interpreter, which imports what this one does.

    Processes of `multiprocessing` would run the caller's script again, which not every script is made for. The standard
    library comes first in the path: a random.py in the current folder must not be run.

    Args:
        function: of a module; its standard input is a pipe.
        options: further ones of Popen.
    """
    homes = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    path = sorted(sys.path, key=lambda entry: entry not in homes and not entry.endswith("lib-dynload"))
    module, name = function.__module__, function.__name__
    program = f"import sys; sys.path[:] = {path!r}; from {module} import {name}; {name}()"
    command = [sys.executable, "-P", f"-Xutf8={sys.flags.utf8_mode}", "-c", program]
    # Ctrl-C is for this process alone, which ends the others.
    return subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, **options)


def restarted() -> bool:
    """Return whether torchrun started this process anew because one before it was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _number(environment: Mapping[str, str], name: str) -> int:
    if name == "LOCAL_RANK":  # some launchers give each process a machine of its own, and leave it out
        environment = {name: "0"} | dict(environment)
    text = _text(environment, name)
    if not text.isdecimal():
        raise SchurganError(f'{name}: "{text}" given by the launcher, a whole number is needed')
    return int(text)


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise SchurganError(
            f"{name}: not set by the launcher, and needed by several processes; start them by torchrun or srun"
        )
    return environment[name]
