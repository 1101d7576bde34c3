"""React to a collapse: warn, stop at the best step, or go back and on with gentler options."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from schurgan.health import Verdict
from schurgan.runs.config import Config, flatten
from schurgan.runs.sidecar import Change
from schurgan.training.augment import POLICIES

Reaction = Literal["warn", "stop", "rollback"]
_SEEDS = 2**31
_STRIDE = 1_000_003  # to the seed of the next attempt, far from those that a study counts up from 0


@dataclass(frozen=True)
class Action:
    """What to do now, and why: go on, stop, or go back to the checkpoint of `to_step`.

    A stop ends the run with the checkpoint of `to_step`, None where none is any good.
    """

    kind: Literal["continue", "stop", "rollback"]
    to_step: int | None = None
    reason: str = ""


def decide(
    verdict: Verdict, attempt: int, limit: int, healthy_steps: Collection[int], reaction: Reaction = "rollback"
) -> Action:
    """Decide what to do about a verdict. Only a collapse leads to anything: warnings came in runs that went well.

    Checkpoints from the onset on are left out: they hold what has begun to collapse. A rollback goes to the newest step
    up to the verdict's healthy one, where there is none to the oldest that is saved, and to the start where the run
    never was healthy. A stop ends with the step nearest to the best one.

    Args:
        verdict: the monitor's.
        attempt: rollbacks so far, of at most `limit`.
        limit: rollbacks allowed.
        healthy_steps: steps of the healthy checkpoints; 0 among them says that the run can begin anew.
        reaction: what the options allow.
    """
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
    """Return the options after so many rollbacks, from those that the run began with.

    | attempt | changes, each on top of the ones before |
    |---|---|
    | 1 | another seed, both learning rates halved |
    | 2 | rates halved again; DiffAugment |
    | 3 | rates halved again; DDFN twice as strong; one step of D for each of G |
    | more | rates halved each time, ten times at most |

    Another seed moves noise and the order of the data, so that the run does not repeat its path. Rates come first
    because they change least what is learned. DiffAugment comes next: in a run of 320 clips that D had memorised,
    smaller steps and a stronger DDFN led to the same collapse and DiffAugment ended it; on the test-bed of small data
    it was the strongest cure without spectral normalisation. A stronger DDFN cost quality where data was plenty, so it
    waits for the third attempt. Two steps of D were part of the recipe that made the test-bed collapse.

    Networks, optimisers' states and checkpoints fit every attempt. Spectral normalisation is therefore not among the
    changes: it makes another function of the same weights. A DDFN of weight 0 stays off, as nobody chose its ε.
    """
    if attempt == 0:
        return config
    train, ddfn, regularize = config.train, config.ddfn, config.regularize
    slower = 2 ** min(attempt, 10)
    changes: dict[str, float] = {"lr_g": train.lr_g / slower, "lr_d": train.lr_d / slower}
    changes["seed"] = (train.seed + attempt * _STRIDE) % _SEEDS
    if attempt >= 2 and not (regularize.augment and regularize.augment_strength):
        regularize = regularize.model_copy(update={"augment": ",".join(POLICIES), "augment_strength": 1.0})
    if attempt >= 3:
        changes["d_steps"] = 1
        ddfn = ddfn.model_copy(update={"weight": 2 * ddfn.weight})
    train = train.model_copy(update=changes)
    return config.model_copy(update={"train": train, "ddfn": ddfn, "regularize": regularize})


def describe_changes(changes: Sequence[Change], config: Config, attempt: int) -> str:
    """Return options that a user changed in words, each with what the attempt makes of it."""
    given, taken = (flatten(each.model_dump()) for each in (config, gentler(config, attempt)))
    said = list[str]()
    for change in changes:
        gentle = taken.get(change.name)
        said.append(f"{change}" + (f", {gentle} in attempt {attempt}" if gentle != given.get(change.name) else ""))
    return f"with {', '.join(said)}" if said else ""
