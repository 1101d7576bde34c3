"""`schurgan evaluate`: all scores of a run, each beside what real images reach, and with what made it.

    evaluation = schurgan.evaluate("runs/esc10", images=5000, runs=10)
    evaluation.scores["fid"].value, evaluation.scores["fid"].floor

RUN/scores.json, RUN/evaluation/nearest.png
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

from schurgan.core.distributed import World
from schurgan.core.errors import UserError, writing
from schurgan.core.progress import Meter
from schurgan.data.shards import Shards
from schurgan.evaluation.features.extractor import ClassifierExtractor, Extractor
from schurgan.evaluation.features.registry import open_extractor
from schurgan.evaluation.nearest_picture import save_nearest
from schurgan.evaluation.pixels import score_departure, score_memory, score_variety
from schurgan.evaluation.score_images import Measure
from schurgan.evaluation.score_sounds import score_sounds
from schurgan.evaluation.scores import Counts, Evaluation, Protocol, Score
from schurgan.evaluation.seen import see_generated, see_real
from schurgan.evaluation.target import BatchNorm, Subject, open_subject
from schurgan.evaluation.usefulness import score_usefulness
from schurgan.runs.folder import RunFolder
from schurgan.version import __version__

_MOST_IMAGES, _MOST_RUNS, _SEEDS = 1_000_000, 100, 2**31


def evaluate(
    run: str | Path,
    *,
    extractor: str = "classifier",
    images: int = 1000,
    runs: int = 3,
    truncation: float | None = None,
    batch_norm: BatchNorm = "standing",
    seed: int = 0,
    usefulness: bool = False,
    quick: bool = False,
    data: str | Path | None = None,
    world: World | None = None,
) -> Evaluation:
    """Take all scores of the run in folder `run`, and write them there.

    extractor   "classifier", "inception" or package.module:attribute, see `evaluation.extractor`
    images      generated ones a run, with the class frequencies of the training clips
    runs        times that as many are generated, for means and deviations; the first gives the scores that have none
    truncation  variance of the noise; 1 if not given
    batch_norm  "standing": the statistics that were saved; "batch": those of each batch of generated images
    usefulness  train classifiers on real and generated images too, which takes minutes and needs held-out clips
    quick       a classifier trained a quarter as long, and no sounds
    data        where the shards are now, if they were moved
    world       the processes that share the work, all of which call this; one alone if not given

    Raises UserError for what is missing, options that cannot be, and a generator that gives nothing finite.
    """
    check_numbers(images, runs, batch_norm, seed)
    world = world or World()
    subject = open_subject(run, data, world.device)
    subject.check_truncation(truncation)
    if usefulness and subject.held_out is None:
        raise UserError(
            f"usefulness: {subject.run} held out no clips to test classifiers on;"
            " train with --train.val-folds or --train.val-fraction"
        )
    judge = open_judge(subject, extractor, quick, world)
    real, clips = see_real(subject, subject.training, judge, world, seed, "training images")
    held_out, unseen_clips = None, None
    if subject.held_out is not None:
        held_out, unseen_clips = see_real(subject, subject.held_out, judge, world, seed, "held-out images")
    measure = Measure(judge.name, subject.model.classes, real, held_out, known_accuracy(judge), seed)
    generate = partial(see_generated, subject, judge, world, count=images, truncation=truncation, batch_norm=batch_norm)
    fake = generate(seed=seed, what=f"generated images, run 1 of {runs}")
    of_runs = [measure.run(fake)]
    for number in range(1, runs):
        what = f"generated images, run {number + 1} of {runs}"
        of_runs.append(measure.run(generate(seed=(seed + number) % _SEEDS, what=what, whole=False)))
    scores: dict[str, Score] = {}
    notes = _notes(subject, fake.not_finite, images)
    with Meter("scores", "part", quiet=not world.is_main) as meter:
        parts = (
            lambda: measure.scores(fake, of_runs),
            lambda: score_variety(real, held_out, fake),
            lambda: {"departure_gap": score_departure(real, held_out, fake, seed)},
            lambda: score_memory(real, held_out, fake, seed),
        )
        for number, part in enumerate(parts):
            meter(number, len(parts))
            scores |= part()
        meter(len(parts), len(parts))
    if subject.recordings and not quick:
        try:
            scores |= score_sounds(subject, truncation, seed, world)
        except (UserError, ValueError) as error:
            notes.append(f"sounds were not scored: {error}")
    if usefulness:
        scores |= _useful(subject, truncation, seed, world)
    protocol = describe(
        subject, judge, world, len(real), len(held_out or ()), images, runs, truncation, batch_norm, seed
    )
    evaluation = Evaluation(protocol, scores, tuple(notes))

    def write() -> None:
        folder = RunFolder(subject.run)
        with writing(folder.scores):
            evaluation.save(folder.scores)
        with writing(folder.evaluation):
            unseen = None if held_out is None or unseen_clips is None else (held_out, unseen_clips)
            save_nearest(folder.nearest, subject, fake, (real, clips), unseen)

    world.check(write)
    return evaluation


def open_judge(subject: Subject, name: str, quick: bool, world: World) -> Extractor:
    """The extractor, which one process trains if it must: always by one seed, so that evaluations by others compare."""

    def open_it() -> Extractor:
        with Meter("classifier", "step", quiet=not world.is_main) as meter:
            return open_extractor(
                name,
                subject.shards if subject.val_folds else subject.training,
                val_folds=subject.val_folds,
                quick=quick,
                device=world.device,
                progress=meter,
            )

    return world.in_turn(open_it)


def check_numbers(images: int, runs: int, batch_norm: str, seed: int) -> None:
    for name, value, least, most in (
        ("images", images, 2, _MOST_IMAGES),
        ("runs", runs, 1, _MOST_RUNS),
        ("seed", seed, 0, _SEEDS - 1),
    ):
        if not least <= value <= most:
            raise UserError(f"{name}: {value} given, a whole number from {least} to {most} is needed")
    if batch_norm not in ("standing", "batch"):
        raise UserError(f'batch_norm: "{batch_norm}" given, "standing" or "batch" is needed')


def known_accuracy(judge: Extractor) -> tuple[float, tuple[float, ...]] | None:
    if not isinstance(judge, ClassifierExtractor):
        return None
    return judge.trained.accuracy, judge.trained.per_class


def _useful(subject: Subject, truncation: float | None, seed: int, world: World) -> dict[str, Score]:
    """By the main process, which the others wait for: the trainings of a seed depend on one another."""
    scores: dict[str, Score] = {}

    def train() -> None:
        held_out: Shards | None = subject.held_out
        assert held_out is not None
        with Meter("usefulness", "classifier", quiet=not world.is_main) as meter:
            found = score_usefulness(
                subject.model,
                subject.training,
                held_out,
                truncation=truncation,
                seed=seed,
                device=world.device,
                progress=meter,
            )
        flags = () if found.informative else ("no classifier is better than chance: nothing can be said",)
        counts: Counts = {"n_real": found.real.n_train, "n_fake": found.generated.n_train}
        scores["usefulness_gain"] = Score(
            found.gain.over_seeds.mean,
            floor=0.0,
            higher_is_better=True,
            flags=flags,
            details=found.as_json() | {"said": found.lines()},
            **counts,
        )
        scores["classification_accuracy_score"] = Score(
            found.generated.mean, held_out=found.real.mean, higher_is_better=True, flags=flags, **counts
        )

    world.check(train)
    known = world.broadcast_object({name: score.as_json() for name, score in scores.items()})
    return {name: Score.from_json(score) for name, score in known.items()}


def _notes(subject: Subject, not_finite: int, images: int) -> list[str]:
    notes = []
    if subject.held_out is None:
        option = "val-fraction" if set(subject.shards.folds) == {None} else "val-folds"
        notes.append(
            f"{subject.run.name} held out no clips: what unseen recordings would score is not known, and copies of"
            f" training images can hardly be told; train with --train.{option} to know"
        )
    if not subject.model.pictures and not subject.recordings:
        notes.append("sounds were not scored: the data was prepared without recordings")
    if not_finite:
        notes.append(f"{not_finite} of {images} generated images hold NaN or infinite values, and are left out")
    return notes


def describe(
    subject: Subject,
    judge: Extractor,
    world: World,
    n_real: int,
    n_held_out: int,
    images: int,
    runs: int,
    truncation: float | None,
    batch_norm: str,
    seed: int,
) -> Protocol:
    """The protocol of scores that were taken so."""
    accuracy, device = known_accuracy(judge), world.device
    alpha = 1.0 if truncation is None else truncation
    return Protocol(
        run=str(subject.run),
        step=subject.model.card.step,
        data=subject.training.fingerprint,
        held_out_data=subject.held_out.fingerprint if subject.held_out else None,
        val_folds=subject.val_folds,
        classes=len(subject.model.classes),
        extractor=judge.name,
        extractor_digest=judge.digest,
        extractor_accuracy=accuracy[0] if accuracy else None,
        resize=judge.resize,
        n_real=n_real,
        n_held_out=n_held_out,
        n_fake=images,
        runs=runs,
        truncation=alpha if subject.model.latent.kind == "normal" else None,
        batch_norm=batch_norm,
        weights="moving average",
        seed=seed,
        version=__version__,
        torch=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
