from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schurgan.core.errors import SchurganError
from schurgan.runs.config import Config
from schurgan.runs.sidecar import Identity, changed_options, check_kept

RUN = Path("run")


def identity(**options: Any) -> Identity:
    return Identity(options=Config.model_validate(options).model_dump(mode="json"), data="0123abcd")


def without(identity: Identity, group: str, name: str | None = None) -> Identity:
    """As a version of the program wrote it that did not have this option, or this whole group."""
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in identity.options.items()}
    del (options if name is None else options[group])[name or group]
    return Identity(options=options, data=identity.data)


def changes(before: Identity, now: Identity) -> list[str]:
    return [str(change) for change in changed_options(before, now)]


def test_the_same_options_written_and_read_again_are_no_change():
    before = identity(model={"attention_g": (8, 16)}, train={"betas": (0.5, 0.999), "lr_g": 1e-3})
    assert changes(Identity.model_validate_json(before.model_dump_json()), before) == []


def test_every_changed_option_is_named_with_both_values():
    before = identity(train={"lr_g": 1e-3, "betas": (0.0, 0.9)}, ddfn={"relative_epsilon": 0.1})
    assert set(changes(before, identity(train={"lr_g": 2e-3, "betas": (0.5, 0.9)}))) == {
        "train.lr-g 0.002 (was 0.001)",
        "train.betas [0.5, 0.9] (was [0.0, 0.9])",
        "ddfn.relative-epsilon none (was 0.1)",
    }


@pytest.mark.parametrize("option", [{"model": {"width": 8}}, {"train": {"val_folds": (5,)}}])
def test_an_option_that_a_run_keeps_is_refused_by_name(option):
    ((group, inner),) = option.items()
    with pytest.raises(SchurganError, match=rf"^{group}\.{next(iter(inner))}: .* run began with "):
        check_kept(changed_options(identity(), identity(**option)), RUN)


def test_parts_of_the_users_own_are_kept_and_asked_for_by_their_argument():
    own = identity()
    own.options["own.generator"] = "SmallGenerator"
    with pytest.raises(SchurganError, match=r"^generator: none given, run began with .*SmallGenerator"):
        check_kept(changed_options(own, identity()), RUN)


def test_another_folder_of_the_data_and_another_name_of_the_preset_are_no_change():
    here, there = identity(data="here"), identity(data="there")
    assert changes(here, Identity(options=there.options | {"preset": "of another version"}, data=there.data)) == []


@pytest.mark.parametrize(("group", "name"), [("train", "balanced"), ("regularize", None)])
def test_an_option_that_came_with_a_newer_version_is_no_change_at_its_default(group, name):
    assert changes(without(identity(), group, name), identity()) == []


def test_a_run_from_before_there_was_a_held_out_share_goes_on_with_none(tmp_path):
    old, path = without(identity(), "train", "val_fraction"), tmp_path / "config.yaml"
    path.write_text("train: {steps: 5}")
    now = Config.load(path)
    assert now.train.val_fraction == 0.0
    assert changed_options(old, identity(train={"val_fraction": 0.0})) == []
    (change,) = changed_options(old, identity(train={"val_fraction": None}))
    assert change.name == "train.val_fraction"
    assert Config.from_preset(None, path).train.val_fraction is None  # a file of one's own has the default


def test_an_option_that_came_with_a_newer_version_is_a_change_at_another_value():
    old = without(identity(), "regularize")
    assert changes(old, identity(regularize={"r1": 10})) == ["regularize.r1 10.0 (was 0.0)"]


def test_an_option_that_is_no_more_is_a_change():
    old = identity()
    old.options["train"]["warmup"] = 100
    assert changes(old, identity()) == ["train.warmup none (was 100)"]


def test_a_long_value_is_cut_in_the_sentence():
    own = identity()
    own.options["train"]["schedule"] = [*range(100)]
    (change,) = changes(own, identity())
    assert len(change) < 120
    assert "…" in change
