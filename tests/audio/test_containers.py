"""Headers that lie, files cut or put one behind the other: what is there is read, and what is missing is told."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
import soundfile

from schurgan.audio import decoders
from schurgan.audio.decoders import AudioError, AudioWarning
from schurgan.audio.files import read_audio

RATE, FRAMES = 16_000, 3 * 16_000
SOUND = (
    np.sin(2 * np.pi * 440 * np.arange(FRAMES) / RATE) * np.linspace(0.1, 0.5, FRAMES)
    + 0.02 * np.random.default_rng(0).standard_normal(FRAMES)
).astype(np.float32)
CHUNKS = b"LIST" + struct.pack("<I", 12) + b"INFOICMT\0\0\0\0" + b"id3 " + struct.pack("<I", 7) + b"seven..\0"


def encoded(format_: str, subtype: str | None = None, samples: np.ndarray = SOUND, **options: object) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 1, subtype, format=format_, **options) as sound:
        sound.write(samples)
    return file.getvalue()


def put(content: bytes, place: int, layout: str, *values: object) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, *values)
    return bytes(changed)


def heard(tmp_path, content: bytes) -> tuple[np.ndarray, list[str]]:
    """Samples at the file's own rate, and the warnings without the path."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = read_audio(path, RATE).numpy()
    assert all(issubclass(warning.category, AudioWarning) for warning in caught)
    said = [str(warning.message) for warning in caught]
    assert all(sentence.startswith(f"{path}: ") for sentence in said)
    return samples, [sentence.removeprefix(f"{path}: ") for sentence in said]


def is_whole(samples: np.ndarray, times: int = 1, tolerance: float = 1e-4) -> bool:
    """Whether the sound was read so often; 16 bits, and the mean that reading takes away."""
    truth = np.tile(SOUND, times)
    return len(samples) == len(truth) and float(np.abs(samples - truth).max()) < tolerance + abs(float(truth.mean()))


# --- sizes that are not true ------------------------------------------------------------------------------------------

WAV, RF64 = encoded("WAV", "PCM_16"), encoded("RF64", "PCM_16")
AIFF, AU = encoded("AIFF", "PCM_16"), encoded("AU", "PCM_16")
SSND = AIFF.find(b"SSND")

