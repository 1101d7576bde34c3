"""Is a run healthy? A monitor of what its evaluations measure, for any training loop; it needs plain numbers alone.

    monitor = Monitor()
    verdict = monitor.update(step, frechet=3.1, variety=0.8, accuracy_d=0.7)   # after each evaluation
    if verdict.state == "collapsed":
        print(verdict.reasons, verdict.onset, verdict.best_step)

Every rule is an object of `RULES` that can be used alone, `Monitor([RULES["frechet"]])`, and with another line,
`dataclasses.replace(RULES["frechet"], factor=3.0)`. A rule that holds at `patience` evaluations in a
row is in force, and stays so until it has not held at as many. What the rules say, and how they were found, is in
`health_rules`.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from schurgan.health.rules import RULES, Rule, Signals

__all__ = ["RULES", "Monitor", "Rule", "Signals", "Verdict", "held_out_position"]
State = Literal["healthy", "warning", "collapsed"]
_FORMAT = "schurgan-health/1"


@dataclass(frozen=True)
class Verdict:
    """What a monitor thinks of a run after an evaluation.

    reasons       a sentence for each rule in force: what was seen, since when, what usually helps; collapse first,
                  and what began first
    onset         first evaluation of the streaks that made the collapse: the *initial* collapse
    extreme       first evaluation of the streak from which a run is past recovery: the *extreme* collapse
    best_step     step of the best score before the collapse
    healthy_step  last step after which everything stayed well for some evaluations: the one to go back to

    Where none is known these are None. Table 1 of the paper gives two numbers for each run, "highest achieved IS/FID
    before initial collapse" and "extreme collapse onset": these are `best_step` and `extreme`.
    """

    state: State
    reasons: tuple[str, ...]
    onset: int | None
    extreme: int | None
    best_step: int | None
    healthy_step: int | None
    step: int


@dataclass
class _Streak:
    """How often in a row a rule held, or did not, and what it said last."""

    since: int = 0
    held: int = 0
    clear: int = 0
    active: bool = False
    said: str = ""
    memory: dict[str, Any] = field(default_factory=dict)  # what the rule learned from the run's past


class Monitor:
    """Verdicts on a run from the signals of its evaluations. Its state is plain numbers, the same after a resume.

    rules     what is looked for; all of `RULES` by default
    patience  evaluations in a row that put a rule in force, and that end it
    warm_up   steps before which nothing counts but what is not finite: a generator has to become good and varied first
    settle    evaluations of a signal that count as warm-up whatever their step, for those far apart
    grace     steps after which a generator that has never been varied has failed
    lead      evaluations after a step that must have nothing against them before it counts as healthy, since the
              damage comes before its signs

    A collapse ends when nothing speaks of it for `patience` evaluations, unless it was extreme: that stays. Raises
    ValueError for numbers out of range and two rules of one name.
    """

    def __init__(
        self,
        rules: Iterable[Rule] | None = None,
        *,
        patience: int = 3,
        warm_up: int = 300,
        settle: int = 2,
        grace: int = 3000,
        lead: int = 2,
    ) -> None:
        least = {"patience": (patience, 1), "warm_up": (warm_up, 0), "settle": (settle, 0), "grace": (grace, 0)}
        for name, (given, needed) in {**least, "lead": (lead, 0)}.items():
            if given < needed:
                raise ValueError(f"{name}: {given} given, a whole number of {needed} or more is needed")
        self.rules = tuple(RULES.values() if rules is None else rules)
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError(f"rules: {names} given, each name may come once")
        self.patience, self.warm_up, self.settle, self.grace, self.lead = patience, warm_up, settle, grace, lead
        self._streaks = {name: _Streak() for name in names}
        self._counts: dict[str, int] = {}
        self._best: dict[str, tuple[int, float]] = {}
        self._pending: deque[int] = deque()
        self._healthy_step: int | None = None
        self._onset: int | None = None
        self._extreme: int | None = None
        self._signals = Signals()
        self._step = -1
        self._sound = True

    def update(
        self,
        step: int,
        *,
        frechet: float | None = None,
        frechet_ema: float | None = None,
        frechet_floor: float | None = None,
        variety: float | None = None,
        variety_batch: float | None = None,
        accuracy_d: float | None = None,
        margin: float | None = None,
        held_out: float | None = None,
        gradient_g: float | None = None,
        gap: float | None = None,
        gap_standard_error: float | None = None,
        singular_values: Mapping[str, float] | None = None,
        loss_d: float | None = None,
        loss_g: float | None = None,
        not_finite: str | None = None,
    ) -> Verdict:
        """Take in what was measured at `step`, whatever of it there is.

        frechet, frechet_ema  Fréchet distance of the generator's images, and of those of its running average
        frechet_floor         what real images reach at that number: lower ones are not told apart
        variety               mean distance of two images of a class, as a share of the real images' (1: as varied)
        variety_batch         the same within a training batch
        accuracy_d            share of real (training) and generated images that D tells right, 0 to 1
        margin                D's mean score of training images less that of generated ones
        held_out              `held_out_position`: 0, D scores unseen recordings as training ones; 1, as generated ones
        gradient_g            norm of the adversarial loss's gradient at the generated images
        gap                   generated less real mean departure from normality; logged, and decides nothing
        singular_values       leading singular value of each layer's weight
        not_finite            what was not finite since the last update, a tensor's name or `diagnosis`'s sentence

        A NaN in held_out, variety_batch, accuracy_d and the gap says that there is no number (a batch without two
        images of a class); in any other signal that the run is broken. Raises ValueError for a step before the last
        one, a share outside 0 to 1 and a variety below 0.
        """
        step = int(step)
        if step < self._step:
            raise ValueError(f"step: {step} given after {self._step}, steps must not go back; load an earlier state")
        if accuracy_d is not None and not (math.isnan(accuracy_d) or 0 <= accuracy_d <= 1):
            raise ValueError(f"accuracy_d: {accuracy_d} given, a share from 0 to 1 is needed")
        for name, given in (("variety", variety), ("variety_batch", variety_batch)):
            if given is not None and given < 0:
                raise ValueError(f"{name}: {given} given, a share of the real images' variety, 0 or more, is needed")
        values = {
            "frechet": frechet,
            "frechet_ema": frechet_ema,
            "frechet_floor": frechet_floor,
            "variety": variety,
            "variety_batch": variety_batch,
            "accuracy_d": accuracy_d,
            "margin": margin,
            "held_out": held_out,
            "gradient_g": gradient_g,
            "gap": gap,
            "gap_standard_error": gap_standard_error,
            "loss_d": loss_d,
            "loss_g": loss_g,
        }
        values |= {f"singular_values.{layer}": value for layer, value in (singular_values or {}).items()}
        given_values = {name: float(value) for name, value in values.items() if value is not None}
        return self._judge(step, Signals(given_values, not_finite))

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the lowest Fréchet distance outside collapses: the running average's where it is given."""
        return self._best.get("frechet_ema") or self._best.get("frechet")

    @property
    def healthy_step(self) -> int | None:
        """As in `Verdict`."""
        return self._healthy_step

    @property
    def sound(self) -> bool:
        """Whether the last evaluation had nothing against the run: a state worth going back to, as far as one knows."""
        return self._sound

    def verdict(self) -> Verdict:
        """The last verdict; "healthy" before the first evaluation."""
        active = [(rule, self._streaks[rule.name]) for rule in self.rules if self._streaks[rule.name].active]
        state: State = "collapsed" if self._onset is not None else "warning" if active else "healthy"
        reasons = []
        for rule, streak in sorted(active, key=lambda pair: (pair[0].level == "warning", pair[1].since)):
            often = f" at step {streak.since}" if rule.at_once else f", {streak.held} times since step {streak.since}"
            reasons.append(f"{streak.said}{often}; {rule.helps}")
        return Verdict(
            state=state,
            reasons=tuple(reasons),
            onset=self._onset,
            extreme=self._extreme,
            best_step=self.best[0] if self.best else None,
            healthy_step=self._healthy_step,
            step=self._step,
        )

    def record(self) -> dict[str, Any]:
        """The last evaluation as plain JSON values, numbers that are not finite as None, for a line of metrics.

        The gap comes with `gap_low` and `gap_high`, two standard errors to each side.
        """
        values = dict(self._signals.values)
        if "gap" in values and "gap_standard_error" in values:
            band = 2 * values["gap_standard_error"]
            values |= {"gap_low": values["gap"] - band, "gap_high": values["gap"] + band}
        line: dict[str, Any] = {}
        for name, value in values.items():
            part, _, layer = name.partition(".")
            number = value if math.isfinite(value) else None
            line.update({part: line.get(part, {}) | {layer: number}} if layer else {name: number})
        if self._signals.not_finite:
            line["not_finite"] = self._signals.not_finite
        return line | {"verdict": self.verdict().state}

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; `load_state_dict` goes on from them exactly."""
        return copy.deepcopy(
            {
                "format": _FORMAT,
                "step": self._step,
                "streaks": {name: vars(streak) for name, streak in self._streaks.items()},
                "counts": self._counts,
                "best": {name: list(pair) for name, pair in self._best.items()},
                "pending": list(self._pending),
                "healthy_step": self._healthy_step,
                "onset": self._onset,
                "extreme": self._extreme,
                "sound": self._sound,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Rules that the state does not know begin anew. Raises ValueError for another format."""
        if state.get("format") != _FORMAT:
            raise ValueError(f"state: format {state.get('format')!r} given, {_FORMAT!r} is needed")
        state = copy.deepcopy(dict(state))
        streaks = state["streaks"]
        self._streaks = {rule.name: _Streak(**streaks.get(rule.name, {})) for rule in self.rules}
        self._counts = state["counts"]
        self._best = {name: (step, value) for name, (step, value) in state["best"].items()}
        self._pending = deque(state["pending"])
        self._healthy_step, self._onset, self._extreme = state["healthy_step"], state["onset"], state["extreme"]
        self._step, self._sound = state["step"], state["sound"]
        self._signals = Signals()

    def _judge(self, step: int, seen: Signals) -> Verdict:
        self._step, self._signals = step, seen
        for name in seen.values:
            self._counts[name] = self._counts.get(name, 0) + 1
        against: list[Rule] = []
        for rule in self.rules:
            streak = self._streaks[rule.name]
            if not rule.at_once and not rule.measured(seen):
                continue  # neither for nor against
            said = rule.says(seen, streak.memory)
            if said is not None:
                against.append(rule)
            self._count(rule, streak, said if self._counts_now(rule, seen) else None)
        collapse = [self._streaks[rule.name] for rule in self.rules if rule.level != "warning"]
        since = [streak.since for streak in collapse if streak.active]
        self._onset = min(since if self._onset is None else [self._onset, *since]) if since else None
        if not since:
            for rule in self.rules:
                if rule not in against and rule.measured(seen):
                    rule.learn(seen, self._streaks[rule.name].memory, warm=self._warm(rule, seen))
        if not any(streak.held for streak in collapse):
            self._note_best(seen)
        self._sound = not since and not any(rule.unsettles for rule in against)
        self._note_healthy(seen, self._sound)
        return self.verdict()

    def _warm(self, rule: Rule, seen: Signals) -> bool:
        often = max((self._counts[name] for name in rule.measured(seen)), default=0)
        return self._step >= self.warm_up and often > self.settle

    def _counts_now(self, rule: Rule, seen: Signals) -> bool:
        if rule.at_once:
            return True
        ready = rule.ready(self._streaks[rule.name].memory, late=self._step >= self.grace)
        return ready and self._warm(rule, seen)

    def _count(self, rule: Rule, streak: _Streak, said: str | None) -> None:
        needed = 1 if rule.at_once else self.patience
        if said is None:
            streak.clear += 1
            if rule.level == "extreme" and streak.active:
                return  # past recovery
            if streak.active and streak.clear < needed:
                return
            streak.held, streak.active, streak.said = 0, False, ""
            return
        if not streak.held:
            streak.since = self._step
        streak.held, streak.clear, streak.said = streak.held + 1, 0, said
        streak.active = streak.active or streak.held >= needed
        if streak.active and rule.level == "extreme" and self._extreme is None:
            self._extreme = streak.since

    def _note_best(self, seen: Signals) -> None:
        for name in ("frechet", "frechet_ema"):
            value = seen.values.get(name, math.nan)
            if value < self._best.get(name, (0, math.inf))[1]:
                self._best[name] = (self._step, value)

    def _note_healthy(self, seen: Signals, sound: bool) -> None:
        if not sound:
            self._pending.clear()
            return
        telling = {name for rule in self.rules if rule.level != "warning" and not rule.at_once for name in rule.needs}
        if telling & set(self._counts) and not telling & set(seen.values):
            return  # losses between two evaluations can unsettle a step, but not clear it
        self._pending.append(self._step)
        if len(self._pending) > self.lead:
            self._healthy_step = self._pending.popleft()


def held_out_position(train: float, held_out: float, fake: float) -> float:
    """Where D's mean score of held-out real images lies between that of training ones (0) and generated ones (1).

    (train − held_out) / (train − fake); above ½ D has rather learned the training set by heart than what is real. NaN,
    which `Monitor.update` takes as no number, where D does not score training images above generated ones.
    """
    margin = train - fake
    return (train - held_out) / margin if margin > 0 and math.isfinite(margin) else math.nan
