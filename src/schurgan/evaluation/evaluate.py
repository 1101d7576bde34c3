"""Scores of a run, or of one's own images, each beside what real images reach, and with what made it.

evaluation = schurgan.evaluate("runs/esc10", images=5000, runs=10)
evaluation.scores["fid"].value, evaluation.scores["fid"].floor       # RUN/scores.json, RUN/evaluation/nearest.png

scores = schurgan.evaluation.score(real, fake)                       # tensors, no run and no shards
scores["fid"].value, scores["fid"].floor
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError, enough_memory, writing
from schurgan.core.files import clear_leftovers
from schurgan.core.isolation import isolated
from schurgan.core.progress import Bar, Stages
from schurgan.core.tensors import state_digest
from schurgan.evaluation.comparison import Comparison, RunScores
from schurgan.evaluation.features.extractor import ClassifierExtractor, Extracted, Extractor, checked
from schurgan.evaluation.features.registry import check_extractor, open_extractor
from schurgan.evaluation.figures import save_nearest
from schurgan.evaluation.metric_table import IMAGE_METRICS, SOUND_METRICS, USEFULNESS_METRICS, take_scores
from schurgan.evaluation.metrics.checks import checked_features, checked_labels
from schurgan.evaluation.pace import expect
from schurgan.evaluation.score_sounds import measure_sounds
from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.evaluation.target import (
    BatchNorm,
    ImageSet,
    Sampling,
    Subject,
    extract,
    extract_generated,
    extract_real,
    name_run,
    open_subject,
)
from schurgan.evaluation.usefulness import QUICK, score_usefulness
from schurgan.runs.folder import RunFolder
from schurgan.version import __version__


@enough_memory("lower `images`")
@isolated
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
    """Take all scores of a run, and write them into its folder.

    Args:
        run: its folder.
        extractor: "classifier", "inception" or package.module:attribute, see `open_extractor`.
        images: generated images a run, with the class frequencies of the training clips.
        runs: times that as many are generated, for means and deviations; other scores are of the first.
        truncation: variance of the noise; 1 if not given.
        batch_norm: "standing", the statistics that were saved, or "batch", those of each batch of generated images.
        seed: the same seed gives the same scores.
        usefulness: also train classifiers on real and generated images, which takes minutes and needs held-out clips.
        quick: a rough look: 1,000 real images at most, classifiers trained a quarter as long, two of each kind for
            usefulness instead of five, and no sounds.
        data: where the shards are now, if they were moved.
        world: the processes that share the work, all of which call this; one alone if not given.

    Raises:
        SchurganError: something is missing, an option cannot be, or the generator gives nothing finite.
    """
    sampling = Sampling(images, runs, truncation, batch_norm, seed)
    check_extractor(extractor)
    world = world or World()
    subject = open_subject(run, data, world.device)
    subject.check_truncation(truncation)
    if usefulness and subject.held_out is None:
        raise SchurganError(
            f"usefulness: {subject.run} held out {subject.split}, and classifiers are tested on such clips;"
            " train with --train.val-folds or --train.val-fraction"
        )
    sounds = subject.recordings and not quick
    plan = partial(
        expect,
        subject,
        [name_run(number, runs) for number in range(runs)],
        images,
        world,
        classifier=extractor == "classifier",
        quick=quick,
        sounds=sounds,
        usefulness=usefulness,
    )
    with (
        world.lock(RunFolder(subject.run).evaluation),
        Stages("evaluate", plan, quiet=not world.is_main),
    ):
        judge = open_judge(subject, extractor, quick, world)
        real = extract_real(subject, subject.training, judge, world, seed, "training images", quick)
        held_out = None
        if subject.held_out is not None:
            held_out = extract_real(subject, subject.held_out, judge, world, seed, "held-out images", quick)
        generate = partial(extract_generated, subject, judge, world, sampling)
        fake = generate(0)
        sets = compare_sets(subject, judge, real, fake, held_out, (generate(number) for number in range(1, runs)), seed)
        with Bar("scores of images", quiet=not world.is_main):
            scores = take_scores(IMAGE_METRICS, sets)
        notes = _notes(subject, fake.not_finite, images)
        if sounds:
            try:
                scores |= score_sounds(subject, truncation, seed, world)
            except ValueError as error:
                notes.append(f"sounds were not scored: {error}")
        if usefulness:
            scores |= _score_usefulness(subject, truncation, seed, quick, world)
        protocol = describe(subject, judge, world, sampling, len(real), len(held_out or ()))
        evaluation = Evaluation(protocol, scores, tuple(notes))

        def write() -> None:
            folder = RunFolder(subject.run)
            clear_leftovers(subject.run)
            with writing(folder.scores):
                evaluation.save(folder.scores)
            with writing(folder.evaluation):
                save_nearest(folder.nearest, subject, fake, real, held_out)

        world.check(write)
    return evaluation


class Pixels:
    """An extractor that takes images (N, C, H, W), shrunk to 32 by 32 at most, as their own features."""

    name, resize = "pixels", "32x32 at most, means"
    digest = state_digest({}, "pixels/1")

    def __call__(self, images: Tensor) -> Extracted:
        """Extract features (N, C · 32 · 32 at most)."""
        small = F.adaptive_avg_pool2d(images.double(), (min(32, images.shape[2]), min(32, images.shape[3])))
        return checked(self.name, len(images), small.flatten(1).cpu(), None)


@enough_memory("give fewer images")
@isolated
def score(
    real: Tensor,
    fake: Tensor,
    *,
    real_labels: Tensor | Sequence[int] | None = None,
    fake_labels: Tensor | Sequence[int] | None = None,
    held_out: Tensor | None = None,
    held_out_labels: Tensor | Sequence[int] | None = None,
    extractor: Extractor | str | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Score one's own generated images against real ones: FID, KID, precision, recall, variety, ...

    Each score has `value`, and where they apply `floor`, the same of random halves of the real images, `matched`, the
    value at as many images as `floor`, and `held_out`.

    Args:
        real: images (N, C, H, W) in [−1, 1], or features (N, d).
        fake: generated images, or features, of the same shape but for their number.
        real_labels: classes (N,); without them all images are of one class.
        fake_labels: classes (M,).
        held_out: real images that the generator was not trained on, for `held_out` and memorisation.
        held_out_labels: their classes.
        extractor: of features from images: "inception", package.module:attribute or an Extractor. Without one the
            pixels themselves, shrunk to 32 by 32 at most.
        seed: of the random halves and subsets.

    Returns:
        Scores by name.

    Raises:
        SchurganError: an extractor that cannot be opened, or that is not for these images.
        ValueError: shapes or labels that do not fit, no two finite images, real images that are not finite.
    """
    labelled = {labels is not None for labels in (real_labels, fake_labels)}
    if held_out is not None:
        labelled.add(held_out_labels is not None)
    if len(labelled) > 1:
        raise ValueError("real_labels, fake_labels, held_out_labels: one is missing, all or none are needed")
    if isinstance(extractor, str):
        extractor = open_extractor(extractor)
    ours = _image_set("real", real, real_labels, real, extractor)
    theirs = _image_set("fake", fake, fake_labels, real, extractor)
    unseen = None if held_out is None else _image_set("held_out", held_out, held_out_labels, real, extractor)
    count = 0 if real_labels is None else 1 + max(int(each.labels.max()) for each in (ours, theirs))
    classes = tuple(str(c) for c in range(count))
    what = "features" if real.ndim == 2 else extractor.name if extractor else Pixels.name
    runs = (RunScores.of(ours, theirs, count),)
    return take_scores(IMAGE_METRICS, Comparison(ours, theirs, unseen, runs, classes, what, seed=seed))


