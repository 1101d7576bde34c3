from __future__ import annotations

from typing import Any

import pytest

from schurgan.core.errors import SchurganError
from schurgan.runs.config import Config
from schurgan.runs.sidecar import Identity, changed_options, check_changes

FREE = {"preset", "train.steps", "train.log_every"}


def identity(data: str = "0123abcd", /, **options: Any) -> Identity:
    return Identity(options=Config.model_validate(options).model_dump(mode="json"), data=data)


def without(identity: Identity, group: str, name: str | None = None) -> Identity:
    """As a version of the program wrote it that did not have this option, or this whole group."""
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in identity.options.items()}
    del (options if name is None else options[group])[name or group]
    return Identity(options=options, data=identity.data)


def refusal(changes: dict[str, str], *allowed: str) -> str:
    with pytest.raises(SchurganError) as refused:
        check_changes(changes, FREE, allowed, "run")
    return str(refused.value)


def test_the_same_options_written_and_read_again_are_no_change():
    before = identity(model={"attention_g": (8, 16)}, train={"betas": (0.5, 0.999), "lr_g": 1e-3})
    read = Identity.model_validate_json(before.model_dump_json())
    assert changed_options(read, before) == {}
    assert check_changes({}, FREE, [], "run") == []


def test_every_changed_option_is_named_with_both_values_in_one_sentence():
    before = identity(train={"lr_g": 1e-3, "betas": (0.0, 0.9)}, ddfn={"relative_epsilon": 0.1})
    now = identity(train={"lr_g": 2e-3, "betas": (0.5, 0.9)})
    changes = changed_options(before, now)
    assert set(changes) == {"ddfn.relative_epsilon", "train.lr_g", "train.betas"}
    said = refusal(changes)
    assert said.startswith("run: ")
    assert "train.lr-g was 0.001 and is 0.002" in said
    assert "train.betas was [0.0, 0.9] and is [0.5, 0.9]" in said
    assert "ddfn.relative-epsilon was 0.1 and is null" in said
    assert said.endswith("--allow ddfn.relative-epsilon train.lr-g train.betas")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["train.lr-g", "train.lr_g", "train"])
def test_an_allowed_change_is_given_back_and_the_others_are_still_refused(name):
    changes = changed_options(identity(), identity(train={"lr_g": 0.5}))
    assert check_changes(changes, FREE, [name], "run") == [changes["train.lr_g"]] == [*changes.values()]
    more = changed_options(identity(), identity(train={"lr_g": 0.5}, model={"width": 8}))
    said = refusal(more, name)
    assert "model.width was null and is 8" in said
    assert "was 0.001" not in said
    assert said.endswith(f"--allow {name.replace('_', '-')} model.width")  # a command that works as it stands


def test_a_name_does_not_allow_an_option_that_only_begins_like_it():
    said = refusal({"train.lr": "lr was 1 and is 2", "train.lr_g": "lr-g was 3 and is 4"}, "train.lr")
    assert "lr-g was 3 and is 4" in said
    assert "lr was" not in said


def test_options_that_never_matter_are_neither_refused_nor_given_back():
    now = identity(train={"steps": 9, "log_every": 1})
    changes = changed_options(identity(), Identity(options=now.options | {"preset": "proposed-128"}, data=now.data))
    assert len(changes) == 3
    assert check_changes(changes, FREE, [], "run") == []


def test_moved_data_are_no_change_and_other_data_are_one_that_nothing_but_its_name_allows():
    assert changed_options(identity("a" * 64, data="here"), identity("a" * 64, data="there")) == {}
    changes = changed_options(identity("a" * 64, data="here"), identity("b" * 64, data="here"))
    assert set(changes) == {"data"}
    with pytest.raises(SchurganError, match=r"data was \"aaa.*… and is \"bbb.*--allow data$"):
        check_changes(changes, {*FREE, "data"}, [], "run")
    assert check_changes(changes, FREE, ["data"], "run") == [changes["data"]]


@pytest.mark.parametrize(("group", "name"), [("train", "balanced"), ("regularize", None)])
def test_an_option_that_came_with_a_newer_version_is_no_change_at_its_default(group, name):
    assert changed_options(without(identity(), group, name), identity()) == {}


def test_an_option_that_came_with_a_newer_version_is_a_change_at_another_value():
    old = without(identity(), "regularize")
    assert changed_options(old, identity(regularize={"r1": 10})) == {
        "regularize.r1": "regularize.r1 was 0.0 and is 10.0"
    }


def test_an_option_that_is_no_more_must_be_allowed_by_its_old_name():
    old, now = identity(), identity()
    old.options["train"]["warmup"] = 100
    changes = changed_options(old, now)
    assert set(changes) == {"train.warmup"}
    said = refusal(changes)
    assert "train.warmup was 100 and is no option any more" in said
    assert check_changes(changes, FREE, ["train.warmup"], "run") == [changes["train.warmup"]]


@pytest.mark.parametrize(
    ("given", "meant"), [("train.lrg", "train.lr-g"), ("lr-g", "train.lr-g"), ("tran", "train"), ("date", "data")]
)
def test_an_allowed_name_that_is_no_option_is_refused_with_the_nearest_one(given, meant):
    assert refusal({}, given).startswith(f'allow: "{given}" given')
    assert refusal({}, given).endswith(f'did you mean "{meant}"?')


def test_a_long_value_is_cut_in_the_sentence():
    folds = tuple(range(100))
    (change,) = changed_options(identity(), identity(train={"val_folds": folds})).values()
    assert len(change) < 120
    assert "…" in change
