"""Rules of a collapse; docs/training.md tells where their lines come from, docs/collapse.md how right they were."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

_HISTORY = 200  # healthy values that a baseline remembers
_LEAST_HISTORY = 8  # values below which a median and its spread say nothing
_EARLY = 5  # values that count as early
_LEVEL = 3  # values whose median is a level


class Signals(TypedDict, total=False):
    """What an evaluation may measure. None, or no entry, where it did not."""

    frechet: float | None  # Fréchet distance of the generator's images
    frechet_ema: float | None  # the same of the averaged generator
    frechet_floor: float | None  # the same of as many real images: lower ones cannot be told apart
    variety: float | None  # mean distance of two images of a class, as a share of the real images'
    variety_batch: float | None  # the same within a batch
    accuracy_d: float | None  # share of real (training) and generated images that D tells right, 0 to 1
    margin: float | None  # D's mean score of training images less that of generated ones
    held_out: float | None  # (E D(train) − E D(held out)) / (E D(train) − E D(generated)); over ½: D has overfitted
    gradient_g: float | None  # norm of the adversarial loss's gradient at the generated images
    gap: float | None  # generated less real mean departure from normality; no rule reads it
    gap_standard_error: float | None
    singular_values: Mapping[str, float] | None  # leading singular value of each layer's weight
    loss_d: float | None
    loss_g: float | None
    not_finite: str | None  # what was not finite since the last update


@dataclass(frozen=True)
class Rule:
    """One thing that may be wrong with a run. A rule of one's own overrides `_judge`, and `_remember` if it learns."""

    name: str  # also in a saved state
    level: Literal["warning", "collapsed", "extreme"]  # extreme: a collapse past recovery
    reads: tuple[str, ...]  # the signals it reads, of which at least one must be measured
    advice: str  # what usually helps, the end of the sentence for the user
    unsettles: bool = True  # whether a step at which the rule holds is unfit to go back to
    at_once: bool = False  # whether one evaluation is enough, also during the warm-up

    def measured(self, signals: Signals) -> dict[str, float]:
        """Return the numbers that the rule reads by name, a layer's as "singular_values.LAYER"."""
        numbers: dict[str, float] = {}
        for name in self.reads:
            value: Any = signals.get(name, {})
            layers = value if isinstance(value, Mapping) else {"": value}
            numbers |= {f"{name}.{layer}".rstrip("."): float(x) for layer, x in layers.items()}
        return numbers

    def check(self, signals: Signals, memory: Mapping[str, Any]) -> str | None:
        """Return a sentence with the numbers where the rule holds at this evaluation, else None."""
        for name, value in self.measured(signals).items():
            if math.isfinite(value) and (finding := self._judge(value, memory.get(name), signals)):
                signal, _, layer = name.partition(".")
                return f"{_WORDS.get(signal, signal)}{layer and f' of {layer}'} was {finding}"
        return None

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        """Return the value and the line it crossed where the rule holds for one signal, whose memory this is."""
        raise NotImplementedError

    def learn(self, signals: Signals, memory: dict[str, Any], warm: bool) -> None:
        """Take an evaluation at which the rule did not hold into its memory by signal, plain JSON values."""
        for name, value in self.measured(signals).items():
            if math.isfinite(value):
                memory[name] = self._remember(value, memory.get(name), warm)

    def _remember(self, value: float, memory: Any, warm: bool) -> Any:
        """Return the memory of one signal after a value at which the rule did not hold; `warm`: after the warm-up."""
        return memory

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        """Whether the rule may count yet; `late`: the monitor's grace is over."""
        return True


@dataclass(frozen=True)
class NotFinite(Rule):
    """A number that must be finite is not."""

    def check(self, signals: Signals, memory: Mapping[str, Any]) -> str | None:
        """Return the name of what is not finite."""
        if what := signals.get("not_finite"):
            return f"not finite: {what},"
        wrong = [f"not finite: {name} was {x}" for name, x in self.measured(signals).items() if not math.isfinite(x)]
        return wrong[0] if wrong else None


@dataclass(frozen=True)
class Over(Rule):
    """A number over `line`."""

    line: float = 0.95

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        return f"{value:.3g}, over {self.line:g}" if value > self.line else None


@dataclass(frozen=True)
class Gone(Rule):
    """A number that has fallen to 0: seen where all units of D were dead, while the distances still looked healthy."""

    line: float = 1e-12

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        return f"{value:.2g}: D scores all images alike, and nothing is learned" if value <= self.line else None