def compare_sets(
    subject: Subject,
    judge: Extractor,
    real: ImageSet,
    fake: ImageSet,
    held_out: ImageSet | None,
    more: Iterable[ImageSet],
    seed: int,
) -> Comparison:
    """Set the first run of generated images, and what is taken of each of `more`, beside real ones."""
    classes = subject.model.classes
    runs = tuple(RunScores.of(real, images, len(classes)) for images in itertools.chain((fake,), more))
    return Comparison(real, fake, held_out, runs, classes, judge.name, _known_accuracy(judge), seed)


def open_judge(subject: Subject, name: str, quick: bool, world: World) -> Extractor:
    """The extractor, which one process trains if it must: always by one seed, so that evaluations by others compare."""

    def open_it() -> Extractor:
        with Bar("classifier", unit="step", quiet=not world.is_main) as bar:
            return open_extractor(
                name,
                subject.for_classifier,
                val_folds=subject.val_folds,
                quick=quick,
                device=world.device,
                progress=bar,
            )

    return world.in_turn(open_it)


def score_sounds(subject: Subject, truncation: float | None, seed: int, world: World) -> dict[str, Score]:
    """Scores of the sounds that a run makes. Raises SchurganError as `measure_sounds` does."""
    sounds = measure_sounds(subject.model, subject.training, subject.held_out, world, truncation=truncation, seed=seed)
    return take_scores(SOUND_METRICS, sounds)


