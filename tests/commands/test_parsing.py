from __future__ import annotations

import pytest

from schurgan.commands.data import prepare_folder
from schurgan.commands.model import sample
from schurgan.commands.parsing import name_options, option_names
from schurgan.commands.run import train_command
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
