"""Whatever a user gives: one clear sentence, exit status 2, no traceback, and nothing half-written left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from schurgan.data import Shards

QUICK = ("--size", 16, "--seconds", 0.5)


def tone(n: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(np.arange(n) / 5)


def text(path: Path) -> None:
    path.write_text("this is a text\n")


def cut_after_header(path: Path) -> None:
    soundfile.write(path, tone(), 16000)
    os.truncate(path, 44)


def cut_in_header(path: Path) -> None:
    soundfile.write(path, tone(), 16000)
    os.truncate(path, 30)


def zero_bytes(path: Path) -> None:
    path.touch()


def not_a_number(path: Path) -> None:
    samples = tone()
    samples[100:200] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")


def one_sample(path: Path) -> None:
    soundfile.write(path, tone(1) + 0.5, 16000)


def silence(path: Path) -> None:
    soundfile.write(path, np.zeros(8000), 16000)


def noise_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


BAD: dict[Callable[[Path], None], str] = {
    text: "not an audio file (text)",
    cut_after_header: "cut off after its header (0 of 8000 frames)",
    cut_in_header: "",
    zero_bytes: "empty file (0 bytes)",
    not_a_number: "holds NaN or infinite samples (100 of 8000)",
    one_sample: "silent",
    silence: "silent (peak 0)",
    noise_bytes: "not an audio file (unknown binary data)",
}
bad_files = pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)


def nothing_is_left(folder: Path) -> bool:
    return not any(path.is_file() for path in folder.rglob("*"))


@bad_files
def test_a_folder_of_one_bad_recording_is_a_sentence_with_its_name_and_reason(refused, tmp_path, spoil):
    (tmp_path / "clips" / "bell").mkdir(parents=True)
    spoil(tmp_path / "clips" / "bell" / "bad.wav")
    sentence = refused("prepare", "folder", tmp_path / "clips", "--out", tmp_path / "out", *QUICK)
    assert "bell/bad.wav: " in sentence
    assert BAD[spoil] in sentence
    assert nothing_is_left(tmp_path / "out")


@bad_files
def test_a_bad_recording_among_good_ones_is_listed_with_its_reason_and_stops_a_strict_call(
    call, refused, recordings, tmp_path, spoil
):
    clips = Path(shutil.copytree(recordings, tmp_path / "clips"))
    spoil(clips / "bell" / "bad.wav")
    said = call("prepare", "folder", clips, "--out", tmp_path / "out", *QUICK)
    assert said.status == 0
    (line,) = [line for line in said.out.splitlines() if line.startswith("skipped: ")]
    assert line.startswith("skipped: bell/bad.wav: ")
    assert BAD[spoil] in line
    data = Shards(tmp_path / "out")
    assert len(data) == 8
    (skipped,) = data.manifest.skipped
    assert skipped.origin == "bell/bad.wav"
    assert BAD[spoil] in skipped.reason
    sentence = refused("prepare", "folder", clips, "--out", tmp_path / "strict", "--strict", *QUICK)
    assert sentence.startswith("bell/bad.wav: ")
    assert not (tmp_path / "strict" / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


@bad_files
def test_a_bad_recording_cannot_be_rebuilt_and_leaves_no_folder(refused, tmp_path, spoil):
    spoil(tmp_path / "bad.wav")
    sentence = refused("reconstruct", tmp_path / "bad.wav", "--out", tmp_path / "out", *QUICK)
    assert sentence.startswith(f"{tmp_path / 'bad.wav'}: ")
    assert BAD[spoil] in sentence
    assert not (tmp_path / "out").exists()


def test_half_a_recording_is_used_with_a_note(call, recordings, tmp_path):
    clips = Path(shutil.copytree(recordings, tmp_path / "clips"))
    os.truncate(clips / "bell" / "0.wav", 8044)
    said = call("prepare", "folder", clips, "--out", tmp_path / "out", *QUICK)
    assert said.status == 0
    assert "bell/0.wav: cut off (4000 of 8000 frames)" in said.out
    assert len(Shards(tmp_path / "out")) == 8


def test_192_khz_of_6_channels_and_24_bits_is_prepared_and_rebuilt(call, tmp_path):
    for name in ("bell", "drum"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        frames = np.sin(np.arange(96_000)[:, None] / np.arange(20, 26))
        soundfile.write(tmp_path / "clips" / name / "wide.wav", 0.3 * frames, 192_000, subtype="PCM_24")
    said = call("prepare", "folder", tmp_path / "clips", "--out", tmp_path / "out", *QUICK)
    assert said.status == 0, said.err
    assert Shards(tmp_path / "out").recording(0).shape == (8000,)
    said = call("reconstruct", tmp_path / "clips" / "bell" / "wide.wav", "--out", tmp_path / "rebuilt", *QUICK)
    assert said.status == 0, said.err


def test_one_class_is_prepared_with_a_warning(call, recordings, tmp_path):
    shutil.copytree(recordings / "bell", tmp_path / "clips" / "bell")
    said = call("prepare", "folder", tmp_path / "clips", "--out", tmp_path / "out", *QUICK)
    assert said.status == 0
    assert 'warning: only one class, "bell": there is nothing to condition on' in said.out


PREPARE = [
    (("folder", "{empty}"), "{empty}: "),
    (("folder", "{none}"), "{none}: "),
    (("folder", "{file}"), "{file}: "),
    (("folder",), "ROOT: missing"),
    (("folder", "{hollow}"), "{hollow}: "),
    (("esc50", "{loose}"), "esc50.csv"),
    (("foldr", "{loose}"), 'did you mean "folder"?'),
    (("soundscape", "{loose}"), "{loose}"),
    (("soundscape", "--per-class", 0), "per_class 0"),
    (("soundscape", "--subset", "esc10"), "--subset: "),
    (("esc50", "{loose}", "--subset", "esc11"), 'did you mean "esc10"?'),
    (("cifar10", "{loose}", "--sample-rate", 8000), "--sample-rate: "),
    (("soundscape", "--seconds", 0.01), "0.01"),
    (("soundscape", "--seconds", "nan"), "nan"),
    (("soundscape", "--size", 7), "size 7: 8 to 1024 is needed"),
    (("soundscape", "--size", "big"), "--size: "),
    (("soundscape", "--size"), "--size: "),
    (("soundscape", "--scale", "mel"), "--scale: "),
    (("soundscape", "--sample-rate", 10), "--sample-rate: "),
    (("soundscape", "--shard-clips", 0), "--shard-clips: "),
    (("soundscape", "--workers", -1), "--workers: "),
    (("soundscape", "--siez", 16), 'did you mean "--size"?'),
    (("folder", "{loose}", "b"), '"b": '),
]


@pytest.mark.parametrize(("arguments", "sentence"), PREPARE)
def test_what_cannot_be_prepared_is_one_sentence_and_leaves_nothing(refused, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "bell").mkdir(parents=True)
    (tmp_path / "hollow" / "bell" / "notes.txt").write_text("notes")
    (tmp_path / "loose").mkdir()
    soundfile.write(tmp_path / "loose" / "bark.wav", tone(), 16000)
    (tmp_path / "file").write_text("a file")
    places = {name: tmp_path / name for name in ("empty", "none", "file", "loose", "hollow")}
    given = [argument.format(**places) if isinstance(argument, str) else argument for argument in arguments]
    assert sentence.format(**places) in refused("prepare", *given, "--out", tmp_path / "out")
    assert nothing_is_left(tmp_path / "out")


TRAIN = [
    (("--preset", "proposd-128"), 'did you mean "proposed-128"?'),
    (("--preset",), "--preset: "),
    (("--train.stesp", 4), 'did you mean "--train.steps"?'),
    (("--train.steps", "many"), "--train.steps: "),
    (("--train.steps", 0), "--train.steps: "),
    (("--train.steps", 2.5), "--train.steps: "),
    (("--train.lr-g", "fast"), "--train.lr-g: "),
    (("--train.lr-g", "nan"), "--train.lr-g: "),
    (("--train.ema-decay", 1), "--train.ema-decay: "),
    (("--train.betas", 0.5), "--train.betas: "),
    (("--train.device", "gpu"), "--train.device: "),
    (("--train.val-folds", 3), "fold 3: "),
    (("--ddfn.estimator", "exakt"), "--ddfn.estimator: "),
    (("--ddfn.weight", -1), "--ddfn.weight: "),
    (("--model.architecture", "small-17"), 'did you mean "small-16"?'),
    (("--model.architecture", "small-32"), "{shards}"),
    (("--model.channels", 5), "--model.channels: "),
    (("--model.colormap", "viridis"), "colour map"),
    (("--data", "{none}"), "{none}: "),
    (("--data", "{empty}"), "{empty}: "),
    (("--data", "{file}"), "{file}"),
    (("--config", "{none}"), "{none}: "),
    (("--config", "{broken}"), "{broken}, line 2: "),
    (("--config", "{misspelt}"), "train.stepz: "),
    (("--config", "{python}"), "{python}, line 1: "),
    (("extra",), '"extra": '),
]


@pytest.mark.parametrize(("options", "sentence"), TRAIN)
def test_what_cannot_be_trained_is_one_sentence_and_leaves_no_run(refused, shards, tmp_path, options, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "broken").write_text("train: {steps: 3\nddfn: 3")
    (tmp_path / "misspelt").write_text("train: {stepz: 3}")
    (tmp_path / "python").write_text(f"data: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    names = ("empty", "none", "file", "broken", "misspelt", "python")
    places = {name: tmp_path / name for name in names} | {"shards": shards}
    given = [option.format(**places) if isinstance(option, str) else option for option in options]
    usual = ("--data", shards, "--model.architecture", "small-16", "--train.threads", 1)
    assert sentence.format(**places) in refused("train", *usual, "--out", tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "made").exists()


def test_train_without_data_or_out_says_what_is_missing(refused, shards, tmp_path):
    assert "--data: missing" in refused("train", "--out", tmp_path / "run")
    assert "--out: missing" in refused("train", "--data", shards)
    assert "ROOT and --out: missing" in refused("prepare", "folder")
    assert "prepare: " in refused("prepare", "--out", tmp_path / "run")
    assert "RUN: missing" in refused("resume")
    assert not (tmp_path / "run").exists()


def test_a_damaged_manifest_or_shard_is_one_sentence_with_the_file(refused, shards, tmp_path):
    data = Path(shutil.copytree(shards, tmp_path / "data"))
    arguments = ("train", "--data", data, "--model.architecture", "small-16", "--out", tmp_path / "run")
    os.truncate(data / "images-00000.npy", 1000)
    assert "images-00000.npy: shorter" in refused(*arguments)
    (data / "images-00000.npy").unlink()
    assert "images-00000.npy: " in refused(*arguments)
    (data / "manifest.json").write_text('{"format": "schurgan-shards"')
    assert f"{data / 'manifest.json'}: " in refused(*arguments)
    assert not (tmp_path / "run").exists()


SAMPLE = [
    (("{run}", "--class", "brak"), 'did you mean "bark"?'),
    (("{run}", "--count", 0), "--count: 0 "),
    (("{run}", "--count", "two"), "--count: "),
    (("{run}", "--truncation", 0), "--truncation: 0.0 "),
    (("{run}", "--truncation", -0.5), "--truncation: -0.5 "),
    (("{run}", "--truncation", "nan"), "--truncation: nan "),
    (("{run}", "--seed", -1), "--seed: -1 "),
    (("{run}", "--refine", -1), "--refine: "),
    (("{run}", "--phase", "cariier"), "--phase: "),
    (("{none}",), "{none}: "),
    (("{empty}",), "{empty}"),
    (("{file}",), "{file}: "),
]


@pytest.mark.parametrize(("arguments", "sentence"), SAMPLE)
def test_what_cannot_be_sampled_is_one_sentence_and_makes_no_folder(
    refused, finished_run, tmp_path, arguments, sentence
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    places = {name: tmp_path / name for name in ("empty", "none", "file")} | {"run": finished_run}
    given = [argument.format(**places) if isinstance(argument, str) else argument for argument in arguments]
    assert sentence.format(**places) in refused("sample", *given, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_generator_is_one_sentence(refused, copied_run):
    path = copied_run / "generator.safetensors"
    os.truncate(path, path.stat().st_size - 10)
    assert f"{path}: damaged" in refused("sample", copied_run, "--count", 1)
    assert not (copied_run / "sounds").exists()


def test_a_folder_or_file_that_is_no_run_cannot_be_resumed(refused, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "config.yaml").write_text("- nonsense")
    for place in ("none", "file"):
        assert f"{tmp_path / place}: " in refused("resume", tmp_path / place)
    assert f"{tmp_path / 'config.yaml'}: " in refused("resume", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "file"]


def test_a_broken_or_dangerous_config_cannot_be_resumed(refused, copied_run, tmp_path):
    config = copied_run / "config.yaml"
    whole = config.read_text()
    config.write_text(whole[: len(whole) // 2] + "\n  [")
    assert f"{config}, line " in refused("resume", copied_run)
    config.write_text(f"data: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    assert f"{config}, line 1: " in refused("resume", copied_run)
    assert not (tmp_path / "made").exists()
    config.write_text(yaml.safe_dump(yaml.safe_load(whole) | {"data": str(tmp_path / "none")}))
    assert f"{tmp_path / 'none'}: " in refused("resume", copied_run)


@pytest.mark.parametrize("place", ["{file}", "{file}/below"])
def test_a_place_that_cannot_be_written_is_one_sentence_of_every_command(
    refused, shards, finished_run, recordings, tmp_path, place
):
    (tmp_path / "file").write_text("a file")
    out = ("--out", place.format(file=tmp_path / "file"))
    commands = [
        ("prepare", "folder", recordings, *QUICK),
        ("train", "--data", shards, "--model.architecture", "small-16", "--train.threads", 1),
        ("sample", finished_run, "--class", "bark", "--count", 1, "--refine", 0),
        ("reconstruct", recordings / "bell" / "0.wav", *QUICK),
        ("demo",),
    ]
    for command in commands:
        assert ": cannot be written (" in refused(*command, *out), command
    assert (tmp_path / "file").read_text() == "a file"


def test_a_full_disk_is_one_sentence_of_every_command_and_leaves_no_half_file(
    call, full_disk, shards, finished_run, recordings, tmp_path
):
    commands = [
        ("prepare", "folder", recordings, *QUICK),
        ("train", "--data", shards, "--model.architecture", "small-16", "--train.threads", 1, "--train.steps", 1),
        ("sample", finished_run, "--class", "bark", "--count", 1, "--refine", 0),
        ("reconstruct", recordings / "bell" / "0.wav", *QUICK),
    ]
    for command in commands:
        for after in (0, 1):
            out = tmp_path / f"{command[0]}-{after}"
            with full_disk(after=after):
                said = call(*command, "--out", out)
            *before, sentence = said.err.splitlines()
            assert said.status == 2
            assert "cannot be written (No space left on device)" in sentence, command
            assert str(out) in sentence
            # A run says at once that it cannot save, and goes on to its end all the same.
            assert not before or command[0] == "train"
            assert not list(tmp_path.rglob("*.partial")), command


def test_unknown_commands_are_told_the_nearest_or_all(refused):
    assert 'did you mean "sample"?' in refused("smaple")
    assert "`schurgan --help` lists them" in refused("xyzzy")
    assert 'did you mean "verify"?' in refused("data", "verfy")
    assert "`schurgan data verify`" in refused("data")
    assert refused("doctor", "extra").startswith('"extra": ')


@pytest.mark.parametrize("columns", ["20", "45", "300"])
def test_a_sentence_does_not_depend_on_the_width_of_the_terminal(refused, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert refused("train", "--train.checkpoint-evrey", 3).endswith('did you mean "--train.checkpoint-every"?')
    assert refused("train", "--out", "run", "--train.checkpoint-every", 0).startswith("--train.checkpoint-every: 0 ")
    assert refused("train", "--train.betas", 1).startswith("--train.betas: ")
    assert refused("prepare", "folder").startswith("ROOT and --out: missing")
