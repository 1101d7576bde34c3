"""Sound files: every format that libsndfile knows, read as mono at one rate, and written atomically.

No file is trusted: reading gives samples that are fit to use, or an error of one sentence.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.audio.decoders import AudioError, AudioWarning, Decoder, open_decoder, open_file, reason
from schurgan.core.files import atomic_write
from schurgan.core.isolation import own_settings

SILENCE = 1e-4  # peak, full scale 1, under which a clip is taken as silent: 3 steps of 16 bits
CANCELLED = 0.05  # share of the channels' energy under which their mean is a residue, not the sound
CLIPPED = 1e-3  # share of samples in flat tops above which clipping is worth a word
RATES, MAX_CHANNELS, MAX_PEAK = (1_000, 768_000), 64, 1e12  # beyond them a header or the data is damaged
MAX_SECONDS, MAX_FRAMES = 3600.0, 2**28  # of a recording that is wanted whole: 1 GiB of mono float32
LONGEST = 48 * 3600.0  # seconds of a recording of which a part is wanted
WHOLE = 2**24  # frames up to which a recording is held in memory: 64 MiB
BLOCK = 65_536  # frames written at once
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
HOP = 0.1  # seconds between the places where the loudest part may begin

Samples = NDArray[np.float32]


def read_audio(path: str | Path, sample_rate: int = 16_000) -> Tensor:
    """Read a sound file as mono samples (L,), float32, of mean 0, full scale ±1, at a sample rate in Hz.

    Channels are averaged; where they cancel each other (the mean keeps under 5 % of their energy) the loudest one is
    used. Resampling is soxr's HQ. The content tells the format, not the name. Wrong sizes in headers, files put one
    behind the other and damaged ends are read as far as they go. What libsndfile cannot read, PyAV does where it is
    installed (the extra `codecs`).

    Raises:
        AudioError: the file cannot be opened or decoded, is empty, silent (peak under 1e-4) or longer than an hour, has
            an absurd rate or number of channels, or holds NaN or infinite samples.

    Warns:
        AudioWarning: data are missing or clipped, a header is wrong, or channels are in opposite phase.
    """
    return torch.from_numpy(_read(path, sample_rate, None)[0])


def read_loudest(path: str | Path, n_samples: int, sample_rate: int = 16_000) -> tuple[Tensor, float]:
    """Read a sound file of up to two days, of which `fit_clip` will keep n_samples; else as `read_audio`.

    Of a recording of over 2²⁴ frames, six minutes at 44.1 kHz, only its loudest n_samples are ever held, chosen as
    `fit_clip` does, with an AudioWarning that says from where on; shorter ones come whole.

    Returns:
        Samples (L,), and the length of the whole recording in seconds.
    """
    samples, total = _read(path, sample_rate, n_samples)
    return torch.from_numpy(samples), total / sample_rate


def write_audio(path: str | Path, samples: Tensor | NDArray[Any], sample_rate: int = 16_000) -> None:
    """Write a sound file atomically, of 16 bits where the format has them.

    Args:
        path: the file; its suffix is the format: .wav, .flac, .ogg or .mp3.
        samples: floats (L,) or (L, C) of full scale ±1; values beyond are clipped, with an AudioWarning.
        sample_rate: Hz.

    Raises:
        AudioError: the samples or the format cannot be written.
        OSError: as the file system does.
    """
    format_ = FORMATS.get(Path(path).suffix.lower())
    if format_ is None:
        raise AudioError(f"{path}: no sound format has this suffix; one of {', '.join(FORMATS)} is needed")
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu().to(torch.promote_types(samples.dtype, torch.float32)).numpy()
    if samples.ndim not in (1, 2) or not samples.size or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{path}: samples {samples.shape} {samples.dtype}: floats (L,) or (L, channels) are needed")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: NaN or infinite samples cannot be written as sound")
    beyond = int(np.count_nonzero(np.abs(samples) > 1))
    if beyond:
        _warn(f"{path}: {beyond} of {samples.size} samples beyond ±1 were clipped")
        samples = samples.clip(-1, 1)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    try:
        with (
            atomic_write(path) as file,
            soundfile.SoundFile(file, "w", int(sample_rate), channels, format=format_) as sound,
        ):
            for start in range(0, len(samples), BLOCK):  # one long write overflows the stack of Vorbis' encoder
                sound.write(samples[start : start + BLOCK])
    except soundfile.LibsndfileError as error:
        what = f"{channels} channels at {sample_rate} Hz as {format_}"
        raise AudioError(f"{path}: cannot write {what} ({reason(error)})") from None


@own_settings(keep_grad=True)
def fit_clip(x: Tensor, n_samples: int, sample_rate: int = 16_000) -> tuple[Tensor, float, list[str]]:
    """Fit samples (L,) to a clip of peak 1.

    A longer sound keeps its loudest part, the first of them in steps of 0.1 s; a shorter one gets zeros at its end.

    Returns:
        The clip (n_samples,), the gain with which clip · gain are the samples, and notes: what was cropped, or that
        the sound is shorter than 50 ms.

    Raises:
        AudioError: the clip is silent (peak under 1e-4).
    """
    if x.ndim != 1 or not len(x) or n_samples < 1:
        raise ValueError(f"samples {tuple(x.shape)} to a clip of {n_samples}: (L,) with L of 1 or more is needed")
    notes, start = [], 0
    if len(x) > n_samples:
        _, start, _ = _loudest([x.detach().numpy()], n_samples, sample_rate)
    if len(x) - n_samples > 0.02 * sample_rate:  # recordings of "five seconds" are a millisecond longer
        notes.append(_cropped(len(x), n_samples, start, sample_rate))
    elif len(x) < 0.05 * sample_rate:
        notes.append(f"shorter than 50 ms ({1000 * len(x) / sample_rate:.2g} ms)")
    kept = x[start : start + n_samples]
    gain = float(kept.abs().max())
    if not gain >= SILENCE:  # NaN included
        raise AudioError(f"silent (peak {gain:.2g})")
    return torch.nn.functional.pad(kept / gain, (0, n_samples - len(kept))), gain, notes


def _cropped(total: int, n_samples: int, start: int, sample_rate: int) -> str:
    kept_from = f", kept from {start / sample_rate:.3g} s on" if start else ""
    return f"cropped from {total / sample_rate:.3g} s to {n_samples / sample_rate:.3g} s{kept_from}"


def _loudest(chunks: Iterable[NDArray[Any]], n: int, sample_rate: int) -> tuple[NDArray[Any], int, int]:
    """Of samples that come in chunks the loudest n, the first of them in steps of HOP; their start, and how many came.

    Holds about 2n samples. Where fewer than n came they are all kept.
    """
    hop = max(1, round(HOP * sample_rate))
    kept, start, most, total = np.empty(0, np.float32), 0, -1.0, 0
    held, first = np.empty(0, np.float32), 0  # the last samples that came, and where in them the next part begins
    waiting: list[NDArray[Any]] = []
    for chunk in itertools.chain(chunks, [None]):
        if chunk is not None:
            waiting.append(chunk)
            total += len(chunk)
            if len(held) + sum(map(len, waiting)) < 2 * n + first:
                continue
        held, waiting = np.concatenate([held, *waiting]) if len(held) else np.concatenate([*waiting, held[:0]]), []
        starts = np.arange(first, len(held) - n + 1, hop)
        if len(starts):
            energy = np.concatenate([[0.0], np.square(held, dtype=np.float64).cumsum()])
            sums = energy[starts + n] - energy[starts]
            if (loudest := int(sums.argmax())) >= 0 and sums[loudest] > most:
                place = int(starts[loudest])
                most, start, kept = float(sums[loudest]), total - len(held) + place, held[place : place + n].copy()
            first = int(starts[-1]) + hop
            held, first = held[min(first, len(held)) :], max(0, first - len(held))
    return (kept, start, total) if most >= 0 else (held, 0, total)


def _read(path: str | Path, sample_rate: int, n_samples: int | None) -> tuple[Samples, int]:
    """Mono samples of mean 0 at a rate: all, or where n_samples are asked for and there are too many, the loudest.

    And how many there are in all.
    """
    with open_file(path) as file, np.errstate(all="ignore"):  # NaN and overflow are counted, not warned of
        sound = open_decoder(path, file)
        rate, channels = sound.rate, sound.channels
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(f"{path}: a sample rate of {rate} Hz; {RATES[0]} to {RATES[1]} Hz can be read")
        if channels > MAX_CHANNELS:
            raise AudioError(f"{path}: {channels} channels; at most {MAX_CHANNELS} can be read")
        longest = LONGEST * rate if n_samples else min(int(MAX_SECONDS * rate), MAX_FRAMES)
        census = _Census(sound.blocks(), channels, sound.fine, longest, WHOLE if n_samples else longest)
        if census.n_frames > longest:
            raise AudioError(f"{path}: longer than the {longest / rate:.4g} s that are read at most")
        _judge(path, sound, census)
        if n_samples and census.n_frames > WHOLE:
            centred = (_mix(block, census.channel) - np.float32(census.mean) for block in sound.blocks())
            chunks = _resampled(centred, rate, sample_rate)
            samples, start, total = _loudest(chunks, n_samples, sample_rate)
            if np.abs(samples).max(initial=0) < SILENCE:
                raise AudioError(f"{path}: silent (peak {np.abs(samples).max(initial=0):.2g})")
            if total > n_samples:
                _warn(f"{path}: {_cropped(total, n_samples, start, sample_rate)}")
            return samples, total
        mono = np.concatenate(census.mono)
        if census.cancelled:  # rare enough to decode again rather than to keep every channel
            mono = np.concatenate([_mix(block, census.channel) for block in sound.blocks()])
    offset = float(mono.mean(dtype=np.float64))
    n_frames, peak = len(mono), float(np.abs(mono).max())
    mono -= np.float32(offset)  # before resampling, so that an offset does not ring at both ends
    if np.abs(mono).max() < SILENCE:
        constant = f", {n_frames} frames of a constant {offset:.2g}" if peak >= SILENCE else ""
        raise AudioError(f"{path}: silent (peak {np.abs(mono).max():.2g}{constant})")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
        if not len(mono):
            raise AudioError(f"{path}: too short ({n_frames} frames at {rate} Hz hold no sample at {sample_rate} Hz)")
        mono -= np.float32(mono.mean(dtype=np.float64))
        if np.abs(mono).max() < SILENCE:
            raise AudioError(f"{path}: silent at {sample_rate} Hz (all of its sound is above {sample_rate / 2:g} Hz)")
    return np.ascontiguousarray(mono, dtype=np.float32), len(mono)


def _judge(path: str | Path, sound: Decoder, census: _Census) -> None:
    """Raise AudioError for what is no sound, and warn of what is missing, clipped or cancelled."""
    n, declared, missing = census.n_frames, sound.declared, sound.remark
    if not n:
        cut = f"cut off after its header (0 of {declared} frames)" if declared else "holds no sound (0 frames)"
        raise AudioError(f"{path}: {missing or cut}")
    if census.non_finite:
        raise AudioError(f"{path}: holds NaN or infinite samples ({census.non_finite} of {census.size})")
    if census.peak > MAX_PEAK:
        raise AudioError(f"{path}: samples as large as {census.peak:.2g}: damaged, or not sound")
    if census.cancelled:
        _warn(
            f"{path}: its channels cancel each other (their mean keeps {100 * census.kept:.2g} % of their energy); "
            f"channel {census.loudest + 1} of {census.channels}, the loudest, is used"
        )
    if missing:
        _warn(
            f"{path}: {missing}; {f'{n} of {declared} frames' if n < declared else f'{n / sound.rate:.4g} s'} were read"
        )
    elif n < declared:
        _warn(f"{path}: cut off ({n} of {declared} frames)")
    if census.flat > CLIPPED * census.size:
        _warn(f"{path}: clipped ({100 * census.flat / census.size:.2g} % of its samples at full scale)")


def _mix(block: Samples, channel: int | None = None) -> Samples:
    """Mono of a block (n, C): one channel, or the mean of all."""
    if channel is None and block.shape[1] > 1:
        return np.asarray(block.mean(axis=1))
    return block[:, channel or 0]


def _resampled(chunks: Iterable[Samples], rate: int, sample_rate: int) -> Iterator[Samples]:
    stream = soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
    yield from (stream.resample_chunk(chunk) for chunk in chunks)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


class _Census:
    """One pass over a file's blocks (n, C): their mono mix while it is short, and the counts that judge it."""

    def __init__(self, blocks: Iterable[Samples], channels: int, fine: bool, longest: float, held: float) -> None:
        self.channels, self.n_frames, self.non_finite, self.flat, self.peak = channels, 0, 0, 0, 0.0
        self.mono: list[Samples] = []
        sums, squares = np.zeros((2, channels + 1))  # of each channel, and last of their mean
        for block in blocks:
            mono = _mix(block)
            self.mono.append(mono)
            self.n_frames += len(block)
            if self.n_frames > held:
                self.mono = []
            if self.n_frames > longest:
                break
            peak = float(np.abs(block).max())
            if not np.isfinite(peak):
                self.non_finite += int(np.count_nonzero(~np.isfinite(block)))
            elif fine and peak >= 0.99:
                self.flat += int(np.count_nonzero((np.abs(block[1:]) >= 0.99) & (block[1:] == block[:-1])))
            self.peak = max(self.peak, peak)
            if channels == 1:
                sums += mono.sum(dtype=np.float64)
            else:
                together = np.column_stack([block, mono]).astype(np.float64)
                sums += together.sum(axis=0)
                squares += np.square(together).sum(axis=0)
        energy = squares - sums**2 / max(self.n_frames, 1)  # about the mean: an offset is not sound
        self.size = self.n_frames * channels
        self.loudest = int(np.argmax(energy[:-1]))
        total = float(energy[:-1].mean())
        self.kept = float(energy[-1]) / total if total > 0 else 1.0
        self.cancelled = channels > 1 and self.kept < CANCELLED
        self.channel = self.loudest if self.cancelled else None  # None: the mean of all
        self.mean = float(sums[-1 if self.channel is None else self.channel]) / max(self.n_frames, 1)


def _warn(message: str) -> None:
    warnings.warn(message, AudioWarning, stacklevel=5)
