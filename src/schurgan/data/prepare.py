"""Recordings to shards: every clip loaded, brought to one length, turned into an image, quantised and written.

A shard covers a fixed range of a source's items, a chunk a fixed range of a shard, and chunks are written in order; so
the bytes on disk depend on the source and the options alone, not on the workers nor on how often the work was stopped.
A shard is finished when its `part-*.json` is there; `unfinished.json` says whose work this is until `manifest.json`
takes its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import JsonValue
from torch import Tensor

from schurgan.audio import AudioError, AudioWarning, Spectrogram, fit_clip
from schurgan.audio.pitch import pitch_shift
from schurgan.core.errors import SchurganError, enough_memory, writing
from schurgan.core.files import lock
from schurgan.core.isolation import isolated
from schurgan.core.terminal import say
from schurgan.data.codec import Codec, ImageCodec, codec_for, open_codec
from schurgan.data.manifest import Clip, DType, Manifest, Skipped, kept_seconds, printable
from schurgan.data.shards import quantise
from schurgan.data.sources import SOURCES, Item, Source, open_source
from schurgan.data.sources.base import FileSource
from schurgan.data.workers import refuse_in_worker, worker_pool
from schurgan.data.writer import Chunk, OutputFolder
from schurgan.runs.messages import counted

CHUNK = 16  # items a worker takes at once: enough to be worth sending, few enough that all cores end together
BATCH = 4
"""Clips transformed at once: with more of them the coefficients, 5 MB a clip, fall out of the processor's cache."""
PITCHES = (0.75, 0.9, 1.15, 1.5)  # the paper's pitch shifts, as ratios of frequencies
SHORT = 2.0  # seconds up to which a recording is short, and gets copies of other pitches

Progress = Callable[[int, int, float], None]


