"""What a run measures of its own health, and when; that looking changes nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from schurgan.core.distributed import World
from schurgan.data import Shards
from schurgan.runs.config import Config
from schurgan.training import watcher
from schurgan.training.build import build_trainer, choose_codec
from schurgan.training.trainer import Trainer
from schurgan.training.watcher import Watcher

CPU = torch.device("cpu")


@pytest.fixture
def made(tiny: Callable[..., Config], shards) -> Callable[..., tuple[Watcher, Trainer]]:
    """`made(every=5)`: a watch and a trainer, of these options of health."""

    def build(steps: int = 2000, held_out: bool = False, **health: Any) -> tuple[Watcher, Trainer]:
        values = {"every": 5, "images": 16, "classifier": False, "budget": 0.0} | health
        config = tiny(steps=steps)
        config = config.model_copy(update={"health": config.health.model_copy(update=values)})
        data = Shards(shards)
        rest = data if held_out else None  # the same recordings: D cannot tell them apart
        watch = Watcher(config, data, rest, choose_codec(config, data), World())
        trainer = build_trainer(config, len(data.classes))
        trainer.conditions["ddfn"].fit_real(data.batches(64))
        return watch, trainer

    return build


def batch(shards: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = Shards(shards)
    return [(data.images(range(0, 48, 6)), torch.from_numpy(data.labels[0:48:6]))]


def test_an_evaluation_leaves_the_trainer_and_global_random_numbers_as_they_were(made, shards):
    watch, trainer = made()
    watch.add(trainer.training_step(batch(shards)))
    before, chance = copy.deepcopy(trainer.state_dict()), torch.get_rng_state()
    watch.evaluate(trainer)
    assert torch.equal(torch.get_rng_state(), chance)
    for name in ("generator", "discriminator", "generator_ema"):
        after = trainer.state_dict()[name]
        for key, value in before[name].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(after[key], value), (name, key)


def test_a_line_of_an_evaluation_holds_its_scores_the_gap_in_its_band_and_the_verdict(made, shards):
    watch, trainer = made()
    watch.add(trainer.training_step(batch(shards)))
    row, verdict = watch.evaluate(trainer)
    assert {"variety", "variety_batch", "accuracy_d", "gradient_g", "margin", "loss_d", "loss_g"} <= set(row)
    assert row["gap_low"] < row["gap"] < row["gap_high"]
    assert row["gap_high"] - row["gap"] == pytest.approx(2 * row["gap_standard_error"])
    assert row["singular_values"]["generator.output"] > 0
    assert row["verdict"] == verdict.state == "healthy"
    assert "frechet" not in row  # no classifier was asked for


@pytest.mark.parametrize("layer", ["blocks.1.norm2", "blocks.0", "output"])
def test_the_gap_of_a_layer_is_of_its_maps_and_of_real_images_as_small(made, shards, layer):
    watch, trainer = made(layer=layer)
    maps: list[torch.Tensor] = []
    generator = copy.deepcopy(trainer.generator)
    generator.get_submodule(layer).register_forward_hook(lambda module, inputs, output: maps.append(output))
    z = trainer.latent.sample(16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        generator(z, torch.arange(16) % 8)
    real = Shards(shards).images(range(48))
    real = torch.nn.functional.avg_pool2d(real, 16 // maps[0].shape[-1])
    expected = schur_departures(maps[0]).mean() - schur_departures(real).mean()
    row, _ = watch.evaluate(trainer)
    assert row["layer_gap"] == pytest.approx(expected, rel=1e-4)
    assert row["gap"] == made()[0].evaluate(trainer)[0]["gap"]  # nothing else changes


def schur_departures(maps: torch.Tensor) -> np.ndarray:
    """Norm² above the diagonal of the complex Schur form, of each map (B, C, n, n)."""
    triangles = [scipy.linalg.schur(each.numpy(), output="complex")[0] for each in maps.double().flatten(0, 1)]
    return np.array([np.square(np.abs(np.triu(triangle, 1))).sum() for triangle in triangles])


@pytest.mark.parametrize(
    ("layer", "needed"),
    [("blocks.1.nrom2", "blocks.1.norm2"), ("linear", r"square maps .* \(2, 256\)"), ("blocks", "gives nothing")],
)
def test_a_layer_without_maps_is_refused_before_the_first_step(tiny, layer, needed):
    config = tiny()
    config = config.model_copy(update={"health": config.health.model_copy(update={"layer": layer})})
    with pytest.raises(ValueError, match=f"layer: .*{needed}"):
        build_trainer(config, 8)


def test_two_evaluations_of_the_same_networks_are_equal(made, shards):
    """Of the same latents: what changes between two evaluations is the networks."""
    watch, trainer = made()
    step = trainer.training_step(batch(shards))
    rows = []
    for _ in range(2):
        watch.add(step)
        rows.append(watch.evaluate(trainer)[0])
    assert rows[0] == rows[1]


def test_the_steps_of_evaluations_are_multiples_of_every_and_none_without_it(made):
    watch, _ = made(every=5)
    assert [step for step in range(1, 21) if watch.due(step)] == [5, 10, 15, 20]
    never, _ = made(every=0)
    assert not any(never.due(step) for step in range(1, 1000))


@pytest.mark.parametrize(("seconds", "stretch"), [(0.4, 1), (0.6, 2), (12.1, 25)])
def test_evaluations_that_take_more_than_their_budget_come_as_much_less_often(made, seconds, stretch):
    """100 steps of 0.1 s: a budget of a twentieth allows 0.5 s."""
    watch, _ = made(every=100, budget=0.05)
    watch._timed = [0.1 * i for i in range(11)]
    assert watch._stretched(seconds) == stretch


def test_the_score_of_the_newest_evaluation_is_part_of_the_state(made, monkeypatch):
    """Or checkpoints after a kill would have none until the next evaluation, and another one could be the best."""
    watch, trainer = made()
    real = watch._health_scores(trainer)
    monkeypatch.setattr(watch, "_health_scores", lambda _: lambda *networks: real(*networks) | {"frechet_ema": 2.5})
    watch.evaluate(trainer)
    again, _ = made()
    assert again.score is None
    again.load_state_dict(watch.state_dict())
    assert again.score == watch.score == 2.5


def test_altered_copies_are_no_real_images_to_be_judged_by(made, monkeypatch):
    watch, trainer = made()
    watch._training._parents = [None if number % 6 else "copied" for number in range(48)]
    known = []
    monkeypatch.setattr(watcher, "HealthScores", lambda real, held_out, **_: known.append(real))
    watch._health_scores(trainer)
    assert len(known[0][1]) == 40


def test_frechet_distances_are_taken_by_a_classifier_of_the_data_if_asked_for(made, monkeypatch):
    extractors = []
    monkeypatch.setattr(watcher, "open_extractor", lambda name, *_, **__: name)
    monkeypatch.setattr(watcher, "HealthScores", lambda *_, extractor, **__: extractors.append(extractor))
    for classifier in (True, False):
        watch, trainer = made(classifier=classifier)
        watch._health_scores(trainer)
    assert extractors == ["classifier", None]


def test_how_often_is_settled_once_and_part_of_the_state(made, shards, monkeypatch):
    watch, trainer = made(every=5, budget=0.05)
    monkeypatch.setattr(watch, "_stretched", lambda seconds: 3)
    watch.add(trainer.training_step(batch(shards)))
    watch.evaluate(trainer)
    again, _ = made(every=5, budget=0.05)
    again.load_state_dict(watch.state_dict())
    assert [step for step in range(1, 46) if again.due(step)] == [15, 30, 45]
    monkeypatch.setattr(watch, "_stretched", lambda seconds: 9)
    watch.add(trainer.training_step(batch(shards)))
    watch.evaluate(trainer)
    assert watch.stretch == 3


def test_a_change_of_the_verdict_is_an_event_and_its_staying_is_none(made):
    watch, _ = made()
    (collapsed,) = watch.changes(watch.fault(7, "loss_g was NaN first"))
    assert (collapsed["step"], collapsed["event"], collapsed["onset"]) == (7, "collapsed", 7)
    assert "loss_g was NaN first" in collapsed["reason"]
    assert watch.changes(watch.fault(8, "loss_g was NaN first")) == []
    again, _ = made()
    again.load_state_dict(watch.state_dict())  # a run taken up does not say it again
    assert again.changes(again.fault(9, "loss_g was NaN first")) == []


@pytest.mark.parametrize("network", ["generator", "generator_ema"])
def test_a_nan_that_no_loss_shows_is_found_by_the_next_evaluation(made, shards, network):
    watch, trainer = made()
    watch.add(trainer.training_step(batch(shards)))
    name, buffer = next(pair for pair in getattr(trainer, network).named_buffers() if "running_mean" in pair[0])
    buffer[0] = math.nan
    row, verdict = watch.evaluate(trainer)
    assert verdict.state == "collapsed"
    assert row["not_finite"] == f"{network}.{name} held a NaN or an infinity"


@pytest.mark.parametrize(("steps", "grace"), [(100, 300), (2000, 1000), (100_000, 3000)])
def test_a_generator_that_is_never_varied_has_failed_halfway_through_a_short_run(made, steps, grace):
    watch, _ = made(steps=steps, patience=2)
    for step in range(grace - 40, grace + 20, 10):
        verdict = watch.monitor.update(step, variety=0.0)
        assert (verdict.state == "collapsed") == (step >= grace + 10)
