from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_study import small_study

from schurgan.networks.costs import step_costs
from schurgan.runs.config import Config
from schurgan.studies import estimate as module
from schurgan.studies.estimate import arithmetic, estimate
from schurgan.studies.study import load_study, read_study, study_names
from schurgan.studies.trial import Outcome
from schurgan.training.build import build_architecture, build_trainer


def paper_configs(*, losses: bool) -> dict[str, tuple[Config, int]]:
    """At paper scale a configuration of each size, and perhaps of each set of losses, and its classes."""
    found: dict[tuple[object, ...], tuple[str, Config, int]] = {}
    for name in study_names():
        study = load_study(name)
        rows = {row.name: row for row in study.rows}
        for trial in study.trials("paper", 1, {}, Path("out")):
            classes = study.data_at("paper", rows[trial.row].data).classes
            model, train = trial.config.model, trial.config.train
            key = (model, classes, train.batch_size, train.d_steps, *(of_losses(trial.config) if losses else ()))
            found.setdefault(key, (trial.name, trial.config, classes))
    return {name: (config, classes) for name, config, classes in found.values()}


def of_losses(config: Config) -> tuple[object, ...]:
    return config.ddfn, config.moment_matching, config.regularize


SIZES, PAPER = paper_configs(losses=False), paper_configs(losses=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_step_of_every_trial_at_paper_scale_is_possible_on_tensors_without_numbers(name):
    config, classes = SIZES[name]
    flops, costs = arithmetic(config, classes)
    assert flops > costs.flops * 1.2  # two steps of D
    assert costs.memory > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_a_step_of_every_trial_at_paper_scale_is_finite_with_narrow_networks_and_two_images(name):
    """All of its losses, constraints and conditions; width and batch alone are cut."""
    config, classes = PAPER[name]
    train = config.train.model_copy(update={"batch_size": 2, "device": "cpu"})
    model = config.model.model_copy(update={"width": 2, "width_d": None})
    config = config.model_copy(update={"train": train, "model": model})
    trainer = build_trainer(config, classes)
    shape = (config.model.channels, *build_architecture(config.model).size)
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * classes) % classes
    for part in trainer.conditions.values():
        part.fit_real([(torch.rand((len(labels), *shape), generator=chance) * 2 - 1, labels)])
    real = torch.rand((2, *shape), generator=chance) * 2 - 1
    metrics = trainer.training_step([(real, labels[:2])] * config.train.d_steps)
    assert metrics["not_finite"] == 0
    assert all(value.isfinite() for value in metrics.values())


def test_arithmetic_of_one_step_of_d_is_that_of_the_networks():
    config = Config.model_validate({"model": {"architecture": "small-16", "width": 4}, "train": {"batch_size": 8}})
    flops, costs = arithmetic(config, 5)
    known = step_costs(build_architecture(config.model), width=4, classes=5, channels=1, batch_size=8)
    assert flops == known.flops
    assert costs == known


def test_another_step_of_d_costs_what_its_passes_do():
    """D's phase counted by itself: G forward, D forward and back on twice the batch."""
    from torch.utils.flop_counter import FlopCounterMode

    from schurgan.networks import Discriminator, Generator

    config = Config.model_validate(
        {"model": {"architecture": "small-32", "width": 8}, "train": {"batch_size": 8, "d_steps": 3}}
    )
    architecture = build_architecture(config.model)
    with torch.device("meta"):
        g = Generator(architecture, 5, 8, 1, spectral_norm=False, init="normal")
        d = Discriminator(architecture, 5, 8, 1, spectral_norm=False, init="normal")
        z, labels = torch.empty(8, g.latent_dim), torch.zeros(8, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            with torch.no_grad():
                fake = g(z, labels)
            d(torch.cat([fake, fake]), labels.repeat(2)).sum().backward()
    once = Config.model_validate(config.model_dump() | {"train": {"batch_size": 8}})
    extra = (arithmetic(config, 5)[0] - arithmetic(once, 5)[0]) / 2
    assert extra == counter.get_total_flops()


def test_trials_that_differ_in_their_seed_alone_are_timed_once(tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(module, "_measure", lambda *_: times.append(1) or 0.5)
    trials = read_study("small", small_study()).trials("laptop", 3, {}, tmp_path)
    Outcome("finished").save(_made(trials[0].folder))
    found = list(estimate(trials, [8] * len(trials)))
    assert len(times) == 2
    assert [each.seconds for each in found] == [4.0] * 6
    assert [each.done for each in found] == [True] + [False] * 5
    assert "done" in str(found[0])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_batch_that_is_too_much_for_a_cpu_is_timed_in_part(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(module, "_measure", lambda config, *_: sizes.append(config.train.batch_size) or 1.0)
    trial = read_study("small", small_study()).trials("laptop", 1, {}, tmp_path)[0]
    train = trial.config.train.model_copy(update={"batch_size": 64})
    trial = dataclasses.replace(trial, config=trial.config.model_copy(update={"train": train}))
    monkeypatch.setattr(module, "_MOST_ON_CPU", arithmetic(trial.config, 8)[0] / 4)
    (found,) = estimate([trial], [8])
    assert sizes == [16]
    assert found.cut == 16
    assert found.seconds == 4 * 8  # four times the time of a quarter, eight steps
    assert "by batches of 16" in str(found)


def test_the_time_is_of_real_steps(tmp_path):
    trials = read_study("small", small_study()).trials("laptop", 1, {}, tmp_path)[:1]
    state = torch.get_rng_state()
    (found,) = estimate(trials, [8])
    assert 0 < found.seconds < 600
    assert torch.equal(torch.get_rng_state(), state)
