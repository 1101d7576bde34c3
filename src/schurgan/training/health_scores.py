"""Scores that are cheap enough to take while a run trains, to watch it for collapse.

Latents and classes are the same every time, so that only the networks change. The networks are copied: the run goes on
as if no score had been taken.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.core.distributed import current_world
from schurgan.core.isolation import seeded
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.frechet import Gaussian, frechet_distance
from schurgan.evaluation.metrics.variety import variety, vendi_score
from schurgan.networks import Latent
from schurgan.networks.batch_norm import local_statistics

Labelled = tuple[Tensor, Tensor]
_CHUNK = 64
_MOST_REAL = 2000


class HealthScores:
    """Scores of generated images against the real images of a run.

    Generated images are of the classes of `train`, each equally often, in chunks of at most 64 that mix the classes.
    Generators run with batch norm in training mode, on the statistics of each chunk, as D met their images in training;
    all else is in eval mode. Of more than 2,000 real images a part that `seed` draws is used. Several processes share
    the chunks, and all get the main process's scores, which are those of a single process.

    Args:
        train: images (N, C, H, W) in [−1, 1] that were trained on, and their labels (N,).
        held_out: images and labels that were not trained on.
        extractor: gives the features of the Fréchet distance.
        images: number of generated images, two of each class or more.
        boundary: score above which D says "real", None where it has none.
        seed: of the latents and of the order of real images.
    """

    def __init__(
        self,
        train: Labelled,
        held_out: Labelled | None = None,
        *,
        extractor: Extractor | None = None,
        images: int = 1000,
        boundary: float | None = 0.0,
        seed: int = 0,
    ) -> None:
        real, labels = _shuffled(*train, seed)
        classes, counts = labels.unique(return_counts=True)
        self.extractor, self.boundary, self.seed = extractor, boundary, seed
        self.labels = classes[torch.arange(images) % len(classes)]
        self._chunks = _chunks(images)
        # Of a class with one real image nothing is known of how different its images are.
        self._compared = torch.isin(self.labels, classes[counts > 1])
        self._variety = variety(real, labels) if (counts > 1).any() else 0.0
        if extractor is not None:
            features = torch.cat([extractor(part).features for part in real.split(256)])
            self._real_features = Gaussian.fit(features)
            self._floor = self._distance_of_copies(features, labels)
        self._sets = {"train": (real[:images].clone(), labels[:images])}
        self._real_vendi = self._vendi(real[:images]) if self._variety > 0 else 0.0
        if held_out is not None:
            unseen, their_labels = _shuffled(*held_out, seed)
            self._sets["held_out"] = (unseen[:images].clone(), their_labels[:images])

    @torch.no_grad()
    def __call__(
        self, generator: nn.Module, average: nn.Module | None, discriminator: nn.Module | None, latent: Latent
    ) -> dict[str, float]:
        """Score the networks of a run: G(z, labels), its moving average and D(images, labels).

        Returns:
            Scores by name. One is absent where it cannot be known: without an extractor, an average, a D, a boundary
            or held-out images, and where real images do not differ. It is NaN where a network gave NaN or infinity.

            frechet, frechet_ema: Fréchet distance to `train` of the generator's images, and of its average's.
            frechet_floor: that of as many real images of `train`, drawn with replacement.
            variety: mean distance of two images of a class, over that of real ones.
            variety_batch: effective number of different images in a chunk (`vendi_score`), over that of real ones.
            accuracy_d: mean of the shares of real and of generated images that D tells right.
            held_out: (E D(train) − E D(held out)) / (E D(train) − E D(generated)), each class counted alike: 0 where
                D has not overfitted, over ½ where an image that it never saw seems rather generated. Absent where D
                does not tell `train` from generated images by two standard errors.
        """
        device = next(generator.parameters()).device
        z = latent.sample(len(self.labels), torch.Generator().manual_seed(self.seed), device=device)
        images, features = self._generate(generator, z)
        scores: dict[str, float] = {}
        if self.extractor is not None:
            scores |= {"frechet_floor": self._floor, "frechet": self._distance(features)}
            if average is not None:
                scores["frechet_ema"] = self._distance(self._generate(average, z)[1])
        if self._variety > 0:
            scores |= {"variety": math.nan, "variety_batch": math.nan}
            if images.isfinite().all():
                scores["variety"] = variety(images[self._compared], self.labels[self._compared]) / self._variety
                scores["variety_batch"] = self._vendi(images) / self._real_vendi
        if discriminator is not None:
            scores |= self._score_discriminator(discriminator, images)
        # The main process's scores: where the last bits differed, processes would decide differently.
        result: dict[str, float] = current_world().broadcast_object(scores)
        return result

    def _generate(self, network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images of z, and their features (no columns without an extractor), on the CPU."""
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()

        def generate(number: int) -> tuple[Tensor, Tensor]:
            chunk = self._chunks[number]
            with seeded(self.seed + number, z.device):  # for networks that draw noise of their own
                images = network(z[chunk], self.labels[chunk].to(z.device)).float().cpu()
            if self.extractor is None:
                return images, torch.empty(len(images), 0)
            if not images.isfinite().all():
                return images, torch.full((len(images), len(self._real_features.mean)), math.nan)
            return images, self.extractor(images).features

        with local_statistics(network):
            images, features = current_world().share(len(self._chunks), generate)
        return images, features

    def _vendi(self, images: Tensor) -> float:
        """Mean over chunks of `vendi_score`, as a share of the chunk's images."""
        chunks = [images[chunk] for chunk in self._chunks if len(images[chunk])]
        return sum(vendi_score(chunk, self._variety) / len(chunk) for chunk in chunks) / len(chunks)

    def _distance(self, features: Tensor) -> float:
        return frechet_distance(self._real_features, features) if features.isfinite().all() else math.nan

    def _distance_of_copies(self, features: Tensor, labels: Tensor) -> float:
        """Fréchet distance of a generator that copies a training image, drawn by chance, for each that is asked for."""
        generator = torch.Generator().manual_seed(self.seed)
        of_class = {int(c): (labels == c).nonzero()[:, 0] for c in labels.unique()}
        rows = [of_class[int(c)][torch.randint(len(of_class[int(c)]), (1,), generator=generator)] for c in self.labels]
        return frechet_distance(self._real_features, features[torch.cat(rows)])

    def _score_discriminator(self, discriminator: nn.Module, images: Tensor) -> dict[str, float]:
        """The scores accuracy_d and held_out; a chunk at a time, as eval mode keeps images apart."""
        network = copy.deepcopy(discriminator).eval()
        sets = self._sets | {"fake": (images, self.labels)}
        work = [(name, chunk) for name, (rows, _) in sets.items() for chunk in _chunks(len(rows))]
        device = next(discriminator.parameters()).device

        def score(number: int) -> tuple[Tensor]:
            name, chunk = work[number]
            rows, labels = sets[name]
            logits: Tensor = network(rows[chunk].to(device), labels[chunk].to(device))
            return (logits.double().cpu().flatten(),)

        (logits,) = current_world().share(len(work), score)
        of_set = dict(zip(sets, logits.split([len(rows) for rows, _ in sets.values()]), strict=True))
        finite = bool(logits.isfinite().all())
        scores: dict[str, float] = {}
        if self.boundary is not None:
            right = [of_set["train"] > self.boundary, of_set["fake"] < self.boundary]
            scores["accuracy_d"] = sum(r.double().mean().item() for r in right) / 2 if finite else math.nan
        if "held_out" in sets:
            labels = {name: labels for name, (_, labels) in sets.items()}
            ratio = _held_out_ratio(of_set, labels) if finite else math.nan
            scores |= {} if ratio is None else {"held_out": ratio}
        return scores


def _held_out_ratio(scores: dict[str, Tensor], labels: dict[str, Tensor]) -> float | None:
    """`held_out` of `HealthScores`, over the classes that every set has; None where D tells too little apart."""
    common = [c for c in labels["held_out"].unique() if all((of_set == c).any() for of_set in labels.values())]
    if not common:
        return None
    train, held_out, fake = (
        torch.stack([scores[name][labels[name] == c].mean() for c in common]).mean()
        for name in ("train", "held_out", "fake")
    )
    error = sum((scores[name].var() / len(scores[name]) for name in ("train", "fake")), torch.zeros(())).sqrt()
    lead = train - fake
    return ((train - held_out) / lead).item() if lead > 2 * error else None


def _shuffled(images: Tensor, labels: Tensor, seed: int) -> Labelled:
    """Images and labels in an order drawn by `seed`, at most 2,000 of them."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:_MOST_REAL]
    return images.float()[order], labels[order]


def _chunks(count: int) -> list[slice]:
    """Split 0 … count − 1 into the fewest chunks of at most 64, of almost equal length, so that none is too small."""
    edges = torch.linspace(0, count, -(-count // _CHUNK) + 1, dtype=torch.float64).round().int().tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
