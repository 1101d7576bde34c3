"""Ladders of known damage, and which scores must move when they are climbed.

Real clips of other recordings stand for a generator without fault. What is done to them is known, so it is known
beforehand what a score that can be trusted has to say. `bench_scores.py` does it to ESC-10 and prints what came out,
`tests/evaluation/test_damage.py` to a few soundscapes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

import damage
from damage import Clips, Damage
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.inception_score import class_accuracy, inception_score_of_runs
from schurgan.evaluation.metrics.kernel import squared_discrepancy
from schurgan.evaluation.metrics.neighbours import memorisation, prdc
from schurgan.evaluation.metrics.variety import variety, vendi_score
from schurgan.normality import departure_from_normality

SCORES = {
    "fid": "FID",
    "kid": "KID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "accuracy",
    "memorisation": "memorisation",
    "near_copies": "near copies",
    "variety": "variety",
    "kinds": "k of 32",
    "gap": "Δ² gap",
}
_BATCH = 32  # of which k is counted
_THUMB = 32
_RANK = 0.8  # Spearman: of six levels one may be out of its place


@dataclass(frozen=True)
class Ladder:
    """A kind of damage in rising levels, and what is demanded of the scores. Of those not named nothing is."""

    name: str
    damage: Damage
    levels: tuple[float, ...]
    rises: frozenset[str]
    falls: frozenset[str]
    stays: frozenset[str]
    """Must not leave what undamaged sets scatter by."""

    def demand(self, score: str) -> str:
        """ "rises", "falls", "stays", or "" where nothing is demanded."""
        named = {"rises": self.rises, "falls": self.falls, "stays": self.stays}
        return next((direction for direction, scores in named.items() if score in scores), "")


def _ladder(
    name: str, how: Damage, levels: Sequence[float], *, rises: str = "", falls: str = "", stays: str = ""
) -> Ladder:
    demands = [frozenset(names.split()) for names in (rises, falls, stays)]
    if unknown := frozenset.union(*demands) - SCORES.keys():
        raise ValueError(f"{name}: no such scores as {sorted(unknown)}")
    return Ladder(name, how, (0, *levels), *demands)


LADDERS = (
    _ladder(
        "noise",
        damage.noise,
        (0.02, 0.05, 0.1, 0.2, 0.4),
        rises="fid kid",
        falls="precision density coverage accuracy",
    ),
    _ladder(
        "blur",
        damage.blur,
        (0.01, 0.02, 0.04, 0.08),
        rises="fid kid",
        falls="precision density coverage accuracy variety kinds gap",
    ),
    _ladder(
        "dropped classes",
        damage.drop_classes,
        (1, 2, 3, 4, 5),
        rises="fid kid",
        falls="inception_score recall coverage",
        stays="precision accuracy near_copies variety",
    ),
    _ladder(
        "duplicated items",
        damage.duplicate,
        (0.125, 0.25, 0.5, 0.75, 0.875),
        rises="fid kid",
        falls="recall coverage variety kinds",
        stays="inception_score precision accuracy near_copies gap",
    ),
    _ladder(
        "collapse in each class",
        damage.collapse,
        (2, 3, 4, 5),
        rises="fid kid",
        falls="recall coverage variety kinds",
        stays="inception_score accuracy near_copies gap",
    ),
    _ladder(
        "swapped classes",
        damage.swap_classes,
        (0.1, 0.25, 0.5, 0.75, 1),
        rises="variety",
        falls="accuracy",
        stays="fid kid inception_score precision recall density coverage kinds gap",
    ),
    _ladder(
        "copied training images",
        damage.memorise,
        (0.1, 0.25, 0.5, 0.75, 1),
        rises="near_copies precision density coverage",
        falls="memorisation fid kid",
        stays="inception_score accuracy variety",
    ),
    _ladder(
        "louder",
        damage.brighten,
        (0.1, 0.2, 0.3, 0.4, 0.6),
        rises="fid kid",
        falls="precision density coverage accuracy",
    ),
    _ladder(
        "less contrast",
        damage.flatten,
        (0.1, 0.2, 0.4, 0.6, 0.8),
        rises="fid kid",
        falls="precision density coverage accuracy variety kinds gap",
    ),
    _ladder("run backwards", damage.reverse, (0.25, 0.5, 0.75, 1), stays="memorisation near_copies variety kinds"),
    _ladder(
        "begun elsewhere",
        damage.shift,
        (0.05, 0.1, 0.25, 0.5),
        stays="fid kid inception_score precision recall density coverage accuracy near_copies",
    ),
)


class Judge:
    """All scores of made clips against real ones and others that were held out."""

    def __init__(self, extractor: Extractor, real: Clips, held_out: Clips) -> None:
        self.extractor, self.real, self.held_out = extractor, real, held_out
        self._features = extractor(real.images).features
        self._scale = variety(real.images, real.labels)
        self._departure = _departure(real.images)

    def __call__(self, made: Clips) -> dict[str, float]:
        """The score of each of SCORES; variety and the Δ² gap over the real clips' own.

        Raises ValueError for an extractor that knows no classes, and for clips that are copies of held-out ones.
        """
        features, probabilities = self.extractor(made.images)
        if probabilities is None:
            raise ValueError(f"extractor {self.extractor.name}: knows no classes, one that does is needed")
        near = prdc(self._features, features)
        sets = [(_thumbs(clips.images), clips.labels) for clips in (made, self.real, self.held_out)]
        memory = memorisation(*sets[0], *sets[1], *sets[2])
        if memory.ratio is None:
            raise ValueError("made: most images are copies of held-out ones")
        order = torch.randperm(len(made.images), generator=torch.Generator().manual_seed(0))
        batches = made.images[order[: len(order) // _BATCH * _BATCH]].split(_BATCH)
        return {
            "fid": frechet_distance(self._features, features),
            "kid": squared_discrepancy(self._features, features),
            "inception_score": inception_score_of_runs([probabilities]).mean,
            "precision": near.precision,
            "recall": near.recall,
            "density": near.density,
            "coverage": near.coverage,
            "accuracy": class_accuracy(probabilities, made.labels).overall,
            "memorisation": memory.ratio,
            "near_copies": memory.near_copies,
            "variety": variety(made.images, made.labels) / self._scale,
            "kinds": statistics.fmean(vendi_score(batch, self._scale) for batch in batches),
            "gap": _departure(made.images) / self._departure - 1,
        }


def _departure(images: Tensor) -> float:
    return departure_from_normality((images.double() + 1) / 2, "exact", channels="mean").mean().item()


def _thumbs(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), min(_THUMB, images.shape[-1])).flatten(1)


@dataclass(frozen=True)
class Course:
    """One score along a ladder: at each level, undamaged first, its value for each pair of a judge and clips."""

    table: tuple[tuple[float, ...], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The mean at each level."""
        return tuple(statistics.fmean(row) for row in self.table)

    @property
    def scatter(self) -> float:
        """Twice the standard deviation of the undamaged clips' score over the pairs."""
        return 2 * statistics.stdev(self.table[0])

    @property
    def seen(self) -> bool:
        """Whether the mean leaves the scatter at any level: so much can be told without the undamaged clips."""
        start = self.values[0]
        return max(abs(value - start) for value in self.values) > self.scatter + 1e-9

    @property
    def direction(self) -> str:
        """ "rises" or "falls" along the ladder, and at its end in every pair; else ""."""
        if len(set(self.values)) == 1:
            return ""
        rank = float(scipy.stats.spearmanr(range(len(self.table)), self.values).statistic)
        changes = [after - before for before, after in zip(self.table[0], self.table[-1], strict=True)]
        if rank >= _RANK and min(changes) > 0:
            return "rises"
        return "falls" if rank <= -_RANK and max(changes) < 0 else ""

    def meets(self, demand: str) -> bool:
        """Whether it does what a ladder demands of it."""
        return not self.seen if demand == "stays" else not demand or self.direction == demand


def climb(
    ladder: Ladder, pairs: Sequence[tuple[Judge, Clips]], seed: int = 0, progress: Callable[[], None] | None = None
) -> dict[str, Course]:
    """Every score along a ladder, for pairs of a judge and the undamaged clips that it has to judge."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in SCORES}
    for level in ladder.levels:
        # The same choices at every level: more damage, not other damage.
        chances = [torch.Generator().manual_seed(seed + number) for number in range(len(pairs))]
        each = [
            judge(ladder.damage(made, judge.real, level, chance))
            for (judge, made), chance in zip(pairs, chances, strict=True)
        ]
        for name in SCORES:
            found[name].append(tuple(scores[name] for scores in each))
        if progress is not None:
            progress()
    return {name: Course(tuple(rows)) for name, rows in found.items()}
