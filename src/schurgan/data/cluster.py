"""Preparation on a running Dask cluster, whose machines see the recordings under the same paths.

Workers send their chunks back and one process, the caller's, writes the shards; a worker that is lost costs its chunks
under way alone, for the scheduler gives them to another.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from schurgan.core.errors import UserError
from schurgan.data.sources.base import Item
from schurgan.data.work import Chunk, Job

if TYPE_CHECKING:
    from schurgan.data.workers import Submit

PATIENCE = 30.0
"""Seconds to wait for an answer of the scheduler, and for its first worker."""


@contextlib.contextmanager
def joined(address: str, job: Job) -> Iterator[tuple[Submit, int]]:
    """A function that starts work on a chunk on the cluster of the scheduler at `address`, and the cluster's threads.

    The job, with its list of a hundred thousand items, goes to each worker once, also to those that join later. Raises
    UserError where Dask is not installed, nobody answers at the address, or no worker comes; and later when the
    scheduler is lost, or a chunk keeps killing its workers.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--cluster: Dask is not installed; `pip install schurgan[cluster]` would do") from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f'--cluster "{address}": no Dask scheduler answers there ({_first_line(error)})') from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise UserError(f'--cluster "{address}": has no workers; start some with `dask worker {address}`') from None
        name = f"schurgan-{uuid.uuid4().hex}"
        client.register_plugin(_plugin(job), name=name)
        executor = client.get_executor(retries=3)

        def submit(items: Sequence[Item]) -> Future[Chunk]:
            return executor.submit(_work, name, items)

        try:
            yield submit, sum(client.nthreads().values())
        except (KilledWorker, CancelledError, OSError) as error:
            if isinstance(error, OSError) and client.status == "running":
                raise  # the disk's
            why = f"the cluster at {address} failed ({_first_line(error)})"
            raise UserError(f"{why}; start again when it is back, or without it, what is finished is kept") from error
        finally:
            executor.shutdown(wait=False)
            with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to forget
                client.unregister_worker_plugin(name)


def _plugin(job: Job) -> Any:
    """Hands the job to every worker, now and when it joins."""
    from distributed import WorkerPlugin

    class Hold(WorkerPlugin):
        def __init__(self) -> None:
            self.job = job

    return Hold()


def _work(name: str, items: Sequence[Item]) -> Chunk:
    from distributed import get_worker

    holder: Any = get_worker().plugins[name]
    chunk: Chunk = holder.job.run(items)
    return chunk


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
