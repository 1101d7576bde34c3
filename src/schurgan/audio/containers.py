"""What the container of a sound file says, against what is there: which bytes hold sound, and what of it is missing.

Decoders believe the container. But sizes wrap at 4 GiB, programs that stream do not know them yet, copies break off,
and files are put one behind the other: so the bytes are looked through, and decoders get pieces that they read whole.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from io import FileIO
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_KINDS = {  # first bytes: byte order and type of a chunk's size, first chunk, chunk of the sound, bytes before it there
    b"RIFF": ("<I", 12, b"data", 0),
    b"RIFX": (">I", 12, b"data", 0),
    b"RF64": ("<I", 12, b"data", 0),
    b"BW64": ("<I", 12, b"data", 0),
    b"FORM": (">I", 12, b"SSND", 8),
    b"caff": (">Q", 8, b"data", 4),
}
_UNKNOWN = {"I": 0x7FFF_0000, "Q": 2**62}  # sizes from here on are written by programs that stream
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_LEAST = 1024  # bytes behind the declared sound from which on they can be more of it
_MOST_CHUNKS = 10_000
_STRIDE, _TAIL = 2**20, 2**24  # bytes read at once, and in which chunks behind the sound are found

_HERTZ = (44_100, 48_000, 32_000)
_KBIT = {  # by whether it is MPEG 1, and layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    **dict.fromkeys([(False, 2), (False, 3)], (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)),
}


class Piece(NamedTuple):
    """Bytes start to end of a file behind a `head` of their own, which a decoder takes for a file."""

    start: int
    end: int
    head: bytes = b""
    stretch: int = 1
    """As how many times as long the piece shows itself: a decoder that stops at its own estimate then reads it all."""


class Contents(NamedTuple):
    """What a file holds, as far as it can be told without decoding."""

    pieces: tuple[Piece, ...] = ()  # none where the file is read as it is
    frames: int = 0  # that its header declares, where those count more than what the decoder says
    remark: str = ""  # what is missing, or what was read beside what is declared


def survey(file: FileIO) -> Contents:
    """Look through a file of chunks (WAV, RF64, BW64, AIFF, CAF), AU, NIST, Ogg, FLAC or MPEG; leave others alone."""
    size = file.seek(0, os.SEEK_END)
    start = behind_tags(file, 0)
    first = _at(file, start, 4)
    if first in _KINDS:
        return _chunked(file, start, size)
    if first == b".snd":
        return _au(file, start, size)
    if first == b"NIST":  # a text says how many frames there are
        count = re.search(rb"sample_count -i (\d{1,12})\s", _at(file, start, 1024))
        return Contents(frames=int(count[1]) if count else 0)
    if first == b"OggS":
        return _ogg(file, start, size)
    if first == b"fLaC":
        return _flac(file, start, size)
    return _mpeg(file, start, size) if _mpeg_frame(first) else Contents()


def behind_tags(file: FileIO, position: int) -> int:
    """The first byte behind ID3v2 tags."""
    while (tag := _at(file, position, 10))[:3] == b"ID3" and len(tag) == 10:
        position += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return position


def find(file: FileIO, what: bytes, start: int, end: int | None = None) -> Iterator[int]:
    """Where `what` stands in the bytes from `start` on."""
    rest, position = b"", start
    while (end is None or position < end) and (block := _at(file, position, _STRIDE)):
        text = rest + block
        yield from (position - len(rest) + match.start() for match in re.finditer(re.escape(what), text))
        rest, position = text[len(text) + 1 - len(what) :], position + len(block)


def _at(file: FileIO, position: int, n_bytes: int) -> bytes:
    if position >= 2**40:  # no file is so long, and no file system seeks so far
        return b""
    file.seek(position)
    return file.read(n_bytes) or b""


# --- chunks -----------------------------------------------------------------------------------------------------------


def _chunked(file: FileIO, origin: int, size: int) -> Contents:
    magic = _at(file, origin, 4)
    code, first, wanted, before = _KINDS[magic]
    width, position, chunks = struct.calcsize(code), origin + first, dict[bytes, bytes]()
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 4 + width)
        if len(header) < 4 + width:
            return Contents()
        name, declared = header[:4], struct.unpack(code, header[4:])[0]
        position += 4 + width
        if name == wanted:
            break
        chunks.setdefault(name, _at(file, position, min(declared, 4096)))
        position += declared + (declared % 2 if width == 4 else 0)
    start = position + before
    if name != wanted or start - origin > _TAIL:
        return Contents()
    unknown, wide = _UNKNOWN[code[1]], chunks.get(b"ds64", b"")
    if declared == 0xFFFF_FFFF and len(wide) >= 16:
        declared, unknown = struct.unpack_from("<Q", wide, 8)[0], _UNKNOWN["Q"]
    declared = max(0, declared - before)
    present, frames, remark = size - start, 0, ""
    frame_bytes = _frame_bytes(magic, chunks, code)
    if declared > present and declared >= unknown:
        end = _chunks_before(file, code, start, size)
    elif declared < present and _sound_follows(file, code, start + declared, size):
        end = _chunks_before(file, code, start, size)
        remark = "its header says less sound than is there"
    else:
        end, frames = min(start + declared, size), declared // frame_bytes if frame_bytes else 0
        if declared > present + 1 and not frames:
            remark = f"cut off ({present / declared:.0%} of its sound is there)"
    as_it_is = end == min(start + declared, size)
    if magic != b"BW64" and as_it_is and not (magic == b"caff" and declared > present):
        return Contents((), frames, remark)
    if end - start >= 2**32 and code == "<I":
        layout = chunks.get(b"fmt ", b"")
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, end - start + 72 + len(layout), end - start, 0, 0)
        wide = b"RF64\xff\xff\xff\xffWAVE" + sizes + struct.pack("<4sI", b"fmt ", len(layout)) + layout
        return Contents((Piece(start, end, wide + b"data\xff\xff\xff\xff"),), frames, remark)
    head = bytearray(_at(file, origin, start - origin))
    head[:4] = b"RIFF" if magic in (b"RF64", b"BW64") else magic
    at = position - origin - width
    head[at : at + width] = struct.pack(code, min(end - start + before, 256**width - 1))
    return Contents((Piece(start, end, bytes(head)),), frames, remark)


def _au(file: FileIO, origin: int, size: int) -> Contents:
    head = _at(file, origin, 12)
    start, declared = struct.unpack(">II", head[4:].ljust(8, b"\0"))
    start += origin
    if declared >= size - start or start - origin > _TAIL or not _sound_follows(file, ">I", start + declared, size):
        return Contents()
    head += _at(file, origin + 12, start - origin - 12)
    remark = "its header says less sound than is there"
    return Contents((Piece(start, size, head[:8] + b"\xff" * 4 + head[12:]),), remark=remark)


def _frame_bytes(magic: bytes, chunks: dict[bytes, bytes], code: str) -> int:
    """Bytes of a frame of samples as they are; 0 where a codec makes blocks of them."""
    if magic == b"FORM":
        layout = chunks.get(b"COMM", b"").ljust(8, b"\0")
        channels, _, bits = struct.unpack_from(">HIH", layout)
        plain = len(layout) == 18 or layout[18:22] in (b"NONE", b"sowt", b"twos", b"raw ", b"fl32", b"FL32", b"fl64")
        return channels * -(-bits // 8) if plain else 0
    if magic == b"caff":
        packet, frames = struct.unpack_from(">II", chunks.get(b"desc", b"").ljust(32, b"\0"), 16)
        return packet if frames == 1 else 0
    layout = chunks.get(b"fmt ", b"").ljust(16, b"\0")
    _, channels, _, _, align, bits = struct.unpack_from(f"{code[0]}HHIIHH", layout)
    return align if align * 8 == channels * bits else 0


def _sound_follows(file: FileIO, code: str, said: int, size: int) -> bool:
    """Whether more sound follows where it should end, and not chunks, tags or padding."""
    rest = _at(file, said, _LEAST)
    if len(rest) < _LEAST or rest.startswith(_TAGS):
        return False
    if any(_chunks_follow(file, code, place, size) for place in (said, said + 1)):
        return False
    blocks = (_at(file, place, _STRIDE) for place in range(said, size, _STRIDE))
    return any(block.count(0) < len(block) for block in blocks)


def _chunks_follow(file: FileIO, code: str, position: int, size: int) -> bool:
    """Whether from here on one chunk follows another to the end of the file."""
    width = struct.calcsize(code)
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 4 + width)
        if not _is_name(header[:4]) or len(header) < 4 + width:
            return False
        length = struct.unpack(code, header[4:])[0]
        position += 4 + width + length
        if position <= size <= position + 8:  # padding
            return True
        position += length % 2 if width == 4 else 0
    return False


def _chunks_before(file: FileIO, code: str, start: int, end: int) -> int:
    """Where the chunks begin that end with the file; its end where there are none."""
    width = struct.calcsize(code)
    while True:
        low = max(start, end - _TAIL)
        block = _at(file, low, end - low)
        for place in range(4, 4 + width):
            sizes = np.frombuffer(block, f"{code[0]}u{width}", max(0, len(block) - place) // width, place)
            after = len(block) - place - width * np.arange(1, len(sizes) + 1)
            found = [
                place + width * int(n) - 4 for n in np.flatnonzero((sizes <= after) & (after - sizes <= sizes % 2))
            ]
            if found := [n for n in found if _is_name(block[n : n + 4])]:
                end = low + found[0]
                break
        else:
            return end


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and name[:1].isalpha() and name.strip().isalnum()


# --- frames -----------------------------------------------------------------------------------------------------------


def _ogg(file: FileIO, start: int, size: int) -> Contents:
    """Pages: a piece begins with a stream's first page that follows other pages, and ends with a last page."""
    position, starts, after_first, lost = start, [start], False, 0
    numbers: dict[int, int] = {}  # of the last page of each stream that runs
    while position < size:
        header = _at(file, position, 27 + 255)
        if header[:4] != b"OggS":
            position = next(find(file, b"OggS", position + 1), size)
            continue
        n_segments = header[26] if len(header) > 26 else 255
        end = position + 27 + n_segments + sum(header[27 : 27 + n_segments])
        if end > size or len(header) < 27 + n_segments:
            break
        flags, (serial, number) = header[5], struct.unpack_from("<II", header, 14)
        if flags & 2 and after_first:
            starts.append(position)
            numbers, after_first = {}, False
        after_first = after_first or not flags & 2
        lost += max(0, number - numbers.get(serial, number - 1) - 1)
        numbers[serial] = number
        if flags & 4:
            del numbers[serial]
        position = end
    remark = f"{lost} of its pages are missing" if lost else ""
    return Contents(_between(starts, size), remark="cut off (its last page is missing)" if numbers else remark)


