"""What is evaluated: the model of a run, its clips, and what is computed of each image once."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.core.isolation import seeded
from schurgan.core.progress import Bar
from schurgan.data.codec import Codec, same_levels
from schurgan.data.shards import Shards, describe_split, held_out_folds, split
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.frechet import Gaussian
from schurgan.model import Model, load
from schurgan.normality import departure_from_normality
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder

CHUNK = 64
MOST_REAL, QUICK_REAL = 50_000, 1000
SEEDS = 2**31
_MOST_IMAGES, _MOST_RUNS = 1_000_000, 100
_THUMBNAIL = 32
_KEPT_PIXELS = 2**24

BatchNorm = Literal["standing", "batch"]


@dataclass(frozen=True)
class Sampling:
    """How images are generated. Raises SchurganError for what cannot be."""

    images: int  # a run
    runs: int = 1  # times that as many are generated
    truncation: float | None = None  # variance of the noise; 1 if not given
    batch_norm: BatchNorm = "standing"
    """"standing": the statistics that were saved; "batch": those of each batch of generated images."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("images", self.images, 2, _MOST_IMAGES),
            ("runs", self.runs, 1, _MOST_RUNS),
            ("seed", self.seed, 0, SEEDS - 1),
        ):
            if not least <= value <= most:
                raise SchurganError(f"{name}: {value} given, a whole number from {least} to {most} is needed")
        if self.batch_norm not in ("standing", "batch"):
            raise SchurganError(f'batch_norm: "{self.batch_norm}" given, "standing" or "batch" is needed')


@dataclass(frozen=True)
class Subject:
    """A run and its data. Altered copies of clips are in `shards` alone: references are recordings as they were."""

    run: Path
    config: Config
    model: Model
    shards: Shards
    training: Shards
    held_out: Shards | None  # None where the run left out none
    codec: Codec
    """Of the shards; a run may give its images other channels or a colour map."""

    @property
    def val_folds(self) -> tuple[int, ...]:
        """The folds that the run left out."""
        return held_out_folds(self.shards, self.config.train.val_folds, self.config.train.val_fraction)

    @property
    def for_classifier(self) -> Shards:
        """What a classifier that judges the run is trained on and, its held-out folds, tested on."""
        return self.shards if self.val_folds else self.training

    @property
    def split(self) -> str:
        """What the run held out, in words."""
        return describe_split(self.shards, self.held_out, self.config.train.val_folds, self.config.train.val_fraction)

    @property
    def recordings(self) -> bool:
        """Whether sounds can be compared: of pictures and of sets without recordings they cannot."""
        return not self.model.pictures and all(shard.audio is not None for shard in self.shards.manifest.shards)

    def prepared(self, images: Tensor) -> Tensor:
        """Generated images (N, C, R, R) as they would lie in the shards, (N, planes, R, R)."""
        images = self.codec.apply_colormap(self.model.codec.invert_colormap(images))
        return images[:, : self.shards.planes]

    def real(self, shards: Shards, clips: Tensor) -> Tensor:
        """Images (N, planes, R, R) of `clips` (N,) of a selection of the shards."""
        return shards.images(clips.numpy())[:, : self.shards.planes]

    def labels(self, count: int, seed: int) -> Tensor:
        """Classes (count,) with the training clips' frequencies, as near as whole numbers allow, in a drawn order."""
        clips = torch.bincount(torch.from_numpy(self.training.labels), minlength=len(self.model.classes))
        wanted = clips.double() * count / clips.sum()
        counts = wanted.floor().long()
        left = count - int(counts.sum())
        counts[(counts - wanted).sort(stable=True).indices[:left]] += 1
        labels = torch.repeat_interleave(counts)
        return labels[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]

    def check_truncation(self, truncation: float | None) -> None:
        """Raise SchurganError for a truncation that the model's noise cannot have."""
        try:
            self.model.latent.sample(1, torch.Generator(), truncation)
        except ValueError as error:
            raise SchurganError(str(error)) from None

    def generator(self, sampling: Sampling, seed: int) -> tuple[Tensor, Callable[[slice], Tensor]]:
        """Labels (images,), and a function that makes the prepared images of some of them.

        The noise is drawn for all at once, so that it does not depend on which of them are asked for.
        """
        labels = self.labels(sampling.images, seed)
        z = self.model.latent.sample(sampling.images, torch.Generator().manual_seed(seed), sampling.truncation)
        network = self.model.generator
        if sampling.batch_norm == "batch":
            network = copy.deepcopy(network)
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        device = next(network.parameters()).device

        @torch.no_grad()
        def make(rows: slice) -> Tensor:
            with seeded(seed + rows.start, device):  # for networks that draw noise of their own
                images = network(z[rows].to(device), labels[rows].to(device))
            return self.prepared(images.float().cpu().contiguous())

        return labels, make


def open_subject(run: str | Path, data: str | Path | None = None, device: str | torch.device = "cpu") -> Subject:
    """Open the model of a run and its data, or that in the folder `data` if it was moved.

    Raises SchurganError where the folder is no run, has no generator yet, or its data is gone or other data.
    """
    run = Path(run)
    config, model = RunFolder(run).read_config(), load(run, str(device))
    shards = model.open_data(data, config.data)
    training, held_out = split(shards, config.train.val_folds, config.train.val_fraction)
    return Subject(run, config, model, shards, training.select(augmented=False), held_out, shards.codec)


def check_fits(model: Model, shards: Shards) -> None:
    """Raise SchurganError unless the shards are of the model's classes and transform.

    A run chooses its own channels and colour map, which the images of shards need not have.
    """
    if shards.classes != model.classes or not same_levels(shards.codec, model.codec):
        raise SchurganError(f"{shards.folder}: holds other classes or images than the model was trained on")


