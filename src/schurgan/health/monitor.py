"""Tell from what its evaluations measure whether a GAN is collapsing, in any training loop; plain numbers are enough.

    monitor = Monitor()
    verdict = monitor.update(step, frechet=3.1, variety=0.8, accuracy_d=0.7)  # after each evaluation
    if verdict.state == "collapsed":
        print(verdict.reasons, verdict.onset, verdict.best_step)

A rule that holds at `patience` evaluations in a row is in force, until it has not held at as many. A rule can be used
alone, `Monitor([RULES["frechet"]])`, and with another line, `dataclasses.replace(RULES["frechet"], factor=3.0)`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

from schurgan.health.rules import RULES, Rule, Signals

State = Literal["healthy", "warning", "collapsed"]
_FORMAT = "schurgan-health/2"


@dataclass(frozen=True)
class Verdict:
    """What a monitor thinks of a run after an evaluation. Table 1 of the paper has `best_step` and `extreme`."""

    state: State
    reasons: tuple[str, ...]  # a sentence for each rule in force: what, since when, what helps; collapse first
    onset: int | None  # first evaluation of the streaks that made the collapse: the *initial* collapse
    extreme: int | None  # first evaluation of the streak from which the run is past recovery: the *extreme* collapse
    best_step: int | None  # of the lowest Fréchet distance before the collapse, the averaged generator's where measured
    healthy_step: int | None  # last step after which all stayed well for some evaluations: the one to go back to
    step: int  # of the evaluation
    unsuspected: bool = True  # whether the evaluation had nothing against the run


@dataclass
class _Streak:
    """How often in a row a rule held or did not, its newest sentence, and what it learned from the run's past."""

    since: int = 0
    held: int = 0
    clear: int = 0
    active: bool = False
    sentence: str = ""
    memory: dict[str, Any] = field(default_factory=dict)

    def note(self, step: int, sentence: str | None, patience: int, lasting: bool) -> None:
        self.clear = 0 if sentence is not None else self.clear + 1
        if sentence is not None:
            self.since = self.since if self.held else step
            self.held, self.sentence = self.held + 1, sentence
            self.active = self.active or self.held >= patience
        elif not self.active or (self.clear >= patience and not lasting):
            self.held, self.active, self.sentence = 0, False, ""


@dataclass
class _State:
    """All that a monitor must keep, as plain JSON values."""

    streaks: dict[str, _Streak]
    step: int = -1
    counts: dict[str, int] = field(default_factory=dict)  # evaluations of each signal
    best: dict[str, list[float]] = field(default_factory=dict)  # step and value of each distance's lowest
    pending: list[int] = field(default_factory=list)  # steps with nothing against them, not yet confirmed
    healthy_step: int | None = None
    onset: int | None = None
    extreme: int | None = None
    unsuspected: bool = True


