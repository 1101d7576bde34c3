"""Sound files that libsndfile cannot read: which codec they hold, and how PyAV, where it is installed, reads them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from importlib import import_module
from io import FileIO
from typing import Any, NamedTuple

import numpy as np

from schurgan.audio.containers import behind_tags, find

try:
    av: Any = import_module("av")
except ImportError:  # the extra `codecs` is not installed
    av = None

_HEAD = 65_536

_MAGIC = (  # offset, first bytes, codec, FFmpeg's name of the format
    (4, b"ftyp", "MP4", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA", "asf"),
    (0, b"#!AMR-WB\n", "AMR-WB", "amr"),
    (0, b"#!AMR\n", "AMR", "amr"),
    (0, b"ADIF", "AAC", "aac"),
    (0, b"\x0b\x77", "AC-3", "ac3"),
    (0, b"\x7f\xfe\x80\x01", "DTS", "dts"),
    (0, b"MAC ", "Monkey's Audio", "ape"),
    (0, b"wvpk", "WavPack", "wv"),
    (0, b"TTA1", "True Audio", "tta"),
    (0, b"MP+", "Musepack", "mpc"),
    (0, b"MPCK", "Musepack", "mpc8"),
    (0, b"DSD ", "DSD", "dsf"),
    (0, b"FRM8", "DSD", "iff"),
    (0, b".RMF", "RealAudio", "rm"),
    (0, b".ra\xfd", "RealAudio", "rm"),
    (8, b"QLCM", "QCELP or EVRC", "qcp"),
    (8, b"AVI ", "AVI", "avi"),
    (28, b"Speex   ", "Speex", "ogg"),
)

_ESTIMATED = ("aac", "ac3", "amr", "dts", "rm", "mpc", "qcp", "iff")  # formats that do not say how long they are

_WAV = {  # format tags
    **dict.fromkeys((0x0014, 0x0042, 0x0059, 0x0111, 0x0123, 0xA100), "G.723"),
    **dict.fromkeys((0x00FF, 0x1600, 0x1601, 0x1602, 0x1610, 0x4143, 0x706D, 0xA106), "AAC"),
    **dict.fromkeys((0x000A, 0x000B, 0x0160, 0x0161, 0x0162, 0x0163), "WMA"),
    **dict.fromkeys((0x0045, 0x0064, 0x0065, 0x0085, 0x0140), "G.726"),
    **dict.fromkeys((0x0083, 0x0133, 0xA103), "G.729"),
    **dict.fromkeys((0x0057, 0x7A21, 0x7A22, 0xA104), "AMR"),
    **dict.fromkeys((0x2000, 0x0092), "AC-3"),
    **dict.fromkeys((0x0008, 0x2001), "DTS"),
    **dict.fromkeys((0x674F, 0x6750, 0x6751, 0x676F, 0x6770, 0x6771), "Vorbis"),
    0x0022: "TrueSpeech",
    0x0050: "MPEG layer II",
    0x0055: "MP3",
    0x0270: "ATRAC3",
    0x028F: "ADPCM of Creative",
    0x0062: "ADPCM of Yamaha",
    0x0069: "ADPCM of the Xbox",
    0xA109: "Speex",
    0xF1AC: "FLAC",
    0x704F: "Opus",
}
_TYPES = {  # of MP4, CAF and AIFF
    b"mp4a": "AAC",
    b"aac ": "AAC",
    b"aach": "AAC",
    b"alac": "ALAC",
    b"ac-3": "AC-3",
    b"ec-3": "E-AC-3",
    b"Opus": "Opus",
    b"opus": "Opus",
    b"fLaC": "FLAC",
    b"samr": "AMR",
    b"sawb": "AMR-WB",
    b".mp3": "MP3",
    b"QDM2": "QDesign",
    b"MAC3": "MACE",
    b"MAC6": "MACE",
    b"Qclp": "QCELP",
    b"ima4": "IMA ADPCM",
}


class Foreign(NamedTuple):
    """What a file holds that libsndfile cannot read."""

    codec: str
    format: str  # as FFmpeg calls it


def identify(file: FileIO) -> Foreign | None:
    """The codec of a file, from its bytes; None for files that are no sound, or damaged ones of other kinds."""
    file.seek(behind_tags(file, 0))
    head = file.read(_HEAD) or b""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        layout = head.find(b"fmt ") + 8
        tag = struct.unpack_from("<H" if head[:4] != b"RIFX" else ">H", head.ljust(layout + 26, b"\0"), layout)[0]
        tag = struct.unpack_from("<H", head.ljust(layout + 26, b"\0"), layout + 24)[0] if tag == 0xFFFE else tag
        return Foreign(_WAV[tag], "wav") if tag in _WAV else None
    if head[:4] == b"caff":
        return Foreign(_TYPES[head[28:32]], "caf") if head[28:32] in _TYPES else None
    if head[:4] == b"FORM":
        place = head.find(b"COMM")
        return (
            Foreign(_TYPES[head[place + 26 : place + 30]], "aiff") if head[place + 26 : place + 30] in _TYPES else None
        )
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Foreign("AAC", "aac")
    for offset, magic, name, format_ in _MAGIC:
        if head[offset:].startswith(magic):
            inside = _in_mp4(file) if format_ == "mp4" else _in_matroska(head) if format_ == "matroska" else ""
            return Foreign(inside or name, format_)
    return None


def _in_mp4(file: FileIO) -> str:
    """The codec of the first track of sound: its type stands 12 bytes behind the name of the table of samples."""
    for place in find(file, b"stsd", 0):
        file.seek(place + 16)
        if (codec := file.read(4)) in _TYPES:
            return f"{_TYPES[codec]} in MP4"
    return ""


def _in_matroska(head: bytes) -> str:
    codec = re.search(rb"A_([A-Z0-9_]+)", head)
    return f"{codec[1].decode().capitalize() if codec[1] != b'AAC' else 'AAC'} in Matroska or WebM" if codec else ""


class Decoder:
    """Reads the first stream of sound of a file by PyAV: what is read is as FFmpeg decodes it, at the file's own rate.

    Raises:
        ValueError: the file cannot be opened, or holds no sound.
    """

    def __init__(self, file: FileIO, format_: str) -> None:
        self.file, self.format, self.fine, self.remark = file, format_, False, ""
        with self._open() as container:
            stream = container.streams.audio[0]
            self.rate, self.channels, self.layout = stream.rate, stream.channels, stream.layout.name
            seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1_000_000
            self.declared = int(seconds * self.rate) if format_ not in _ESTIMATED else 0

    def _open(self) -> Any:
        self.file.seek(0)
        try:
            container = av.open(self.file, format=self.format, metadata_errors="ignore")
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(_reason(error)) from None
        if not any(stream.rate and stream.channels for stream in container.streams.audio[:1]):
            container.close()
            raise ValueError("no sound in it")
        return container

    def blocks(self) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """Frames (n, C) from the start of the file on."""
        even, n_frames = av.AudioResampler("fltp", self.layout, self.rate), 0
        with self._open() as container:
            try:
                for frame in container.decode(audio=0):
                    for part in even.resample(frame):  # streams may change their rate and channels
                        n_frames += part.samples
                        yield np.ascontiguousarray(part.to_ndarray().T)
            except (av.error.FFmpegError, ValueError) as error:
                self.remark = f"damaged after {n_frames / self.rate:.4g} s ({_reason(error)})"
        if self.declared - n_frames < 0.1 * self.rate:  # codecs begin and end with silence that is cut
            self.declared = 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0]
