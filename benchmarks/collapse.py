"""GANs small enough to collapse within a minute or two: what keeps them from it, and who sees it coming?

    python benchmarks/collapse.py --data build/esc10-16 --images 150 --variants all --seeds 5 --out build/collapse
    python benchmarks/collapse.py --data build/digits-16 --plain --variants all --seeds 5 --out build/healthy
    python benchmarks/collapse_table.py build/collapse build/healthy

The networks are small-16 without spectral normalisation, D half as wide again as G, two steps of D for one of G and a
high learning rate, so that D learns a few images by heart. `--plain` takes gentler settings, under which nothing
collapses where data is plenty; `--images 0` all of the images. Each run is a file OUT/VARIANT-SEED.jsonl of what was
measured every 50 steps, with the trainer, the scores and the conditions that `schurgan train` uses; one that is there
is not run again. `--share K/N` runs every N-th of them, for several processes.

Distances are Fréchet distances of 400 images (at the end 1,000) over 64 features of a classifier of the real training
images: "frechet" to the images that were trained on, which is what a run sees of itself, and "all" to all real training
images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schurgan.core.files import atomic_write
from schurgan.data.loader import Shuffled
from schurgan.data.shards import Shards
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.features.registry import open_extractor
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.inception_score import class_accuracy, inception_score
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.health_scores import HealthScores
from schurgan.training.logger import Means
from schurgan.training.trainer import Trainer

EVERY, WATCHED, JUDGED = 50, 400, 1000
OFF = {"ddfn": {"weight": 0.0, "relative_epsilon": 0.02, "decay": 0.9, "estimator": "hybrid"}}
SN = {"model": {"spectral_norm_d": True}}
AUGMENT = {"regularize": {"augment": "colour,translation,cutout"}}


def ddfn(**options: object) -> dict[str, Any]:
    return {"ddfn": {"weight": 3.0, "relative_epsilon": 0.02, "decay": 0.9} | options}


def hinge(descriptor: str) -> dict[str, Any]:
    """A moment of the whole set, held as DDFN holds its own."""
    form = {"per_class": False, "spread": False, "balance": False, "penalty": "hinge"}
    return {"moment_matching": form | {"descriptor": descriptor, "weight": 3.0, "epsilon": 0.02, "decay": 0.9}}


def witness(descriptor: str) -> dict[str, Any]:
    """Moments of each class, mean and spread."""
    return {"moment_matching": {"descriptor": descriptor}}


HYBRID = ddfn(estimator="hybrid")
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "ddfn exact": ddfn(estimator="exact"),
    "ddfn hybrid": HYBRID,
    "ddfn perron": ddfn(estimator="perron"),
    "ddfn per class": ddfn(estimator="hybrid", per_class=True),
    "ddfn soft": ddfn(estimator="hybrid", weight=0.3, relative_epsilon=0.1),
    "variance": hinge("variance"),
    "frobenius": hinge("frobenius"),
    "dfn moments": witness("dfn"),
    "gram moments": witness("gram"),
    "sn": SN,
    "sn + ddfn": SN | HYBRID,
    "sn + gram moments": SN | witness("gram"),
    "aug": AUGMENT,
    "aug + ddfn": AUGMENT | HYBRID,
    "aug + gram moments": AUGMENT | witness("gram"),
    "sn + aug": SN | AUGMENT,
}


def options(variant: str, seed: int, steps: int, plain: bool) -> Config:
    base: dict[str, Any] = {
        "model": {"architecture": "small-16", "spectral_norm_d": False} | ({} if plain else {"width_d": 24}),
        "train": {"seed": seed, "steps": steps, "threads": 1, "device": "cpu"},
        **OFF,
    }
    gentle = {"batch_size": 32, "lr_g": 1.5e-3, "lr_d": 1.5e-3}
    harsh = {"batch_size": 16, "d_steps": 2, "lr_g": 1e-3, "lr_d": 2e-3}
    base["train"] |= gentle if plain else harsh
    for part, values in VARIANTS[variant].items():
        base[part] = base.get(part, {}) | values
    return Config.model_validate(base)


class Bed:
    """The real images, and what judges generated ones."""

    def __init__(self, data: Path, images: int) -> None:
        shards = Shards(data)
        folds = sorted({fold for fold in shards.folds if fold is not None})
        last = folds[-1:]
        everything = shards.select(exclude_folds=last) if last else shards
        self.classes = len(shards.classes)
        self.extractor: Extractor = open_extractor("classifier", shards, val_folds=last)
        self.all = everything.images(np.arange(len(everything)))
        self.all_features = self.extractor(self.all).features
        labels = torch.from_numpy(everything.labels)
        per_class = images // self.classes
        chosen = (
            torch.cat([(labels == c).nonzero()[:per_class, 0] for c in range(self.classes)])
            if images
            else torch.arange(len(labels))
        )
        self.images, self.labels = self.all[chosen], labels[chosen]
        held_out = shards.select(folds=last) if last else None
        self.floor, unseen = float("nan"), None
        if held_out is not None:
            unseen = held_out.images(np.arange(len(held_out))), torch.from_numpy(held_out.labels)
            self.floor = frechet_distance(self.extractor(unseen[0]).features, self.all_features)
        self.scores = HealthScores(
            (self.images, self.labels), unseen, extractor=self.extractor, images=WATCHED, seed=12345
        )


def run(bed: Bed, config: Config) -> list[dict[str, Any]]:
    """What was measured every 50 steps, and at last the scores of the averaged generator."""
    train = config.train
    trainer = build_trainer(config, bed.classes)
    for part in trainer.conditions.values():
        part.fit_real([(bed.images, bed.labels)])
    row, means, rows = Shuffled(len(bed.images), train.seed), Means(), []
    started, evaluating = time.process_time(), 0.0
    for step in range(train.steps):
        first = step * train.d_steps * train.batch_size
        places = np.arange(first, first + train.d_steps * train.batch_size).reshape(train.d_steps, -1)
        means.add(trainer.training_step([(bed.images[index], bed.labels[index]) for index in map(row.at, places)]))
        if (step + 1) % EVERY == 0:
            before = time.process_time()
            measured = bed.scores(trainer.generator, trainer.generator_ema, trainer.discriminator, trainer.latent)
            since = means.take()
            measured |= {name: since[name] for name in ("gradient_g", "loss_d", "loss_g")}
            measured["margin"] = since["score_real"] - since["score_fake"]
            measured["gap"] = since["ddfn_gap"] / trainer.conditions["ddfn"].real_average().item()
            error = trainer.conditions["ddfn"].standard_error(train.batch_size * EVERY).item()
            measured["gap_standard_error"] = error / trainer.conditions["ddfn"].real_average().item()
            rows.append({"step": step + 1, "not_finite": since["not_finite"], "signals": measured})
            evaluating += time.process_time() - before
    seconds = time.process_time() - started - evaluating
    return [*rows, {"step": train.steps, "end": judge(bed, trainer) | {"seconds": seconds}}]


@torch.no_grad()
def judge(bed: Bed, trainer: Trainer) -> dict[str, float]:
    z = trainer.latent.sample(JUDGED, torch.Generator().manual_seed(1))
    labels = torch.arange(JUDGED) % bed.classes
    average = trainer.generator_ema.train()
    images = torch.cat([average(a, b) for a, b in zip(z.split(100), labels.split(100), strict=True)])
    if not images.isfinite().all():
        return {name: float("nan") for name in ("all", "inception", "accuracy")}
    features, probabilities = bed.extractor(images)
    assert probabilities is not None
    return {
        "all": frechet_distance(features, bed.all_features),
        "inception": inception_score(probabilities).mean,
        "accuracy": class_accuracy(probabilities, labels).overall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="16x16 images made by `schurgan prepare --size 16`")
    parser.add_argument("--images", type=int, default=0, help="real images to train on, 0 for all")
    parser.add_argument("--plain", action="store_true", help="gentle settings")
    parser.add_argument("--variants", default="none,sn", help=f'"all", or of {", ".join(VARIANTS)}')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--share", default="1/1", help="K/N: the K-th of N processes that share the runs")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bed = Bed(arguments.data, arguments.images)
    print(f"{len(bed.images)} images, floor {bed.floor:.2f}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = list(VARIANTS) if arguments.variants == "all" else arguments.variants.split(",")
    runs = [(name, seed) for seed in range(arguments.seeds) for name in names]
    number, of = map(int, arguments.share.split("/"))
    for name, seed in runs[number - 1 :: of]:
        path = arguments.out / f"{name.replace(' ', '_')}-{seed}.jsonl"
        if path.exists():
            continue
        rows = run(bed, options(name, seed, arguments.steps, arguments.plain))
        with atomic_write(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        end, last = rows[-1]["end"], rows[-2]["signals"]
        summary = f"{end['all']:.2f}, variety {last['variety']:.2f}, D right {last['accuracy_d']:.0%}"
        print(f"{name} {seed}: Fréchet {summary}, {end['seconds']:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
