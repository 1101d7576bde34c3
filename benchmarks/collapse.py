"""A GAN small enough to collapse within a minute, with one kind of DDFN or another: which trains best?

    python benchmarks/collapse.py --data build/esc10-16 --images 150 --variants none,signed,unit --seeds 3

The networks are small-16 without spectral normalisation, D half as wide again as G, two steps of D for one of G and a
high learning rate, so that D learns a few images by heart. Distances are Fréchet distances over 64 features of a small
classifier of the real training images, of 1,000 samples of the averaged generator to all real training images. A run
counts as collapsed from where the raw generator's is more than twice its best for three evaluations in a row; variety
is the mean distance of two samples of a class, in pixels, over that of real images. `--images 0` takes all of them,
`--plain` gentler settings under which nothing collapses.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from schurgan.data.shards import Shards
from schurgan.evaluation.classifier import Classifier, train_classifier
from schurgan.networks import Discriminator, Generator, Latent
from schurgan.normality import DDFN
from schurgan.training.ema import EMA
from schurgan.training.losses import LOSSES

COMMON = {"relative_epsilon": 0.02, "weight": 3.0, "estimator": "exact", "decay": 0.9}
SOFT = {"relative_epsilon": 0.1, "weight": 0.3}
VARIANTS: dict[str, dict[str, object] | None] = {
    "none": None,
    "signed": COMMON | {"scaling": "signed"},
    "unit": COMMON | {"scaling": "unit"},
    "signed soft": COMMON | SOFT | {"scaling": "signed"},
    "unit soft": COMMON | SOFT | {"scaling": "unit"},
    "hybrid": COMMON | {"estimator": "hybrid"},
    "perron": COMMON | {"estimator": "perron"},
    "asymmetry": COMMON | {"estimator": "asymmetry"},
    "moments": COMMON | {"estimator": "moments"},
    "per class": COMMON | {"per_class": True},
    "unit per class": COMMON | {"per_class": True, "scaling": "unit"},
    "quadratic": COMMON | {"penalty": "quadratic", "weight": 60.0},
    "augmented": COMMON | {"penalty": "augmented"},
}
EVALUATE = 50


def features(network: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        network.eval()
        return F.relu(network.norm(network.blocks(network.stem(images)))).mean((2, 3)).double()


def frechet(a: Tensor, b: Tensor) -> float:
    (ma, ca), (mb, cb) = ((x.mean(0).numpy(), np.cov(x.numpy().T)) for x in (a, b))
    root = scipy.linalg.sqrtm(ca @ cb)
    return float(((ma - mb) ** 2).sum() + np.trace(ca + cb - 2 * np.real(root)))


def variety(images: Tensor, labels: Tensor) -> float:
    """Mean distance of two images of the same class, over the classes."""
    each = [F.pdist(images[labels == c].flatten(1)).mean() for c in labels.unique() if (labels == c).sum() > 1]
    return float(torch.stack(each).mean())


class Bed:
    """The real images, and what judges generated ones."""

    def __init__(self, data: Path, images: int) -> None:
        shards = Shards(data)
        folds = {fold for fold in shards.folds if fold is not None}
        self.shards = shards.select(exclude_folds=[max(folds)]) if folds else shards
        self.classifier = train_classifier(shards, epochs=30).network
        self.labels = torch.from_numpy(self.shards.labels)
        self.all = self.shards.images(np.arange(len(self.shards)))
        self.real = features(self.classifier, self.all)
        self.chosen = self._choose(images)
        self.floor = self._floor(shards, folds)
        self.variety = variety(self.all, self.labels)

    def _choose(self, images: int) -> np.ndarray:
        """The first images of every class, `images` in all."""
        if not images:
            return np.arange(len(self.shards))
        per_class = images // len(self.shards.classes)
        return np.concatenate([np.flatnonzero(self.shards.labels == c)[:per_class] for c in np.unique(self.labels)])

    def _floor(self, shards: Shards, folds: set[int]) -> float:
        """Distance of the real images that were held out."""
        if not folds:
            return float("nan")
        held = [i for i, fold in enumerate(shards.folds) if fold == max(folds)]
        return frechet(features(self.classifier, shards.images(held)), self.real)


def run(bed: Bed, variant: dict[str, object] | None, seed: int, steps: int, plain: bool) -> dict[str, float]:
    torch.manual_seed(seed)
    classes, batch = len(bed.shards.classes), 32 if plain else 16
    generator = Generator.from_preset("small-16", classes=classes, channels=1)
    discriminator = Discriminator.from_preset(
        "small-16", classes=classes, channels=1, width=16 if plain else 24, spectral_norm=False
    )
    average = copy.deepcopy(generator)
    ema = EMA(generator, average, 0.995)
    latent, loss = Latent(generator.latent_dim), LOSSES["hinge"]
    rates = (1.5e-3, 1.5e-3) if plain else (1e-3, 2e-3)
    optimizer_g, optimizer_d = (
        torch.optim.Adam(network.parameters(), rate, betas=(0.0, 0.9), eps=1e-6, fused=True)
        for network, rate in zip((generator, discriminator), rates, strict=True)
    )
    images, labels = bed.all[bed.chosen], bed.labels[bed.chosen]
    constraint = DDFN(**variant) if variant else None  # type: ignore[arg-type]
    watch = constraint or DDFN(relative_epsilon=0.02, estimator="exact")
    watch.fit_real(zip(images.split(256), labels.split(256), strict=True))
    noise = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(12345)
    z, y = latent.sample(1000, fixed), torch.arange(1000) % classes
    raw, smooth, spread, gaps = [], [], [], []
    started, evaluating = time.process_time(), 0.0
    for step in range(steps):
        for _ in range(1 if plain else 2):
            index = torch.randint(len(images), (batch,), generator=noise)
            real, label = images[index], labels[index]
            with torch.no_grad():
                fake = generator(latent.sample(batch, noise), label)
            scores = discriminator(torch.cat([real, fake]), label.repeat(2))
            optimizer_d.zero_grad()
            loss.discriminator(*scores.chunk(2)).backward()
            optimizer_d.step()
        label = labels[torch.randint(len(images), (batch,), generator=noise)]
        discriminator.requires_grad_(False)
        fake = generator(latent.sample(batch, noise), label)
        penalty = constraint(fake, label)[0] if constraint else 0.0
        optimizer_g.zero_grad()
        (loss.generator(discriminator(fake, label)) + penalty).backward()
        optimizer_g.step()
        discriminator.requires_grad_(True)
        ema.update(step)
        if (step + 1) % EVALUATE == 0:
            before = time.process_time()
            with torch.no_grad():
                made = [network.train()(z, y) for network in (copy.deepcopy(generator), copy.deepcopy(average))]
            raw.append(frechet(features(bed.classifier, made[0]), bed.real))
            smooth.append(frechet(features(bed.classifier, made[1]), bed.real))
            spread.append(variety(made[0], y) / bed.variety)
            gaps.append(float(watch.gap(made[0][:256], y[:256]) / watch.real_average()))
            evaluating += time.process_time() - before
    best = np.minimum.accumulate(raw)
    over = [i for i in range(2, len(raw)) if all(raw[j] > 2 * best[j] for j in (i - 2, i - 1, i))]
    return {
        "best": min(smooth),
        "end": smooth[-1],
        "variety": spread[-1],
        "gap": gaps[-1],
        "collapsed": (over[0] - 1) * EVALUATE if over else float("nan"),
        "seconds": time.process_time() - started - evaluating,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="16x16 images made by `schurgan prepare --size 16`")
    parser.add_argument("--images", type=int, default=150, help="real images to train on, 0 for all")
    parser.add_argument("--plain", action="store_true", help="gentle settings")
    parser.add_argument("--variants", default="none,signed,unit", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--out", type=Path, help="JSON lines, one a run; runs that are in it already are not repeated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bed = Bed(options.data, options.images)
    print(f"{len(bed.chosen)} images, floor {bed.floor:.2f}", flush=True)
    lines = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    done = {(row["variant"], row["seed"]): row for row in map(json.loads, lines)}
    print("| DDFN | best | end | variety | gap | collapsed at | CPU s |\n|---|---|---|---|---|---|---|")
    for name in options.variants.split(","):
        rows = []
        for seed in range(options.seeds):
            row = done.get((name, seed)) or run(bed, VARIANTS[name], seed, options.steps, options.plain)
            rows.append(row)
            if options.out and (name, seed) not in done:
                with options.out.open("a") as file:
                    file.write(json.dumps({"variant": name, "seed": seed} | row) + "\n")
        best, end, spread, gap, seconds = (
            "/".join(f"{row[key]:{form}}" for row in rows)
            for key, form in (("best", ".2f"), ("end", ".2f"), ("variety", ".2f"), ("gap", "+.0%"), ("seconds", ".0f"))
        )
        collapsed = "/".join("none" if np.isnan(row["collapsed"]) else str(int(row["collapsed"])) for row in rows)
        mean = np.mean([row["end"] for row in rows])
        print(f"| {name} | {best} | **{mean:.2f}** ({end}) | {spread} | {gap} | {collapsed} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
