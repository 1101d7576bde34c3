from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from schurgan.evaluation.metric_table import ABOUT

SETTINGS = ("--size", 32, "--seconds", 0.5)


def test_json_is_one_object_a_file_with_the_three_scores(call, recordings, tmp_path):
    files = sorted((recordings / "bell").iterdir())[:3]
    said = call("reconstruct", *files, "--out", tmp_path, *SETTINGS, "--json")
    assert (said.status, said.err) == (0, "")
    objects = [json.loads(line) for line in said.out.splitlines()]
    assert [each["file"] for each in objects] == [str(file) for file in files]
    for each in objects:
        assert {"snr_db", "snr_paper_db", "power_ratio_db"} < set(each)
        assert each["snr_db"] > 3  # the image and the recording's own phase keep most of it


def test_the_scores_are_those_of_the_files_written(call, recordings, tmp_path):
    said = call("reconstruct", recordings / "drum" / "0.wav", "--out", tmp_path, *SETTINGS, "--refine", 3, "--json")
    scores = json.loads(said.out)
    original, rebuilt = (soundfile.read(tmp_path / name)[0] for name in ("0.original.wav", "0.wav"))
    power, residual = np.square(original).sum(), np.square(original - rebuilt).sum()
    # 16 bits: −98 dB of noise beside a residual 20 dB under the sound
    assert scores["snr_db"] == pytest.approx(10 * np.log10(power / residual), abs=0.05)
    assert scores["power_ratio_db"] == pytest.approx(10 * np.log10(power / np.square(rebuilt).sum()), abs=0.05)


def test_fitting_makes_the_rebuilt_sound_nearer(call, recordings, tmp_path):
    file = recordings / "bell" / "0.wav"
    plain, fitted = (
        json.loads(call("reconstruct", file, "--out", tmp_path / str(n), *SETTINGS, "--refine", n, "--json").out)[
            "snr_db"
        ]
        for n in (0, 10)
    )
    assert fitted > plain + 3  # dB; measured 6 to 9


@pytest.mark.parametrize(("scale", "transform"), [("log", "wavelet"), ("linear", "stft"), ("log_real", "wavelet")])
def test_every_scale_and_transform_writes_two_sounds_and_a_picture(call, recordings, tmp_path, scale, transform):
    options = ("--scale", scale, "--transform", transform, *SETTINGS)
    said = call("reconstruct", recordings / "bell" / "1.wav", "--out", tmp_path, *options)
    assert said.status == 0, said.err
    assert said.out.splitlines()[-1] == f"1 sound in {tmp_path}"
    assert "snr_paper_db" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.original.wav", "1.png", "1.wav"]
    assert Image.open(tmp_path / "1.png").size == (256, 256)
    assert soundfile.info(tmp_path / "1.wav").frames == 8000


@pytest.mark.parametrize("phase", ["noise", "griffin-lim"])
def test_a_phase_that_is_found_ignores_the_recordings_own(call, recordings, tmp_path, phase):
    file = recordings / "bell" / "0.wav"
    said = call("reconstruct", file, "--out", tmp_path, *SETTINGS, "--phase", phase, "--refine", 2, "--json")
    own = call("reconstruct", file, "--out", tmp_path, *SETTINGS, "--json")
    assert json.loads(said.out)["snr_db"] < json.loads(own.out)["snr_db"]


def test_how_alike_images_are_comes_before_how_alike_waveforms_are_and_both_are_explained(call, recordings, tmp_path):
    file = recordings / "bell" / "0.wav"
    few, many = (
        call("reconstruct", file, "--out", tmp_path, *SETTINGS, "--phase", "noise", "--refine", n).out for n in (0, 32)
    )
    distances = [float(re.search(r"image_distance_db (\S+)  snr_db", out)[1]) for out in (few, many)]
    assert distances[1] < distances[0] - 3  # dB: the ear's judge sees what refining does
    for name in ("image_distance_db", "snr_db"):
        assert f"\n{name}: {ABOUT[name]}\n" in many


def test_files_of_one_name_are_numbered_and_longer_ones_cut_with_a_note(call, recordings, tmp_path):
    files = [recordings / "bell" / "0.wav", recordings / "drum" / "0.wav"]
    said = call("reconstruct", *files, "--out", tmp_path, "--size", 16, "--seconds", 0.3, "--json")
    one, two = (json.loads(line) for line in said.out.splitlines())
    assert (tmp_path / "0.wav").exists()
    assert (tmp_path / "0-2.wav").exists()
    assert two["wav"] == str(tmp_path / "0-2.wav")
    assert one["seconds"] == 0.3
    assert one["notes"] == ["cropped from 0.5 s to 0.3 s"]


def test_a_bad_file_among_good_ones_is_a_line_and_the_others_are_rebuilt(call, recordings, tmp_path):
    (tmp_path / "bad.wav").write_text("not sound")
    said = call("reconstruct", tmp_path / "bad.wav", recordings / "bell" / "0.wav", "--out", tmp_path / "o", *SETTINGS)
    assert said.status == 0
    assert said.err == f"schurgan: {tmp_path / 'bad.wav'}: not an audio file (text)\n"
    assert said.out.endswith(f"1 sound in {tmp_path / 'o'}\n")


def test_only_bad_files_are_one_sentence_each_and_no_folder_is_made(call, tmp_path):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for file in files:
        file.touch()
    said = call("reconstruct", *files, "--out", tmp_path / "o")
    assert said.status == 2
    assert said.err.splitlines() == [
        f"schurgan: {files[0]}: empty file (0 bytes)",
        f"schurgan: {files[1]}: empty file (0 bytes)",
        "schurgan: none of 2 recordings can be used",
    ]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--refine", -1), "--refine: "),
        (("--seconds", 0.01), "--seconds: "),
        (("--seconds", "nan"), "--seconds: "),
        (("--sample-rate", 0), "--sample-rate: "),
        (("--size", 4), "size 4: "),
        (("--size", "big"), "--size: "),
        (("--scale", "mel"), "--scale: "),
        (("--scale", "log_real", "--transform", "stft"), 'scale "log_real": '),
        (("--phase", "nois"), "--phase: "),
    ],
)
def test_options_that_cannot_be_are_one_sentence(refused, recordings, tmp_path, options, sentence):
    assert sentence in refused("reconstruct", recordings / "bell" / "0.wav", "--out", tmp_path / "o", *options)
    assert not (tmp_path / "o").exists()


def test_a_file_that_is_missing_and_no_file_at_all_are_one_sentence(refused, tmp_path):
    missing = tmp_path / "no.wav"
    assert refused("reconstruct", missing, "--out", tmp_path / "o").startswith(f"{missing}: ")
    assert "FILE: missing" in refused("reconstruct", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_an_output_below_a_file_and_a_full_disk_are_one_sentence(refused, recordings, tmp_path, full_disk):
    wall = tmp_path / "file"
    wall.touch()
    file = recordings / "bell" / "0.wav"
    for out in (wall, wall / "below"):
        assert f"{out}: cannot be written (" in refused("reconstruct", file, "--out", out, *SETTINGS)
    with full_disk(after=1):
        sentence = refused("reconstruct", file, "--out", tmp_path / "o", *SETTINGS)
    assert sentence == f"{tmp_path / 'o'}: cannot be written (No space left on device)"
    assert not list(tmp_path.rglob("*.partial"))
