"""What a worker does: a few items of a source loaded, brought to one size, turned into images and quantised."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from pydantic import JsonValue
from torch import Tensor

from schurgan.audio import AudioError, AudioWarning, Spectrogram, fit_clip
from schurgan.audio.pitch import pitch_shift
from schurgan.data.codec import Codec, open_codec
from schurgan.data.manifest import FORMAT_VERSION, Clip, DType, Skipped, printable
from schurgan.data.shards import quantise
from schurgan.data.sources.base import Item, Source
from schurgan.data.writer import Rows

CHUNK = 16
"""Items a worker takes at once: enough to be worth sending, few enough that all cores end together."""
BATCH = 4
"""Clips transformed at once: with more of them the coefficients, 5 MB a clip, fall out of the processor's cache."""
PITCHES = (0.75, 0.9, 1.15, 1.5)
"""The paper's pitch shifts, as ratios of frequencies."""
SHORT = 2.0
"""Seconds up to which a recording is short, and gets copies of other pitches."""


@dataclass(frozen=True)
class Chunk:
    """What became of `n_items` items: rows of the shard's files (n, planes, R, R) and (n, n_samples), and records."""

    n_items: int
    clips: list[Clip]
    skipped: list[Skipped]
    images: Rows | None = None
    audio: Rows | None = None


@dataclass(frozen=True)
class Job:
    """All that a worker has to know. It travels: the transform goes as its configuration, without its buffers."""

    source: Source
    transform: str
    dtype: DType
    keep_audio: bool
    number: dict[str, int]
    pitches: tuple[float, ...] = ()

    @property
    def planes(self) -> int:
        """Channels stored: equal ones only once."""
        codec = _open(self.transform)
        coloured = codec.kind == "images" or codec.colormap
        return codec.channels if coloured else 1

    def plan(self, described: dict[str, JsonValue], items: Sequence[Item], shard_clips: int) -> str:
        """Hex SHA-256 of all that determines the files."""
        options = [FORMAT_VERSION, CHUNK, BATCH, shard_clips, self.dtype, self.keep_audio, self.transform]
        listed = [(item.origin, item.label, item.fold) for item in items]
        known: list[object] = [options, self.source.name, described, list(self.number), listed]
        known += [self.pitches] if self.pitches else []
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def run(self, items: Sequence[Item]) -> Chunk:
        """Load, transform and quantise; whatever is wrong with an item becomes its reason."""
        torch.set_num_threads(1)  # short FFTs: more threads cost time, and could change the last bit
        codec = _open(self.transform)
        with torch.inference_mode():
            return (self._pictures if codec.kind == "images" else self._recordings)(items, codec)

    def _pictures(self, items: Sequence[Item], codec: Codec) -> Chunk:
        images, clips, skipped = [], [], []
        for item in items:
            try:
                images.append(codec.encode(self.source.load_image(item)[None])[0])
            except Exception as error:
                skipped.append(_skipped(item, error))
                continue
            digest = _digest(codec.decode(images[-1]))
            label = self.number[item.label]
            clips.append(Clip(printable(item.origin), label, item.fold, 0.0, 1.0, 1.0, digest, ()))
        stored = quantise(torch.cat(images), self.dtype) if images else None
        return Chunk(len(items), clips, skipped, stored)

    def _recordings(self, items: Sequence[Item], codec: Codec) -> Chunk:
        loaded: list[_Loaded] = []
        skipped = []
        for item in items:
            try:
                loaded += self._load(item, cast(Spectrogram, codec))
            except Exception as error:
                skipped.append(_skipped(item, error))
        if not loaded:
            return Chunk(len(items), [], skipped)
        waves = torch.stack([each.wave for each in loaded])
        images, aux = zip(*map(codec.encode, torch.split(waves, BATCH)), strict=True)
        references = torch.cat([each.reference for each in aux]).tolist()
        audio = (waves * 32767).round().to(torch.int16)
        clips = [
            Clip(
                origin=printable(each.origin),
                label=self.number[each.item.label],
                fold=each.item.fold,
                seconds=each.seconds,
                gain=each.gain,
                reference=reference,
                digest=_digest(samples),
                warnings=each.notes,
                parent=None if each.origin == each.item.origin else printable(each.item.origin),
            )
            for each, reference, samples in zip(loaded, references, audio, strict=True)
        ]
        stored = quantise(torch.cat(images)[:, : self.planes], self.dtype)
        return Chunk(len(items), clips, skipped, stored, audio.numpy() if self.keep_audio else None)

    def _load(self, item: Item, spectrogram: Spectrogram) -> Iterator[_Loaded]:
        """The recording as a clip and, if it is short, its copies of other pitches after it."""
        rate, n_samples = spectrogram.sample_rate, spectrogram.n_samples
        with _catching, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AudioWarning)
            wave = self.source.load(item, rate)
            clip, gain, notes = fit_clip(wave, n_samples, rate)
        heard = [str(warning.message) for warning in caught if issubclass(warning.category, AudioWarning)]
        heard = [printable(message.rpartition(f"{item.origin}: ")[2]) for message in heard]
        seconds = len(wave) / rate
        copies = []
        for pitch in self.pitches if seconds <= SHORT else ():
            try:
                copy, its_gain, its_notes = fit_clip(pitch_shift(wave[None], pitch, rate)[0], n_samples, rate)
            except AudioError as error:  # nothing of it is left under half the rate
                heard.append(f"no copy at pitch {pitch:g}: {error}")
                continue
            origin = f"{item.origin}@pitch={pitch:g}"
            copies.append(_Loaded(item, origin, copy.float(), seconds, its_gain, tuple(its_notes)))
        yield _Loaded(item, item.origin, clip.float(), seconds, gain, (*heard, *notes))
        yield from copies


class _Loaded(NamedTuple):
    item: Item
    origin: str
    wave: Tensor  # (n_samples,), peak 1
    seconds: float  # of the recording, before it was brought to n_samples
    gain: float
    notes: tuple[str, ...]


@lru_cache(maxsize=1)
def _open(config: str) -> Codec:
    return open_codec(json.loads(config))


_catching = threading.Lock()  # caught warnings are the process's: in an executor of threads they would mix


def _skipped(item: Item, error: Exception) -> Skipped:
    return Skipped.of(item.origin, str(error).rpartition(f"{item.origin}: ")[2] or type(error).__name__)


def _digest(samples: Tensor) -> str:
    return hashlib.sha256(samples.numpy().tobytes()).hexdigest()[:32]
