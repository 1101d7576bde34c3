"""How a sound file is decoded: by libsndfile, piece after piece as its container allows, or by PyAV."""

from __future__ import annotations

import codecs
import io
import itertools
import os
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from schurgan.audio import foreign
from schurgan.audio.containers import Piece, survey
from schurgan.core.files import open_regular

_BLOCK, _STEP = 65_536, 512  # frames read at once, and where a decoder stumbles
_FINE = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # steps so fine that equal neighbours mean a flat top
_CONTAINERS = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd"),
    *(b"ID3", b"\xff\xfb", b"\xff\xf3"),
)
_SIZES = re.compile(r"(?:Data Size|BODY|riff|Data length)[^\d\n]*(\d+)[^\d\n]*should be (\d+)")

Samples = NDArray[np.float32]


class AudioError(ValueError):
    """Sound that cannot be used. The message is one sentence that starts with the path."""


class AudioWarning(UserWarning):
    """Sound that can be used but is not quite what it should be. The message starts with the path."""


class Decoder(Protocol):
    """A file's frames, as often as they are asked for."""

    rate: int
    channels: int
    fine: bool  # whether its samples have steps so fine that equal neighbours mean a flat top
    declared: int  # frames that the file says it has, 0 where unknown; certain once all were read
    remark: str  # what is missing or wrong, likewise

    def blocks(self) -> Iterator[Samples]:
        """Frames (n, C) from the start of the file on."""


def open_file(path: str | Path) -> FileIO:
    """The file, open for reading. Raises AudioError for what cannot hold sound."""
    try:
        file = cast(FileIO, open_regular(path, "rb", buffering=0))
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: a folder, not a sound file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if os.fstat(file.fileno()).st_size and Path(path).suffix.lower() != ".raw":
        return file
    with file:
        why = (
            "raw samples without a header; nothing tells their rate, WAV would"
            if file.read(1)
            else "empty file (0 bytes)"
        )
    raise AudioError(f"{path}: {why}")


class _Window(io.RawIOBase):
    """A piece as a file to read and to seek in."""

    def __init__(self, file: FileIO, piece: Piece) -> None:
        self.file, self.piece, self.position = file, piece, 0
        self.size = len(piece.head) + piece.end - piece.start
        self.shown = self.size * piece.stretch

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read as files do. Where the piece only shows itself longer there are zeros at the end: no tag."""
        head, wanted = self.piece.head, len(buffer)
        if self.position < len(head):
            content = head[self.position : self.position + wanted]
        elif self.position < self.size:
            place = self.piece.start + self.position - len(head)
            self.file.seek(place)
            content = self.file.read(min(wanted, self.size - self.position)) or b""
        else:
            content = bytes(wanted) if self.shown - 128 <= self.position < self.shown else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as files do."""
        self.position = max(0, (0, self.position, self.shown)[whence] + offset)
        return self.position

    def tell(self) -> int:
        """Where it is."""
        return self.position


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """Reads on without seeking, which some decoders cannot, and none needs."""

    def seekable(self) -> bool:
        return False


class _Libsndfile:
    """The frames of a file, piece after piece; what is wrong with them is known once they were read.

    Raises:
        soundfile.LibsndfileError: libsndfile does not open it.
    """

    def __init__(self, file: FileIO) -> None:
        self.file, self.contents, self.declared, self.remark = file, survey(file), 0, ""
        self.pieces: tuple[Piece | None, ...] = self.contents.pieces or (None,)
        with self._open(self.pieces[0]) as sound:
            self.rate, self.channels, self.fine = sound.samplerate, sound.channels, sound.subtype in _FINE

    def _open(self, piece: Piece | None) -> _Sequential:
        self.file.seek(0)
        return _Sequential(_Window(self.file, piece)) if piece else _Sequential(self.file.fileno(), closefd=False)

    def blocks(self) -> Iterator[Samples]:
        """Frames (n, C), _BLOCK at a time."""
        self.declared, self.remark = self.contents.frames, self.contents.remark
        declared = n_frames = 0
        for piece in self.pieces:
            before = n_frames
            try:
                with self._open(piece) as sound:
                    if (sound.samplerate, sound.channels) != (self.rate, self.channels):
                        other = f"{sound.samplerate} Hz and {sound.channels} channels"
                        self.remark = (
                            f"its sound goes on with {other} after {n_frames / self.rate:.4g} s, only that is used"
                        )
                        break
                    if sound.frames < 2**62 and not (piece and piece.stretch > 1):  # otherwise it is not known
                        declared += sound.frames
                    self.remark = self.remark or _wrong_size(sound)
                    while len(block := sound.read(_BLOCK, "float32", always_2d=True)):
                        n_frames += len(block)
                        yield block
            except soundfile.LibsndfileError as error:
                for block in self._steps(piece, n_frames - before):
                    n_frames += len(block)
                    yield block
                self.remark = f"damaged after {n_frames / self.rate:.4g} s ({reason(error)})"
        self.declared = max(declared, self.contents.frames)

    def _steps(self, piece: Piece | None, skip: int) -> Iterator[Samples]:
        """What of a piece can be read before its decoder gives up, but for the first frames."""
        try:
            with self._open(piece) as sound:
                for position in itertools.count(0, _STEP):
                    block = sound.read(_STEP, "float32", always_2d=True)
                    if not len(block):
                        return
                    if position >= skip:
                        yield block
        except soundfile.LibsndfileError:
            return


def open_decoder(path: str | Path, file: FileIO) -> Decoder:
    """What reads a file: libsndfile, or PyAV where that cannot and PyAV is installed. Raises AudioError."""
    try:
        return _Libsndfile(file)
    except soundfile.LibsndfileError as error:
        if not (known := foreign.identify(file)):
            file.seek(0)
            raise AudioError(f"{path}: {_what_it_is(file.read(512), error)}") from None
    if not foreign.av:
        convert = f"`ffmpeg -i {Path(path).name} {Path(path).stem}.wav`"
        raise AudioError(
            f"{path}: {known.codec}, which libsndfile cannot read; install schurgan[codecs], or convert it: {convert}"
        )
    try:
        return foreign.Decoder(file, known.format)
    except ValueError as error:
        raise AudioError(f"{path}: {known.codec}, damaged or unknown to FFmpeg ({error})") from None


def _wrong_size(sound: soundfile.SoundFile) -> str:
    """What libsndfile notes on the size of a file whose format `survey` does not know, if something is missing."""
    found = _SIZES.search(sound.extra_info)
    declared, present = map(int, found.groups()) if found else (0, 0)
    return f"cut off ({present / declared:.0%} of it is there)" if present < declared < 0x7FFF_0000 else ""


def reason(error: soundfile.LibsndfileError) -> str:
    """What libsndfile says, without its frame."""
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


def _what_it_is(head: bytes, error: soundfile.LibsndfileError) -> str:
    """Why a file that libsndfile refuses is no sound, told from its first bytes."""
    if head.startswith(_CONTAINERS):
        return f"damaged ({reason(error)})"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character cut at the end is no error
    except UnicodeDecodeError:
        text = "\0"
    return f"not an audio file ({'unknown binary data' if chr(0) in text else 'text'})"