class Monitor:
    """Verdicts on a run from the signals of its evaluations.

    A collapse ends when no rule speaks of it for `patience` evaluations, unless it was extreme: that stays.

    Args:
        rules: what is looked for; all of `RULES` by default.
        patience: evaluations in a row that put a rule in force, and that end it.
        warm_up: steps before which only numbers that are not finite count: a generator first has to become good.
        settle: first evaluations of a signal that count as warm-up whatever their step.
        grace: steps after which a generator that has never been varied has failed.
        lead: evaluations after a step that must have nothing against them before it counts as healthy, because the
            damage comes before its signs.

    Raises:
        ValueError: patience is below 1, or two rules have one name.
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
        if patience < 1:
            raise ValueError(f"patience: {patience} given, a whole number of 1 or more is needed")
        self.rules = tuple(RULES.values() if rules is None else rules)
        self.patience, self.warm_up, self.settle, self.grace, self.lead = patience, warm_up, settle, grace, lead
        self._state = _State({rule.name: _Streak() for rule in self.rules})
        if len(self._state.streaks) < len(self.rules):
            raise ValueError(f"rules: {[rule.name for rule in self.rules]} given, each name may come once")

    def update(self, step: int, **signals: Unpack[Signals]) -> Verdict:
        """Judge the run by what was measured at a step, whatever of `Signals` there is.

        A NaN in held_out, variety_batch, accuracy_d and the gap says that there is no number (a batch without two
        images of a class), in any other signal that the run is broken.

        Raises:
            ValueError: the step is before the last one, or a share is out of range.
            TypeError: a signal has no such name.
        """
        state = self._state
        if step < state.step:
            raise ValueError(f"step: {step} given after {state.step}; load an earlier state to go back")
        if unknown := sorted(signals.keys() - Signals.__annotations__.keys()):
            raise TypeError(f"{unknown[0]}: no such signal; known: {', '.join(Signals.__annotations__)}")
        measured: Any = {name: value for name, value in signals.items() if value is not None}
        for name in ("accuracy_d", "variety", "variety_batch"):
            share = measured.get(name) or 0.0
            if share < 0 or (name == "accuracy_d" and share > 1):
                raise ValueError(f"{name}: {share} given, a share is needed")
        state.step = int(step)
        state.counts |= {name: state.counts.get(name, 0) + 1 for name in measured}
        holding = {rule.name for rule in self.rules if self._count(rule, state.streaks[rule.name], measured)}
        calling = {rule: state.streaks[rule.name] for rule in self.rules if rule.level != "warning"}
        onsets = [streak.since for streak in calling.values() if streak.active]
        state.onset = min([*onsets, *([] if state.onset is None else [state.onset])]) if onsets else None
        if not onsets:
            for rule in (rule for rule in self.rules if rule.name not in holding):
                rule.learn(measured, state.streaks[rule.name].memory, warm=self._is_warm(rule, measured))
        if not any(streak.held for streak in calling.values()):
            for name in ("frechet", "frechet_ema"):
                if (value := measured.get(name, math.inf)) < state.best.get(name, (0, math.inf))[1]:
                    state.best[name] = [state.step, float(value)]
        state.unsuspected = not onsets and not any(rule.unsettles and rule.name in holding for rule in self.rules)
        telling = {name for rule in calling if not rule.at_once for name in rule.reads}
        if not state.unsuspected:
            state.pending.clear()
        elif telling & measured.keys() or not telling & state.counts.keys():
            # Other signals (losses between two evaluations) can make a step suspect but cannot clear it.
            state.pending.append(state.step)
            if len(state.pending) > self.lead:
                state.healthy_step = state.pending.pop(0)
        return self.verdict()

    def verdict(self) -> Verdict:
        """Return the last verdict, "healthy" before the first evaluation."""
        state, reasons = self._state, []
        active = [(rule, state.streaks[rule.name]) for rule in self.rules if state.streaks[rule.name].active]
        for rule, streak in sorted(active, key=lambda pair: (pair[0].level == "warning", pair[1].since)):
            once = rule.at_once or streak.held == 1
            times = f" at step {streak.since}" if once else f", {streak.held} times since step {streak.since}"
            reasons.append(f"{streak.sentence}{times}; {rule.advice}")
        best = state.best.get("frechet_ema") or state.best.get("frechet")
        steps = (state.onset, state.extreme, int(best[0]) if best else None, state.healthy_step, state.step)
        kind: State = "collapsed" if state.onset is not None else "warning" if active else "healthy"
        return Verdict(kind, tuple(reasons), *steps, state.unsuspected)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values, from which `load_state_dict` goes on exactly."""
        return {"format": _FORMAT, **dataclasses.asdict(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, where rules that it does not know start afresh; ValueError for another format."""
        if state.get("format") != _FORMAT:
            raise ValueError(f"state: format {state.get('format')!r} given, {_FORMAT!r} is needed")
        values = copy.deepcopy({name: value for name, value in state.items() if name != "format"})
        streaks = values.pop("streaks")
        self._state = _State({rule.name: _Streak(**streaks.get(rule.name, {})) for rule in self.rules}, **values)

    def _is_warm(self, rule: Rule, measured: Signals) -> bool:
        counts = (self._state.counts[name] for name in rule.reads if name in measured)
        return self._state.step >= self.warm_up and max(counts, default=0) > self.settle

    def _count(self, rule: Rule, streak: _Streak, measured: Signals) -> bool:
        """Take the evaluation into the rule's streak; return whether the rule holds."""
        if not rule.at_once and not any(map(math.isfinite, rule.measured(measured).values())):
            return False  # neither for nor against
        sentence, step = rule.check(measured, streak.memory), self._state.step
        ready = rule.ready(streak.memory, late=step >= self.grace) and self._is_warm(rule, measured)
        counted = sentence if rule.at_once or ready else None
        streak.note(step, counted, 1 if rule.at_once else self.patience, rule.level == "extreme")
        if streak.active and rule.level == "extreme" and self._state.extreme is None:
            self._state.extreme = streak.since
        return sentence is not None
