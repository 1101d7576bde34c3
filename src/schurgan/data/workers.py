"""Where the work is done: in this process, in a local pool, on any executor, or on a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait

from schurgan.data.sources.base import Item
from schurgan.data.work import Chunk, Job

Submit = Callable[[Sequence[Item]], "Future[Chunk]"]


def in_order(submit: Submit, chunks: Iterable[Sequence[Item]], ahead: int) -> Iterator[Chunk]:
    """Results in the order of `chunks`, at most `ahead` of them under way: memory does not grow with the set."""
    pending: deque[Future[Chunk]] = deque()
    try:
        for chunk in chunks:
            pending.append(submit(chunk))
            while pending and (len(pending) == ahead or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@contextlib.contextmanager
def hired(
    job: Job, workers: int | None, executor: Executor | None, cluster: str | None, chunks: int
) -> Iterator[tuple[Submit, int]]:
    """A function that starts work on a chunk, and how many chunks to have under way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cluster is not None:
        from schurgan.data.cluster import joined

        with joined(cluster, job) as (submit, threads):
            yield submit, 2 * threads
        return
    if executor is not None:
        yield lambda items: executor.submit(job.run, items), 2 * (workers or cores)
        return
    # A process of its own imports torch first, which takes as long as ten chunks: not worth it for a handful.
    count = min(workers, chunks) if workers else min(cores, chunks // 16)
    if count <= 1:
        yield lambda items: _done(job.run(items)), 1
        return
    with _pool(job, count) as submit:
        yield submit, 2 * count + 2


@contextlib.contextmanager
def _pool(job: Job, count: int) -> Iterator[Submit]:
    # Never "fork": this process may hold threads of torch and locks. A fork server imports torch once for all workers.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__, type(job.source).__module__])
    with ThreadPoolExecutor(1) as starter:
        pool = ProcessPoolExecutor(count, context, _start_worker, (job,))
        started = starter.submit(pool.submit, os.getpid)  # anything: the first call starts the processes

        def submit(items: Sequence[Item]) -> Future[Chunk]:
            if not started.done():  # a second or two, in which this process can do chunks itself
                return _done(job.run(items))
            if error := started.exception():
                raise BrokenExecutor(f"worker processes cannot be started: {error}") from error
            return pool.submit(_work, items)

        try:
            yield submit
        finally:
            started.exception()  # a pool that is still starting cannot be shut down
            pool.shutdown(cancel_futures=True)


def _done(chunk: Chunk) -> Future[Chunk]:
    future: Future[Chunk] = Future()
    future.set_result(chunk)
    return future


_job: Job


def _start_worker(job: Job) -> None:
    """In a new worker: keep the job, leave Ctrl-C to the parent, and end when the parent ends, however it did."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _work(items: Sequence[Item]) -> Chunk:
    return _job.run(items)