def describe(
    subject: Subject, judge: Extractor, world: World, sampling: Sampling, n_real: int, n_held_out: int
) -> Protocol:
    """The protocol of scores that were taken so."""
    accuracy, device = _known_accuracy(judge), world.device
    alpha = 1.0 if sampling.truncation is None else sampling.truncation
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
        n_fake=sampling.images,
        runs=sampling.runs,
        truncation=alpha if subject.model.latent.kind == "normal" else None,
        batch_norm=sampling.batch_norm,
        weights="moving average",
        seed=sampling.seed,
        version=__version__,
        torch=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        held_out=subject.split,
    )


def _score_usefulness(
    subject: Subject, truncation: float | None, seed: int, quick: bool, world: World
) -> dict[str, Score]:
    """By the main process, which the others wait for: the trainings of a seed depend on one another."""
    scores: dict[str, Score] = {}

    def train() -> None:
        assert subject.held_out is not None
        with Bar("usefulness", unit="step", quiet=not world.is_main) as bar:
            result = score_usefulness(
                subject.model,
                subject.training,
                subject.held_out,
                truncation=truncation,
                seed=seed,
                device=world.device,
                progress=bar,
                **(QUICK if quick else {}),
            )
        scores.update(take_scores(USEFULNESS_METRICS, result))

    world.check(train)
    known = world.broadcast_object({name: score.as_json() for name, score in scores.items()})
    return {name: Score(**score | {"flags": tuple(score["flags"])}) for name, score in known.items()}


def _known_accuracy(judge: Extractor) -> tuple[float, tuple[float, ...]] | None:
    return (judge.trained.accuracy, judge.trained.per_class) if isinstance(judge, ClassifierExtractor) else None


def _image_set(
    name: str, images: Tensor, labels: Tensor | Sequence[int] | None, real: Tensor, extractor: Extractor | None
) -> ImageSet:
    """`images`, or features, checked to be of the shape of `real`, and what is computed of each."""
    if images.ndim not in (2, 4) or images.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"{name}: shape {tuple(images.shape)} given; images (N, C, H, W) or features (N, d) of one shape are needed"
        )
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    classes = checked_labels(f"{name}_labels", labels, len(images))
    if images.ndim == 2:
        features = checked_features(name, images, 2)
        return ImageSet(classes, features, None, torch.empty(0), features, features)

    def take(rows: slice) -> Tensor:
        return images[rows].detach().cpu().float()

    result = extract(take, classes, extractor or Pixels(), World(), name, thumbnails=True)
    if len(result) < 2 or (result.not_finite and name != "fake"):
        raise ValueError(f"{name}: {result.not_finite} of {len(images)} images hold NaN or infinite values")
    return result


def _notes(subject: Subject, not_finite: int, images: int) -> list[str]:
    notes = []
    if subject.held_out is None:
        unknown = "what unseen recordings would score is not known, and copies of training images can hardly be told"
        notes.append(f"the run held out {subject.split}: {unknown}")
    if not subject.model.pictures and not subject.recordings:
        notes.append("sounds were not scored: the data was prepared without recordings")
    if not_finite:
        notes.append(f"{not_finite} of {images} generated images hold NaN or infinite values, and are left out")
    return notes
