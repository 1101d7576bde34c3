"""Reading and writing sound files: every format, and what is wrong with files in the world."""

from __future__ import annotations

import os
import stat
import struct
import warnings

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schurgan.audio import files
from schurgan.audio.files import AudioError, AudioWarning, read_audio, write_audio

RATE = 16_000


def tone(frequency: float = 440.0, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def wav(data: bytes, declared: int | None = None, rate: int = RATE, channels: int = 1, before: bytes = b"") -> bytes:
    """A 16-bit WAV file byte by byte, with a data size that may lie."""
    declared = len(data) if declared is None else declared
    layout = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, (rate * channels * 2) & 0xFFFFFFFF, channels * 2, 16
    )
    body = b"WAVE" + layout + before + struct.pack("<4sI", b"data", declared) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def pcm(samples: np.ndarray) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()


def snr_db(truth: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(truth).sum() / np.square(truth - got).sum()))


@pytest.fixture(autouse=True)
def no_silent_warnings():
    """A warning that a test did not ask for is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# fmt: off
ROUND_TRIPS = [  # format, suffix, subtype, least SNR in dB: what the steps or the codec allow, less a margin
    ("WAV", ".wav", "PCM_U8", 40), ("WAV", ".wav", "PCM_16", 85), ("WAV", ".wav", "PCM_24", 120),
    ("WAV", ".wav", "PCM_32", 120), ("WAV", ".wav", "FLOAT", 120), ("WAV", ".wav", "DOUBLE", 120),
    ("WAV", ".wav", "ULAW", 30), ("WAV", ".wav", "ALAW", 30), ("WAV", ".wav", "IMA_ADPCM", 25),
    ("WAV", ".wav", "MS_ADPCM", 25), ("WAVEX", ".wav", "PCM_24", 120), ("RF64", ".rf64", "PCM_16", 85),
    ("FLAC", ".flac", "PCM_16", 85), ("FLAC", ".flac", "PCM_24", 120), ("OGG", ".ogg", "VORBIS", 15),
    ("OGG", ".opus", "OPUS", 15), ("MP3", ".mp3", "MPEG_LAYER_III", 10), ("AIFF", ".aiff", "PCM_16", 85),
    ("AU", ".au", "PCM_16", 85), ("CAF", ".caf", "PCM_16", 85),
]
# fmt: on


@pytest.mark.parametrize(("format_", "suffix", "subtype", "least"), ROUND_TRIPS)
def test_every_format_reads_back_as_the_tone_that_was_written(tmp_path, format_, suffix, subtype, least):
    path, sound = tmp_path / f"tone{suffix}", tone()
    soundfile.write(path, sound, RATE, format=format_, subtype=subtype)
    got = read_audio(path).numpy()
    assert got.dtype == np.float32
    # ADPCM fills its last block: up to 4,032 frames more.
    assert len(sound) <= len(got) <= len(sound) + 4_100
    assert snr_db(sound[1_000:-1_000], got[1_000 : len(sound) - 1_000]) > least


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_write_audio_and_read_audio_are_inverse_for_each_suffix(tmp_path, suffix):
    path, sound = tmp_path / f"tone{suffix}", torch.from_numpy(tone())
    write_audio(path, sound)
    assert soundfile.info(path).samplerate == RATE
    got = read_audio(path)
    assert snr_db(sound.numpy()[500:-500], got.numpy()[500 : len(sound) - 500]) > 10
    assert os.listdir(tmp_path) == [path.name], "a temporary file was left behind"


def test_a_wav_file_is_16_bit(tmp_path):
    write_audio(tmp_path / "a.wav", tone())
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=300))
@settings(max_examples=30, deadline=None)
def test_a_float_wav_keeps_every_sample_but_its_mean(tmp_path_factory, samples):
    x = np.array(samples)
    path = tmp_path_factory.mktemp("float") / "x.wav"
    soundfile.write(path, x, RATE, subtype="FLOAT")
    centred = x - x.mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # equal samples at ±1 are clipping
        if np.abs(centred).max() < 0.99e-4:
            with pytest.raises(AudioError, match="silent"):
                read_audio(path)
        elif np.abs(centred).max() > 1.01e-4:
            np.testing.assert_allclose(read_audio(path).numpy(), centred, atol=2e-7)  # float32's step at 2


def test_192_khz_with_6_channels_of_24_bits_is_read(tmp_path):
    rate = 192_000
    sound = tone(1_000, rate=rate)
    soundfile.write(tmp_path / "x.wav", np.repeat(sound[:, None], 6, axis=1), rate, subtype="PCM_24")
    got = read_audio(tmp_path / "x.wav").numpy()
    assert len(got) == RATE
    assert snr_db(tone(1_000)[500:-500], got[500:-500]) > 100


def test_a_tone_above_the_new_band_leaves_no_alias_when_resampled(tmp_path):
    rate = 44_100
    sound = tone(9_500, 2.0, rate, 0.9) + tone(1_000, 2.0, rate, 0.05)
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype="FLOAT")
    got = read_audio(tmp_path / "x.wav").numpy()[4_000:28_000].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(got * np.blackman(len(got)))) / (0.42 * len(got) / 2)
    alias = round((RATE - 9_500) / RATE * len(got))  # 9.5 kHz folds to 6.5 kHz
    assert 20 * np.log10(spectrum[alias - 3 : alias + 4].max() / 0.9) < -120


def test_a_kilohertz_tone_keeps_its_samples_when_resampled(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(1_000, 1.0, 44_100), 44_100, subtype="FLOAT")
    got = read_audio(tmp_path / "x.wav").numpy()
    assert len(got) == RATE
    assert (
        snr_db(tone(1_000)[1_000:-1_000], got[1_000:-1_000]) > 100
    )  # 133 dB for soxr's HQ alone, less for the mean that its ends leave


def test_an_offset_is_removed_without_ringing_at_the_ends(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(1_000, 1.0, 44_100, 0.1) + 0.5, 44_100, subtype="FLOAT")
    got = read_audio(tmp_path / "x.wav")
    assert abs(got.mean()) < 1e-6
    assert got.abs().max() < 0.12


def test_channels_are_averaged(tmp_path):
    left, right = tone(300), tone(500)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    assert snr_db((left + right) / 2, read_audio(tmp_path / "x.wav").numpy()) > 110


@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
def test_opposite_phase_gives_the_louder_channel_and_a_warning_offset_or_not(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    soundfile.write(path, np.stack([0.9 * tone() + 0.1, -tone() + 0.1], 1), RATE)
    with pytest.warns(AudioWarning, match=r"cancel each other .* channel 2 of 2"):
        got = read_audio(path).numpy()
    assert snr_db(-tone()[1_000:-1_000], got[1_000 : RATE - 1_000]) > (60 if suffix == ".wav" else 10)


def test_one_silent_channel_is_no_opposite_phase(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.stack([tone(), 0 * tone()], 1), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "x.wav").abs().max() == pytest.approx(0.25, abs=1e-3)


def test_clipping_is_told_with_its_share_and_a_full_scale_tone_is_not_clipping(tmp_path):
    soundfile.write(tmp_path / "full.wav", tone(100, amplitude=1.0), RATE)
    read_audio(tmp_path / "full.wav")  # a warning would be an error here
    soundfile.write(tmp_path / "clipped.wav", np.clip(tone(100, amplitude=2.0), -1, 1), RATE)
    with pytest.warns(AudioWarning, match=r"clipped\.wav: clipped \(6\d % of its samples at full scale\)"):
        read_audio(tmp_path / "clipped.wav")  # |2 sin| > 1 for two thirds of a period


# --- what is wrong with files in the world -------------------------------------------------------------------------


def refused(path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# fmt: off
BROKEN = {  # name: (bytes, what the sentence holds)
    "empty.wav": (b"", "empty"),
    "text.wav": ("Größe: it is only a text\n".encode() * 50, "text"),
    "page.mp3": (b"<!DOCTYPE html><html>404</html>", "text"),
    "noise.ogg": (bytes(range(256)) * 9, "binary"),
    "zeros.wav": (bytes(5000), "binary"),
    "header.wav": (wav(pcm(tone()))[:30], "damaged"),
    "cut.wav": (wav(b"", declared=160_000), "0 of 80000 frames"),
    "none.wav": (wav(b""), "0 frames"),
    "chunk.wav": (wav(struct.pack("<4sI4s", b"LIST", 4, b"INFO"), declared=0), "0 frames"),
    "flac.flac": (b"fLaC" + bytes(60), "damaged"),
    "silent.wav": (wav(bytes(32_000)), "silent"),
    "quiet.wav": (wav(b"\1\0\xff\xff" * 8_000), "3.1e-05"),
    "constant.wav": (wav(pcm(np.full(9, 0.5))), "9 frames of a constant 0.5"),
    "one.wav": (wav(pcm(np.full(1, 0.5))), "1 frames of a constant 0.5"),
    "slow.wav": (wav(pcm(tone()), rate=1), "1 Hz"),
    "two.wav": (wav(pcm(np.array([0.5, -0.5])), rate=192_000), "too short"),
    "stereo.wav": (wav(b"", declared=160_000, channels=2), "0 of 40000 frames"),
    "both.wav": (wav(bytes(32_000), channels=2), "silent"),
    "crowd.wav": (wav(bytes(200_000), channels=1_000), "1000 channels"),
    "x.raw": (pcm(tone()), "raw"),
}
# fmt: on


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence_that_starts_with_its_path(tmp_path, name):
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    assert reason in refused(tmp_path / name)


def test_a_rate_of_4_ghz_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "x.wav").write_bytes(wav(pcm(tone()), rate=4_000_000_000))
    assert refused(tmp_path / "x.wav")


def test_missing_files_folders_pipes_and_names_that_cannot_be_are_refused_in_a_sentence(tmp_path):
    assert refused(tmp_path / "missing.wav") == "no such file"
    assert refused(tmp_path) == "a folder, not a sound file"
    os.mkfifo(tmp_path / "pipe.wav")
    assert refused(tmp_path / "pipe.wav") == "cannot be opened (not a regular file)"
    assert "cannot be opened" in refused(f"{tmp_path}/nul\0.wav")
    assert "cannot be opened" in refused(tmp_path / ("long" * 100 + ".wav"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_refused_in_a_sentence(tmp_path):
    write_audio(tmp_path / "x.wav", tone())
    (tmp_path / "x.wav").chmod(0)
    assert refused(tmp_path / "x.wav") == "cannot be opened (Permission denied)"


def test_nan_and_infinity_are_refused_and_counted(tmp_path):
    sound = tone(seconds=5.0)
    sound[::10_000] = np.nan
    sound[1::20_000] = np.inf
    soundfile.write(tmp_path / "x.wav", sound, RATE, subtype="FLOAT")
    assert refused(tmp_path / "x.wav") == "holds NaN or infinite samples (12 of 80000)"
    soundfile.write(tmp_path / "stereo.wav", np.stack([sound, -sound], 1), RATE, subtype="FLOAT")
    assert refused(tmp_path / "stereo.wav") == "holds NaN or infinite samples (24 of 160000)"
    soundfile.write(tmp_path / "huge.wav", 3e38 * tone(amplitude=1.0), RATE, subtype="FLOAT")
    assert refused(tmp_path / "huge.wav") == "samples as large as 3e+38: damaged, or not sound"


def test_a_file_longer_than_the_longest_is_refused_without_being_decoded_to_its_end(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.flac", np.tile(tone(), 30), RATE)
    monkeypatch.setattr(files, "MAX_SECONDS", 30.0)
    assert len(read_audio(tmp_path / "x.flac")) == 30 * RATE
    monkeypatch.setattr(files, "MAX_SECONDS", 29.9)
    with pytest.raises(AudioError, match=r"x\.flac: longer than the 29\.9 s that are read at most"):
        read_audio(tmp_path / "x.flac")


def test_a_sound_above_the_new_band_is_silent_there(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(20_000, 1.0, 48_000) * np.hanning(48_000), 48_000, subtype="FLOAT")
    assert refused(tmp_path / "x.wav") == "silent at 16000 Hz (all of its sound is above 8000 Hz)"


@pytest.mark.parametrize("before", [b"", struct.pack("<4sI", b"LIST", 3) + b"odd\0"])
def test_half_of_the_data_is_read_with_a_warning(tmp_path, before):
    (tmp_path / "x.wav").write_bytes(wav(pcm(tone(seconds=2.5)), declared=160_000, before=before))
    with pytest.warns(AudioWarning, match=r"x\.wav: cut off \(40000 of 80000 frames\)"):
        assert len(read_audio(tmp_path / "x.wav")) == 40_000


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36])
def test_a_streamed_wav_of_unknown_size_is_read_without_a_word(tmp_path, declared):
    (tmp_path / "x.wav").write_bytes(wav(pcm(tone()), declared=declared))
    assert len(read_audio(tmp_path / "x.wav")) == RATE


def test_an_mp3_named_wav_is_read(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(), RATE, format="MP3")
    assert len(read_audio(tmp_path / "x.wav")) == RATE


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_damage_anywhere_gives_sound_or_a_sentence_and_never_a_crash(tmp_path, suffix):
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / f"x{suffix}", tone(seconds=0.3) + 0.01 * random.standard_normal(4_800), RATE)
    whole = np.frombuffer((tmp_path / f"x{suffix}").read_bytes(), np.uint8)
    sentences = []
    for trial in range(60):
        damaged = whole[: int(random.integers(1, len(whole) + 1))].copy()
        hits = random.integers(0, min(len(damaged), 200 if trial % 2 else len(damaged)), 8)
        damaged[hits] = random.integers(0, 256, 8)
        (tmp_path / f"bad{suffix}").write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AudioWarning)
            try:
                got = read_audio(tmp_path / f"bad{suffix}")
            except AudioError as error:
                sentences.append(str(error))
            else:
                assert torch.isfinite(got).all()
    assert sentences
    assert all(sentence.startswith(f"{tmp_path / 'bad'}{suffix}: ") for sentence in sentences)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_values_beyond_full_scale_are_clipped_with_a_warning_and_do_not_wrap_around(tmp_path):
    with pytest.warns(AudioWarning, match=r"x\.wav: 2 of 4 samples beyond ±1 were clipped"):
        write_audio(tmp_path / "x.wav", torch.tensor([1.5, -0.25, 0.25, -7.0]))
    got, _ = soundfile.read(tmp_path / "x.wav")
    np.testing.assert_allclose(got, [1, -0.25, 0.25, -1], atol=1e-4)  # 16 bits


@pytest.mark.parametrize(
    ("name", "samples", "options", "sentence"),
    [
        ("x.wav", torch.tensor([0.1, torch.nan]), {}, "NaN or infinite"),
        ("x.wav", torch.zeros(2, 3, 4), {}, r"samples \(2, 3, 4\) float32: floats \(L,\)"),
        ("x.wav", torch.zeros(0), {}, "floats"),
        ("x.wav", np.zeros(5, np.int16), {}, "int16: floats"),
        ("x.xyz", tone(), {}, r"no sound format has this suffix; one of \.wav, \.flac, \.ogg, \.mp3"),
        ("x.mp3", tone(), {"sample_rate": 12_345}, "cannot write 1 channels at 12345 Hz as MP3"),
        ("x.wav", torch.zeros(2, 16_000), {}, "cannot write 16000 channels"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, name, samples, options, sentence):
    with pytest.raises(AudioError, match=sentence):
        write_audio(tmp_path / name, samples, **options)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_audio(tmp_path / "x.mp3", tone())
    old = (tmp_path / "x.mp3").read_bytes()
    with pytest.raises(AudioError):
        write_audio(tmp_path / "x.mp3", tone(), sample_rate=12_345)
    assert (tmp_path / "x.mp3").read_bytes() == old
    assert stat.S_ISREG((tmp_path / "x.mp3").stat().st_mode)


def test_tensors_of_every_float_type_and_two_channels_are_written(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        write_audio(tmp_path / "x.wav", torch.full((100, 2), 0.5, dtype=dtype, requires_grad=True))
        got, _ = soundfile.read(tmp_path / "x.wav")
        assert got.shape == (100, 2)
        np.testing.assert_allclose(got, 0.5, atol=1e-4)
