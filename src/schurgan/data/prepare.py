"""Recordings to shards: every clip loaded, brought to one length, turned into an image, quantised and written.

A shard covers a fixed range of a source's items, a chunk a fixed range of a shard. Chunks are worked out anywhere, in
any order, and written in theirs; so the bytes on disk depend on the source and the options alone, not on the workers
and not on how often the work was stopped. A shard is finished when its `part-*.json` is there, and the next start goes
on with those that have none. `unfinished.json` says whose work this is until `manifest.json` takes its place.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from pydantic import JsonValue

from schurgan.core.errors import UserError
from schurgan.data.codec import Codec
from schurgan.data.manifest import Clip, DType, Manifest, Part, Skipped
from schurgan.data.sources.base import Item, Source
from schurgan.data.summary import assemble
from schurgan.data.work import CHUNK, Chunk, Job
from schurgan.data.workers import hired, in_order
from schurgan.data.writer import OutputFolder, Rows

Progress = Callable[[int, int, float], None]


def prepare(
    source: Source,
    out: str | Path,
    codec: Codec,
    *,
    dtype: DType | None = None,
    shard_clips: int = 1024,
    keep_audio: bool = True,
    pitches: Sequence[float] = (),
    workers: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Make the folder `out` of shards and `manifest.json` that `Shards(out)` reads, and return the manifest.

    codec        a Spectrogram, or an ImageCodec for a source whose `kind` is "images"
    dtype        how pixels are stored; by default uint8 for the log scales, float16 for the linear one
    shard_clips  items of the source a shard covers
    keep_audio   keep the recordings too (int16, peak 1): carriers of phase, ten times the bytes of their uint8 images
    pitches      ratios of frequencies at which recordings of 2 s or less are kept once more each, such as PITCHES, the
                 paper's; the copies know their origin (`Shards.parents`) and share its class and fold
    workers      processes of a local pool, by default one a core as far as there is work; 1 works in this process
    executor     any `concurrent.futures` executor that runs functions of this package, such as a cluster's, instead of
                 the pool; `workers` then says how many it has, for twice as many chunks are under way at once
    cluster      address of the scheduler of a Dask cluster, such as "tcp://10.0.0.7:8786", whose workers do the work
    strict       raise at the first recording that cannot be used, instead of listing it in `manifest.skipped`
    overwrite    remove what an earlier `prepare` made in `out`; files that it did not make are never touched
    progress     called with (items done, items in all, seconds of sound done), first with what an earlier start has
                 done; never when nothing is to do

    A stopped run goes on where it was, given the same source and options. Raises UserError for an `out` that holds
    other data or cannot be written, for a source with nothing to use, and when worker processes die.
    """
    if shard_clips < 1 or (workers is not None and workers < 1):
        raise ValueError(f"shard_clips {shard_clips}, workers {workers}: 1 or more are needed")
    _check_kind(source, codec, pitches)
    job = Job(
        source,
        json.dumps(codec.config, sort_keys=True),
        dtype or ("float16" if codec.scale == "linear" else "uint8"),
        keep_audio and codec.kind == "audio",
        {name: number for number, name in enumerate(source.classes())},
        tuple(float(pitch) for pitch in pitches),
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
        watch = _Watch(len(items), strict, progress)
        for number, part in parts.items():
            watch.add(len(ranges[number]), part.clips.rows(), part.skipped)
        watch.tell()
        todo = {number: _cut(ranges[number], CHUNK) for number in range(len(ranges)) if number not in parts}
        with hired(job, workers, executor, cluster, sum(map(len, todo.values()))) as (submit, ahead):
            results = in_order(submit, (chunk for chunks in todo.values() for chunk in chunks), ahead)
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
            transform=codec.config,
            source=described,
        )
        manifest.save(folder.path)
        folder.tidy(manifest)
    return manifest


def _check_kind(source: Source, codec: Codec, pitches: Sequence[float]) -> None:
    """Whether the codec is one for what the source holds."""
    if source.kind != codec.kind:
        raise ValueError(f"codec: one of {codec.kind} given, {source.name} is a source of {source.kind}")
    if pitches and codec.kind == "images":
        raise ValueError(f"{source.name}: a source of images, which have no pitch to shift")
    for pitch in pitches:
        if not 0.25 <= pitch <= 4 or pitch == 1:
            raise ValueError(f"pitches {pitch:g}: ratios of frequencies from 0.25 to 4, other than 1, are needed")
    if len(set(pitches)) < len(pitches):
        raise ValueError(f"pitches {', '.join(f'{pitch:g}' for pitch in pitches)}: each is needed once only")


def _reason(skipped: Sequence[Skipped]) -> str:
    return f"{skipped[0].origin}: {skipped[0].reason}" if skipped else ""


def _cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _write(folder: OutputFolder, number: int, chunks: Iterable[Chunk]) -> Part:
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

    def __init__(self, total: int, strict: bool, report: Progress | None) -> None:
        self.total, self.strict, self.report = total, strict, report or (lambda done, total, seconds: None)
        self.done, self.seconds = 0, 0.0

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.add(chunk.n_items, chunk.clips, chunk.skipped)
            yield chunk
            self.tell()

    def add(self, n_items: int, clips: Iterable[Clip], skipped: Sequence[Skipped]) -> None:
        if self.strict and skipped:
            raise UserError(_reason(skipped))
        self.done += n_items
        self.seconds += sum(clip.seconds for clip in clips if clip.parent is None)

    def tell(self) -> None:
        self.report(self.done, self.total, self.seconds)


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
