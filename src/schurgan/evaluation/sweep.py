"""`schurgan sweep`: what truncation trades, fidelity against variety (Figure 2 of the seed paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError, enough_memory, writing
from schurgan.core.files import atomic_write, write_json
from schurgan.core.progress import Stages
from schurgan.evaluation.evaluate import compare_sets, describe, open_judge
from schurgan.evaluation.features.registry import check_extractor
from schurgan.evaluation.figures import save_sweep_figure
from schurgan.evaluation.metric_table import METRICS, take_scores, title
from schurgan.evaluation.pace import expect
from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.evaluation.table import Cells, figure, real_figure
from schurgan.evaluation.target import BatchNorm, Sampling, Subject, extract_generated, extract_real, open_subject
from schurgan.runs.folder import RunFolder

FORMAT = "schurgan-sweep/1"
TRUNCATIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SWEPT = tuple(metric for metric in METRICS if metric.swept)


@dataclass(frozen=True)
class Sweep:
    """Scores of the same noise at several truncations; `protocol.truncation` is the first of them."""

    protocol: Protocol
    truncations: tuple[float, ...]
    points: tuple[dict[str, Score], ...]

    def cells(self) -> Cells:
        """A table of a row a truncation, and one of real images."""
        columns = [metric.name for metric in SWEPT if all(metric.name in point for point in self.points)]
        rows = [
            (f"{truncation:g}", *(figure(point[name].value) for name in columns))
            for truncation, point in zip(self.truncations, self.points, strict=True)
        ]
        real = tuple(real_figure(name, self.points[0][name]) for name in columns)
        return Cells(("truncation α", *map(title, columns)), (*rows, ("real images", *real)))

    def as_json(self) -> dict[str, Any]:
        """What RUN/evaluation/sweep.json holds."""
        points = [
            {"truncation": truncation, "scores": {name: score.as_json() for name, score in point.items()}}
            for truncation, point in zip(self.truncations, self.points, strict=True)
        ]
        protocol = Evaluation(self.protocol, {}).as_json()["protocol"]
        return {"format": FORMAT, "protocol": protocol | {"truncation": None}, "points": points}


@enough_memory("lower `images`")
def sweep(
    run: str | Path,
    truncations: Sequence[float] = TRUNCATIONS,
    *,
    extractor: str = "classifier",
    images: int = 1000,
    batch_norm: BatchNorm = "standing",
    seed: int = 0,
    quick: bool = False,
    figures: bool = True,
    data: str | Path | None = None,
    world: World | None = None,
) -> Sweep:
    """Score the same noise at several variances, and write RUN/evaluation/sweep.json, .md, .png and .svg.

    Arguments are those of `evaluate`; `images` are generated at each variance, which alone differs between the rows.

    Raises:
        SchurganError: as `evaluate` does; truncations that cannot be, and a model of uniform noise.
    """
    if not truncations:
        raise SchurganError("truncations: none given, one or more are needed, such as 0.5,1,2")
    if len(set(truncations)) < len(truncations):
        raise SchurganError(f"truncations: {', '.join(f'{v:g}' for v in truncations)} given, each once is needed")
    check_extractor(extractor)
    samplings = [Sampling(images, 1, truncation, batch_norm, seed) for truncation in truncations]
    world = world or World()
    subject = open_subject(run, data, world.device)
    for truncation in truncations:
        subject.check_truncation(truncation)
    names = [
        f"generated images, α = {alpha:g}, {number} of {len(truncations)}"
        for number, alpha in enumerate(truncations, 1)
    ]
    plan = partial(expect, subject, names, images, world, classifier=extractor == "classifier", quick=quick)
    with world.lock(RunFolder(subject.run).evaluation), Stages("sweep", plan, quiet=not world.is_main):
        judge = open_judge(subject, extractor, quick, world)
        real = extract_real(subject, subject.training, judge, world, seed, "training images", quick)
        points = []
        for what, sampling in zip(names, samplings, strict=True):
            fake = extract_generated(subject, judge, world, sampling, what=what)
            points.append(take_scores(SWEPT, compare_sets(subject, judge, real, fake, None, (), seed)))
        protocol = describe(subject, judge, world, samplings[0], len(real), 0)
        result = Sweep(protocol, tuple(truncations), tuple(points))
        world.check(lambda: _write(subject, result, figures))
    return result


def _write(subject: Subject, result: Sweep, figures: bool) -> None:
    path = RunFolder(subject.run).sweep
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result.as_json())
        with atomic_write(path.with_suffix(".md"), "w") as file:
            file.write(result.cells().markdown())
        if figures:
            save_sweep_figure(result.truncations, result.points, path.with_suffix(""))
