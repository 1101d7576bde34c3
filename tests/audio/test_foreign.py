"""Files that libsndfile cannot read: their codec and how to convert them are told, or PyAV reads them."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest

from schurgan.audio import foreign
from schurgan.audio.decoders import AudioError, AudioWarning
from schurgan.audio.files import read_audio
from schurgan.core.suffixes import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from schurgan.data.sources import open_source

RATE = 16_000


def chunked(magic: bytes, kind: bytes, order: str, *chunks: tuple[bytes, bytes]) -> bytes:
    body = kind + b"".join(struct.pack(f"{order}4sI", name, len(content)) + content for name, content in chunks)
    return struct.pack(f"{order}4sI", magic, len(body)) + body


def wav(tag: int, extra: bytes = b"") -> bytes:
    layout = struct.pack("<HHIIHHH", tag, 1, 8_000, 800, 24, 0, len(extra)) + extra
    return chunked(b"RIFF", b"WAVE", "<", (b"fmt ", layout), (b"data", bytes(2_400)))


def mp4(codec: bytes) -> bytes:
    entry = struct.pack(">I4s", 36, codec) + bytes(28)
    return b"\0\0\0\x18ftypM4A " + bytes(12) + b"\0\0\x01\0moov" + struct.pack(">I4sII", 52, b"stsd", 0, 1) + entry


EXTENSIBLE = struct.pack("<HI", 16, 4) + struct.pack("<H", 0x0161) + b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
COMM = struct.pack(">HIH10s4s", 1, 0, 16, bytes(10), b"QDM2") + b"\0\0"
# fmt: off
FOREIGN = {  # name: (bytes, what the sentence names)
    "x.m4a": (mp4(b"mp4a"), "AAC"), "y.m4a": (mp4(b"alac"), "ALAC"), "z.mp4": (mp4(b"avc1"), "MP4"),
    "x.webm": (b"\x1a\x45\xdf\xa3" + bytes(40) + b"\x86\x86A_OPUS" + bytes(99), "Opus"),
    "x.aac": (b"\xff\xf1\x50\x80\x0c\x1f\xfc" + bytes(99), "AAC"),
    "tag.aac": (b"ID3\4\0\0\0\0\0\4abcd\xff\xf1\x50\x80\x0c\x1f\xfc" + bytes(99), "AAC"),
    "x.wma": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9" + bytes(99), "WMA"),
    "x.amr": (b"#!AMR\n" + bytes(99), "AMR"), "x.awb": (b"#!AMR-WB\n" + bytes(99), "AMR-WB"),
    "x.ac3": (b"\x0b\x77" + bytes(99), "AC-3"), "x.wv": (b"wvpk" + bytes(99), "WavPack"),
    "x.ape": (b"MAC " + bytes(99), "Monkey's Audio"), "x.ogg": (b"OggS" + bytes(24) + b"Speex   " + bytes(99), "Speex"),
    "g723.wav": (wav(0x0042), "G.723"), "g729.wav": (wav(0x0083), "G.729"), "aac.wav": (wav(0x00FF), "AAC"),
    "wma.wav": (wav(0xFFFE, EXTENSIBLE), "WMA"), "x.aifc": (chunked(b"FORM", b"AIFC", ">", (b"COMM", COMM)), "QDesign"),
    "x.caf": (b"caff\0\1\0\0desc" + struct.pack(">Qd4s", 32, 8e3, b"aac ") + bytes(16) + b"data" + bytes(99), "AAC"),
}
# fmt: on


@pytest.mark.parametrize("name", FOREIGN)
def test_without_pyav_the_codec_is_named_and_how_to_convert_the_file(tmp_path, monkeypatch, name):
    content, codec = FOREIGN[name]
    monkeypatch.setattr(foreign, "av", None)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / name).write_bytes(content)
    source = open_source("folder", tmp_path)  # it is listed, so that its sentence is reached
    with pytest.raises(AudioError) as caught:
        source.load(source.items()[0], RATE)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / 'class' / name}: {codec}")
    assert "schurgan[codecs]" in sentence
    assert f"ffmpeg -i {name}" in sentence


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_a_recording_by_its_suffix(name):
    assert name.endswith(AUDIO_SUFFIXES)


def test_every_suffix_is_that_of_a_sound_or_of_a_picture_and_is_listed_once():
    both = (*AUDIO_SUFFIXES, *IMAGE_SUFFIXES)
    assert len(set(both)) == len(both)


@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "z.mp4"])
def test_with_pyav_a_damaged_file_is_one_sentence(tmp_path, name):
    pytest.importorskip("av")
    (tmp_path / name).write_bytes(FOREIGN[name][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        with pytest.raises(AudioError, match=rf"^{tmp_path / name}: [^\n]+$"):
            read_audio(tmp_path / name)


def coded(format_: str, codec: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format_) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.open()
        sound = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        sound.rate = RATE
        fit = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or None)
        for frame in [*fit.resample(sound), *fit.resample(None), None]:
            container.mux(stream.encode(frame))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "format_", "codec", "rate"),
    [
        ("x.m4a", "mp4", "aac", RATE),
        ("y.m4a", "mp4", "alac", RATE),
        ("x.aac", "adts", "aac", RATE),
        ("x.webm", "webm", "libopus", 48_000),
        ("x.wv", "wv", "wavpack", RATE),
        ("x.ac3", "ac3", "ac3", 48_000),
    ],
)
def test_pyav_reads_what_libsndfile_cannot(tmp_path, name, format_, codec, rate):
    truth = (0.4 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    content = coded(format_, codec, truth, rate)
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = read_audio(tmp_path / name, RATE).numpy()
    assert abs(len(got) - len(truth)) <= 2_048  # a frame of silence at either end
    shift = int(np.correlate(got[4_000:12_000], truth[4_100:8_000], "valid").argmax()) - 100
    part = got[8_000 + shift : 24_000 + shift]
    assert 10 * np.log10(np.square(truth[8_000:24_000]).sum() / np.square(truth[8_000:24_000] - part).sum()) > 15


def test_half_of_what_pyav_reads_is_told_of(tmp_path):
    truth = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) / 4
    content = coded("webm", "libopus", truth, 48_000)
    (tmp_path / "x.webm").write_bytes(content[: len(content) // 2])
    with pytest.warns(AudioWarning, match=r"x\.webm: (cut off|damaged after)"):
        assert 0.3 * len(truth) < len(read_audio(tmp_path / "x.webm", RATE)) < 0.6 * len(truth)


def test_a_container_that_names_other_files_reads_none_of_them(tmp_path):
    """A playlist is text to this program, whatever FFmpeg would make of it."""
    (tmp_path / "x.m4a").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    with pytest.raises(AudioError, match="not an audio file"):
        read_audio(tmp_path / "x.m4a")
