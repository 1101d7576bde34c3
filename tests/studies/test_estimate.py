from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import pytest
import torch
from small_study import small_study

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.networks import find_architecture
from schurgan.networks.costs import step_costs
from schurgan.runs.config import Config
from schurgan.studies import estimate as module
from schurgan.studies.estimate import arithmetic, check_extractors, estimate, step_seconds, summary
from schurgan.studies.study import ScaleName, Study, Trial, load_study, read_study, study_names
from schurgan.studies.trial import Outcome
from schurgan.training.build import (
    build_architecture,
    build_augmentation,
    build_conditions,
    build_regularizers,
    build_trainer,
)
from schurgan.training.trainer import Trainer


def cells(study: Study, scale: ScaleName) -> tuple[tuple[Trial, ...], list[int]]:
    rows = {row.name: row.data for row in study.rows}
    trials = study.trials(scale, 1, {name: Path() for name in study.known_data(scale)}, Path("out"))
    return trials, [study.data_at(scale, rows[trial.row]).classes for trial in trials]


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("scale", ["laptop", "gpu", "paper"])
def test_networks_losses_conditions_and_extractor_of_every_trial_can_be_built(name, scale):
    trials, classes = cells(load_study(name), scale)
    assert {trial.row for trial in trials} == {row.name for row in load_study(name).rows_at(scale)}
    for config, count in {
        (trial.config.model_copy(update={"data": None}), n) for trial, n in zip(trials, classes, strict=True)
    }:
        kind = config.model, count, config.train.batch_size, config.train.loss
        with torch.device("meta"):
            if kind in BUILT:  # the same networks under other losses
                build_conditions(config, count)
                build_regularizers(config.regularize)
                build_augmentation(config.regularize)
            else:
                build_trainer(config, count, world=World(device=torch.device("meta")))
                BUILT.add(kind)
    if {trial.extractor for trial in trials} == {"classifier"}:  # Inception needs a package and weights
        check_extractors(trials, classes)


BUILT = set[tuple[object, ...]]()


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("scale", ["laptop", "gpu", "paper"])
def test_every_study_can_be_tried_at_every_scale_within_twenty_seconds(call, name, scale, tmp_path):
    start = time.process_time()
    said = call("study", name, "--scale", scale, "--out", tmp_path, "--dry-run")
    assert said.status == 0, said.err
    assert time.process_time() - start < 20  # of a machine that does nothing else
    trials, _ = cells(load_study(name), scale)
    assert said.out.count(f"-{scale}-0 ") >= len({trial.row for trial in trials})
    assert "GPU-hours" in said.out or scale == "laptop"


