"""What speaks of collapse: each rule a small object, so that rules can be measured alone and together.

The lines were found on small networks that memorise 150 windows of ESC-10, with and without what keeps them from
collapsing (three runs that collapse, seven that do not, an evaluation every 50 steps). The raw Fréchet distance over
twice its best was the event. Variety under half of the real images' came 300 to 800 steps before it, a discriminator
right on 95 % 350 to 500 before, neither in the seven. Held-out recordings scored nearer to generated ones came at once,
and in six of the seven as well: a small data set, not a collapse. The gap of the departure from normality came with the
event or not at all, and says nothing once DDFN holds it down, so no rule reads it.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

FINITE = ("frechet", "frechet_ema", "variety", "margin", "gradient_g", "loss_d", "loss_g", "singular_values")
_WINDOW = 200  # healthy values that a baseline remembers
_LEAST = 8  # values below which a median and its spread say nothing
_EARLY = 5  # values that make up "early"
_RECENT = 3  # values whose median is a level
_NORMAL = 1.4826  # standard deviations of a normal distribution in a median absolute deviation

Level = Literal["warning", "collapsed", "extreme"]


@dataclass(frozen=True)
class Signals:
    """The numbers of an evaluation by name, a singular value as "singular_values.LAYER", and what was not finite."""

    values: Mapping[str, float] = field(default_factory=dict)
    not_finite: str | None = None


@dataclass(frozen=True)
class Rule(ABC):
    """One thing that may be wrong with a run.

    name       by which it is chosen, and kept in a state
    level      what it means: a warning, a collapse, or one that is past recovery
    needs      what it reads, of which one at least must be measured; "singular_values" is
               those of all layers
    helps      end of the sentence for the user: what usually helps
    unsettles  whether a step where it holds is no longer one to go back to
    """

    name: str
    level: Level
    needs: tuple[str, ...]
    helps: str
    unsettles: bool = True
    at_once: ClassVar[bool] = False

    def measured(self, seen: Signals) -> dict[str, float]:
        """Of the rule's signals, those that were measured and are numbers."""
        values = seen.values.items()
        return {name: x for name, x in values if name.partition(".")[0] in self.needs and math.isfinite(x)}

    @abstractmethod
    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        """What was seen, with its numbers, if the rule holds at this evaluation."""

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        """Whether the rule counts for this run already; `late` after the monitor's grace."""
        return True

    def learn(self, seen: Signals, memory: dict[str, Any], warm: bool) -> None:
        """Remember, as plain JSON values, an evaluation at which the rule did not hold; `warm` after the warm-up."""
        return


@dataclass(frozen=True)
class NotFinite(Rule):
    """Any number that must be finite is not."""

    at_once: ClassVar[bool] = True

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        if seen.not_finite:
            return f"not finite: {seen.not_finite},"
        for name, value in seen.values.items():
            if name.partition(".")[0] in self.needs and not math.isfinite(value):
                return f"not finite: {name} was {value}"
        return None


@dataclass(frozen=True)
class OverBest(Rule):
    """A distance over `factor` times its best level: the lowest median of three evaluations since the warm-up.

    Not the lowest value: that is as lucky as the run is long, and one lucky value made a collapse of a measured run
    with spectral normalisation whose raw generator was noisy and whose average was well. Nor a level below what real
    images reach at their number: there distances are noise, of which twice the best is soon seen.
    """

    factor: float = 2.0

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        for name, value in self.measured(seen).items():
            best = memory.get(name, {}).get("best")
            if best is not None and value > self.factor * max(best, seen.values.get("frechet_floor", 0.0)):
                return f"{_words(name)} was {value:.4g}, over {self.factor:g} times its best level, {best:.4g}"
        return None

    def learn(self, seen: Signals, memory: dict[str, Any], warm: bool) -> None:
        for name, value in self.measured(seen).items():
            if not warm or value <= 0:  # below 0 is rounding
                continue
            known = memory.setdefault(name, {"recent": [], "best": None})
            known["recent"] = recent = [*known["recent"], value][-_RECENT:]
            if len(recent) == _RECENT:
                level = statistics.median(recent)
                known["best"] = level if known["best"] is None else min(known["best"], level)


@dataclass(frozen=True)
class Under(Rule):
    """A share under `line`, once it has been over `armed_at`: what was never varied cannot lose its variety."""

    line: float = 0.5
    armed_at: float = 0.5

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        for name, value in self.measured(seen).items():
            if value < self.line:
                return f"{_words(name)} was {value:.2f} of the real images', under {self.line:g}"
        return None

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        return bool(memory.get("armed", False))

    def learn(self, seen: Signals, memory: dict[str, Any], warm: bool) -> None:
        if warm and any(value >= self.armed_at for value in self.measured(seen).values()):
            memory["armed"] = True


@dataclass(frozen=True)
class NeverOver(Under):
    """A share still under `line` late in a run, and never over `armed_at` before."""

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        said = super().says(seen, memory)
        return None if said is None or memory.get("armed") else f"{said}, and has never been over {self.armed_at:g}"

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        return late and not memory.get("armed", False)


