"""What a data set sounds like, from a few of its recordings: what kind of sound, how long, how high, how silent."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schurgan.audio import AudioError, AudioWarning
from schurgan.core.errors import SchurganError
from schurgan.core.isolation import isolated
from schurgan.data.sources.base import FileSource, Item, Source

Kind = Literal["one-shots", "spoken words", "field recordings", "pictures"]
_MOST, _PATIENCE = 60, 4.0  # recordings that are looked at, and seconds after which no other one is
_RATE = 48_000  # Hz at which they are read, whatever their own: what is above half of it nobody hears
_LONGEST = 10  # seconds of a recording that are looked at, its first
_HOP = _RATE // 100  # samples of a level: 10 ms
_SILENT, _LOUD = -40.0, -15.0  # dB under the loudest level: silence, and what may be a vowel
_SHORT = 2.0  # seconds of one-shots and words
_PITCHES = 60, 400  # Hz of voices


@dataclass(frozen=True)
class Survey:
    """Of the recordings that were looked at: medians, but `sounding` and `highest` are those of nine in ten."""

    kind: Kind
    looked: int
    refused: tuple[str, ...] = ()  # why others cannot be used
    seconds: float = 0.0
    sounding: float = 0.0  # seconds from the first level over −40 dB to the last
    silence: float = 0.0  # share of the levels under −40 dB
    highest: float = 0.0  # Hz under which 99 % of the energy times frequency lie
    rise: float = 0.0  # seconds from the first sound to the loudest
    voiced: float = 0.0  # share of the loud levels that repeat themselves at the pitches of voices
    size: int = 0  # rows of a picture


class _Figures(NamedTuple):
    seconds: float
    sounding: float
    silence: float
    highest: float
    rise: float
    voiced: float


@isolated
def survey(source: Source) -> Survey:
    """Look at up to 60 recordings of a source, some of each class, for four seconds at most.

    Short sounds (half of them up to 2 s) are spoken words where they are voiced and rise slowly, else one-shots.

    Raises:
        SchurganError: none of them can be used.
    """
    figures: list[_Figures] = []
    sizes: list[int] = []
    refused: list[str] = []
    until = time.monotonic() + _PATIENCE
    for item in _spread(source.items()):
        if (figures or sizes) and time.monotonic() > until:
            break
        try:
            if source.kind == "images":
                sizes.append(min(source.load_image(item).shape[1:]))
            else:
                figures.append(_listen(source, item))
        except (AudioError, SchurganError) as error:
            refused.append(str(error))
    if sizes:
        return Survey("pictures", len(sizes), tuple(refused), size=int(np.median(sizes)))
    if not figures:
        raise SchurganError(f"none of {len(refused)} recordings that were tried can be used; the first, {refused[0]}")
    middle, most = (_Figures(*np.percentile(figures, share, axis=0).tolist()) for share in (50, 90))
    kind: Kind = "field recordings"
    if middle.seconds <= _SHORT:
        kind = "spoken words" if middle.voiced >= 0.4 and middle.rise >= 0.08 else "one-shots"
    spread = middle._replace(sounding=most.sounding, highest=most.highest)
    return Survey(kind, len(figures), tuple(refused), **spread._asdict())


def _spread(items: Iterable[Item]) -> list[Item]:
    """Items of each class in turn, from all over it."""
    classes: dict[str, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    share = max(1, _MOST // len(classes))
    chosen = [each[:: max(1, len(each) // share)][:share] for each in classes.values()]
    return [item for item in chain.from_iterable(zip_longest(*chosen)) if item is not None][:_MOST]


def _listen(source: Source, item: Item) -> _Figures:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # `prepare` tells of them
        if isinstance(source, FileSource):
            wave, seconds = source.load_loudest(item, _LONGEST * _RATE, _RATE)
        else:
            wave = source.load(item, _RATE)
            seconds = len(wave) / _RATE
    sound = wave.numpy()[: _LONGEST * _RATE]
    sound = np.pad(sound, (0, max(0, _HOP - len(sound))))
    power = np.square(sound[: len(sound) // _HOP * _HOP], dtype=np.float64).reshape(-1, _HOP).mean(1)
    level = 10 * np.log10(power / power.max() + 1e-12)
    heard = np.flatnonzero(level > _SILENT)
    rise, span = level.argmax() - heard[0], heard[-1] + 1 - heard[0]
    energy = np.square(np.abs(np.fft.rfft(sound))) * np.arange(len(sound) // 2 + 1)
    highest = np.searchsorted(energy.cumsum(), 0.99 * energy.sum()) * _RATE / len(sound)
    voiced = _voiced(sound[:: _RATE // 8000], np.flatnonzero(level > _LOUD) * 80)
    sounding = seconds if seconds > _LONGEST else span / 100
    return _Figures(seconds, sounding, float((level <= _SILENT).mean()), float(highest), rise / 100, voiced)


def _voiced(sound: NDArray[np.float32], places: NDArray[np.int64]) -> float:
    """Share of places, in samples at 8 kHz, after which 40 ms are much the same one period of a voice later."""
    window, first, last = 320, 8000 // _PITCHES[1], 8000 // _PITCHES[0]
    found = []
    for place in places[places + window + last <= len(sound)][:200]:
        part = sound[place : place + window + last]
        shifted = np.lib.stride_tricks.sliding_window_view(part, window)
        shifted = shifted - shifted.mean(1, keepdims=True)
        norms = np.linalg.norm(shifted, axis=1)
        alike = shifted[first:] @ shifted[0] / (norms[first:] * norms[0] + 1e-9)
        found.append(alike.max() > 0.7)
    return float(np.mean(found)) if found else 0.0
