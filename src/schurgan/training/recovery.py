"""What a run does about its collapse: only say so, stop at its best step, or go back and on more gently."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from schurgan.health import Verdict
from schurgan.runs.config import Config
from schurgan.training.augment import POLICIES

Reaction = Literal["warn", "stop", "rollback"]
_SEEDS = 2**31
_STRIDE = 1_000_003  # to the seed of the next attempt, far from those that a study counts up from 0


@dataclass(frozen=True)
class Action:
    """What to do now: go on, stop, or go back to the checkpoint of `to_step` and on from there, and why.

    For "stop", `to_step` is the checkpoint that the run ends with, None where none is any good.
    """

    kind: Literal["continue", "stop", "rollback"]
    to_step: int | None = None
    reason: str = ""


def decide(
    verdict: Verdict, attempt: int, limit: int, healthy_steps: Collection[int], reaction: Reaction = "rollback"
) -> Action:
    """The action on a verdict.

    attempt        how often the run has gone back already
    limit          how often it may
    healthy_steps  steps of the checkpoints that there are; 0 among them says that the run can begin anew

    Whatever is not before the onset is left out: the run would end or go on with what has begun to collapse. A rollback
    goes to the newest step up to the verdict's healthy one; where there is none, to the oldest that is saved; and to
    the start where the run never was healthy. A stop ends with the step nearest to the best one. Only a collapse leads
    to anything: warnings came in runs that went well. Raises ValueError for a reaction that is not one and numbers
    below 0.
    """
    if reaction not in ("warn", "stop", "rollback"):
        raise ValueError(f'reaction: "{reaction}" given, "warn", "stop" or "rollback" is needed')
    for name, given in (("attempt", attempt), ("limit", limit)):
        if given < 0:
            raise ValueError(f"{name}: {given} given, a whole number of 0 or more is needed")
    if verdict.state != "collapsed" or reaction == "warn":
        return Action("continue", None, " ".join(verdict.reasons))
    onset = verdict.step if verdict.onset is None else verdict.onset
    before = sorted(step for step in healthy_steps if step < onset)
    why = f"collapsed since step {onset}" + "".join(f": {reason}" for reason in verdict.reasons[:1])
    saved = [step for step in before if step > 0]  # nothing is worth keeping of an untrained network
    if reaction == "rollback" and before and attempt < limit:
        target = before[0]
        if verdict.healthy_step is not None and saved:
            target = max((step for step in saved if step <= verdict.healthy_step), default=saved[0])
        return Action("rollback", target, f"{why}. Back to step {target}, attempt {attempt + 1} of {limit}")
    if not saved:
        return Action("stop", None, f"{why}. There is no checkpoint of a step before it")
    best = saved[-1] if verdict.best_step is None else verdict.best_step
    end = min(saved, key=lambda step: (abs(step - best), -step))
    after = f" after {attempt} of {limit} attempts" if reaction == "rollback" else ""
    return Action("stop", end, f"{why}. The run ends{after} with step {end}")


def gentler(config: Config, attempt: int) -> Config:
    """The options of the attempt after the `attempt`-th rollback, from those that the run began with; 0: these.

    | attempt | changes, each on top of the ones before |
    |---|---|
    | 1 | another seed, both learning rates halved |
    | 2 | rates halved again; DiffAugment |
    | 3 | rates halved again; DDFN twice as strong; one step of D for each of G |
    | more | rates halved each time, ten times at most |

    The seed moves noise and the order of the data, so that the run does not walk into the same place. Rates come first
    because they change what is learned least: no new term, only smaller steps. DiffAugment comes next: where few data
    were learned by heart, smaller steps led to the same collapse in a real run of 320 clips, a stronger DDFN too, and
    DiffAugment ended it; in the test-bed of small data it was the strongest cure without spectral normalisation, and on
    top of it as good as DDFN. A stronger DDFN cost quality where data was plenty, so it waits for a third collapse. Two
    steps of D were part of the recipe that made the runs of the test-bed collapse.

    Networks, optimisers' states and checkpoints fit every attempt. Spectral normalisation therefore is no rung: it
    makes another function of the same weights, and can be had in a new run only. A DDFN of weight 0 stays off, since
    nobody chose its ε. Raises ValueError for an attempt below 0.
    """
    if attempt < 0:
        raise ValueError(f"attempt: {attempt} given, a whole number of 0 or more is needed")
    if attempt == 0:
        return config
    slower = 2 ** min(attempt, 10)
    train = config.train.model_copy(
        update={
            "seed": (config.train.seed + attempt * _STRIDE) % _SEEDS,
            "lr_g": config.train.lr_g / slower,
            "lr_d": config.train.lr_d / slower,
            "d_steps": 1 if attempt >= 3 else config.train.d_steps,
        }
    )
    ddfn, regularize = config.ddfn, config.regularize
    if attempt >= 3:
        ddfn = ddfn.model_copy(update={"weight": 2 * ddfn.weight})
    augmented = regularize.augment and regularize.augment_strength > 0
    if attempt >= 2 and not augmented:
        regularize = regularize.model_copy(update={"augment": ",".join(POLICIES), "augment_strength": 1.0})
    return config.model_copy(update={"train": train, "ddfn": ddfn, "regularize": regularize})
