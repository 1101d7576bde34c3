"""Somebody else's process: the caller's settings are put aside while the library works, and come back after it.

Every public function is `isolated`: what it does depends on its arguments alone, and nothing of it stays behind. Some
settings belong to the whole process, torch's default dtype among them: other threads see them change meanwhile, and
the last function that ends restores them.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch.backends import cudnn

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
_inside = 0  # functions that are at work, of all threads
_callers = ExitStack()  # what restores the settings of the process


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Call `function` under `own_settings`, numbers of NumPy among its arguments turned into Python's."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        plain: Callable[P, R] = functools.partial(function, *map(_plain, args), **_plain(kwargs))
        with own_settings():
            return plain()  # type: ignore[call-arg]

    return call


@contextmanager
def own_settings(*, keep_grad: bool = False) -> Iterator[None]:
    """Inside, torch's settings are those of a new process; after it they are as they were before.

    These are the default dtype and device, grad and inference mode (the caller's with `keep_grad`), autocast,
    deterministic algorithms and how exactly matrices are multiplied. The number of threads starts as it was.
    """
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        if not keep_grad:
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_of_the_process())
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global random numbers of the CPU and of `device` begin at `seed`; after it they go on as before."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        seed_alone(seed, device)
        yield


def seed_alone(seed: int, device: torch.device) -> None:
    """Seed the global random numbers of the CPU and of `device`: `torch.manual_seed` would touch every GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def _of_the_process() -> Iterator[None]:
    global _inside
    with _lock:
        if not _inside:
            _put_aside(_callers)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _callers.close()


def _put_aside(callers: ExitStack) -> None:
    """Set what belongs to the whole process to torch's defaults; closing `callers` restores what was."""

    def put(value: Any, now: Any, write: Callable[[Any], object]) -> None:
        if now != value:
            callers.callback(write, now)
            write(value)

    put(torch.float32, torch.get_default_dtype(), torch.set_default_dtype)
    now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    put((False, False), now, lambda how: torch.use_deterministic_algorithms(how[0], warn_only=how[1]))
    for name in ("benchmark", "deterministic"):
        put(False, getattr(cudnn, name), functools.partial(setattr, cudnn, name))
    # Where the caller mixed the names of torch 2.9 with the older ones, which set them too, those cannot be read.
    if hasattr(torch.backends, "fp32_precision"):
        names = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
        for each in map(operator.attrgetter, names):
            callers.callback(setattr, each(torch.backends), "fp32_precision", each(torch.backends).fp32_precision)
        operator.attrgetter("mkldnn.conv")(torch.backends).fp32_precision = "ieee"
    older: tuple[tuple[Any, Callable[[], Any], Callable[[Any], object]], ...] = (
        ("highest", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (True, lambda: cudnn.allow_tf32, functools.partial(setattr, cudnn, "allow_tf32")),
    )
    for value, read, write in older:
        now = value
        with suppress(RuntimeError):
            now = read()
        callers.callback(write, now)
        write(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return {name: _plain(each) for name, each in value.items()} if type(value) is dict else value
