"""`schurgan sweep`: what truncation trades, fidelity against variety (Figure 2 of the seed paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from schurgan.core.distributed import World
from schurgan.core.errors import UserError, writing
from schurgan.core.files import atomic_write, write_json
from schurgan.evaluation.evaluate import check_numbers, describe, known_accuracy, open_judge
from schurgan.evaluation.figures import save_figure
from schurgan.evaluation.pixels import score_departure, score_variety
from schurgan.evaluation.score_images import Measure
from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.evaluation.seen import see_generated, see_real
from schurgan.evaluation.table import Cells, figure, real_figure, title
from schurgan.evaluation.target import BatchNorm, Subject, open_subject
from schurgan.runs.folder import RunFolder

FORMAT = "schurgan-sweep/1"
TRUNCATIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
COLUMNS = ("inception_score", "fid", "precision", "recall", "variety", "vendi_score", "departure_gap")


@dataclass(frozen=True)
class Sweep:
    """Scores of the same noise at several truncations; `protocol.truncation` is the first of them."""

    protocol: Protocol
    truncations: tuple[float, ...]
    points: tuple[dict[str, Score], ...]

    def cells(self) -> Cells:
        """A row a truncation, and one of real images."""
        columns = [name for name in COLUMNS if all(name in point for point in self.points)]
        rows = [
            (f"{truncation:g}", *(figure(point[name].value) for name in columns))
            for truncation, point in zip(self.truncations, self.points, strict=True)
        ]
        real = tuple(real_figure(name, self.points[0][name]) for name in columns)
        return Cells(("truncation α", *map(title, columns)), (*rows, ("real images", *real)))

    def as_json(self) -> dict[str, Any]:
        points = [
            {"truncation": truncation, "scores": {name: score.as_json() for name, score in point.items()}}
            for truncation, point in zip(self.truncations, self.points, strict=True)
        ]
        protocol = Evaluation(self.protocol, {}).as_json()["protocol"]
        return {"format": FORMAT, "protocol": protocol | {"truncation": None}, "points": points}


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
    """Score `images` generated images at each truncation, and write RUN/evaluation/sweep.json, .md, .png and .svg.

    All are of the same noise, scaled: what differs between the rows is the truncation. figures: whether to draw.
    The other arguments are those of `evaluate`. Raises UserError as that does, and for a model of uniform noise.
    """
    check_numbers(images, 1, batch_norm, seed)
    check_truncations(truncations)
    world = world or World()
    subject = open_subject(run, data, world.device)
    for truncation in truncations:
        subject.check_truncation(truncation)
    judge = open_judge(subject, extractor, quick, world)
    real, _ = see_real(subject, subject.training, judge, world, seed, "training images")
    measure = Measure(judge.name, subject.model.classes, real, None, known_accuracy(judge), seed)
    generate = partial(see_generated, subject, judge, world, count=images, batch_norm=batch_norm, seed=seed)
    points = []
    for number, truncation in enumerate(truncations):
        what = f"α = {truncation:g}, {number + 1} of {len(truncations)}"
        fake = generate(truncation=truncation, what=what)
        scores = measure.scores(fake, [measure.run(fake)])
        scores |= score_variety(real, None, fake) | {"departure_gap": score_departure(real, None, fake, seed)}
        points.append({name: scores[name] for name in COLUMNS if name in scores})
    protocol = describe(subject, judge, world, len(real), 0, images, 1, truncations[0], batch_norm, seed)
    found = Sweep(protocol, tuple(truncations), tuple(points))
    world.check(lambda: _write(subject, found, figures))
    return found


def check_truncations(truncations: Sequence[float]) -> None:
    """Raises UserError for none, or the same twice."""
    if not truncations:
        raise UserError("truncations: none given, one or more are needed, such as 0.5,1,2")
    if len(set(truncations)) < len(truncations):
        raise UserError(f"truncations: {', '.join(f'{v:g}' for v in truncations)} given, each once is needed")


def _write(subject: Subject, found: Sweep, figures: bool) -> None:
    path = RunFolder(subject.run).sweep
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found.as_json())
        with atomic_write(path.with_suffix(".md"), "w") as file:
            file.write(found.cells().markdown())
        if figures:
            values = [{name: asdict(score) for name, score in point.items()} for point in found.points]
            save_figure(found.truncations, values, path.with_suffix(""))
