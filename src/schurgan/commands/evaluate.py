"""The commands of scores: evaluate, compare, sweep. torch is imported when one is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from schurgan.commands.parsing import Folder, arg
from schurgan.core.errors import SchurganError, writing
from schurgan.runs.folder import RunFolder

if TYPE_CHECKING:
    from schurgan.core.distributed import World

Run = Annotated[Path, arg(metavar="RUN")]
BatchNormName = Literal["standing", "batch"]
_LONGEST = 4 * 3600.0
"""Seconds that processes wait for the one that trains classifiers; the end of one is noticed at once."""
_QUICK_IMAGES = 256


def evaluate(
    run: Run,
    /,
    *,
    extractor: str = "classifier",
    images: int = 1000,
    runs: int = 3,
    truncation: float = 1.0,
    batch_norm: BatchNormName = "standing",
    seed: int = 0,
    usefulness: bool = False,
    quick: bool = False,
    data: Folder | None = None,
    device: str = "auto",
) -> None:
    """Score a run: how good, how varied, how close to memorised, how noisy, each score beside what real images reach.

    Example:
        schurgan evaluate runs/clips --quick
        schurgan evaluate runs/clips --images 5000 --runs 10

    Args:
        run: folder of a run
        extractor: classifier (trained once on the run's real images), inception (if torch-fidelity is installed), or
            package.module:attribute of your own
        images: generated images a run; the paper takes 5000
        runs: times that as many are generated, for the spread; the paper takes 10
        truncation: variance of the noise; below 1 images are more typical, above 1 more varied
        batch_norm: fixed statistics (standing), or those of each generated batch (batch)
        seed: the same seed gives the same scores
        usefulness: also train classifiers on real and generated images, tested on held-out clips (minutes)
        quick: a rough look: one run of 256 images at most, 1,000 real ones, fewer classifiers, each trained a
            quarter as long, and no sounds
        data: where the shards are now, if they were moved
        device: cpu, cuda, ...; auto takes a GPU where there is one
    """
    from schurgan.evaluation.evaluate import evaluate as evaluate_run
    from schurgan.evaluation.table import print_evaluation

    with _join(device) as world:
        evaluation = evaluate_run(
            run,
            extractor=extractor,
            images=min(images, _QUICK_IMAGES) if quick else images,
            runs=min(runs, 1) if quick else runs,
            truncation=None if truncation == 1 else truncation,  # which a uniform noise allows
            batch_norm=batch_norm,
            seed=seed,
            usefulness=usefulness,
            quick=quick,
            data=data,
            world=world,
        )
    if world.is_main:
        print_evaluation(evaluation)
        print(f"scores: {RunFolder(run).scores}")


def compare(
    runs: Annotated[tuple[Path, ...], arg(metavar="RUN ...")],
    /,
    *,
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
    png: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Put the scores of several runs into one table, or say why they cannot be compared.

    Example:
        schurgan compare runs/clips runs/other --png scores.png

    Args:
        runs: folders of runs that were evaluated
        out: a .md file for the table
        png: a .png file for a picture of it
    """
    for name, path, ending in (("out", out, ".md"), ("png", png, ".png")):
        if path is not None and path.suffix != ending:
            raise SchurganError(f"--{name}: {path} given, a name that ends in {ending} is needed")
    from schurgan.core.files import atomic_write
    from schurgan.core.progress import Bar
    from schurgan.evaluation.table import compare as compare_runs
    from schurgan.evaluation.table import legend

    table = compare_runs(runs)
    text = f"{table.markdown()}\n{legend(runs)}\n"
    print(text, end="")
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(out, "w") as file:
                file.write(text)
    if png is not None:
        with writing(png), Bar("picture"):
            png.parent.mkdir(parents=True, exist_ok=True)
            table.save_png(png)


def sweep(
    run: Run,
    /,
    *,
    truncations: Annotated[str, arg(metavar="NUMBERS")] = "0.05,0.1,0.25,0.5,0.75,1,1.5,2",
    extractor: str = "classifier",
    images: int = 1000,
    batch_norm: BatchNormName = "standing",
    seed: int = 0,
    quick: bool = False,
    figures: bool = True,
    data: Folder | None = None,
    device: str = "auto",
) -> None:
    """Score a run at several truncations, fidelity against variety: a table and a figure in RUN/evaluation.

    Example:
        schurgan sweep runs/clips --truncations 0.1,0.5,1 --quick

    Args:
        run: folder of a run
        truncations: variances of the noise, with commas between
        extractor: what measures the images: classifier, inception or package.module:attribute of your own
        images: generated images at each truncation
        batch_norm: fixed statistics (standing), or those of each generated batch (batch)
        seed: the same seed gives the same noise, which is scaled for each truncation
        quick: a rough look: 256 images at most, 1,000 real ones, a classifier trained a quarter as long
        figures: draw PNG and SVG
        data: where the shards are now, if they were moved
        device: cpu, cuda, ...; auto takes a GPU where there is one
    """
    try:
        alphas = [float(part) for part in truncations.split(",")]
    except ValueError:
        raise SchurganError(f'--truncations: "{truncations}" given, numbers with commas between are needed') from None
    from schurgan.evaluation.metric_table import glossary
    from schurgan.evaluation.sweep import sweep as sweep_run

    with _join(device) as world:
        result = sweep_run(
            run,
            alphas,
            extractor=extractor,
            images=min(images, _QUICK_IMAGES) if quick else images,
            batch_norm=batch_norm,
            seed=seed,
            quick=quick,
            figures=figures,
            data=data,
            world=world,
        )
    if world.is_main:
        print(result.cells().markdown(), *glossary(result.points[0]), sep="\n")
        print(f"sweep: {RunFolder(run).sweep.with_suffix('.png' if figures else '.md')}")


@contextmanager
def _join(device: str) -> Iterator[World]:
    """Join the processes that the same launcher started."""
    from schurgan.core.distributed import join

    try:
        with join(device, timeout=_LONGEST) as world:
            yield world
    except SchurganError as error:
        raise SchurganError(str(error).replace("--train.device", "--device")) from error