@dataclass(frozen=True)
class OverBest(Rule):
    """A distance over `factor` times its best level: the lowest median of three evaluations since the warm-up.

    The lowest single value would not do: one lucky value made a collapse of a measured run that was well. The level is
    at least `frechet_floor`, what as many real images reach: distances below it are noise.
    """

    factor: float = 2.0

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        best = memory["best"] if memory else None
        if best is None or value <= self.factor * max(best, signals.get("frechet_floor") or 0.0):
            return None
        return f"{value:.4g}, over {self.factor:g} times its best level, {best:.4g}"

    def _remember(self, value: float, memory: Any, warm: bool) -> Any:
        if not warm or value <= 0:  # below 0 is rounding
            return memory
        recent = [*(memory["recent"] if memory else []), value][-_LEVEL:]
        levels = [statistics.median(recent)] if len(recent) == _LEVEL else []
        if memory and memory["best"] is not None:
            levels.append(memory["best"])
        return {"recent": recent, "best": min(levels, default=None)}


@dataclass(frozen=True)
class OverEarly(Rule):
    """A number over `factor` times its median over the first five evaluations of the run."""

    factor: float = 10.0

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        early = statistics.median(memory) if memory and len(memory) == _EARLY else math.inf
        finding = f"{value:.3g}, over {self.factor:g} times its early level, {early:.3g}"
        return finding if value > self.factor * early else None

    def _remember(self, value: float, memory: Any, warm: bool) -> Any:
        return [*(memory or []), value][:_EARLY]


@dataclass(frozen=True)
class Under(Rule):
    """A share under `line`, once it has been over `armed_at`: what was never varied cannot lose its variety."""

    line: float = 0.5
    armed_at: float = 0.5

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        return f"{value:.2f} of the real images', under {self.line:g}" if value < self.line else None

    def _remember(self, value: float, memory: Any, warm: bool) -> Any:
        return bool(memory) or (warm and value >= self.armed_at)

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        """Whether the share has been over `armed_at`."""
        return any(memory.values())


@dataclass(frozen=True)
class NeverOver(Under):
    """A share still under `line` late in a run, and never over `armed_at` before."""

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        finding = None if memory else super()._judge(value, memory, signals)
        return finding and f"{finding}, and has never been over {self.armed_at:g}"

    def ready(self, memory: Mapping[str, Any], late: bool) -> bool:
        """Whether it is late and the share has never been over `armed_at`."""
        return late and not any(memory.values())


@dataclass(frozen=True)
class Exploding(Rule):
    """A number over `factor` times its healthy median m, and over m by `deviations` robust standard deviations.

    The first line is for what hardly varies (a normalised layer), the second for what grows all the time. A robust
    deviation is 1.4826 times the median absolute deviation, which a few bad values do not move.
    """

    factor: float = 3.0
    deviations: float = 10.0

    def _judge(self, value: float, memory: Any, signals: Signals) -> str | None:
        if not memory or len(memory) < _LEAST_HISTORY:
            return None
        median = statistics.median(memory)
        deviation = 1.4826 * statistics.median([abs(x - median) for x in memory])
        if value <= max(self.factor * median, median + self.deviations * deviation):
            return None
        return f"{value:.3g}, in this run's healthy past about {median:.3g}"

    def _remember(self, value: float, memory: Any, warm: bool) -> Any:
        return [*(memory or []), value][-_HISTORY:] if warm else memory


_WORDS = {
    "frechet": "the Fréchet distance",
    "variety": "the variety within a class",
    "variety_batch": "the variety within a class of a training batch",
    "accuracy_d": "D's accuracy",
    "held_out": "D's score of held-out recordings, from training (0) to generated ones (1),",
    "gradient_g": "the adversarial gradient at the images",
    "singular_values": "the leading singular value",
}
_BACK = "go back to before it with lower learning rates; spectral normalisation of D or DiffAugment prevents most"
_MODES = "go back to before it; moment matching per class or DiffAugment keeps classes varied"
_DATA = "look at the data first (labels, silent or repeated clips), then try lower learning rates"
_D_WINS = "often comes before a collapse: lower the discriminator's learning rate or its steps, or use DiffAugment"
_FEW = "usual with little data and no collapse by itself: DiffAugment, or more recordings"
_RATES = "often comes before a collapse: lower learning rates, or spectral normalisation in a new run"
_DEAD = "go back to before it with a lower learning rate of the discriminator"
_LOST = "go back to a checkpoint before it; if it comes again, lower the learning rates or use more precise arithmetic"
_FINITE = ("frechet", "frechet_ema", "variety", "margin", "gradient_g", "loss_d", "loss_g", "singular_values")

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        NotFinite("not_finite", "extreme", _FINITE, _LOST, at_once=True),
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
        Exploding("singular_values", "warning", ("singular_values",), _RATES),
    )
}
