"""Scores that are cheap enough to be taken while a run trains, for whoever watches it for collapse.

    scores = HealthScores(shards.select(exclude_folds=[5]), shards.select(folds=[5]), extractor=extractor)
    ...
    monitor.update(step, **scores(trainer.generator, trainer.generator_ema, trainer.discriminator, trainer.latent))

The same latents and classes every time, so that what changes is the networks. All of it happens to copies: the run goes
on as if nobody had looked.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.core.distributed import current_world
from schurgan.data.shards import Shards
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.checks import checked_labels
from schurgan.evaluation.metrics.frechet import Gaussian, frechet_distance
from schurgan.evaluation.metrics.variety import variety, vendi_score
from schurgan.networks import Latent
from schurgan.networks.batch_norm import local_statistics

Labelled = tuple[Tensor, Tensor]
Result = TypeVar("Result")
_CHUNK = 64
_MOST_REAL = 2000


class HealthScores:
    """Scores of `images` generated images, against the real images `train` of a run and perhaps some `held_out`.

    Real images are `Shards`, or images (N, C, H, W) in [−1, 1] with labels (N,); of more than 2,000 a part that `seed`
    draws is used. Generated ones are of the classes of `train`, each equally often, in chunks of at most 64 that mix
    the classes. Generators run with batch norm in training mode, on the statistics of each chunk, as D met their images
    in training; all else is in eval mode. `boundary` is the score above which D says "real", None where it has none.

    Within torch.distributed every process makes, on networks that are equal everywhere, its share of the chunks, and
    the first one's scores are everybody's: those of a single process.

    Raises ValueError for fewer than two real images, labels that do not fit them, NaN or infinite values, held-out
    images of another shape, and fewer generated images than two of each class.
    """

    def __init__(
        self,
        train: Shards | Labelled,
        held_out: Shards | Labelled | None = None,
        *,
        extractor: Extractor | None = None,
        images: int = 1000,
        boundary: float | None = 0.0,
        seed: int = 0,
    ) -> None:
        real, labels = _take("train", train, seed)
        classes, counts = labels.unique(return_counts=True)
        if len(real) < 2:
            raise ValueError(f"train: {len(real)} images given, 2 or more are needed")
        if images < 2 * len(classes):
            raise ValueError(f"images: {images} given, {2 * len(classes)} or more are needed, two of each class")
        self.extractor, self.boundary, self.seed = extractor, boundary, seed
        self.labels = classes[torch.arange(images) % len(classes)]
        self._chunks = _chunks(images)
        # Of a class with one real image nothing is known of how different its images are.
        self._compared = torch.isin(self.labels, classes[counts > 1])
        self._variety = variety(real, labels) if (counts > 1).any() else 0.0
        self._floor = 0.0
        if extractor is not None:
            features = torch.cat([extractor(part).features for part in real.split(256)])
            self._real_features = Gaussian.fit(features)
            self._floor = self._copies(features, labels, seed)
        self._train = (real[:images].clone(), labels[:images])
        self._real_kinds = self._kinds(self._train[0]) if self._variety > 0 else 0.0
        self._held_out: Labelled | None = None
        if held_out is not None:
            unseen, their_labels = _take("held_out", held_out, seed)
            if unseen.shape[1:] != real.shape[1:]:
                there = f"{tuple(unseen.shape[1:])} given, {tuple(real.shape[1:])}"
                raise ValueError(f"held_out: images of {there} as in train is needed")
            self._held_out = (unseen[:images].clone(), their_labels[:images])

    @torch.no_grad()
    def __call__(
        self, generator: nn.Module, average: nn.Module | None, discriminator: nn.Module | None, latent: Latent
    ) -> dict[str, float]:
        """Networks G(z, labels) and D(images, labels), on one device, and what z is drawn from  ->  scores by name:

        frechet, frechet_ema   Fréchet distance of the generator's, and of its average's, images to those of `train`
        frechet_floor          that of as many real images of `train`, drawn with replacement
        variety                mean distance of two images of a class, over that of real ones
        variety_batch          effective number of different images in a chunk (`vendi_score`), over that of real
        accuracy_d             share of images that D takes for what they are, of real and generated ones alike
        held_out               (E D(train) − E D(held out)) / (E D(train) − E D(fake)), each class counted alike: 0
                               where D knows no training image by heart, over ½ where an unseen one seems rather fake

        A key is absent where it cannot be known: without an extractor, an average, a D, a boundary or held-out images;
        where real images do not differ; and `held_out` where D does not tell `train` from fakes by two standard errors.
        A value is NaN where a network gave NaN or infinite values.
        """
        device = next(generator.parameters()).device
        z = latent.sample(len(self.labels), torch.Generator().manual_seed(self.seed), device=device)
        made = self._generate(generator, z)
        images = torch.cat([part for part, _ in made])
        scores = {}
        if self.extractor is not None:
            scores["frechet_floor"] = self._floor
            scores["frechet"] = self._frechet([features for _, features in made])
            if average is not None:
                scores["frechet_ema"] = self._frechet([features for _, features in self._generate(average, z)])
        if self._variety > 0:
            known = bool(images.isfinite().all())
            share = variety(images[self._compared], self.labels[self._compared]) / self._variety if known else math.nan
            kinds = self._kinds(images) / self._real_kinds if known else math.nan
            scores |= {"variety": share, "variety_batch": kinds}
        if discriminator is not None:
            scores |= self._judge(discriminator, images)
        # The main process's scores: where the last bits differed, processes would decide differently.
        result: dict[str, float] = current_world().broadcast_object(scores)
        return result

    def _generate(self, network: nn.Module, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Images of every chunk, and their features (none without an extractor), on the CPU."""
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()

        def make(number: int) -> tuple[Tensor, Tensor]:
            chunk = self._chunks[number]
            _seed(self.seed + number, z.device)  # for networks that draw noise of their own
            images = network(z[chunk], self.labels[chunk].to(z.device)).float().cpu()
            if self.extractor is None:
                return images, torch.empty(len(images), 0)
            if not images.isfinite().all():
                return images, torch.full((len(images), len(self._real_features.mean)), math.nan)
            return images, self.extractor(images).features

        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []), local_statistics(network):
            images, features = current_world().share(len(self._chunks), make)
        sizes = [chunk.stop - chunk.start for chunk in self._chunks]
        return list(zip(images.split(sizes), features.split(sizes), strict=True))

    def _kinds(self, images: Tensor) -> float:
        """Mean of `vendi_score` over chunks, of their images as a share of what is there."""
        chunks = [images[chunk] for chunk in self._chunks if len(images[chunk])]
        return sum(vendi_score(chunk, self._variety) / len(chunk) for chunk in chunks) / len(chunks)

    def _copies(self, features: Tensor, labels: Tensor, seed: int) -> float:
        """Fréchet distance of a generator that copies training images, one by chance for each that is asked for."""
        generator = torch.Generator().manual_seed(seed)
        of_class = {int(c): (labels == c).nonzero()[:, 0] for c in labels.unique()}
        rows = [of_class[int(c)][torch.randint(len(of_class[int(c)]), (1,), generator=generator)] for c in self.labels]
        return frechet_distance(self._real_features, features[torch.cat(rows)])

    def _frechet(self, features: list[Tensor]) -> float:
        if not all(part.isfinite().all() for part in features):
            return math.nan
        return frechet_distance(self._real_features, torch.cat(features))

    def _judge(self, discriminator: nn.Module, images: Tensor) -> dict[str, float]:
        """Scores of D; a chunk at a time, as no image's score depends on the others in eval mode."""
        network = copy.deepcopy(discriminator).eval()
        sets = {"train": self._train, "fake": (images, self.labels)}
        if self._held_out is not None:
            sets["held_out"] = self._held_out
        work = [(name, chunk) for name, (rows, _) in sets.items() for chunk in _chunks(len(rows))]
        device = next(discriminator.parameters()).device

        def score(number: int) -> tuple[Tensor]:
            name, chunk = work[number]
            rows, labels = sets[name]
            given: Tensor = network(rows[chunk].to(device), labels[chunk].to(device))
            return (given.double().cpu().flatten(),)

        (scored,) = current_world().share(len(work), score)
        parts = scored.split([chunk.stop - chunk.start for _, chunk in work])
        found = {name: torch.cat([p for p, (of, _) in zip(parts, work, strict=True) if of == name]) for name in sets}
        finite = all(values.isfinite().all() for values in found.values())
        scores: dict[str, float] = {}
        if self.boundary is not None:
            right = [found["train"] > self.boundary, found["fake"] < self.boundary]
            scores["accuracy_d"] = sum(r.double().mean().item() for r in right) / 2 if finite else math.nan
        if self._held_out is not None:
            ratio = _held_out_ratio(found, {name: labels for name, (_, labels) in sets.items()}) if finite else math.nan
            scores |= {} if ratio is None else {"held_out": ratio}
        return scores


