"""`schurgan presets`, the settings of the paper's networks, and its tables' rows as the documents give them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from memory import step_peak
from schurgan.commands.parsing import parse
from schurgan.commands.run import train_command
from schurgan.health import RULES
from schurgan.networks import ARCHITECTURES, find_architecture
from schurgan.networks.costs import step_costs
from schurgan.runs.config import Config
from schurgan.runs.presets import preset_names, preset_summary
from schurgan.training.build import (
    build_augmentation,
    build_conditions,
    build_discriminator,
    build_generator,
)
from schurgan.training.checkpoint import Checkpoints

DOCS = Path(__file__).parents[2] / "docs"

SIZES = ("--width", 2, "--batch-size", 3, "--classes", 4, "--channels", 1)


def test_presets_and_then_ladders_with_their_costs_are_listed_a_line_each(call, monkeypatch):
    few = {name: ARCHITECTURES[name] for name in ("small-16", "sagan-64")}
    monkeypatch.setattr("schurgan.networks.costs.ARCHITECTURES", few)
    said = call("presets", *SIZES)
    assert (said.status, said.err) == (0, "")
    presets, architectures = said.out.split("\n\n")
    assert [line.split(maxsplit=1) for line in presets.splitlines()] == [[n, preset_summary(n)] for n in preset_names()]
    assert "batch 3, channels 1, classes 4" in architectures
    rows = {line.split()[0]: line.split()[1:] for line in architectures.splitlines()[3:]}
    assert list(rows) == list(few)
    costs = step_costs(ARCHITECTURES["sagan-64"], width=2, batch_size=3, classes=4, channels=1)
    assert rows["sagan-64"][:4] == ["64×64", "2", f"{costs.generator:,}", f"{costs.discriminator:,}"]


@pytest.mark.slow
def test_every_ladder_is_in_the_list(call):
    lines = call("presets", *SIZES).out.splitlines()
    assert [line.split()[0] for line in lines[-len(ARCHITECTURES) :]] == list(ARCHITECTURES)


@pytest.mark.parametrize("option", ["--batch-size", "--width", "--classes", "--channels"])
def test_sizes_below_one_are_refused_by_their_option_before_anything_is_said(refused, option):
    assert refused("presets", option, 0) == f"{option}: 0 given, a whole number from 1 to 65536 is needed"


BASELINES = [f"{network}-{size}" for network in ("sagan", "biggan") for size in (32, 128, 256)]
PAPER = [*BASELINES, "proposed-32", "proposed-128", "proposed-256"]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_are_trained_as_the_paper_says(name):
    """Appendix C: Adam with β = (0, 0.9), rates of 2·10⁻⁴ (D) and 3·10⁻⁵ (G); batches of 256 or, on CIFAR-10, 512."""
    train = Config.from_preset(name).train
    assert (train.betas, train.lr_d, train.lr_g) == ((0.0, 0.9), 2e-4, 3e-5)
    assert (train.d_steps, train.eps) == (2, 1e-6)
    assert train.batch_size == (512 if name.endswith("-32") else 256)
    assert Config.from_preset(name).model.channels == 3


@pytest.mark.parametrize("name", PAPER)
def test_a_run_of_the_paper_goes_beyond_the_last_collapse_printed_and_stops_before_its_own(name):
    config = Config.from_preset(name)
    assert config.train.steps > (79_380 if name.endswith("-32") else 161_000)
    assert config.health.reaction == "stop"
    # What it ends with is a checkpoint that was scored.
    assert config.train.checkpoint_every % config.health.every == 0


@pytest.mark.parametrize("name", PAPER)
def test_the_discriminator_of_every_paper_network_and_the_generator_of_sa_gan_alone_are_normalised(name):
    model = Config.from_preset(name).model
    assert model.spectral_norm_d
    assert model.spectral_norm_g == name.startswith("sagan")


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_baselines_are_trained_without_the_condition(name):
    ddfn = Config.from_preset(name).ddfn
    assert (ddfn.weight == 0) == (name in BASELINES)
    assert ddfn.epsilon == 37.16
    assert ddfn.relative_epsilon == (0.02 if name.endswith("-32") else None)


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_of_the_paper_is_of_the_size_in_its_name(name):
    assert find_architecture(Config.from_preset(name).model.architecture).size == (int(name.split("-")[1]),) * 2


class Row(NamedTuple):
    """What the paper prints of a row, or says in the text: nothing that is ours."""

    network: str
    size: int
    batch: int
    width: int
    ddfn: bool
    orthogonal: bool = False
    normalised: str = "D"


TABLES = {
    # Table 1: regularisation, batch and channels of each row; the caption and section 4.1 say which rows have DDFN.
    "1a": Row("proposed", 128, 256, 64, ddfn=True),
    "1b": Row("proposed", 128, 256, 96, ddfn=True, orthogonal=True),
    "1c": Row("proposed", 128, 256, 96, ddfn=False, orthogonal=True),
    "1d": Row("proposed", 128, 512, 64, ddfn=True),
    "1e": Row("proposed", 128, 512, 96, ddfn=True, orthogonal=True),
    "1f": Row("proposed", 128, 512, 96, ddfn=False, orthogonal=True),
    "4.1": Row("proposed", 128, 256, 64, ddfn=False, orthogonal=True),
    # Tables 2 and 4: model and resolution. Batch and width are not printed there but in the footnote on 2i.
    "2a": Row("sagan", 128, 256, 64, ddfn=False, normalised="GD"),
    "2b": Row("sagan", 256, 256, 64, ddfn=False, normalised="GD"),
    "2c": Row("biggan", 128, 256, 64, ddfn=False),
    "2d": Row("biggan", 256, 256, 64, ddfn=False),
    "2e": Row("biggan", 128, 256, 64, ddfn=True),
    "2f": Row("biggan", 256, 256, 64, ddfn=True),
    "2g": Row("proposed", 128, 256, 64, ddfn=True),
    "2h": Row("proposed", 256, 256, 64, ddfn=True),
    "2i": Row("proposed", 256, 512, 96, ddfn=True),
    # Table 3: batch 512 throughout.
    "3a": Row("sagan", 32, 512, 64, ddfn=False, normalised="GD"),
    "3b": Row("sagan", 32, 512, 64, ddfn=True, normalised="GD"),
    "3c": Row("biggan", 32, 512, 64, ddfn=False),
    "3d": Row("biggan", 32, 512, 64, ddfn=True),
    "3e": Row("proposed", 32, 512, 64, ddfn=False),
    "3f": Row("proposed", 32, 512, 64, ddfn=True),
    # Figure 1's caption and section 4; "scaled up by a factor of 2" is 64 to 96, which doubles the parameters.
    "F1a": Row("sagan", 128, 256, 64, ddfn=False, normalised="GD"),
    "F1b": Row("biggan", 128, 256, 64, ddfn=False, normalised="GD"),
    "F1c": Row("biggan", 128, 256, 64, ddfn=False),
    "F1d": Row("biggan", 128, 512, 96, ddfn=False),
    # Figure 2: four values of ε.
    **{f"F2{letter}": Row("proposed", 128, 256, 64, ddfn=True) for letter in "abcd"},
}
EPSILONS = {"F2a": 78.145, "F2b": 56.37, "F2c": 47.05, "F2d": 34.53}
CONTROLS = {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9"}


def documented() -> dict[str, tuple[str, list[str]]]:
    """Preset and options of every line of a table whose columns are row, as printed, preset and options."""
    found: dict[str, tuple[str, list[str]]] = {}
    columns = 0
    for line in (DOCS / "paper.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells[-2:] == ["preset", "options"]:
            columns = len(cells)
        elif not cells:
            columns = 0
        elif columns and not set(line) <= set("|- "):
            assert len(cells) == columns, line
            name, preset, options = cells[0], cells[-2].strip("`"), shlex.split(cells[-1].strip("`"))
            assert name not in found, name
            found[name] = (preset, options)
    return found


ROWS = documented()


def config_of(name: str) -> Config:
    """The options of a row, read by the command line itself."""
    preset, options = ROWS[name]
    bound: Any = parse(
        train_command(Config.from_preset(preset)), "train", [*options, "--data", "shards", "--out", "run"]
    )
    return next(value for value in (*bound.args, *bound.keywords.values()) if isinstance(value, Config))


def test_no_row_of_the_paper_is_missing_here():
    assert set(ROWS) == set(TABLES) | CONTROLS


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_the_paper_is_what_the_paper_says(name):
    row, config = TABLES[name], config_of(name)
    model, train, ddfn, regularize = config.model, config.train, config.ddfn, config.regularize
    assert config.preset == f"{row.network}-{row.size}"
    assert (train.batch_size, model.width) == (row.batch, row.width)
    assert (train.lr_g, train.lr_d, train.betas, train.loss) == (3e-5, 2e-4, (0.0, 0.9), "hinge")
    assert (ddfn.weight > 0) == row.ddfn
    assert ddfn.epsilon == EPSILONS.get(name, 37.16)
    assert (model.spectral_norm_g, model.spectral_norm_d) == ("G" in row.normalised, "D" in row.normalised)
    # β in (10⁻⁴, 10⁻⁵], an interval that is empty unless it is reversed.
    assert 1e-5 <= regularize.orthogonal_d < 1e-4 if row.orthogonal else regularize.orthogonal_d == 0
    assert regularize.orthogonal_g == 0
    assert regularize.orthogonal_kind == ("full" if name == "4.1" else "relaxed")
    assert (config.moment_matching.descriptor, regularize.augment, config.health.reaction) == ("none", "", "stop")


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_a_control_has_one_thing_less_or_in_the_place_of_another(name):
    held = {
        "C1": "",
        "C2": "",
        "C3": "ddfn",
        "C4": "ddfn",
        "C5": "variance",
        "C6": "frobenius",
        "C7": "dfn",
        "C8": "gram",
        "C9": "colour,translation,cutout",
    }[name]
    config = config_of(name)
    active = ["ddfn"] if config.ddfn.weight else []
    active += [config.moment_matching.descriptor] if config.moment_matching.descriptor != "none" else []
    active += [config.regularize.augment] if config.regularize.augment else []
    assert active == ([held] if held else [])
    assert config.model.spectral_norm_d == (name not in ("C2", "C3"))
    assert config.model.width == (96 if name == "C4" else 64)
    assert config.train == Config.from_preset("proposed-128").train


def different_networks() -> list[str]:
    """The first row of each network and condition: most rows differ in what they are trained with alone."""
    seen: dict[str, str] = {}
    for name in (*TABLES, *sorted(CONTROLS)):
        config = config_of(name)
        seen.setdefault(f"{config.model} {config.moment_matching}", name)
    return [*seen.values()]


@pytest.mark.parametrize("name", different_networks())
def test_the_networks_of_a_row_can_be_built_and_fit_each_other(name):
    """On tensors without numbers, of 50 classes. Initial weights are drawn simply: their shapes are the claim."""
    config = config_of(name)
    model = config.model.model_copy(update={"init": "normal"})
    with torch.device("meta"):
        generator, discriminator = build_generator(model, 50), build_discriminator(model, 50)
        z = torch.empty(2, generator.latent_dim)
        labels = torch.zeros(2, dtype=torch.int64)
        images = generator(z, labels)
        scores = discriminator(images, labels)
    size = int(config.preset.split("-")[1])
    assert (images.shape, scores.shape) == ((2, 3, size, size), (2,))
    build_augmentation(config.regularize)
    conditions = build_conditions(config, 50)
    assert ("moment_matching" not in conditions) == (config.moment_matching.descriptor == "none")
    assert config.train.batch_size % config.train.gradient_accumulation_steps == 0


TRAINING = (DOCS / "training.md").read_text("utf-8")


def test_every_option_that_the_page_about_training_names_is_one_and_takes_the_value_given():
    found = re.findall(r"`(model|ddfn|moment_matching|regularize|train|health)\.(\w+)(?:: ([^`]+))?`", TRAINING)
    assert len({(part, key) for part, key, _ in found}) >= 30
    for part, key, value in found:
        group: Any = Config.model_fields[part].annotation
        assert key in group.model_fields, f"{part}.{key}"
        if value:
            group.model_validate({key: yaml.safe_load(value)})


def test_the_rules_of_the_page_about_training_are_those_of_the_monitor_with_their_lines():
    lines = {name: line for line in TRAINING.splitlines() if line.startswith("| `") for name in rule_names(line)}
    assert set(lines) == set(RULES)
    for name, rule in RULES.items():
        level = lines[name].split("|")[-2].strip().split(", ")
        assert level[-1] == rule.level, name
        for number in (getattr(rule, key, None) for key in ("factor", "line", "deviations")):
            assert number is None or re.search(rf"\b{number:g}\b", lines[name]), f"{name}: {number}"


def rule_names(line: str) -> list[str]:
    """Of a line of a table, what its first cell names, if these are rules."""
    names = re.findall(r"`(\w+)`", line.split("|")[1])
    return names if names and set(names) <= set(RULES) else []


@pytest.mark.slow
def test_the_memory_of_the_large_batch_is_what_was_computed():
    """The lines that the advice rests on: the fewest parts that fit, and one part less, which does not."""
    rows = re.findall(r"^\| (64|96) \| (bf16|fp32, tf32) \| (\d) \|(.*)\|$", TRAINING, re.MULTILINE)
    assert len(rows) == 16
    for width, precision, parts, rest in rows:
        held, batch, departures, part, together = map(float, rest.split("|"))
        assert together == pytest.approx(held + batch + departures + part, abs=0.1)
        fewest = 2 if precision == "bf16" else 4
        assert (together < 70) == (int(parts) >= fewest)
        if int(parts) == fewest:
            peak = step_peak(
                find_architecture("proposed-256"),
                width=int(width),
                classes=50,
                batch_size=512,
                gradient_accumulation_steps=fewest,
                d_steps=2,
                half=precision == "bf16",
            )
            assert [peak.held / 2**30, peak.batch / 2**30] == pytest.approx([held, batch], abs=0.01)
            assert peak.part / 2**30 == pytest.approx(part, rel=0.01)


def test_files_that_the_page_about_training_names_for_a_step_are_those_of_a_run(tmp_path):
    assert str(Checkpoints(tmp_path).path(500).relative_to(tmp_path)) in TRAINING
