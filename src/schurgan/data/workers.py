"""Where work is done: in this process, in a local pool, on any executor, or on a running Dask cluster.

The machines of a cluster see the recordings under the same paths; their results come back to the caller's process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

from schurgan.core.errors import SchurganError

Task = TypeVar("Task")
Result = TypeVar("Result")
PATIENCE = 30.0  # seconds to wait for an answer of a cluster's scheduler, and for its first worker
WORTH_A_WORKER = 16
"""Tasks for each worker process of a pool of the default size: it imports torch first, as long as ten of them take."""


@contextlib.contextmanager
def worker_pool(
    work: Callable[[Task], Result],
    n_tasks: int,
    workers: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
    """Yield a function that maps tasks to `work(task)`, in their order, a bounded number of them at once.

    `work` travels to each worker once. The other arguments are those of `prepare`.

    Raises:
        SchurganError: Dask is not installed, its cluster does not answer or fails, or a worker process dies.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(workers, n_tasks) if workers else min(cores, n_tasks // WORTH_A_WORKER)
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            submit, n_workers = stack.enter_context(_dask(cluster, work))
            ahead = 2 * n_workers
        elif executor is not None:
            submit, ahead = (lambda task: executor.submit(work, task)), 2 * (workers or cores)
        elif count <= 1:
            submit, ahead = (lambda task: _done(work(task))), 1
        else:
            submit, ahead = stack.enter_context(_processes(work, count)), 2 * count + 2
        try:
            yield lambda tasks: _in_order(submit, tasks, ahead)
        except BrokenExecutor as error:
            reason = "a worker process could not be started or was killed, perhaps for want of memory"
            raise SchurganError(f"{reason}; start again with fewer workers, what is finished is kept") from error


def _in_order(submit: Callable[[Task], Future[Result]], tasks: Iterable[Task], ahead: int) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(submit(task))
            while pending and (len(pending) == ahead or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


@contextlib.contextmanager
def _processes(work: Callable[[Task], Result], count: int) -> Iterator[Callable[[Task], Future[Result]]]:
    # Never "fork": this process may hold threads of torch and locks. A fork server imports torch once for all workers.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    with ThreadPoolExecutor(1) as starter:
        pool = ProcessPoolExecutor(count, context, _start_worker, (work,))
        started = starter.submit(pool.submit, os.getpid)  # anything: the first call starts the processes

        def submit(task: Task) -> Future[Result]:
            if not started.done():  # a second or two, in which this process can do tasks itself
                return _done(work(task))
            if error := started.exception():
                raise BrokenExecutor(f"worker processes cannot be started: {error}") from error
            return pool.submit(_work_in_process, task)

        try:
            yield submit
        finally:
            started.exception()  # a pool that is still starting cannot be shut down
            pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]


def _start_worker(work: Callable[[Any], Any]) -> None:
    """In a new worker: keep the work, leave Ctrl-C to the parent, and end when the parent ends, however it did."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _work_in_process(task: Any) -> Any:
    return _work(task)


@contextlib.contextmanager
def _dask(address: str, work: Callable[[Task], Result]) -> Iterator[tuple[Callable[[Task], Future[Result]], int]]:
    """What submits a task to the cluster of the scheduler at `address`, and the cluster's threads."""
    try:
        from distributed import Client, KilledWorker, WorkerPlugin
    except ImportError:
        raise SchurganError("cluster: Dask is not installed; `pip install schurgan[cluster]` would do") from None

    class Hold(WorkerPlugin):
        """Takes the work to every worker once, also to those that join later."""

        def __init__(self) -> None:
            self.work = work

    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SchurganError(
            f"cluster: {address} given, no Dask scheduler answers there ({_first_line(error)})"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            reason = f"it has no workers; start some with `dask worker {address}`"
            raise SchurganError(f"cluster: {address} given, {reason}") from None
        name = f"schurgan-{uuid.uuid4().hex}"
        client.register_plugin(Hold(), name=name)
        executor = client.get_executor(retries=3)
        try:
            yield lambda task: executor.submit(_work_on_cluster, name, task), sum(client.nthreads().values())
        except (KilledWorker, CancelledError, OSError) as error:
            if isinstance(error, OSError) and client.status == "running":
                raise  # the disk's
            reason = f"the cluster at {address} failed ({_first_line(error)})"
            raise SchurganError(
                f"{reason}; start again when it is back, or without it, what is finished is kept"
            ) from error
        finally:
            executor.shutdown(wait=False)
            with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to forget
                client.unregister_worker_plugin(name)


def _work_on_cluster(name: str, task: Any) -> Any:
    from distributed import get_worker

    holder: Any = get_worker().plugins[name]
    return holder.work(task)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
