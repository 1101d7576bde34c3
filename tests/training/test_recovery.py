from __future__ import annotations

import pytest

from schurgan.health import Verdict
from schurgan.runs.config import Config
from schurgan.training.recovery import decide, gentler


def verdict(
    state: str = "collapsed", onset: int | None = 1000, healthy: int | None = 600, best: int | None = 740
) -> Verdict:
    return Verdict(state, ("the variety was 0.3",), onset, None, best, healthy, 1200)  # type: ignore[arg-type]


STEPS = (0, 300, 500, 700, 800, 1000, 1200)


def test_a_rollback_goes_to_the_newest_checkpoint_up_to_the_healthy_step():
    action = decide(verdict(), 0, 3, STEPS)
    assert (action.kind, action.to_step) == ("rollback", 500)
    assert "the variety was 0.3" in action.reason
    assert "attempt 1 of 3" in action.reason


def test_a_run_that_never_was_healthy_goes_back_to_the_oldest_checkpoint():
    assert decide(verdict(healthy=None), 0, 3, STEPS).to_step == 0
    assert decide(verdict(healthy=200), 0, 3, (300, 500)).to_step == 300


def test_a_collapse_soon_after_a_rollback_goes_back_to_the_same_checkpoint_and_not_to_the_start():
    """Its step is not known to be healthy yet: that takes some evaluations after it."""
    assert decide(verdict(onset=1200, healthy=950, best=1000), 1, 3, (0, 1000)).to_step == 1000


def test_after_as_many_attempts_as_allowed_a_run_stops_at_its_best_step():
    action = decide(verdict(), 3, 3, STEPS)
    assert (action.kind, action.to_step) == ("stop", 700)
    assert "3 of 3" in action.reason
    assert decide(verdict(), 0, 0, STEPS).kind == "stop"


def test_stop_ends_with_the_step_nearest_to_the_best_that_is_before_the_onset():
    assert decide(verdict(), 0, 3, STEPS, "stop").to_step == 700
    assert decide(verdict(best=990), 0, 3, STEPS, "stop").to_step == 800
    assert decide(verdict(best=None), 0, 3, STEPS, "stop").to_step == 800


def test_of_two_steps_equally_near_to_the_best_the_newer_one_is_taken():
    assert decide(verdict(best=750), 0, 3, STEPS, "stop").to_step == 800


@pytest.mark.parametrize("reaction", ["stop", "rollback"])
def test_without_a_checkpoint_before_the_onset_a_run_stops_and_says_so(reaction):
    action = decide(verdict(), 0, 3, (1000, 1100), reaction)
    assert (action.kind, action.to_step) == ("stop", None)
    assert "no checkpoint" in action.reason


@pytest.mark.parametrize(
    ("state", "reaction"), [("healthy", "rollback"), ("warning", "rollback"), ("collapsed", "warn")]
)
def test_all_but_a_collapse_and_every_verdict_under_warn_goes_on(state, reaction):
    assert decide(verdict(state), 0, 3, STEPS, reaction).kind == "continue"


def options(*, weight: float = 1.0, augment: str = "", **train: object) -> Config:
    given = {"ddfn": {"weight": weight}, "regularize": {"augment": augment}}
    return Config.model_validate(given | {"train": {"d_steps": 2, "lr_g": 1e-3, "lr_d": 2e-3, **train}})


def rungs(config: Config) -> list[tuple[float, str, int]]:
    made = [gentler(config, attempt) for attempt in range(4)]
    return [(each.ddfn.weight, each.regularize.augment, each.train.d_steps) for each in made]


def test_every_attempt_halves_both_learning_rates_and_has_a_seed_of_its_own():
    config = options(seed=2**31 - 1)
    made = [gentler(config, attempt) for attempt in range(4)]
    assert [(each.train.lr_g, each.train.lr_d) for each in made] == [(1e-3 / 2**i, 2e-3 / 2**i) for i in range(4)]
    assert len({each.train.seed for each in made}) == 4


def test_diffaugment_comes_with_the_second_attempt_and_a_stronger_ddfn_with_the_third():
    every = "colour,translation,cutout"
    assert rungs(options()) == [(1.0, "", 2), (1.0, "", 2), (1.0, every, 2), (2.0, every, 1)]
    assert rungs(options(weight=0.0)) == [(0.0, "", 2), (0.0, "", 2), (0.0, every, 2), (0.0, every, 1)]


def test_an_augmentation_that_was_chosen_is_kept():
    assert [augment for _, augment, _ in rungs(options(augment="cutout"))] == ["cutout"] * 4


@pytest.mark.parametrize("attempt", [0, 1, 2, 3, 7, 2000])
def test_every_attempt_has_valid_options_and_the_same_networks_and_data(attempt):
    config = options()
    made = gentler(config, attempt)
    assert Config.model_validate(made.model_dump()) == made
    assert (made.model, made.data, made.train.batch_size, made.train.steps) == (
        config.model,
        config.data,
        config.train.batch_size,
        config.train.steps,
    )
    assert gentler(config, 0) == config