def _held_out_ratio(scores: dict[str, Tensor], labels: dict[str, Tensor]) -> float | None:
    """`held_out` of `HealthScores`, over the classes that every set has; None where D tells too little apart."""
    common = [c for c in labels["held_out"].unique() if all((there == c).any() for there in labels.values())]
    if not common or min(len(scores["train"]), len(scores["fake"])) < 2:
        return None
    train, held_out, fake = (
        torch.stack([scores[name][labels[name] == c].mean() for c in common]).mean()
        for name in ("train", "held_out", "fake")
    )
    error = sum((scores[name].var() / len(scores[name]) for name in ("train", "fake")), torch.zeros(())).sqrt()
    lead = train - fake
    return ((train - held_out) / lead).item() if lead > 2 * error else None


def _take(name: str, source: Shards | Labelled, seed: int) -> Labelled:
    """Images and labels of `source` in an order drawn by `seed`, at most 2,000 of them, on the CPU."""
    count = len(source) if isinstance(source, Shards) else len(source[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_MOST_REAL]
    if isinstance(source, Shards):
        return source.images(order.numpy()), torch.from_numpy(source.labels)[order]
    images, labels = source
    if images.ndim != 4 or not count:
        raise ValueError(f"{name}: shape {tuple(images.shape)} given, (N, C, H, W) with images in it is needed")
    labels = checked_labels(f"{name} labels", labels, count)
    images = images.detach().cpu().float()[order]
    wrong = int((~images.isfinite()).flatten(1).any(1).sum())
    if wrong:
        raise ValueError(f"{name}: {wrong} of {len(images)} images hold NaN or infinite values")
    return images, labels[order]


def _chunks(count: int) -> list[slice]:
    """0 … count − 1 in as few chunks of at most 64 as there can be, of almost equal length: none is too small."""
    edges = torch.linspace(0, count, -(-count // _CHUNK) + 1, dtype=torch.float64).round().int().tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _seed(seed: int, device: torch.device) -> None:
    """Of the CPU's and the device's random numbers alone: `torch.manual_seed` would touch every GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