def check_apart(model: Model, training: Shards, held_out: Shards) -> None:
    """Raise SchurganError unless both fit the model and no recording is in both."""
    for shards in (training, held_out):
        check_fits(model, shards)
    ours, theirs = (
        {parent or origin for origin, parent in zip(shards.origins, shards.parents, strict=True)}
        for shards in (training, held_out)
    )
    if both := ours & theirs:
        raise SchurganError(
            f"held_out: {len(both)} of its clips are among those of training, such as {min(both)}; choose other folds"
        )


@dataclass(frozen=True)
class ImageSet:
    """What metrics are taken from, of N finite images. Features, probabilities and departures are float64."""

    labels: Tensor  # (N,)
    features: Tensor  # (N, d)
    probabilities: Tensor | None  # (N, K)
    departures: Tensor
    """Δ² (N,) of the pixels in [0, 1], exact; mean over channels. Empty where not computed."""
    thumbnails: Tensor
    """(n, t): channels' mean, shrunk to 32 by 32 at most; of all N real images, and of those in `images`."""
    images: Tensor  # the first n (n, C, R, R)
    not_finite: int = 0  # images left out
    clips: Tensor | None = None  # of real images, which of a selection they are (N,)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Fitted to the features."""
        return Gaussian.fit(self.features)


def extract_real(
    subject: Subject, shards: Shards, extractor: Extractor, world: World, seed: int, what: str, quick: bool = False
) -> ImageSet:
    """Clips of a selection, in an order drawn by `seed`: at most 50,000 of them, `quick` 1,000."""
    clips = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed))
    clips = clips[: QUICK_REAL if quick else MOST_REAL]
    labels = torch.from_numpy(np.asarray(shards.labels))[clips]
    images = extract(lambda rows: subject.real(shards, clips[rows]), labels, extractor, world, what, thumbnails=True)
    if images.not_finite:
        raise SchurganError(
            f"{shards.folder}: {images.not_finite} of its images are not finite; prepare the data again"
        )
    return replace(images, clips=clips)


def name_run(number: int, runs: int) -> str:
    """What the bar of a run of generated images is called."""
    return f"generated images, run {number + 1} of {runs}"


def extract_generated(
    subject: Subject, extractor: Extractor, world: World, sampling: Sampling, number: int = 0, what: str = ""
) -> ImageSet:
    """Run `number` of generated images, with the class frequencies of the training clips.

    Of the first, 0, everything is computed; of others features and probabilities alone. Raises SchurganError where no
    two images are finite.
    """
    labels, make = subject.generator(sampling, (sampling.seed + number) % SEEDS)
    what = what or name_run(number, sampling.runs)
    images = extract(make, labels, extractor, world, what, whole=number == 0)
    if len(images) < 2:
        raise SchurganError(
            f"{subject.run}: {images.not_finite} of {sampling.images} generated images hold NaN or infinite values, two"
            " finite ones are needed for any score; sample from a checkpoint before the run broke"
        )
    return images


def extract(
    take: Callable[[slice], Tensor],
    labels: Tensor,
    extractor: Extractor,
    world: World,
    what: str,
    *,
    thumbnails: bool = False,
    whole: bool = True,
) -> ImageSet:
    """Compute an ImageSet, a chunk at a time, shared among processes.

    `take` returns the images of some rows; `what` they are is for the progress bar and errors. `thumbnails` are kept of
    all images, else of the first alone; without `whole` there are features and probabilities alone.
    """
    parts = chunks(len(labels))

    def work(number: int) -> tuple[Tensor, ...]:
        rows = parts[number]
        images = take(rows)
        finite = images.isfinite().flatten(1).all(1)
        # Zeros stand for what is not finite, so that all chunks have as many rows; they are left out below.
        features, probabilities = extractor(images.where(finite.view(-1, *[1] * (images.ndim - 1)), 0))
        # 1,000 whole images are kept, of large ones fewer, so that they take 64 MB at most (float32).
        keep = max(CHUNK, min(1000, _KEPT_PIXELS // images[0].numel())) if whole else 0
        first = images[: max(0, keep - rows.start)]
        departures = nothing = torch.empty(len(images), 0)
        if whole and images.shape[-2] == images.shape[-1]:
            departures = departure_from_normality((images.double() + 1) / 2, "exact", channels="mean").cpu()[:, None]
        small = shrink(images if thumbnails else first)
        return finite, features, nothing if probabilities is None else probabilities, departures, small, first

    try:
        with Bar(what, unit="chunk", quiet=not world.is_main) as bar:
            finite, features, probabilities, departures, small, images = world.share(len(parts), work, bar)
    except SchurganError:
        raise
    except ValueError as error:  # images that the extractor is not for, or a user's own that returns something else
        raise SchurganError(f"{what}: {error}") from error
    return ImageSet(
        labels[finite],
        features[finite],
        probabilities[finite] if probabilities.shape[1] else None,
        departures[finite].flatten(),
        small[finite[: len(small)]],
        images[finite[: len(images)]],
        int((~finite).sum()),
    )


def shrink(images: Tensor) -> Tensor:
    """Thumbnails of 32 by 32 at most, in which copies are looked for: images (N, C, R, R) -> rows (N, 1024)."""
    return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), min(_THUMBNAIL, images.shape[-1])).flatten(1)


def chunks(count: int, size: int = CHUNK) -> list[slice]:
    """0 … count − 1 in as few chunks of at most `size` as there can be, of almost equal length."""
    edges = torch.linspace(0, count, -(-count // size) + 1, dtype=torch.float64).round().int().tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