def _flac(file: FileIO, start: int, size: int) -> Contents:
    """A piece begins where STREAMINFO, of 34 bytes, follows the first bytes of a file."""
    position, last = start + 4, False
    while not last and len(header := _at(file, position, 4)) == 4:  # behind metadata, where pictures can be
        last = bool(header[0] & 0x80)
        position += 4 + int.from_bytes(header[1:], "big")
    later = [place for place in find(file, b"fLaC", position) if _at(file, place + 5, 3) == b"\0\0\x22"]
    return Contents(_between([start, *later], size))


def _mpeg(file: FileIO, start: int, size: int) -> Contents:
    """A frame that counts those of its own file begins a piece. Where none does, or too few, decoders only estimate."""
    position = start
    starts, counted, counts = [0], [-1], [0]
    while position < size:
        header = _at(file, position, 48).ljust(48, b"\0")
        if not (frame := _mpeg_frame(header)):
            position = _next_frame(file, position, size)
            continue
        length, side = frame
        if not length:
            return Contents()  # of free format
        flags, number = struct.unpack_from(">II", header, side + 4)
        if header[side : side + 4] in (b"Xing", b"Info") and flags & 1:
            if counts[-1]:
                starts.append(position)
                counted.append(-1)
                counts.append(0)
            counted[-1] = number
        else:
            counts[-1] += 1
        position += length
    pieces = []
    for (begin, end), declared, count in zip(pairwise([*starts, size]), counted, counts, strict=True):
        if declared >= 0 and count <= declared + 1:
            pieces.append(Piece(begin, end))
            continue
        if declared >= 0:  # without the frame that counts
            begin = behind_tags(file, begin)
            begin += (_mpeg_frame(_at(file, begin, 4)) or (0, 0))[0]
        pieces.append(Piece(begin, end, stretch=1000))
    return Contents() if pieces == [(0, size, b"", 1)] else Contents(tuple(pieces))


