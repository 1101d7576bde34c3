"""A run that goes on with other options: what may change, what it keeps, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from compared_runs import assert_same_state, contents, rows
from watched_runs import events

import schurgan
from schurgan.core.errors import SchurganError
from schurgan.training import train


def change(run: Path, part: str, **options: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part] |= options
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("option", ["model.width 8", "model.init glorot", "train.val-fraction 0.2"])
def test_what_a_run_keeps_is_refused_by_name_on_the_command_line_and_in_its_file(copied_run, refused, option):
    name, value = option.split(" ")
    before = contents(copied_run)
    said = refused("resume", copied_run, f"--{name}", value)
    assert said.startswith(f"--{name}: ")
    assert said.endswith("leave it out, or train a new run")
    assert contents(copied_run) == before
    part, _, key = name.replace("-", "_").partition(".")
    change(copied_run, part, **{key: yaml.safe_load(value)})
    assert f"{part}.{key}: " in refused("resume", copied_run).replace("--", "").replace("-", "_")


@pytest.mark.parametrize("options", ["--ddfn.estimator exact", "--regularize.lecam 1"])
def test_an_option_that_the_state_does_not_fit_is_refused_by_name_and_nothing_is_touched(copied_run, refused, options):
    before = contents(copied_run)
    said = refused("resume", copied_run, *options.split(" "), "--train.steps", 8)
    assert options.removeprefix("--") in said
    assert contents(copied_run) == before


@pytest.mark.parametrize("options", ["--train.steps 5", "--train.lr-g 0.5", "--train.steps 6 --train.batch-size 4"])
def test_no_fewer_steps_than_were_made_and_no_change_after_the_last_one(copied_run, refused, options):
    before = contents(copied_run)
    assert refused("resume", copied_run, *options.split(" ")).startswith("--train.steps: ")
    assert contents(copied_run) == before


def test_a_finished_run_given_more_steps_goes_on_as_if_it_had_had_them_from_the_start(call, copied_run, tiny, tmp_path):
    assert call("resume", copied_run, "--train.steps", 8).status == 0
    straight = train(tiny(steps=8), tmp_path / "straight")
    last = Path("checkpoints") / "step-00000008.pt"
    assert_same_state(copied_run / last, straight / last)
    assert rows(copied_run) == rows(straight)
    for name in ("generator.safetensors", "config.yaml"):
        assert (copied_run / name).read_bytes() == (straight / name).read_bytes()


def test_options_given_to_resume_stay_and_are_told_by_the_run_its_status_and_its_report(call, copied_run):
    said = call("resume", copied_run, "--train.steps", 8, "--train.lr-g", 0.5)
    assert said.status == 0, said.err
    change = "with train.steps 8 (was 6), train.lr-g 0.5 (was 0.001)"
    (resumed,) = [event for event in events(copied_run) if event["event"] == "resumed"]
    assert (resumed["step"], resumed["reason"]) == (6, change)
    assert change[1:] in call("status", copied_run).out
    before = contents(copied_run)
    said = call("resume", copied_run)
    assert (said.status, said.out) == (0, f"trained: {copied_run}\n")
    assert f"`schurgan resume {copied_run} --train.steps 16`" in said.err
    assert contents(copied_run) == before


def test_python_gives_options_to_resume_too(copied_run):
    assert schurgan.resume(copied_run, steps=7).card.step == 7
    with pytest.raises(SchurganError, match=r"model\.width"):
        schurgan.resume(copied_run, width=8, steps=8)


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "`schurgan resume RUN`"),
        ({"steps": 8, "balanced": True}, "`schurgan resume RUN --train.steps 8 --train.balanced`"),
        ({"val_fraction": 0.1}, "choose another `out`"),
    ],
)
def test_train_into_the_folder_of_a_run_says_how_that_run_goes_on_and_leaves_it_alone(
    copied_run, tiny, options, command
):
    before = contents(copied_run)
    with pytest.raises(SchurganError, match=f"^{copied_run}: ") as refused:
        train(tiny(**options), copied_run)
    assert command.replace("RUN", str(copied_run)) in str(refused.value)
    assert contents(copied_run) == before
