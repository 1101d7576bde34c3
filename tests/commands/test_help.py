"""What --help and --help-all show of every command."""

from __future__ import annotations

import re

import pytest

from schurgan.commands.help import help_text
from schurgan.commands.main import COMMANDS, command_of, find_command
from schurgan.commands.parsing import parse, read_doc, read_options
from schurgan.commands.run import train_command
from schurgan.runs.config import Config
from schurgan.runs.presets import preset_names

SOURCES = [name for name in COMMANDS if name.startswith("prepare ")]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def listed(text: str) -> list[str]:
    """The options that a help has a line for."""
    return [name.replace("[no-]", "") for name in re.findall(r"^  (--[\w.\[\]-]+)", text, re.MULTILINE)]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_screen_of_every_command_fits_and_says_how_to_use_it(call, name):
    said = call(*name.split(), "--help")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].startswith(f"usage: schurgan {name}")
    assert len(lines) <= 40
    assert any(line.startswith(f"  schurgan {name}") for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert call(*name.split(), "-h") == said


@pytest.mark.parametrize("name", COMMANDS)
def test_the_whole_help_has_every_option_once_with_a_text_and_the_first_screen_leads_there(call, name):
    options = [option for option in read_options(find_command(name, [])) if not option.positional]
    text, screen = (call(*name.split(), flag).out for flag in ("--help-all", "--help"))
    assert sorted(listed(text)) == sorted(option.name for option in options)
    assert [option.name for option in read_options(find_command(name, [])) if not option.help] == []
    assert {option.name for option in options if option.common} <= set(listed(screen)) <= set(listed(text))
    assert ("--help-all" in screen.splitlines()[-1]) == (len(listed(screen)) < len(options))
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_understood(name):
    for line in read_doc(find_command(name, []))["Example"].split("\n\n")[0].splitlines():
        called, arguments = command_of(line.split()[1:])
        assert called == name
        parse(find_command(name, arguments), name, arguments)


@pytest.mark.parametrize("name", SOURCES)
def test_the_help_of_a_source_speaks_of_no_other(name):
    text = help_text(find_command(name, []), name, everything=True)
    others = {source.partition(" ")[2] for source in SOURCES if source != name}
    assert not others - {"folder"} & set(re.findall(r"\w+", text))
    assert "SOURCE" in text
    pictures = {"--images"} & set(listed(text))
    sounds = {"--seconds", "--sample-rate", "--transform", "--audio"} & set(listed(text))
    assert bool(pictures) == (name in ("prepare folder", "prepare cifar10"))
    assert len(sounds) == (0 if name == "prepare cifar10" else 4)


@pytest.mark.parametrize("preset", preset_names())
def test_the_help_of_train_has_the_values_of_the_preset_and_names_those_that_are_no_defaults(call, preset):
    screen = call("train", "--preset", preset, "--help").out
    assert len(screen.splitlines()) <= 40
    config, text = Config.from_preset(preset), " ".join(screen.split())
    assert f"generator steps of the whole run [default: {config.train.steps}]" in text
    plain = Config()
    assert (f"train.steps {config.train.steps}" in text) == (config.train.steps != plain.train.steps)
    assert f"model.width {config.model.width}" in text
    assert f"train.seed {config.train.seed}" not in text.partition(f"{preset} sets ")[2]


def test_the_help_of_train_names_the_file_whose_values_it_shows(call, tmp_path):
    (tmp_path / "my.yaml").write_text("preset: small-64\ntrain: {steps: 77}\n")
    text = " ".join(
        call("train", "--preset", "demo", "--config", tmp_path / "my.yaml", "--preset=small-64", "-h").out.split()
    )
    assert "[default: 77]" in text
    assert f"small-64 with {tmp_path / 'my.yaml'} sets " in text
    assert call("train", "--preset", "--help").out == call("train", "--help").out


def test_the_help_of_resume_has_the_values_of_the_run_and_no_preset(call, refused, finished_run):
    steps = Config.load(finished_run / "config.yaml").train.steps
    assert f"generator steps of the whole run [default: {steps}]" in call("resume", finished_run, "-h").out
    assert "--preset" not in call("resume", finished_run, "--help-all").out
    assert refused("resume", finished_run, "--preset", "demo").startswith("--preset: ")


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_s_values_are_listed_so_that_they_can_be_given(call, preset):
    given = " ".join(call("presets", preset).out.splitlines()[1:]).split()
    bound = parse(train_command(Config()), "train", [*given, "--out", "run"])
    assert bound.keywords["config"].model_copy(update={"preset": preset}) == Config.from_preset(preset)


@pytest.mark.parametrize("columns", [1, 20, 40])
def test_in_a_narrow_terminal_only_examples_and_names_are_longer_than_a_line(call, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for line in call("train", "--help-all").out.splitlines():
        assert len(line) <= max(columns, 40) or line.startswith("  schurgan train")


def test_no_control_of_a_terminal_is_in_a_help(call, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in call("train", "--help-all").out
