"""Sound files: every format that libsndfile knows, read as mono at one rate, and written atomically.

No file is trusted: reading gives samples that are fit to use, or an error of one sentence.
"""

from __future__ import annotations

import codecs
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.core.files import atomic_write
from schurgan.core.isolation import own_settings

SILENCE = 1e-4  # peak, full scale 1, under which a clip is taken as silent: 3 steps of 16 bits
CANCELLED = 0.05  # share of the channels' energy under which their mean is a residue, not the sound
CLIPPED = 1e-3  # share of samples in flat tops above which clipping is worth a word
RATES, MAX_CHANNELS, MAX_PEAK = (1_000, 768_000), 64, 1e12  # beyond them a header or the data is damaged
MAX_SECONDS, MAX_FRAMES = 3600.0, 2**28  # 1 GiB of mono float32
UNKNOWN_SIZE = 0x7FFF_0000  # data sizes from here on are written by programs that stream and do not know it yet
BLOCK = 65_536  # frames read or written at once
FINE = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # steps so fine that equal neighbours mean a flat top
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}

CONTAINERS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"ID3", b"\xff\xfb", b"\xff\xf3")
FOREIGN = {
    "MP4 or M4A": (4, b"ftyp"),
    "WebM or Matroska": (0, b"\x1a\x45\xdf\xa3"),
    "WMA": (0, b"\x30\x26\xb2\x75"),
    "a ZIP archive": (0, b"PK\x03\x04"),
}  # name: (offset, first bytes)

Samples = NDArray[np.float32]


class AudioError(ValueError):
    """Sound that cannot be used. The message is one sentence that starts with the path."""


class AudioWarning(UserWarning):
    """Sound that can be used but is not quite what it should be. The message starts with the path."""


def read_audio(path: str | Path, sample_rate: int = 16_000) -> Tensor:
    """Read a sound file as mono samples (L,), float32, of mean 0, full scale ±1, at a sample rate in Hz.

    Channels are averaged; where they cancel each other (the mean keeps under 5 % of their energy) the loudest one is
    used. Resampling is soxr's HQ. The content tells the format, not the name.

    Raises:
        AudioError: the file cannot be opened or decoded, is empty, silent (peak under 1e-4) or longer than an hour, has
            an absurd rate or number of channels, or holds NaN or infinite samples.

    Warns:
        AudioWarning: data are cut short or clipped, or channels are in opposite phase.
    """
    mono, rate = _read_mono(path)
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
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


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
        raise AudioError(f"{path}: cannot write {what} ({_reason(error)})") from None


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
        energy = torch.nn.functional.pad(x.double().square().cumsum(0), (1, 0))
        starts = torch.arange(0, len(x) - n_samples + 1, max(1, round(0.1 * sample_rate)))
        start = int(starts[(energy[starts + n_samples] - energy[starts]).argmax()])
    if len(x) - n_samples > 0.02 * sample_rate:  # recordings of "five seconds" are a millisecond longer
        kept_from = f", kept from {start / sample_rate:.3g} s on" if start else ""
        notes.append(f"cropped from {len(x) / sample_rate:.3g} s to {n_samples / sample_rate:.3g} s{kept_from}")
    elif len(x) < 0.05 * sample_rate:
        notes.append(f"shorter than 50 ms ({1000 * len(x) / sample_rate:.2g} ms)")
    kept = x[start : start + n_samples]
    gain = float(kept.abs().max())
    if not gain >= SILENCE:  # NaN included
        raise AudioError(f"silent (peak {gain:.2g})")
    return torch.nn.functional.pad(kept / gain, (0, n_samples - len(kept))), gain, notes


def _read_mono(path: str | Path) -> tuple[Samples, int]:
    """All frames of a file, its channels mixed into one (L,), and the file's own rate (Hz)."""
    with _open(path) as file, np.errstate(all="ignore"):  # NaN and overflow are counted, not warned of
        wav_frames, no_frames = _wav_header(file)
        try:
            with _decoder(path, file) as sound:
                rate, declared = sound.samplerate, sound.frames
                if not RATES[0] <= rate <= RATES[1]:
                    raise AudioError(f"{path}: a sample rate of {rate} Hz; {RATES[0]} to {RATES[1]} Hz can be read")
                if sound.channels > MAX_CHANNELS:
                    raise AudioError(f"{path}: {sound.channels} channels; at most {MAX_CHANNELS} can be read")
                limit = min(int(MAX_SECONDS * rate), MAX_FRAMES)
                census = _Census(_blocks(sound, limit), sound.channels, sound.subtype in FINE)
            if census.n_frames > limit:
                raise AudioError(f"{path}: longer than the {limit / rate:.4g} s that are read at most")
            mono = np.concatenate(census.mono) if census.mono else np.empty(0, np.float32)
            if census.cancelled:  # rare enough to decode again rather than to keep every channel
                with _decoder(path, file) as sound:
                    mono = np.concatenate([block[:, census.loudest] for block in _blocks(sound, limit)])
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: damaged ({_reason(error)})") from None
    if not census.n_frames:
        raise AudioError(f"{path}: {no_frames}")
    if census.non_finite:
        raise AudioError(f"{path}: holds NaN or infinite samples ({census.non_finite} of {census.size})")
    if census.peak > MAX_PEAK:
        raise AudioError(f"{path}: samples as large as {census.peak:.2g}: damaged, or not sound")
    if census.cancelled:
        _warn(
            f"{path}: its channels cancel each other (their mean keeps {100 * census.kept:.2g} % of their energy); "
            f"channel {census.loudest + 1} of {census.channels}, the loudest, is used"
        )
    declared = max(declared, wav_frames)
    if census.n_frames < declared:
        _warn(f"{path}: cut off ({census.n_frames} of {declared} frames)")
    if census.flat > CLIPPED * census.size:
        _warn(f"{path}: clipped ({100 * census.flat / census.size:.2g} % of its samples at full scale)")
    return mono, rate


