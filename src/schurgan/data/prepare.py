"""Recordings to shards: every clip loaded, brought to one length, turned into an image, quantised and written.

A shard covers a fixed range of a source's items, a chunk a fixed range of a shard. Chunks are worked out anywhere, in
any order, and written in theirs; so the bytes on disk depend on the source and the options alone, not on the workers
and not on how often the work was stopped. A shard is finished when its `part-*.json` is there, and the next start goes
on with those that have none. `unfinished.json` says whose work this is until `manifest.json` takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, cast

import torch
from pydantic import JsonValue

from schurgan.audio import AudioWarning, Spectrogram, fit_clip
from schurgan.data.manifest import FORMAT_VERSION, Clip, DType, Manifest, Part, Skipped, assemble, printable
from schurgan.data.shards import OutputFolder, Rows, quantise
from schurgan.data.sources.base import Item, Source
from schurgan.errors import UserError

CHUNK = 16
"""Items a worker takes at once: enough to be worth sending, few enough that all cores end together."""
BATCH = 4
"""Clips transformed at once: with more of them the coefficients, 5 MB a clip, fall out of the processor's cache."""

Progress = Callable[[int, int, float], None]
Submit = Callable[[Sequence[Item]], "Future[_Chunk]"]


def prepare(
    source: Source,
    out: str | Path,
    spectrogram: Spectrogram,
    *,
    dtype: DType | None = None,
    shard_clips: int = 1024,
    keep_audio: bool = True,
    workers: int | None = None,
    executor: Executor | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Make the folder `out` of shards and `manifest.json` that `Shards(out)` reads, and return the manifest.

    dtype        how pixels are stored; by default uint8 for the log scales, float16 for the linear one
    shard_clips  items of the source a shard covers
    keep_audio   keep the recordings too (int16, peak 1): carriers of phase, ten times the bytes of their uint8 images
    workers      processes of a local pool, by default one a core as far as there is work; 1 works in this process
    executor     any `concurrent.futures` executor that runs functions of this package, such as a cluster's, instead of
                 the pool; `workers` then says how many it has, for twice as many chunks are under way at once
    strict       raise at the first recording that cannot be used, instead of listing it in `manifest.skipped`
    overwrite    remove what an earlier `prepare` made in `out`; files that it did not make are never touched
    progress     called with (items done, items in all, seconds of sound done), first with what an earlier start has
                 done; never when nothing is to do

    A stopped run goes on where it was, given the same source and options. Raises UserError for an `out` that holds
    other data or cannot be written, for a source with nothing to use, and when worker processes die.
    """
    if shard_clips < 1 or (workers is not None and workers < 1):
        raise ValueError(f"shard_clips {shard_clips}, workers {workers}: 1 or more are needed")
    job = _Job(
        source,
        json.dumps(spectrogram.config, sort_keys=True),
        dtype or ("float16" if spectrogram.scale == "linear" else "uint8"),
        keep_audio,
        {name: number for number, name in enumerate(source.classes())},
    )
    items, unlisted = source.items(), [Skipped.of(*each) for each in source.skipped]
    if not items or (strict and unlisted):
        raise UserError(_reason(unlisted) or f"{source.name}: no recording was found")
    described = cast(dict[str, JsonValue], source.describe())
    folder = OutputFolder(Path(out), job.plan(described, items, shard_clips))
    with _errors_of(folder.path):
        if manifest := folder.claim(overwrite):
            return manifest
        ranges = _cut(items, shard_clips)
        parts = {number: part for number in range(len(ranges)) if (part := folder.part(number))}
        watch = _Watch(len(items), strict, progress, parts.values())
        todo = {number: _cut(ranges[number], CHUNK) for number in range(len(ranges)) if number not in parts}
        with _workers(job, workers, executor, sum(map(len, todo.values()))) as (submit, ahead):
            results = _in_order(submit, (chunk for chunks in todo.values() for chunk in chunks), ahead)
            for number, chunks in todo.items():
                parts[number] = _write(folder, number, watch(islice(results, len(chunks))))
        ordered = [parts[number] for number in range(len(ranges))]
        if not any(len(part.clips) for part in ordered):
            folder.tidy()
            lost = [skipped for part in ordered for skipped in part.skipped]
            raise UserError(f"{source.name}: none of {len(items)} recordings can be used; the first, {_reason(lost)}")
        manifest = assemble(
            ordered,
            classes=tuple(job.number),
            unlisted=unlisted,
            plan=folder.plan,
            dtype=job.dtype,
            planes=job.planes,
            transform=spectrogram.config,
            source=described,
        )
        manifest.save(folder.path)
        folder.tidy(manifest)
    return manifest


@dataclass(frozen=True)
class _Chunk:
    """What became of a few items: rows of the shard's files (n, planes, R, R) and (n, n_samples), and their records."""

    clips: list[Clip]
    skipped: list[Skipped]
    images: Rows | None
    audio: Rows | None


@dataclass(frozen=True)
class _Job:
    """All that a worker has to know. It travels: the transform goes as its configuration, without its buffers."""

    source: Source
    transform: str
    dtype: DType
    keep_audio: bool
    number: dict[str, int]

    @property
    def planes(self) -> int:
        """Channels stored: equal ones only once."""
        config = json.loads(self.transform)
        return int(config["channels"]) if config["colormap"] else 1

    def plan(self, described: dict[str, JsonValue], items: Sequence[Item], shard_clips: int) -> str:
        """Hex SHA-256 of all that determines the files."""
        options = [FORMAT_VERSION, CHUNK, BATCH, shard_clips, self.dtype, self.keep_audio, self.transform]
        listed = [(item.origin, item.label, item.fold) for item in items]
        known = [options, self.source.name, described, list(self.number), listed]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def run(self, items: Sequence[Item]) -> _Chunk:
        """Load, transform and quantise; whatever is wrong with an item becomes its reason."""
        torch.set_num_threads(1)  # short FFTs: more threads cost time, and could change the last bit
        spectrogram = _spectrogram(self.transform)
        loaded, skipped = [], []
        for item in items:
            try:
                loaded.append(_load(self.source, item, spectrogram))
            except Exception as error:
                reason = str(error).rpartition(f"{item.origin}: ")[2] or type(error).__name__
                skipped.append(Skipped.of(item.origin, reason))
        if not loaded:
            return _Chunk([], skipped, None, None)
        waves = torch.stack([each.wave for each in loaded])
        with torch.inference_mode():
            images, aux = zip(*map(spectrogram.encode, torch.split(waves, BATCH)), strict=True)
        references = torch.cat([each.reference for each in aux]).tolist()
        audio = (waves * 32767).round().to(torch.int16).numpy()
        clips = [
            Clip(
                origin=printable(each.item.origin),
                label=self.number[each.item.label],
                fold=each.item.fold,
                seconds=each.seconds,
                gain=each.gain,
                reference=reference,
                digest=hashlib.sha256(samples.tobytes()).hexdigest()[:32],
                warnings=each.notes,
            )
            for each, reference, samples in zip(loaded, references, audio, strict=True)
        ]
        stored = quantise(torch.cat(images)[:, : self.planes], self.dtype)
        return _Chunk(clips, skipped, stored, audio if self.keep_audio else None)


class _Loaded(NamedTuple):
    item: Item
    wave: torch.Tensor  # (n_samples,), peak 1
    seconds: float  # of the recording, before it was brought to n_samples
    gain: float
    notes: tuple[str, ...]


@lru_cache(maxsize=1)
def _spectrogram(config: str) -> Spectrogram:
    return Spectrogram(**json.loads(config))


_catching = threading.Lock()  # caught warnings are the process's: in an executor of threads they would mix


def _load(source: Source, item: Item, spectrogram: Spectrogram) -> _Loaded:
    with _catching, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        wave = source.load(item, spectrogram.sample_rate)
        clip, gain, notes = fit_clip(wave, spectrogram.n_samples, spectrogram.sample_rate)
    heard = [str(warning.message) for warning in caught if issubclass(warning.category, AudioWarning)]
    heard = [printable(message.rpartition(f"{item.origin}: ")[2]) for message in heard]
    return _Loaded(item, clip.float(), len(wave) / spectrogram.sample_rate, gain, (*heard, *notes))


def _reason(skipped: Sequence[Skipped]) -> str:
    return f"{skipped[0].origin}: {skipped[0].reason}" if skipped else ""


def _cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _write(folder: OutputFolder, number: int, chunks: Iterable[_Chunk]) -> Part:
    """Stream the chunks of one shard to its files, and its records after them."""
    clips: list[Clip] = []
    skipped: list[Skipped] = []
    with contextlib.ExitStack() as files:
        append: dict[str, Callable[[Rows], None]] = {}
        for chunk in chunks:
            for kind, rows in (("images", chunk.images), ("audio", chunk.audio)):
                if rows is not None:
                    if kind not in append:
                        append[kind] = files.enter_context(folder.rows(kind, number, rows.shape[1:], rows.dtype.name))
                    append[kind](rows)
            clips += chunk.clips
            skipped += chunk.skipped
    return folder.finish(number, clips, skipped, list(append))


class _Watch:
    """Passes chunks on, reports how far they are, and in strict mode raises at the first item that cannot be used."""

    def __init__(self, total: int, strict: bool, report: Progress | None, finished: Iterable[Part]) -> None:
        self.total, self.strict, self.report = total, strict, report or (lambda done, total, seconds: None)
        self.done, self.seconds = 0, 0.0
        for part in finished:
            self._add(len(part.clips), part.clips.seconds, part.skipped)
        self.report(self.done, total, self.seconds)

    def __call__(self, chunks: Iterable[_Chunk]) -> Iterator[_Chunk]:
        for chunk in chunks:
            self._add(len(chunk.clips), (clip.seconds for clip in chunk.clips), chunk.skipped)
            yield chunk
            self.report(self.done, self.total, self.seconds)

    def _add(self, clips: int, seconds: Iterable[float], skipped: Sequence[Skipped]) -> None:
        if self.strict and skipped:
            raise UserError(_reason(skipped))
        self.done += clips + len(skipped)
        self.seconds += sum(seconds)


def _in_order(submit: Submit, chunks: Iterable[Sequence[Item]], ahead: int) -> Iterator[_Chunk]:
    """Results in the order of `chunks`, at most `ahead` of them under way: memory does not grow with the set."""
    pending: deque[Future[_Chunk]] = deque()
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
def _workers(job: _Job, workers: int | None, executor: Executor | None, chunks: int) -> Iterator[tuple[Submit, int]]:
    """A function that starts work on a chunk, and how many chunks to have under way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if executor is not None:
        yield lambda items: executor.submit(job.run, items), 2 * (workers or cores)
        return
    # A process of its own imports torch first, which takes as long as ten chunks: not worth it for a handful.
    count = min(workers, chunks) if workers else min(cores, chunks // 16)
    if count <= 1:
        yield lambda items: _done(job.run(items)), 1
        return
    # Never "fork": this process may hold threads of torch and locks. A fork server imports torch once for all workers.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__, type(job.source).__module__])
    with ThreadPoolExecutor(1) as starter:
        pool = ProcessPoolExecutor(count, context, _start_worker, (job,))
        started = starter.submit(pool.submit, os.getpid)  # anything: the first call starts the processes

        def submit(items: Sequence[Item]) -> Future[_Chunk]:
            if not started.done():  # a second or two, in which this process can do chunks itself
                return _done(job.run(items))
            if error := started.exception():
                raise BrokenExecutor(f"worker processes cannot be started: {error}") from error
            return pool.submit(_work, items)

        try:
            yield submit, 2 * count + 2
        finally:
            started.exception()  # a pool that is still starting cannot be shut down
            pool.shutdown(cancel_futures=True)


def _done(chunk: _Chunk) -> Future[_Chunk]:
    future: Future[_Chunk] = Future()
    future.set_result(chunk)
    return future


_job: _Job


def _start_worker(job: _Job) -> None:
    """In a new worker: keep the job, leave Ctrl-C to the parent, and end when the parent ends, however it did."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _work(items: Sequence[Item]) -> _Chunk:
    return _job.run(items)


@contextlib.contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """What goes wrong with the folder or the workers, in a user's words; and torch's threads as they were."""
    threads, kept = torch.get_num_threads(), "what is finished is kept"
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder}: cannot be written ({why}); make room or choose another --out, {kept}") from error
    except BrokenExecutor as error:
        what = "a worker process could not be started or was killed, perhaps for want of memory"
        raise UserError(f"{what}; start again with fewer --workers, {kept}") from error
    finally:
        torch.set_num_threads(threads)
