from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from schurgan.core.errors import SchurganError
from schurgan.networks import ARCHITECTURES, Discriminator, Generator, Latent
from schurgan.runs.config import _OLD_NAMES, DEFAULT_PRESET, Config, read_yaml
from schurgan.runs.options import DDFNOptions, TrainOptions
from schurgan.runs.presets import preset_names, preset_summary


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_resolves_and_its_networks_make_and_judge_images_of_its_ladder(name):
    config = Config.from_preset(name)
    assert config.preset == name
    architecture = ARCHITECTURES[config.model.architecture]
    shape = {"width": config.model.width, "classes": 3, "channels": config.model.channels}
    with torch.device("meta"):
        name = config.model.architecture
        generator = Generator.from_preset(name, spectral_norm=config.model.spectral_norm_g, **shape)
        discriminator = Discriminator.from_preset(name, spectral_norm=False, **shape).eval()
        z = torch.empty(2, Latent(generator.latent_dim).dim)
        labels = torch.zeros(2, dtype=torch.int64)
        images = generator.eval()(z, labels)
        assert images.shape == (2, config.model.channels, *architecture.size)
        assert discriminator(images, labels).shape == (2,)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_in_one_line_what_it_is_for(name):
    assert len(preset_summary(name)) > 20
    assert "\n" not in preset_summary(name)


def test_a_preset_overrides_defaults_and_a_file_overrides_the_preset_key_by_key(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {lr_g: 0.005}\nddfn: {weight: 0.7}\n")
    preset, config = Config.from_preset("small-64"), Config.from_preset("small-64", tmp_path / "mine.yaml")
    assert preset.model.architecture == "small-64" != Config().model.architecture
    assert config.train.lr_g == 0.005 != preset.train.lr_g
    assert config.ddfn.weight == 0.7 != preset.ddfn.weight
    assert config.train.lr_d == preset.train.lr_d
    assert config.ddfn.relative_epsilon == preset.ddfn.relative_epsilon
    assert config.model == preset.model


def test_a_file_may_name_the_preset_that_it_starts_from_and_a_given_one_comes_first(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: small-64\ntrain: {steps: 7}\n")
    named, given = (
        Config.from_preset(None, tmp_path / "mine.yaml"),
        Config.from_preset("small-32", tmp_path / "mine.yaml"),
    )
    assert (named.preset, named.model.architecture, named.train.steps) == ("small-64", "small-64", 7)
    assert (given.preset, given.model.architecture, given.train.steps) == ("small-32", "small-32", 7)


def test_without_preset_and_file_the_options_are_those_of_the_default_preset():
    assert Config.from_preset() == Config.from_preset(DEFAULT_PRESET)


def test_a_config_that_names_a_preset_is_that_preset():
    assert Config(preset="small-64") == Config.from_preset("small-64") != Config()
    config = Config(preset="small-64", data="here", train=TrainOptions(steps=5))
    assert config == Config.from_preset("small-64", data="here", steps=5)
    assert config.train.lr_g == Config.from_preset("small-64").train.lr_g != 0.7
    with pytest.raises(SchurganError, match='did you mean "small-64"'):
        Config(preset="smal-64")


def test_overrides_are_groups_or_single_options_of_one_group():
    config = Config.from_preset("small-64", train={"steps": 7}, batch_size=3, ddfn=DDFNOptions(weight=0.5))
    assert (config.train.steps, config.train.batch_size, config.ddfn.weight) == (7, 3, 0.5)
    assert config.train.lr_d == Config.from_preset("small-64").train.lr_d
    assert config.ddfn.relative_epsilon == Config.from_preset("small-64").ddfn.relative_epsilon


def test_overrides_come_before_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {steps: 7, batch_size: 5}")
    train = Config.from_preset("small-64", tmp_path / "mine.yaml", steps=9).train
    assert (train.steps, train.batch_size) == (9, 5)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"weight": 1.0}, "weight: .*ddfn.*moment_matching"),
        ({"stepz": 1}, 'stepz: .*did you mean "steps"'),
        ({"steps": 0}, "train.steps: 0 given"),
        ({"train": {"stepz": 1}}, "train.stepz: "),
        ({"train": 5}, "train: 5 given"),
    ],
)
def test_wrong_overrides_are_one_sentence_with_the_name(overrides, named):
    with pytest.raises(SchurganError, match=named):
        Config.from_preset("small-64", **overrides)


