"""The top of the page: what somebody who listens asks of a run, answered in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import escape

from schurgan.core.errors import SchurganError
from schurgan.evaluation.metric_table import ABOUT
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import Tone, counted, verdict_of
from schurgan.runs.records import Records
from schurgan.runs.status import Status

_GOOD, _FAIR = 0.9, 0.6
"""Shares of the accuracy on real images from which generated ones are recognised well, and fairly."""
_ALIKE, _LESS_VARIED, _NOISY = 0.5, 0.75, 1.3
_COPIES = 0.5
"""Distance from what was learned, as a share of the usual one, below which generated images may be copies."""
_FINE = 128
"""Rows and columns from which a spectrogram holds what makes a sound clear."""
_MOST_STEPS = 3


@dataclass(frozen=True)
class Verdict:
    """What a classifier of the real images takes generated sounds for, after these were decoded and analysed again."""

    real_accuracy: float
    generated_accuracy: float
    per_class: dict[str, float]
    variety: dict[str, float]
    """Mean distance between two generated images of a class, as a share of that between two real ones."""
    nearest_training: float | None
    """Median distance of a generated image from the nearest one of its class that was learned from, as a share of the
    distance of real ones from each other; None where these do not differ."""
    nearest_held_out: float | None
    """The same of held-out real images, what a generator of new ones reaches; None where none were held out."""
    size: int | None
    """Rows and columns of a spectrogram, None where there are pictures."""
    n_train: int
    n_test: int
    n_generated: int
    truncation: float
    step: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """A question with its answer, in a word or two and in sentences, and what the terms in it mean."""

    question: str
    short: str
    text: str
    about: str
    tone: Tone

    def html(self) -> str:
        """An entry of a <dl>."""
        about = f'<small class="about">{escape(self.about)}</small>' if self.about else ""
        return (
            f'<div class="answer {self.tone}"><dt>{escape(self.question)}</dt>'
            f"<dd><b>{escape(self.short)}.</b> {escape(self.text)}{about}</dd></div>"
        )


def judge_sounds(verdict: Verdict, made: str, real: str) -> Iterator[Answer]:
    """How good, how varied, and whether copied; `made` and `real` name one of each, "sound" and "recording"."""
    yield _good(verdict, made, real)
    if varied := {name: value for name, value in verdict.variety.items() if value}:
        mean, least = _mean(varied), min(varied, key=varied.__getitem__)
        text = f"Variety {mean:.2f}" + (f", least of “{least}”: {varied[least]:.2f}." if len(varied) > 1 else ".")
        short, tone = _varied(mean)
        yield Answer("How varied?", short, text, f"Variety is {ABOUT['variety']}.", tone)
    if (near := verdict.nearest_training) is not None:
        short, tone = ("Perhaps", "warn") if near < _COPIES else ("No sign of it", "good")
        about = f"Distance is {ABOUT['nearest_training']}."
        text = f"Distance {near:.2f} from the nearest {real}"
        text += "" if (new := verdict.nearest_held_out) is None else f"; {real}s that were held out have {new:.2f}"
        yield Answer("Copied?", short, f"{text}.", about, tone)


def _good(verdict: Verdict, made: str, real: str) -> Answer:
    asked, classes = "How good?", len(verdict.per_class)
    if classes < 2:
        text = f"There is one class alone, so that no number tells how well a {made} fits it."
        return Answer(asked, "Judge it yourself", text, "", "plain")
    right, unseen = verdict.generated_accuracy, verdict.real_accuracy
    text = f"Class accuracy {_share(right, verdict.n_generated)} generated {made}s; {_share(unseen, verdict.n_test)} "
    text += f"{real}s that the classifier had not learned from."
    about = f"Class accuracy is the {ABOUT['accuracy']}."
    if unseen < min(2 / classes, 0.75):  # near to chance
        return Answer(asked, "Not known", f"{text} It knows too little to judge by.", about, "plain")
    if right >= _GOOD * unseen:
        return Answer(asked, "Well recognised", text, about, "good")
    return Answer(asked, "Fairly recognised" if right >= _FAIR * unseen else "Not yet recognised", text, about, "warn")


def _varied(mean: float) -> tuple[str, Tone]:
    if mean < _ALIKE:
        return "Too alike", "bad"
    if mean < _LESS_VARIED:
        return "Less than the real ones", "warn"
    return ("More than the real ones, as noise is", "warn") if mean > _NOISY else ("About as the real ones", "good")


def judge_training(records: Records) -> Answer:
    """Whether the run is healthy, by its last evaluation, and what happened before."""
    about = "A collapse is when the generator, the network that makes what is shown here, makes the same few over and "
    about += "over, or noise. It learns from D, the discriminator, which learns to tell generated from real."
    happened = [event.kind for event in records.events]
    back = f" It was rolled back {counted(number, 'time')}." if (number := happened.count("rollback")) else ""
    if not records.health:
        return Answer("Healthy?", "Not known", f"Its health has not been looked at.{back}", about, "plain")
    last = records.health[-1]
    verdict, tone = verdict_of(last)
    reasons = "; ".join(last.reasons) or ("no sign of a collapse" if tone == "good" else "no rule is in force")
    short = {"healthy": "Yes", "warning": "Take care", "collapsed": "No, it collapsed"}.get(verdict, "Not known yet")
    text = f"At the last look, at step {last.step}: {' '.join(reasons.split())}.{back}"
    return Answer("Healthy?", short, text, about, tone)


def next_steps(folder: RunFolder, status: Status | None, verdict: Verdict | None, *, evaluated: bool) -> list[str]:
    """What to try next, the most urgent first; commands stand between backticks."""
    name, steps, options = shlex.quote(str(folder.path)), list[str](), Config()
    with suppress(SchurganError):  # of another version, or a bare generator
        options = folder.read_config()
    augment = "`--regularize.augment colour,translation,cutout`, which hides from D what it could learn by heart"
    if options.regularize.augment:
        augment = "lower learning rates, such as `--train.lr-d 0.0005`"
    finished = status is not None and status.state == "finished"
    if status and status.state in ("interrupted", "silent"):
        steps.append(f"It was stopped at step {status.step} of {status.steps}: `schurgan resume {name}` goes on.")
    if status and (status.state == "stopped" or (status.health and status.health.verdict == "collapsed")):
        steps.append(f"Against the collapse, a new run with {augment}.")
    if verdict is not None:
        varied = [value for value in verdict.variety.values() if value]
        if varied and sum(varied) / len(varied) < _LESS_VARIED and options.moment_matching.descriptor == "none":
            steps.append("For more variety, a new run with `--moment-matching.descriptor gram`")
        if verdict.nearest_training is not None and verdict.nearest_training < _COPIES:
            steps.append(f"Against copies, more recordings, or a new run with {augment}.")
        if finished and status and verdict.generated_accuracy < _GOOD * verdict.real_accuracy:
            longer = f"`schurgan resume {name} --train.steps {2 * status.steps}`"
            steps.append(f"To learn on from here, for longer: {longer}")
        if finished and verdict.size is not None and verdict.size < _FINE:
            finer = f"prepared by `--size {2 * verdict.size}`, and a preset for that size"
            steps.append(f"For finer sounds, larger spectrograms: {finer}.")
        steps.append(f"To make more: `schurgan sample {name} --count 20`")
    if verdict is not None and not evaluated:
        steps.append(f"To measure closely, each number beside what real ones reach: `schurgan evaluate {name}`")
    return steps[:_MOST_STEPS]


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _share(share: float, number: int) -> str:
    """A share of so many, no finer than their number allows."""
    return f"{share:.0%} of {number}" if number >= 100 else f"{round(share * number)} of {number}"
