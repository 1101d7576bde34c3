"""Can the scores be trusted? Known damage, other packages on the same features, real data split in two.

    python benchmarks/bench_scores.py                                          agreement, on the program's own sounds
    python benchmarks/bench_scores.py --agreement --data build/esc10-64
    python benchmarks/bench_scores.py --ladders OUT.png --data build/esc10-64  about 3 CPU minutes
    python benchmarks/bench_scores.py --sounds --data build/esc10-64-audio     prepared with its recordings
    python benchmarks/bench_scores.py --halves --data build/esc10-64 build/digits-64
    python benchmarks/bench_scores.py --accuracy --seeds 3 --data build/esc10-64

Prints the tables of docs/evaluation.md. --ladders and --sounds need folds 1 to 5: two of the first four are real, the
other two stand for generated ones, in all six ways, and fold 5 is held out. The classifier never sees the highest fold;
where there are none, it leaves every fifth clip out. It is trained once and kept; --quick trains it a quarter as long.
Times are CPU time on one thread, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from PIL import Image
from torch import Tensor

import damage
from ladders import LADDERS, SCORES, Course, Judge, Ladder, climb
from schurgan.audio import Spectrogram
from schurgan.data import Shards, prepare
from schurgan.data.codec import open_codec
from schurgan.data.sources import open_source
from schurgan.evaluation.features.classifier import cached_classifier
from schurgan.evaluation.features.embedding import TextureEmbedding
from schurgan.evaluation.features.extractor import Extracted, Extractor
from schurgan.evaluation.features.registry import open_extractor
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.kernel import squared_discrepancy
from tables import head, row

HELD_OUT = 5
SPLITS = [(pair, tuple({1, 2, 3, 4} - set(pair))) for pair in combinations((1, 2, 3, 4), 2)]
HALVINGS = 20
LINEAR_TO = {"fid": 1.0, "kid": 0.1}
"""Scores that are drawn on a logarithmic axis, and from where on."""
SNRS_DB, CUTOFFS = (40.0, 30.0, 20.0, 10.0, 0.0), (6000.0, 4000.0, 2000.0, 1000.0)


def excluded(shards: Shards) -> tuple[int, ...]:
    """The highest fold, if there are any."""
    return tuple(sorted({fold for fold in shards.folds if fold is not None})[-1:])


# Known damage


def ladders(shards: Shards, picture: Path, quick: bool) -> None:
    extractor = open_extractor("classifier", shards, val_folds=(HELD_OUT,), quick=quick)
    held_out = damage.fold_clips(shards, (HELD_OUT,))
    pairs = [
        (Judge(extractor, damage.fold_clips(shards, real), held_out), damage.fold_clips(shards, made))
        for real, made in SPLITS
    ]
    climbed = []
    for ladder in LADDERS:
        courses = climb(ladder, pairs)
        climbed.append((ladder, courses))
        head(f"{ladder.name}", *SCORES.values())
        for place, level in enumerate(ladder.levels):
            row(f"{level:g}", *(f"{course.values[place]:.3g}" for course in courses.values()))
        row("scatter", *(f"{course.scatter:.2g}" for course in courses.values()))
    head(f"{shards.folder.name}, undamaged → most", *SCORES.values())
    for ladder, courses in climbed:
        row(ladder.name, *(cell(courses[score], ladder.demand(score)) for score in SCORES))
    made = [(ladder, score) for ladder, _ in climbed for score in SCORES if ladder.demand(score)]
    missed = [
        f"{ladder.name}: {SCORES[score]} {ladder.demand(score)}"
        for ladder, courses in climbed
        for score in SCORES
        if not courses[score].meets(ladder.demand(score))
    ]
    print(f"\nOf {len(made)} demands {len(made) - len(missed)} are met; not: {'; '.join(missed) or 'none'}")
    draw(climbed, picture)


def cell(course: Course, demand: str) -> str:
    arrow = {"rises": "↑", "falls": "↓", "": "≈" if course.seen else "="}[course.direction]
    shown = arrow if course.seen or not course.direction else f"({arrow})"
    verdict = "" if not demand else " ✓" if course.meets(demand) else f" ✗ {demand}"
    return f"{course.values[0]:.3g} → {course.values[-1]:.3g} {shown}{verdict}"


def draw(climbed: Sequence[tuple[Ladder, dict[str, Course]]], picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(climbed), len(SCORES), figsize=(13, 9.5), sharey="col", layout="constrained", squeeze=False
    )
    for line, (ladder, courses) in zip(axes, climbed, strict=True):
        for place, (axis, score) in enumerate(zip(line, SCORES, strict=True)):
            course, demand = courses[score], ladder.demand(score)
            start, ok = course.values[0], course.meets(demand)
            axis.axhspan(start - course.scatter, start + course.scatter, color="0.85", linewidth=0)
            axis.plot(course.values, color="black", marker=".", markersize=3, linewidth=1)
            axis.set_xticks([])
            axis.tick_params(labelsize=6, length=2, pad=1)
            for spine in axis.spines.values():
                spine.set_linewidth(1.8 if demand and not ok else 0.4)
                spine.set_color("black" if demand else "0.7")
            if place == 0:
                axis.set_ylabel(ladder.name.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=8)
    for place, (score, title) in enumerate(SCORES.items()):
        axes[0, place].set_title(title, fontsize=8)
        if score in LINEAR_TO:
            edge = LINEAR_TO[score]
            axes[0, place].set_yscale("symlog", linthresh=edge)
            axes[0, place].set_yticks([0, edge, 10 * edge], ["0", f"{edge:g}", f"{10 * edge:g}"], minor=False)
            axes[0, place].set_yticks([], minor=True)
        for axis, (ladder, courses) in zip(axes[:, place], climbed, strict=True):
            demand, course = ladder.demand(score), courses[score]
            sign = {"rises": "↑", "falls": "↓", "stays": "=", "": ""}[demand]
            level = axis.transAxes.inverted().transform(axis.transData.transform((0, course.values[0])))[1]
            corner = (0.05, "bottom") if level > 0.5 else (0.95, "top")  # where the curve is not
            text = sign if course.meets(demand) else f"{sign} ✗"
            axis.text(0.05, corner[0], text, transform=axis.transAxes, va=corner[1], fontsize=9)
    figure.supxlabel("more damage from left to right; grey: what undamaged sets scatter by", fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    plt.close(figure)
    Image.open(drawn).convert("L").quantize(16).save(picture, optimize=True)


def sounds(shards: Shards, quick: bool) -> None:
    spectrogram = open_codec(shards.manifest.transform)
    if not isinstance(spectrogram, Spectrogram):
        raise SystemExit(f"{shards.folder}: --sounds needs a set of sounds")
    extractor = open_extractor("classifier", shards, val_folds=(HELD_OUT,), quick=quick)
    rate = spectrogram.sample_rate

    def classify(audio: Tensor) -> Tensor:
        """Features of sounds analysed again: unlike the images they were decoded from, they hold the sound alone."""
        return extractor(torch.cat([spectrogram.encode(part)[0] for part in audio.float().split(32)])).features

    texture = TextureEmbedding(rate)
    embeddings: dict[str, Callable[[Tensor], Tensor]] = {
        "audio": lambda audio: texture(audio).features,
        "classifier": classify,
    }
    folds = [shards.select(folds=folds) for folds in SPLITS[0]]
    real, made = (torch.stack([chosen.recording(clip) for clip in range(len(chosen))]) for chosen in folds)
    versions: dict[str, Callable[[], Tensor]] = {"undamaged": lambda: made}
    for snr in SNRS_DB:
        chance = torch.Generator().manual_seed(0)
        versions[f"noise {snr:g} dB below"] = partial(damage.noisy_sound, made, snr, chance)
    for cutoff in CUTOFFS:
        versions[f"nothing above {cutoff:g} Hz"] = partial(damage.low_passed_sound, made, cutoff, rate)
    known = {name: embedding(real) for name, embedding in embeddings.items()}
    head(f"{len(made)} sounds against {len(real)}", *(f"FAD, {name}" for name in embeddings))
    for name, version in versions.items():
        audio = version()
        distances = (frechet_distance(known[e], embedding(audio)) for e, embedding in embeddings.items())
        row(name, *(f"{distance:.4g}" for distance in distances))


# Real data against real data


def halves(shards: Shards, quick: bool) -> None:
    """Distances of random halves, of fewer and fewer images; and of training images from those held out."""
    folds = excluded(shards)
    extractor = open_extractor("classifier", shards, val_folds=folds, quick=quick)
    known = features_of(extractor, shards.select(exclude_folds=folds or None, augmented=False))
    n = len(known) // 2
    while n >= 20:
        distances, kernels = [], []
        for seed in range(HALVINGS):
            order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
            one, other = known[order[:n]], known[order[n : 2 * n]]
            distances.append(frechet_distance(one, other))
            kernels.append(squared_discrepancy(one, other))
        floor = f"{statistics.fmean(distances):.3f} ± {statistics.stdev(distances):.3f}"
        kernel = f"{statistics.fmean(kernels):+.4f} ± {statistics.stdev(kernels):.4f}"
        row(shards.folder.name, n, floor, f"{n * statistics.fmean(distances):.0f}", kernel)
        n //= 2
    if folds:
        unseen = features_of(extractor, shards.select(folds=folds, augmented=False))
        distance = frechet_distance(known, unseen)
        row(shards.folder.name, f"{len(known)}, held out {len(unseen)}", f"{distance:.3f}", "", "")


def features_of(extractor: Extractor, shards: Shards) -> Tensor:
    return torch.cat([extractor(images).features for images, _ in shards.batches(256)])


def accuracy(shards: Shards, seeds: int, quick: bool) -> None:
    for seed in range(seeds):
        start = time.process_time()
        trained = cached_classifier(shards, val_folds=excluded(shards), seed=seed, quick=quick)
        worst = min(range(len(shards.classes)), key=lambda c: trained.per_class[c])
        row(
            shards.folder.name,
            seed,
            f"{trained.accuracy:.1%} of {trained.n_test}",
            f"{shards.classes[worst]}, {trained.per_class[worst]:.0%}",
            trained.n_train,
            f"{time.process_time() - start:.0f}",
        )


def soundscapes(folder: Path) -> Shards:
    transform = Spectrogram(size=32, channels=1, n_samples=16_000)
    prepare(open_source("soundscape", per_class=40, seconds=1.0), folder, transform, workers=1)
    return Shards(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FOLDER", help="as `prepare` makes them")
    parser.add_argument("--ladders", type=Path, metavar="PNG", help="known damage to images, and its picture")
    for name in ("sounds", "agreement", "halves", "accuracy", "quick"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--seeds", type=int, default=1, help="classifiers trained for --accuracy")
    args = parser.parse_args()
    compared = args.agreement or not (args.ladders or args.sounds or args.halves or args.accuracy)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        sets = [Shards(folder) for folder in args.data] or [soundscapes(Path(scratch) / "soundscapes")]
        if args.halves:
            head("set", "images a side", "FID of random halves", "n · FID", "KID")
            for shards in sets:
                halves(shards, args.quick)
        if args.accuracy:
            head("set", "seed", "held-out accuracy", "worst class", "trained on", "CPU s")
            for shards in sets:
                accuracy(shards, args.seeds, args.quick)
        for shards in sets:
            if args.ladders:
                ladders(shards, args.ladders, args.quick)
            if args.sounds:
                sounds(shards, args.quick)
        if compared:
            from oracles import agreement  # torchmetrics, SciPy and prdc are needed for this alone

            for shards in sets:
                extractor = open_extractor("classifier", shards, val_folds=excluded(shards), quick=args.quick)
                order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(0)).split(len(shards) // 2)
                agreement(shards.folder.name, *(extractor(shards.images(part.numpy())) for part in order[:2]))
            chance = torch.Generator().manual_seed(0)
            wide = (torch.randn(2000, 512, generator=chance, dtype=torch.float64) for _ in range(2))
            agreement("Gaussian", *(Extracted(features, None) for features in wide))


if __name__ == "__main__":
    main()