def test_an_option_that_a_saved_file_lacks_has_its_default_whatever_the_preset(tmp_path):
    Config.from_preset("proposed-128").save(tmp_path / "config.yaml")
    options = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert options["train"].pop("lr_g") != TrainOptions().lr_g
    options["preset"] = "a preset that is no more"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    assert Config.load(tmp_path / "config.yaml").train.lr_g == TrainOptions().lr_g


@pytest.mark.parametrize("old", _OLD_NAMES)
def test_an_old_name_is_read_from_a_file_with_a_warning(tmp_path, old):
    group, _, name = old.partition(".")
    values = {"ladder": "small-16", "exclude_folds": [2], "held_out": 0.25, "accumulate": 2, "ema": 0.5, "rollbacks": 7}
    options = {group: {name: values[name]} if name else {"descriptor": "gram"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(options))
    with pytest.warns(UserWarning, match=f"mine.yaml: {old} is called {_OLD_NAMES[old]} now"):
        config = Config.load(tmp_path / "mine.yaml")
    with pytest.warns(UserWarning, match=old):
        assert Config.from_preset("small-32", tmp_path / "mine.yaml") != Config.from_preset("small-32")
    group, _, name = _OLD_NAMES[old].partition(".")
    assert getattr(config, group) != getattr(Config(), group)
    config.save(tmp_path / "config.yaml")
    assert old.partition(".")[2] not in (yaml.safe_load((tmp_path / "config.yaml").read_text())[group])


@pytest.mark.parametrize("name", preset_names())
def test_saved_options_load_as_they_were(tmp_path, name):
    config = Config.from_preset(name).model_copy(update={"data": tmp_path / "daten ü"})
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


def test_options_cannot_be_changed_after_they_are_made():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.steps = 3


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))  # 2^30 of them


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {stepz: 4}", 'train.stepz: no such option; did you mean "steps"?'),
        ("trian: {steps: 4}", 'trian: no such option; did you mean "train"?'),
        ("ddfn: {relative_epsilom: 0.1}", 'ddfn.relative-epsilom: no such option; did you mean "relative_epsilon"?'),
        ("train: {steps: many}", "train.steps: 'many' given"),
        ("train: {steps: 0}", "train.steps: 0 given, 1 or more is needed"),
        ("train: {lr_g: .nan}", "train.lr-g: nan given, a finite number is needed"),
        ("train: {betas: [0.0, 1.5]}", "train.betas.1: 1.5 given, less than 1 is needed"),
        ("train: 4", "train: 4 given"),
        ("- 1\n- 2", "a mapping of options is needed, this is list"),
        ("", "a mapping of options is needed, this is NoneType"),
        ("train: {steps: 4", "line 1: not YAML"),
        ("a: 1\nb: [1\n", "line 3: not YAML"),
        ("1: 2", "names of options are text, 1 is not"),
        ("preset: no-such", 'preset "no-such": no such preset'),
        ("[" * 3000, "nested too deeply"),
        (LAUGHS, "line 2: not YAML (an alias"),
        ("a: &a {<<: *a}", "line 1: not YAML (an alias"),
        (f"train: {{steps: 0x{'f' * 5000}}}", "line 1: not YAML (more than 3500 letters)"),
        (f"train: {{steps: 0x{'f' * 3000}}}", "train.steps: "),
        (f"train: {{steps: {'9' * 3400}}}", "train.steps: "),
        ("train: {steps: 2026-13-45}", "not options (month must be in 1..12)"),
        ("#" * 70_000, "too large to be what it should"),
    ],
)
def test_wrong_options_in_a_file_are_one_sentence_with_the_key(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SchurganError) as caught:
        Config.from_preset(None, tmp_path / "mine.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_a_folder_or_no_text_is_one_sentence(tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for path, reason in (("none", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8")):
        with pytest.raises(SchurganError, match=reason):
            read_yaml(tmp_path / path)