class _Census:
    """One pass over a file's blocks (n, C): their mono mix, and the counts that judge it."""

    def __init__(self, blocks: Iterator[Samples], channels: int, fine: bool) -> None:
        self.channels, self.n_frames, self.non_finite, self.flat, self.peak = channels, 0, 0, 0, 0.0
        self.mono: list[Samples] = []
        sums, squares = np.zeros((2, channels + 1))  # of each channel, and last of their mean
        for block in blocks:
            mono = block.mean(axis=1) if channels > 1 else block[:, 0]
            self.mono.append(mono)
            self.n_frames += len(block)
            peak = float(np.abs(block).max())
            if not np.isfinite(peak):
                self.non_finite += int(np.count_nonzero(~np.isfinite(block)))
            elif fine and peak >= 0.99:
                self.flat += int(np.count_nonzero((np.abs(block[1:]) >= 0.99) & (block[1:] == block[:-1])))
            self.peak = max(self.peak, peak)
            if channels > 1:
                together = np.column_stack([block, mono]).astype(np.float64)
                sums += together.sum(axis=0)
                squares += np.square(together).sum(axis=0)
        energy = squares - sums**2 / max(self.n_frames, 1)  # about the mean: an offset is not sound
        self.size = self.n_frames * channels
        self.loudest = int(np.argmax(energy[:-1]))
        total = float(energy[:-1].mean())
        self.kept = float(energy[-1]) / total if total > 0 else 1.0
        self.cancelled = channels > 1 and self.kept < CANCELLED


def _blocks(sound: soundfile.SoundFile, limit: int) -> Iterator[Samples]:
    """A file's frames (n, C) from its start, BLOCK at a time, until it ends or more than `limit` have come."""
    n_frames = 0
    while n_frames <= limit and len(block := sound.read(BLOCK, "float32", always_2d=True)):
        n_frames += len(block)
        yield block


def _open(path: str | Path) -> FileIO:
    """The file, open for reading, if it may hold sound."""
    try:
        kind = os.stat(path)
        if stat.S_ISREG(kind.st_mode) and kind.st_size and Path(path).suffix.lower() != ".raw":
            return FileIO(path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(kind.st_mode):
        raise AudioError(f"{path}: a folder, not a sound file")
    if not stat.S_ISREG(kind.st_mode):  # reading a pipe or a device may never end
        raise AudioError(f"{path}: not a regular file")
    if not kind.st_size:
        raise AudioError(f"{path}: empty file (0 bytes)")
    raise AudioError(f"{path}: raw samples without a header; nothing tells their rate, WAV would")


def _decoder(path: str | Path, file: FileIO) -> soundfile.SoundFile:
    """The file's decoder, at its first frame."""
    file.seek(0)
    try:
        return soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        file.seek(0)
        raise AudioError(f"{path}: {_what_it_is(file.read(512), error)}") from None


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


def _what_it_is(head: bytes, error: soundfile.LibsndfileError) -> str:
    """Why a file that libsndfile refuses is no sound, told from its first bytes."""
    if head.startswith(CONTAINERS):
        return f"damaged ({_reason(error)})"
    for name, (offset, magic) in FOREIGN.items():
        if head[offset:].startswith(magic):
            return f"{name}, which cannot be read; convert it to WAV, FLAC, OGG or MP3"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character cut at the end is no error
    except UnicodeDecodeError:
        text = "\0"
    return f"not an audio file ({'unknown binary data' if chr(0) in text else 'text'})"


def _wav_header(file: FileIO) -> tuple[int, str]:
    """Frames that a WAV file's header declares, 0 where it does not say, and the sentence where none can be read.

    Walks the chunks of the RIFF file without trusting any size.
    """
    head, end = file.read(12), file.seek(0, os.SEEK_END)
    order = {b"RIFF": "<", b"RIFX": ">"}.get(head[:4]) if head[8:] == b"WAVE" else None
    position, frame_bytes = 12, 0
    while order and position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        position += 8
        if name == b"fmt " and size >= 16 and position + 16 <= end:
            _, channels, _, _, align, bits = struct.unpack(f"{order}HHIIHH", file.read(16))
            frame_bytes = align if align * 8 == channels * bits else 0  # otherwise blocks of a codec
        elif name == b"data":
            after, present = file.read(8), end - position
            if frame_bytes and frame_bytes <= size < UNKNOWN_SIZE:
                frames = size // frame_bytes
                return frames, f"cut off after its header (0 of {frames} frames)"
            another_chunk = (
                after[:4].isalnum() and len(after) == 8 and struct.unpack(f"{order}4xI", after)[0] <= present
            )
            if not size and present and not another_chunk:
                why = "its writer was interrupted, save it anew"
                return 0, f"its header says 0 bytes of sound, yet {present} follow; {why}"
            break
        position += size + size % 2
    return 0, "holds no sound (0 frames)"


def _warn(message: str) -> None:
    warnings.warn(message, AudioWarning, stacklevel=4)
