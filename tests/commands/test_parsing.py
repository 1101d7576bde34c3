from __future__ import annotations

from pathlib import Path

import pytest

from schurgan.commands.data import prepare_folder
from schurgan.commands.model import reconstruct, sample
from schurgan.commands.parsing import name_options, option_names, parse
from schurgan.commands.run import train_command
from schurgan.core.errors import SchurganError
from schurgan.runs.config import Config


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size: 0 given", "--train.batch-size: 0 given"),
        ("train.batch_size: 0 given", "--train.batch-size: 0 given"),
        ("data: missing", "--data: missing"),
        ("weight: -1 given", "weight: -1 given"),  # of two groups
        ("ddfn.weight: -1 given", "--ddfn.weight: -1 given"),
        ("runs/x: holds a run already; choose another `out`", "runs/x: holds a run already; choose another `--out`"),
        (
            "steps of another run; `schurgan resume` continues it",
            "steps of another run; `schurgan resume` continues it",
        ),
        ("no such file", "no such file"),
    ],
)
def test_arguments_that_a_message_of_the_library_names_are_named_as_options_of_the_command(message, expected):
    assert name_options(message, option_names(train_command(Config()))) == expected


def test_an_argument_has_the_name_that_its_option_has():
    options = option_names(sample)
    assert name_options("label: missing", options) == "--class: missing"
    assert name_options("run: missing", options) == "run: missing"  # no option
    assert name_options("shard_clips: 0 given", option_names(prepare_folder)) == "--shard-clips: 0 given"


def test_a_command_says_what_the_library_refused_with_dashes(refused, finished_run, tmp_path):
    assert refused("sample", finished_run, "--count", 0, "--out", tmp_path / "out").startswith("--count: 0 given")


def config_of(*arguments: object) -> Config:
    bound = parse(train_command(Config()), "train", ["--out", "run", *map(str, arguments)])
    return next(value for value in bound.keywords.values() if isinstance(value, Config))


@pytest.mark.parametrize(
    ("arguments", "group", "values"),
    [
        (("--train.steps", 5), "train", {"steps": 5}),
        (("--steps", 5), "train", {"steps": 5}),
        (("--batch_size=3", "--train.batch-size", 4), "train", {"batch_size": 4}),
        (("--betas", 0.1, 0.2, "--lr-g", "1e-4"), "train", {"betas": (0.1, 0.2), "lr_g": 1e-4}),
        (("--train.val-folds", 1, 2, "--balanced"), "train", {"val_folds": (1, 2), "balanced": True}),
        (("--model.no-spectral-norm-d", "--no-spectral-norm-g"), "model", {"spectral_norm_d": False}),
        (("--model.attention-g", "--model.width", "None"), "model", {"attention_g": (), "width": None}),
        (("--ddfn.weight", "-0"), "ddfn", {"weight": 0.0}),
    ],
)
def test_options_are_read_by_their_full_or_only_name_in_either_spelling(arguments, group, values):
    plain = Config()
    expected = plain.model_copy(update={group: getattr(plain, group).model_copy(update=values)})
    assert config_of(*arguments) == expected


def test_words_after_two_dashes_are_places_and_negative_numbers_are_values():
    bound = parse(sample, "sample", ["--truncation", "-0.5", "--", "--run"])
    assert bound.args == (Path("--run"),)
    assert bound.keywords["truncation"] == -0.5
    bound = parse(reconstruct, "reconstruct", ["a.wav", "--json", "--out", "x", "b.wav"])
    assert bound.args == ((Path("a.wav"), Path("b.wav")),)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--steps",), "--steps: nothing given, INT"),
        (("--data", "--steps", 3), "--data: nothing given, PATH"),
        (("--betas", 0.5), "--betas: 0.5 given, FLOAT FLOAT"),
        (("--betas", 0.5, 0.6, 0.7), '"0.7": one argument too many'),
        (("--steps", "many"), "--train.steps: 'many' given, a whole number"),
        (("--steps", 0), "--train.steps: 0 given, 1 or more"),
        (("--loss", "hing"), "--train.loss: 'hing' given, 'hinge'"),
        (("--balanced", "yes"), "--balanced: 'yes' given"),
        (("--balanced=yes",), "--balanced: 'yes' given"),
        (("--weight", 1), "--ddfn.weight or --moment-matching.weight"),
        (("--lr", 1), 'did you mean "--lr-g" or "--lr-d"?'),
        (("-preset", "demo"), 'did you mean "--preset"?'),
        (("--epochs", 3), "`schurgan train --help-all`"),
        (("--train.epochs", 3), "`schurgan train --help-all`"),
        (("clips",), '"clips": one argument too many; an example: `schurgan train --data '),
    ],
)
def test_each_kind_of_wrong_argument_has_a_sentence_with_what_was_given_and_what_would_do(arguments, sentence):
    with pytest.raises(SchurganError) as caught:
        config_of(*arguments)
    assert sentence in str(caught.value)