def _mpeg_frame(header: bytes) -> tuple[int, int] | None:
    """Bytes of the MPEG frame that begins so (0: free format), and where Xing's header would be; None if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    hertz, kbit, padding, mono = header[2] >> 2 & 3, header[2] >> 4, header[2] >> 1 & 1, header[3] >> 6 == 3
    if version == 1 or layer == 4 or hertz == 3 or kbit == 15:
        return None
    first = version == 3  # the others are MPEG 2 and 2.5
    bits, rate = 1000 * _KBIT[first, layer][kbit], _HERTZ[hertz] >> (2, 0, 1, 0)[version]
    if layer == 1:
        length = (12 * bits // rate + padding) * 4
    else:
        length = (144 if layer == 2 or first else 72) * bits // rate + padding
    return length if bits else 0, 4 + ((17 if mono else 32) if first else (9 if mono else 17))


def _next_frame(file: FileIO, position: int, size: int) -> int:
    """The first frame behind what is none: a tag, or damage of up to a megabyte."""
    if (behind := behind_tags(file, position)) > position:
        return behind
    for place in find(file, b"\xff", position + 1, position + _STRIDE):
        frame = _mpeg_frame(_at(file, place, 4))
        if frame and frame[0] and (place + frame[0] >= size or _mpeg_frame(_at(file, place + frame[0], 4))):
            return place
    return size


def _between(starts: list[int], size: int) -> tuple[Piece, ...]:
    """From each start to the next; no pieces where there is one start."""
    return tuple(Piece(*ends) for ends in pairwise([*starts, size])) if len(starts) > 1 else ()