@dataclass(frozen=True)
class Over(Rule):
    """A number over `line`."""

    line: float = 0.95

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        for name, value in self.measured(seen).items():
            if value > self.line:
                return f"{_words(name)} was {value:.3g}, over {self.line:g}"
        return None


@dataclass(frozen=True)
class OverEarly(Rule):
    """A number over `factor` times its median over the first evaluations of the run."""

    factor: float = 10.0

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        for name, value in self.measured(seen).items():
            early = memory.get(name, [])
            if len(early) == _EARLY and value > self.factor * statistics.median(early):
                level = statistics.median(early)
                return f"{_words(name)} was {value:.3g}, over {self.factor:g} times its early level, {level:.3g}"
        return None

    def learn(self, seen: Signals, memory: dict[str, Any], warm: bool) -> None:
        for name, value in self.measured(seen).items():
            if len(memory.setdefault(name, [])) < _EARLY:
                memory[name].append(value)


@dataclass(frozen=True)
class Gone(Rule):
    """A number that is 0, or all but: seen where all units of D had gone dead, with healthy distances left behind."""

    line: float = 1e-12

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        for name, value in self.measured(seen).items():
            if value <= self.line:
                return (
                    f"{_words(name)} was {value:.2g}: the discriminator scores all images alike, and nothing is learned"
                )
        return None


@dataclass(frozen=True)
class Exploding(Rule):
    """|x| over `factor` times its median m in the run's healthy past, and over m by `deviations` robust deviations.

    A robust deviation is 1.4826 times the median absolute deviation, which a few bad values do not move. Both lines are
    needed: the first for what hardly varies (a normalised layer), the second for what lies around 0 (G's hinge loss).
    """

    factor: float = 5.0
    deviations: float = 10.0

    def says(self, seen: Signals, memory: Mapping[str, Any]) -> str | None:
        worst, said = 0.0, None
        for name, value in self.measured(seen).items():
            past = memory.get(name, [])
            if len(past) < _LEAST:
                continue
            median = statistics.median(past)
            spread = _NORMAL * statistics.median([abs(x - median) for x in past])
            line = max(self.factor * median, median + self.deviations * spread)
            if abs(value) > line and (excess := abs(value) / max(line, 1e-30)) > worst:
                worst = excess
                said = f"{_words(name)} was {value:.3g}, in this run's healthy past about {median:.3g} in size"
        return said

    def learn(self, seen: Signals, memory: dict[str, Any], warm: bool) -> None:
        if warm:
            for name, value in self.measured(seen).items():
                memory[name] = [*memory.get(name, []), abs(value)][-_WINDOW:]


def _words(name: str) -> str:
    """A signal as a user reads it."""
    part, _, layer = name.partition(".")
    return _WORDS.get(part, name) + (f" of {layer}" if layer else "")


_WORDS = {
    "frechet": "the Fréchet distance",
    "variety": "the variety within a class",
    "variety_batch": "the variety within a class of a training batch",
    "accuracy_d": "the discriminator's share of right answers",
    "held_out": "the discriminator's score of held-out recordings, from training (0) to generated ones (1),",
    "gradient_g": "the adversarial gradient at the images",
    "loss_d": "the discriminator's loss",
    "loss_g": "the generator's loss",
    "singular_values": "the leading singular value",
}
_BACK = "go back to before it with lower learning rates; spectral normalisation of D or DiffAugment prevents most"
_MODES = "go back to before it; a condition on the generator per class, or DiffAugment, keeps classes varied"
_DATA = "look at the data first (labels, silent or repeated clips), then try lower learning rates"
_D_WINS = "often comes before a collapse: lower the discriminator's learning rate or its steps, or use DiffAugment"
_FEW = "usual with little data and no collapse by itself: DiffAugment, or more recordings"
_RATES = "often comes before a collapse: lower learning rates, or spectral normalisation in a new run"
_DEAD = "go back to before it with a lower learning rate of the discriminator"
_LOST = "go back to a checkpoint before it; if it comes again, lower the learning rates or use more precise arithmetic"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        NotFinite("not_finite", "extreme", FINITE, _LOST),
        OverBest("frechet", "collapsed", ("frechet",), _BACK),
        Under("variety", "collapsed", ("variety",), _MODES),
        NeverOver("never_varied", "collapsed", ("variety",), _DATA, line=0.25),
        Gone("dead", "collapsed", ("gradient_g",), _DEAD),
        # The measured collapses ended at 2.1 to 3 times their best and a variety of 0.29 to 0.40, so this lies beyond.
        OverBest("frechet_extreme", "extreme", ("frechet",), _BACK, factor=4.0),
        Under("variety_extreme", "extreme", ("variety",), _MODES, line=0.25),
        Over("accuracy_d", "warning", ("accuracy_d",), _D_WINS),
        OverEarly("gradient_g", "warning", ("gradient_g",), _RATES),
        Over("held_out", "warning", ("held_out",), _FEW, unsettles=False, line=0.5),
        Under("variety_batch", "warning", ("variety_batch",), _MODES),
        Exploding("losses", "warning", ("loss_d", "loss_g"), _RATES),
        Exploding("gradient", "warning", ("gradient_g",), _RATES),
        Exploding("singular_values", "warning", ("singular_values",), _RATES, factor=3.0),
    )
}