def numbers(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every number that a JSON schema asks for: its path, 0 for an element of a list, and what is said of it."""
    for name, field in schema.get("properties", {}).items():
        yield from numbers(field, (*path, name))
    for inner in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("prefixItems", ())[:1]):
        yield from numbers(inner, (*path, "0") if inner in schema.get("prefixItems", ()) else path)
    if "$ref" in schema:
        yield from numbers(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    if isinstance(schema.get("items"), dict):
        yield from numbers(schema["items"], (*path, "0"))
    if schema.get("type") in ("integer", "number"):
        yield path, schema


SCHEMA = Config.model_json_schema()
NUMBERS = list(numbers(SCHEMA))


def options_of(path: tuple[str, ...], value: float) -> dict[str, Any]:
    first, *rest = path
    if first == "0":
        return [value]  # type: ignore[return-value]
    return {first: options_of(tuple(rest), value) if rest else value}


@pytest.mark.parametrize(("path", "said"), NUMBERS, ids=[".".join(path) for path, _ in NUMBERS])
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(path, said):
    bounds = [
        (said.get("minimum", said.get("exclusiveMinimum")), -1),
        (said.get("maximum", said.get("exclusiveMaximum")), 1),
    ]
    step = 1 if said["type"] == "integer" else 1e-9
    for (bound, sign), open_ in zip(bounds, ("minimum" not in said, "maximum" not in said), strict=True):
        assert bound is not None, "a number without a bound takes memory or time without end"
        inside, outside = (
            (bound - sign * step, bound) if open_ else (bound, bound + sign * max(step, abs(bound) * step))
        )
        pair = len(path) == 3 and path[1] in ("betas", "interval")
        for value, fits in ((inside, True), (outside, False), (sign * 10**30, False)):
            options = options_of(path, value)
            if pair:
                options[path[0]][path[1]] *= 2
            if fits:
                Config.model_validate(options)
            else:
                with pytest.raises(ValidationError, match=r"\.".join(path)):
                    Config.model_validate(options)


def test_a_number_without_a_bound_would_be_seen():
    assert len(NUMBERS) >= 50
    known = {path for path, _ in NUMBERS}
    assert {("train", "threads"), ("train", "betas", "0"), ("model", "attention_g", "0")} <= known


def test_a_long_list_of_folds_or_heights_is_refused():
    for options in ({"train": {"val_folds": range(2000)}}, {"model": {"attention_g": [8] * 20}}):
        with pytest.raises(ValidationError, match="at most"):
            Config.model_validate(options)


def test_a_fifo_in_the_place_of_a_file_of_options_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(SchurganError, match="not a regular file"):
        read_yaml(tmp_path / "mine.yaml")


def test_a_tag_that_would_run_python_runs_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"train: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(SchurganError, match="line 1: not YAML"):
        Config.from_preset(None, tmp_path / "mine.yaml")
    with pytest.raises(SchurganError, match="line 1: not YAML"):
        Config.load(tmp_path / "mine.yaml")
    assert not (tmp_path / "made").exists()
    yaml.unsafe_load((tmp_path / "mine.yaml").read_text())  # what a careless reader would have done
    assert os.path.isdir(tmp_path / "made")


def test_an_unknown_preset_is_told_the_nearest_and_the_known_ones():
    with pytest.raises(SchurganError, match='did you mean "proposed-128"'):
        Config.from_preset("proposd-128")
    with pytest.raises(SchurganError, match=f"there are {', '.join(preset_names())}"):
        Config.from_preset("zzz")
