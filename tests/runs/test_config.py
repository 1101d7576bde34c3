from __future__ import annotations

import os

import pytest
import torch
import yaml

from schurgan.core.errors import UserError
from schurgan.networks import ARCHITECTURES, Discriminator, Generator, Latent
from schurgan.runs.config import Config, preset_names, preset_summary, read_yaml, resolve


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_resolves_and_its_networks_make_and_judge_images_of_its_ladder(name):
    config = resolve(name)
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
    preset, config = resolve("small-64"), resolve("small-64", tmp_path / "mine.yaml")
    assert preset.model.architecture == "small-64" != Config().model.architecture
    assert config.train.lr_g == 0.005 != preset.train.lr_g
    assert config.ddfn.weight == 0.7 != preset.ddfn.weight
    assert config.train.lr_d == preset.train.lr_d
    assert config.ddfn.relative_epsilon == preset.ddfn.relative_epsilon
    assert config.model == preset.model


def test_a_file_may_name_the_preset_that_it_starts_from_and_a_given_one_comes_first(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: small-64\ntrain: {steps: 7}\n")
    named, given = resolve(None, tmp_path / "mine.yaml"), resolve("small-32", tmp_path / "mine.yaml")
    assert (named.preset, named.model.architecture, named.train.steps) == ("small-64", "small-64", 7)
    assert (given.preset, given.model.architecture, given.train.steps) == ("small-32", "small-32", 7)


def test_without_preset_and_file_the_options_are_those_of_the_default_preset():
    assert resolve() == resolve(Config().preset)


@pytest.mark.parametrize("name", preset_names())
def test_saved_options_load_as_they_were(tmp_path, name):
    config = resolve(name).model_copy(update={"data": tmp_path / "daten ü"})
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


def test_options_cannot_be_changed_after_they_are_made():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.steps = 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {stepz: 4}", 'train.stepz: no such option; did you mean "steps"?'),
        ("trian: {steps: 4}", 'trian: no such option; did you mean "train"?'),
        ("ddfn: {relative_epsilom: 0.1}", 'ddfn.relative-epsilom: no such option; did you mean "relative_epsilon"?'),
        ("train: {steps: many}", "train.steps: 'many' given"),
        ("train: {steps: 0}", "train.steps: 0 given, greater than or equal to 1 is needed"),
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
    ],
)
def test_wrong_options_in_a_file_are_one_sentence_with_the_key(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        resolve(None, tmp_path / "mine.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_a_folder_or_no_text_is_one_sentence(tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for path, reason in (("none", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8")):
        with pytest.raises(UserError, match=reason):
            read_yaml(tmp_path / path)


def test_a_tag_that_would_run_python_runs_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"train: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(UserError, match="line 1: not YAML"):
        resolve(None, tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="line 1: not YAML"):
        Config.load(tmp_path / "mine.yaml")
    assert not (tmp_path / "made").exists()
    yaml.unsafe_load((tmp_path / "mine.yaml").read_text())  # what a careless reader would have done
    assert os.path.isdir(tmp_path / "made")


def test_an_unknown_preset_is_told_the_nearest_and_the_known_ones():
    with pytest.raises(UserError, match='did you mean "proposed-128"'):
        resolve("proposd-128")
    with pytest.raises(UserError, match=f"there are {', '.join(preset_names())}"):
        resolve("zzz")