@isolated
def prepare_data(
    data: str | os.PathLike[str] | Source,
    root: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    size: int = 0,
    seconds: float | None = None,
    sample_rate: int = 16000,
    scale: Literal["log", "linear", "log_real"] = "log",
    grey: bool = False,
    class_from: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Prepare a data set for training; `schurgan.data.prepare` has more options, and takes a codec.

    Args:
        data: a folder of recordings or images, or an archive of one; or a source, or the name of one.
        root: where the recordings of a named source are.
        out: folder for the shards and manifest.json.
        size: rows and columns of an image; 0 is 64, but for square pictures up to 128 x 128 their own.
        seconds: length of a clip, longer ones are cut and shorter ones padded; 5, for "soundscape" 2.
        sample_rate: in Hz.
        scale: magnitude scale of the spectrograms.
        grey: keep pictures in grey.
        class_from: what the classes of a folder are, where that is not evident: "top", "leaf", "name", "word", "none",
            or a pattern that is searched in each path, "([a-z]+)_take", whose group is the class.
        workers: processes, by default one a core as far as there is work.
        overwrite: replace shards of other data or options in `out`.

    Returns:
        The folder `out`, which `schurgan.train` takes.
    """
    if isinstance(data, str | os.PathLike):
        named = root is not None or (str(data) in SOURCES and not os.path.isdir(data))
        length = {"seconds": seconds} if data == "soundscape" and seconds is not None else {}
        ways = {} if class_from is None else {"class_from": class_from}
        data = open_source(str(data), root, **length, **ways) if named else open_source("folder", data, **ways)
        if said := getattr(data, "said", ""):
            say(said)
    codec = codec_for(data, size, seconds=seconds, sample_rate=sample_rate, scale=scale, grey=grey)
    prepare(data, out, codec, workers=workers, overwrite=overwrite)
    return Path(out)


@enough_memory("lower `workers`, `size` or `seconds`")
@isolated
def prepare(
    source: Source,
    out: str | os.PathLike[str],
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
    """Make the folder `out` of shards and `manifest.json` that `Shards(out)` reads.

    A stopped run goes on where it was, given the same source and options.

    Args:
        source: a data set, one of `schurgan.data.sources` or one's own.
        out: folder; files in it that an earlier `prepare` did not make are never touched.
        codec: a Spectrogram, or an ImageCodec for a source whose `kind` is "images".
        dtype: how pixels are stored; by default uint8 for the log scales, float16 for the linear one.
        shard_clips: items of the source a shard covers.
        keep_audio: keep the recordings too (int16, peak 1): carriers of phase, ten times the bytes of uint8 images.
        pitches: ratios of frequencies at which recordings of 2 s or less are kept once more each, such as PITCHES.
        workers: processes of a local pool, by default one a core as far as there is work; 1 works in this process.
        executor: any `concurrent.futures` executor, instead of the pool; `workers` then says how many it has.
        cluster: address of the scheduler of a Dask cluster, such as "tcp://10.0.0.7:8786", whose workers do the work.
        strict: raise at the first recording that cannot be used, instead of listing it in `manifest.skipped`.
        overwrite: remove what an earlier `prepare` made in `out`.
        progress: called with (items done, items in all, seconds of sound done), first with those of earlier starts.

    Raises:
        SchurganError: `out` holds other data or cannot be written, the source has nothing to use, or a worker dies.
        ValueError: arguments that do not fit each other.
    """
    refuse_in_worker()
    for name, count, most in (("shard_clips", shard_clips, 10**6), ("workers", workers, 1000)):
        if count is not None and not 1 <= count <= most:
            raise ValueError(f"{name}: {count} given, a whole number from 1 to {most} is needed")
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
        raise SchurganError(_reason(unlisted) or f"{source.name}: no recording was found")
    described = cast(dict[str, JsonValue], source.describe())
    folder = OutputFolder(Path(out), job.plan(described, items, shard_clips))
    with (
        writing(folder.path, "; make room or choose another folder, what is finished is kept"),
        lock(folder.path),
    ):
        if manifest := folder.claim(overwrite):
            return manifest
        ranges = _cut(items, shard_clips)
        parts = {number: part for number in range(len(ranges)) if (part := folder.part(number))}
        watch = _Watch(len(items), codec.config, strict, progress)
        for number, part in parts.items():
            watch.add(len(ranges[number]), part.clips.rows(), part.skipped)
        watch.report()
        todo = {number: _cut(ranges[number], CHUNK) for number in range(len(ranges)) if number not in parts}
        with worker_pool(job.run, sum(map(len, todo.values())), workers, executor, cluster) as run:
            results = run(chunk for chunks in todo.values() for chunk in chunks)
            for number, chunks in todo.items():
                parts[number] = folder.write(number, watch(islice(results, len(chunks))))
        ordered = [parts[number] for number in range(len(ranges))]
        if not any(len(part.clips) for part in ordered):
            folder.tidy()
            lost = [skipped for part in ordered for skipped in part.skipped]
            raise SchurganError(
                f"{source.name}: none of {counted(len(items), 'recording')} can be used; the first, {_reason(lost)}"
            )
        return folder.complete(
            ordered,
            unlisted,
            classes=tuple(job.number),
            dtype=job.dtype,
            planes=job.planes,
            transform=codec.config,
            source=described,
            val_folds=tuple(getattr(source, "val_folds", ())),
        )


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


@dataclass(frozen=True)
class Job:
    """All that a worker has to know. It travels: the codec goes as its configuration, without its buffers."""

    source: Source
    codec: str
    dtype: DType
    keep_audio: bool
    number: dict[str, int]
    pitches: tuple[float, ...] = ()

    @property
    def planes(self) -> int:
        """Channels stored: equal ones only once."""
        codec = _open(self.codec)
        return codec.channels if codec.kind == "images" or codec.colormap else 1

    def plan(self, described: dict[str, JsonValue], items: Sequence[Item], shard_clips: int) -> str:
        """Hex SHA-256 of all that determines the files."""
        # The 1 is the version of the shards, which are as they always were.
        options = [1, CHUNK, BATCH, shard_clips, self.dtype, self.keep_audio, self.codec]
        listed = [(item.origin, item.label, item.fold) for item in items]
        known: list[object] = [options, self.source.name, described, list(self.number), listed]
        known += [self.pitches] if self.pitches else []
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Chunk:
        """Load, encode and quantise; whatever is wrong with an item becomes its reason."""
        torch.set_num_threads(1)  # short FFTs: more threads cost time, and could change the last bit
        codec = _open(self.codec)
        loaded: list[tuple[Clip, Tensor]] = []
        skipped = []
        for item in items:
            try:
                if isinstance(codec, ImageCodec):
                    image = codec.encode(self.source.load_image(item)[None])[0][0]
                    loaded.append((self._clip(item, item.origin), image))
                else:
                    loaded += self._load(item, codec)
            except Exception as error:
                reason = str(error).rpartition(f"{item.origin}: ")[2] or type(error).__name__
                skipped.append(Skipped.of(item.origin, reason))
        if not loaded:
            return Chunk(len(items), [], skipped)
        signals = torch.stack([signal for _, signal in loaded])
        if isinstance(codec, ImageCodec):
            images, references, kept = signals, [1.0] * len(loaded), codec.decode(signals)
        else:
            encoded = [codec.encode(part) for part in torch.split(signals, BATCH)]
            images = torch.cat([image for image, _ in encoded])
            references = torch.cat([aux.reference for _, aux in encoded]).tolist()
            kept = (signals * 32767).round().to(torch.int16)
        digests = [hashlib.sha256(samples.numpy().tobytes()).hexdigest()[:32] for samples in kept]
        known = zip(loaded, references, digests, strict=True)
        clips = [clip._replace(reference=reference, digest=digest) for (clip, _), reference, digest in known]
        stored = quantise(images[:, : self.planes], self.dtype)
        return Chunk(len(items), clips, skipped, stored, kept.numpy() if self.keep_audio else None)

    def _clip(self, item: Item, origin: str, **fields: Any) -> Clip:
        fields["parent"] = None if origin == item.origin else printable(item.origin)
        fields["recording"] = item.recording and printable(item.recording)
        return Clip(printable(origin), self.number[item.label], item.fold, **fields)

    def _load(self, item: Item, codec: Spectrogram) -> list[tuple[Clip, Tensor]]:
        """The recording as a clip and, if it is short, its copies of other pitches after it."""
        rate, n_samples = codec.sample_rate, codec.n_samples
        with _catching, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AudioWarning)
            if isinstance(self.source, FileSource):
                wave, seconds = self.source.load_loudest(item, n_samples, rate)
            else:
                wave = self.source.load(item, rate)
                seconds = len(wave) / rate
            clip, gain, notes = fit_clip(wave, n_samples, rate)
        heard = [str(warning.message) for warning in caught if issubclass(warning.category, AudioWarning)]
        heard = [printable(message.rpartition(f"{item.origin}: ")[2]) for message in heard]
        copies: list[tuple[Clip, Tensor]] = []
        for pitch in self.pitches if seconds <= SHORT else ():
            try:
                copy, its_gain, its_notes = fit_clip(pitch_shift(wave[None], pitch, rate)[0], n_samples, rate)
            except AudioError as error:  # nothing of it is left under half the rate
                heard.append(f"no copy at pitch {pitch:g}: {error}")
                continue
            known = {"seconds": seconds, "gain": its_gain, "warnings": tuple(its_notes)}
            copies.append((self._clip(item, f"{item.origin}@pitch={pitch:g}", **known), copy.float()))
        original = self._clip(item, item.origin, seconds=seconds, gain=gain, warnings=(*heard, *notes))
        return [(original, clip.float()), *copies]


@lru_cache(maxsize=1)
def _open(config: str) -> Codec:
    return open_codec(json.loads(config))


_catching = threading.Lock()  # caught warnings are the process's: in an executor of threads they would mix


class _Watch:
    """Passes chunks on, reports how far they are, and in strict mode raises at the first item that cannot be used."""

    def __init__(self, total: int, transform: Mapping[str, Any], strict: bool, progress: Progress | None) -> None:
        self.total, self.transform, self.strict, self.progress = total, transform, strict, progress
        self.done, self.seconds = 0, 0.0

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.add(chunk.n_items, chunk.clips, chunk.skipped)
            yield chunk
            self.report()

    def add(self, n_items: int, clips: Iterable[Clip], skipped: Sequence[Skipped]) -> None:
        if self.strict and skipped:
            raise SchurganError(_reason(skipped))
        self.done += n_items
        self.seconds += kept_seconds(clips, self.transform)

    def report(self) -> None:
        if self.progress:
            self.progress(self.done, self.total, self.seconds)