# fmt: off
WRONG = {  # a size that is too small, or none; what else is behind the sound
    "half": put(WAV, 40, "<I", FRAMES), "half, chunks": put(WAV, 40, "<I", FRAMES) + CHUNKS,
    "nothing": put(WAV, 40, "<I", 0), "nothing, chunks": put(WAV, 40, "<I", 0) + CHUNKS,
    "AIFF": put(AIFF, SSND + 4, ">I", 1008), "AU": put(AU, 8, ">I", 1000),
    "ds64": put(RF64, 28, "<Q", 1000),
}
RIGHT = {  # what may follow, or not be known, without a word
    "unknown": put(WAV, 40, "<I", 2**32 - 1), "unknown, chunks": put(WAV, 40, "<I", 2**32 - 1) + CHUNKS,
    "unknown, chunks, AIFF": put(AIFF, SSND + 4, ">I", 2**32 - 1) + b"ANNO\0\0\0\4text",
    "unknown, AU": put(AU, 8, ">I", 2**32 - 1),
    "chunks": WAV + CHUNKS, "zeros": WAV + bytes(5000), "tag": WAV + b"ID3\3\0\0\0\0\x20\0" + b"tag!" * 1024,
    "few": WAV + b"rubbish", "BW64": b"BW64" + RF64[4:], "RF64": RF64 + CHUNKS,
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_sound_beyond_the_size_in_the_header_is_read_with_a_warning(tmp_path, name):
    samples, said = heard(tmp_path, WRONG[name])
    assert is_whole(samples)
    assert len(said) == 1
    assert "its header says" in said[0]


@pytest.mark.parametrize("name", RIGHT)
def test_chunks_tags_and_padding_are_no_sound_and_unknown_sizes_no_news(tmp_path, name):
    samples, said = heard(tmp_path, RIGHT[name])
    assert is_whole(samples)
    assert not said


def test_a_size_that_wrapped_at_4_gib_loses_nothing_of_what_is_behind(tmp_path):
    path, n_bytes, frame = tmp_path / "x.wav", 2**32 + 96_000, 64  # 8 channels of doubles
    layout = struct.pack("<HHIIHH", 3, 8, RATE, RATE * frame, frame, 64)
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", n_bytes - 2**32)
    with open(path, "wb") as file:  # a hole but for where the size says that the sound ends
        file.write(head + bytes(96_000) + np.full(8_000, 0.5).tobytes() + CHUNKS)
        file.truncate(len(head) + n_bytes)
    with open(path, "rb", buffering=0) as file:
        sound = decoders.open_decoder(path, file)
        (piece,) = sound.pieces
        with sound._open(piece) as decoder:
            assert decoder.frames == n_bytes // frame
            assert decoder.read(1_501)[-1].tolist() == [0.5] * 8


# --- cut short --------------------------------------------------------------------------------------------------------

# fmt: off
CUT = (("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "DWVW_16"),
       ("CAF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("SVX", "PCM_16"), ("NIST", "PCM_16"),
       ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"))
# fmt: on


@pytest.mark.parametrize(("format_", "subtype"), CUT)
def test_half_a_file_is_read_as_far_as_it_goes_and_told_of(tmp_path, format_, subtype):
    content = encoded(format_, subtype)
    samples, said = heard(tmp_path, content[: len(content) // 2])
    assert 0.25 * FRAMES < len(samples) < 0.6 * FRAMES
    assert len(said) == 1
    assert said[0].startswith(("cut off", "damaged after"))
    assert not heard(tmp_path, content)[1]


def test_half_of_bw64_is_read_as_half_of_rf64_is(tmp_path):
    half = RF64[: len(RF64) // 2]
    (old, told), (new, said) = heard(tmp_path, half), heard(tmp_path, b"BW64" + half[4:])
    assert np.array_equal(old, new)
    assert said == told


def test_an_ogg_file_without_a_whole_page_of_sound_is_called_cut_off(tmp_path):
    (tmp_path / "x.ogg").write_bytes(encoded("OGG", "VORBIS")[:5_000])
    with pytest.raises(AudioError, match="cut off"):
        read_audio(tmp_path / "x.ogg")


def test_lost_pages_of_ogg_are_counted(tmp_path):
    pages = ogg_pages(encoded("OGG", "VORBIS"))
    _, said = heard(tmp_path, b"".join(pages[:4] + pages[5:]))
    assert len(said) == 1
    assert said[0].startswith("1 of its pages")


def ogg_pages(content: bytes) -> list[bytes]:
    pages = []
    while content:
        n_segments = content[26]
        length = 27 + n_segments + sum(content[27 : 27 + n_segments])
        pages.append(content[:length])
        content = content[length:]
    return pages


def test_damage_in_the_middle_of_flac_leaves_what_comes_before(tmp_path):
    content = bytearray(encoded("FLAC"))
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    samples, said = heard(tmp_path, bytes(content))
    assert 0.3 * FRAMES < len(samples) < 0.6 * FRAMES
    assert np.abs(samples - SOUND[: len(samples)]).max() < 0.02  # the mean of a part
    assert said[0].startswith("damaged after")


# --- one behind the other ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_files_put_one_behind_the_other_are_all_read(tmp_path, format_, subtype):
    content = encoded(format_, subtype)
    one, _ = heard(tmp_path, content)
    three, said = heard(tmp_path, 3 * content)
    assert not said
    assert np.abs(three - np.tile(one, 3)).max() < 1e-3


def test_a_second_file_of_another_rate_is_left_out_with_a_word(tmp_path):
    other = io.BytesIO()
    soundfile.write(other, SOUND, 22_050, format="FLAC")
    samples, said = heard(tmp_path, encoded("FLAC") + other.getvalue())
    assert is_whole(samples)
    assert "22050 Hz" in said[0]


# --- without a count --------------------------------------------------------------------------------------------------


def without_count(content: bytes) -> bytes:
    """FLAC whose header does not say how many samples there are."""
    return content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:]


def test_flac_that_does_not_say_its_length_is_read_alone_and_twice(tmp_path):
    content = without_count(encoded("FLAC"))
    assert is_whole(heard(tmp_path, content)[0])
    samples, said = heard(tmp_path, 2 * content)
    assert is_whole(samples, 2)
    assert not said


@pytest.mark.parametrize(("format_", "subtype"), [("AIFF", "DWVW_16"), ("AIFF", "DWVW_24"), ("SDS", "PCM_16")])
def test_codecs_that_cannot_seek_are_read(tmp_path, format_, subtype):
    samples, said = heard(tmp_path, encoded(format_, subtype))
    assert is_whole(samples)
    assert not said


# --- MPEG -------------------------------------------------------------------------------------------------------------


def mp3(loud: slice) -> bytes:
    """With a variable bit rate, of silence but for a part."""
    samples = np.zeros(FRAMES, np.float32)
    samples[loud] = SOUND[loud]
    return encoded("MP3", samples=samples, bitrate_mode="VARIABLE", compression_level=0.1)


def xing(content: bytes) -> int:
    return content.find(b"Xing")


def without_xing(content: bytes) -> bytes:
    """Without its first frame, of MPEG 2, layer III."""
    kbit = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[content[2] >> 4]
    return content[72 * 1000 * kbit // RATE + (content[2] >> 1 & 1) :]


TAG = b"ID3\3\0\0\0\0\x08\0" + bytes(1024)


@pytest.mark.parametrize("loud", [slice(0, FRAMES // 4), slice(3 * FRAMES // 4, FRAMES)])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("tag", [b"", TAG])
def test_mp3_of_a_variable_bit_rate_without_a_count_is_read_whole(tmp_path, loud, times, tag):
    samples, said = heard(tmp_path, times * (tag + without_xing(mp3(loud))))
    assert times * FRAMES <= len(samples) < times * (FRAMES + 2 * 1152)
    assert not said


def test_an_mp3_that_counts_too_few_of_its_frames_is_read_whole(tmp_path):
    content = mp3(slice(0, FRAMES // 4))
    samples, said = heard(tmp_path, put(content, xing(content) + 8, ">I", 20))
    assert len(samples) >= FRAMES
    assert not said


@pytest.mark.parametrize("behind", [b"TAG" + bytes(125), b"APETAGEX" + bytes(2000), TAG])
def test_tags_behind_mp3_change_nothing(tmp_path, behind):
    content = mp3(slice(0, FRAMES))
    (old, _), (new, said) = heard(tmp_path, content), heard(tmp_path, content + behind)
    assert np.array_equal(old, new)
    assert not said


def test_mp3_is_decoded_as_in_one_go_however_long_it_is(tmp_path):
    """Seeking between blocks changes samples of MP3 by a thousandth."""
    samples = np.tile(SOUND, 3)  # more than two blocks
    content = encoded("MP3", samples=samples)
    truth, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    got, _ = heard(tmp_path, content)
    assert np.abs(got - (truth - truth.mean())).max() < 1e-6
