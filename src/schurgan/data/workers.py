"""Where work is done: in this process, in a local pool, on any executor, or on a running Dask cluster.

The machines of a cluster see the recordings under the same paths; their results come back to the caller's process.
"""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import os
import pickle
import pickletools
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from subprocess import PIPE
from typing import IO, Any, TypeVar, cast

from schurgan.core.errors import SchurganError, one_line
from schurgan.core.launch import count_cores, start_python

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
    cores = count_cores()
    count = min(workers, n_tasks) if workers else min(cores, n_tasks // WORTH_A_WORKER)
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            submit, n_workers = stack.enter_context(dask_cluster(cluster, work))
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
            advice = "start again with fewer workers, what is finished is kept"
            raise SchurganError(f"{one_line(error)}; {advice}") from error


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
    start = _start_message(work)
    workers = [_Worker(start) for _ in range(count)]
    free: SimpleQueue[_Worker] = SimpleQueue()
    executor = ThreadPoolExecutor(count)  # a thread for each process, which waits for it

    def greet(worker: _Worker) -> None:
        try:
            worker.greet()
        finally:
            free.put(worker)

    def call(task: Task) -> Result:
        worker = free.get()
        try:
            return cast(Result, worker.call(task))
        finally:
            free.put(worker)

    greeted = [executor.submit(greet, worker) for worker in workers]

    def submit(task: Task) -> Future[Result]:
        for each in greeted:
            if each.done():
                each.result()
        if not any(worker.process.pid in answered for worker in workers):
            return _done(work(task))  # for a second or two this process can do tasks itself
        return executor.submit(call, task)

    try:
        yield submit
    finally:
        for worker in workers:
            worker.process.kill()  # nothing is lost: it reads, and what it made was sent
        executor.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


answered: set[int] = set()
"""Process ids of the workers that can work, or have said why not."""


class _Worker:
    """A Python process that `serve`s this one by its standard input and output."""

    def __init__(self, start: object) -> None:
        self.process, self._start = start_python(serve, stdout=PIPE), start

    def greet(self) -> None:
        """Wait until the process can work. Raises SchurganError where it cannot."""
        try:
            self.call(self._start)
        finally:
            answered.add(self.process.pid)

    def call(self, task: object) -> Any:
        """Return the result of a task, or raise its error. Raises BrokenExecutor where the process has ended."""
        try:
            self._send(task)
            good, result = pickle.load(self._pipes[1])
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            status = self.process.wait()
            how = f"was killed by signal {-status}, perhaps for want of memory" if status < 0 else f"ended ({status})"
            raise BrokenExecutor(f"worker process {self.process.pid} {how}") from error
        if not good:
            raise result
        return result

    def close(self) -> None:
        """Forget the process, which has ended."""
        answered.discard(self.process.pid)
        self.process.wait()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # what was not sent
                pipe.close()

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        return cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)

    def _send(self, value: object) -> None:
        self._pipes[0].write(pickle.dumps(value))
        self._pipes[0].flush()


def _start_message(work: Callable[[Any], Any]) -> tuple[dict[str, object], bytes]:
    """How to find the caller's script, if something of the work is defined in it, and the work.

    Raises SchurganError for work that cannot travel to another process.
    """
    advice = "define it in a module of its own, or set `workers` to 1"
    try:
        content = pickle.dumps(work)
    except Exception as error:
        raise SchurganError(f"source: cannot be sent to worker processes ({one_line(error)}); {advice}") from error
    if b"__main__" not in content or all(argument != "__main__" for _, argument, _ in pickletools.genops(content)):
        return {}, content
    main = sys.modules["__main__"]
    if module := getattr(main.__spec__, "name", None):
        return {"init_main_from_name": module, "sys_argv": sys.argv}, content
    path = getattr(main, "__file__", None)
    if not path or not os.path.isfile(path):
        where = "standard input, a notebook or a command line, where worker processes cannot read it"
        raise SchurganError(f"source: its class is defined on {where}; {advice}")
    return {"init_main_from_path": path, "sys_argv": sys.argv}, content


_loading = False  # whether this process is a worker that runs the caller's script, to find a class in it


def refuse_in_worker() -> None:
    """Raise SchurganError where a worker that runs the caller's script would do all that the script does."""
    if _loading:
        guard = 'the script has no `if __name__ == "__main__":` around what it does'
        why = "so that worker processes, which read the class of its source there, would do it too"
        raise SchurganError(f"{guard}, {why}; add it, or set `workers` to 1")


def serve() -> None:
    """Be a worker: do the tasks that come on standard input, until it ends."""
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    sys.stdout = sys.stderr  # what a source prints is no result
    with contextlib.suppress(OSError):  # no standard error
        os.dup2(2, 1)

    def send(good: bool, result: object) -> None:
        results.write(pickle.dumps((good, result)))
        results.flush()

    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody asks any more
        try:
            work = _load(*pickle.load(tasks))
        except BaseException as error:
            said = "" if isinstance(error, SchurganError) else "worker processes cannot load the source: "
            return send(False, SchurganError(f"workers: {said}{one_line(error)}"))
        send(True, None)
        while True:
            task = pickle.load(tasks)
            try:
                answer = True, work(task)
            except Exception as error:
                answer = False, error
            send(*answer)
    os._exit(0)  # without another try to write


def _load(script: dict[str, object], content: bytes) -> Callable[[Any], Any]:
    global _loading
    _loading = True
    try:
        multiprocessing.spawn.prepare(script)
    finally:
        _loading = False
    return cast(Callable[[Any], Any], pickle.loads(content))


@contextlib.contextmanager
def dask_cluster(
    address: str, work: Callable[[Task], Result]
) -> Iterator[tuple[Callable[[Task], Future[Result]], int]]:
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
        raise SchurganError(f"cluster: {address} given, no Dask scheduler answers there ({one_line(error)})") from error
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
            reason = f"the cluster at {address} failed ({one_line(error)})"
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