def train_on_noise(config: Config, classes: int, steps: int, batch_size: int) -> None:
    """All losses, constraints and conditions; the batch is cut."""
    train = config.train.model_copy(update={"batch_size": batch_size, "device": "cpu"})
    config = config.model_copy(update={"train": train})
    trainer = build_trainer(config, classes)
    shape = (config.model.channels, *build_architecture(config.model).size)
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * classes) % classes
    for part in trainer.conditions.values():
        part.fit_real([(torch.rand((len(labels), *shape), generator=chance) * 2 - 1, labels)])
    for _ in range(steps):
        real = torch.rand((batch_size, *shape), generator=chance) * 2 - 1
        metrics = trainer.training_step([(real, labels[:batch_size])] * config.train.d_steps)
        assert metrics["not_finite"] == 0
        assert all(value.isfinite() for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
def test_five_steps_of_a_trial_at_gpu_scale_are_trained_on_a_cpu(name):
    """Networks and precision as they are; the batch is four images in place of 64 to 128."""
    trials, classes = cells(load_study(name), "gpu")
    train_on_noise(trials[-1].config, classes[-1], 5, 4)


def paper_configs() -> dict[str, tuple[Config, int]]:
    """At paper scale a configuration of each size and set of losses, and its classes."""
    found: dict[tuple[object, ...], tuple[str, Config, int]] = {}
    for name in study_names():
        for trial, classes in zip(*cells(load_study(name), "paper"), strict=True):
            config = trial.config
            losses = config.ddfn, config.moment_matching, config.regularize
            key = (config.model, classes, config.train.batch_size, config.train.d_steps, *losses)
            found.setdefault(key, (trial.name, config, classes))
    return {name: (config, classes) for name, config, classes in found.values()}


PAPER = paper_configs()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_a_step_of_every_trial_at_paper_scale_is_finite_with_narrow_networks_and_two_images(name):
    config, classes = PAPER[name]
    model = config.model.model_copy(update={"width": 2, "width_d": None})
    train_on_noise(config.model_copy(update={"model": model}), classes, 1, 2)


def test_arithmetic_of_one_step_of_d_is_that_of_the_networks():
    config = Config.model_validate({"model": {"architecture": "small-16", "width": 4}, "train": {"batch_size": 8}})
    known = step_costs(build_architecture(config.model), width=4, classes=5, channels=1, batch_size=8)
    assert arithmetic(config, 5) == (known.flops, known.memory)


def test_parts_of_a_batch_and_formats_of_16_bits_save_memory_and_no_arithmetic():
    model = {"architecture": "small-16", "width": 4, "spectral_norm_d": False}  # or weights are divided once a part
    whole, parts, half = (
        arithmetic(Config.model_validate({"model": model, "train": {"batch_size": 8} | train}), 5)
        for train in ({}, {"gradient_accumulation_steps": 4}, {"precision": "bf16"})
    )
    known = step_costs(
        find_architecture("small-16"), width=4, classes=5, channels=1, batch_size=8, spectral_norm_d=False
    )
    assert parts[0] == pytest.approx(whole[0], rel=0.05)  # kernels that enlarge are made once a part
    assert parts[1] < whole[1] - known.activations / 2
    assert half == (whole[0], known.state + known.activations // 2)


def test_a_wider_discriminator_costs_more():
    narrow, wide = (
        arithmetic(Config.model_validate({"model": {"architecture": "small-16", "width": 4, "width_d": w}}), 5)
        for w in (None, 16)
    )
    assert wide[0] > 2 * narrow[0]


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
    monkeypatch.setitem(module._MOST, "cpu", arithmetic(trial.config, 8)[0] / 4)
    (found,) = estimate([trial], [8])
    assert sizes == [16]
    assert found.seconds == 4 * 8  # four times the time of a quarter, eight steps


def test_once_time_is_up_other_kinds_take_as_long_for_an_operation(tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(module, "_measure", lambda *_: times.append(1) or 0.5)
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    first, second = estimate(read_study("small", small_study()).trials("laptop", 1, {}, tmp_path), [8, 8])
    assert len(times) == 1
    assert second.seconds / second.flops == pytest.approx(first.seconds / first.flops)


def test_without_a_gpu_the_hours_are_those_of_an_a100(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    content = small_study()
    content["scales"]["laptop"]["options"]["train"] |= {"device": "auto"}
    content["scales"]["laptop"]["precision"] = "bf16"
    estimates = list(estimate(read_study("small", content).trials("laptop", 1, {}, tmp_path), [8, 8]))
    assert estimates[0].seconds == pytest.approx(estimates[0].flops / (0.3 * 312e12))
    assert "GPU-hours (of an A100 at 30% of its peak)" in summary(estimates, 1)


def test_a_summary_adds_what_is_left_and_shares_its_time_among_jobs():
    a, b, c = (module.Estimate(str(n), 10, 2 * 10**15, 2**30 * n, 7200.0, "cuda", n == 3) for n in (1, 2, 3))
    said = summary([a, b, c], 8)
    assert said == "2 trials to run, 4.00 PFLOP, about 4.0 GPU-hours, 2 h by 8 jobs, 2.00 GiB at most each"


def test_an_extractor_that_is_missing_is_told_of_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    trials = [dataclasses.replace(t, extractor="inception") for t in cells(load_study("figure1"), "gpu")[0]]
    with pytest.raises(SchurganError, match="torch-fidelity"):
        check_extractors(trials, [10] * len(trials))


def test_the_time_is_of_real_steps(tmp_path):
    trials = read_study("small", small_study()).trials("laptop", 1, {}, tmp_path)[:1]
    state = torch.get_rng_state()
    (found,) = estimate(trials, [8])
    assert 0 < found.seconds < 600
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seconds_of_a_step_are_of_the_threads_that_the_options_name_and_leave_the_callers_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_measure", lambda *_: seen.append(torch.get_num_threads()) or torch.rand(1).item())
    model = {"architecture": "small-16", "width": 4}
    config = Config.model_validate({"model": model, "train": {"threads": 2, "batch_size": 4, "device": "cpu"}})
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert step_seconds(config, 3) > 0
    assert seen == [2]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_where_a_step_takes_seconds_no_others_are_waited_for(monkeypatch):
    steps, once = [], Trainer.training_step
    monkeypatch.setattr(module, "_LONG", 0.0)
    monkeypatch.setattr(Trainer, "training_step", lambda *given: steps.append(1) or once(*given))
    config = Config.model_validate({"model": {"architecture": "small-16", "width": 4}, "train": {"batch_size": 4}})
    assert step_seconds(config, 2, torch.device("cpu"), 1) > 0
    assert len(steps) == 1
