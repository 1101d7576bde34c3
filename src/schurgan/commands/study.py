"""The command `study`: the paper's tables and figures. Nothing here imports torch before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from schurgan.commands.parsing import Folder, arg, check_counts
from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.runs.folder import wrong_place

if TYPE_CHECKING:
    from schurgan.studies.study import ScaleName, Study, Trial


def study(
    name: Annotated[str, arg(metavar="NAME")],
    /,
    *,
    data: Annotated[tuple[str, ...], arg(metavar="NAME=DIR ...")] = (),
    out: Folder = Path("studies"),
    scale: Literal["laptop", "gpu", "paper"] = "laptop",
    seeds: int | None = None,
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None,
    jobs: int = 1,
    cluster: Annotated[str | None, arg(metavar="ADDRESS")] = None,
    slurm: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
    dry_run: bool = False,
) -> None:
    """Train and score what a table or figure of the paper needs, and lay it out beside the paper's numbers.

    Example:
        schurgan study table1 --dry-run
        schurgan study table1 --data esc50=data/esc50 --out studies

    Args:
        name: table1 to table4, figure1, figure2, figure3 or figures5-10
        data: prepared folders by the names that the study gives them, which --dry-run lists
        out: folder for runs (OUT/trials) and results; a second call does only what is missing
        scale: laptop (hours of two cores), gpu (half an hour of a large one) or paper (the paper's settings)
        seeds: runs of each row, by default as many as the scale says
        precision: arithmetic of the networks, by default the scale's
        jobs: runs at the same time, each on its own GPU where there are some, else with its share of the cores
        cluster: address of a Dask cluster's scheduler, such as tcp://10.0.0.7:8786, whose workers do the runs
        slurm: submitit's parameters for a job of SLURM a run, such as slurm_partition=gpu timeout_min=600
        dry_run: list the runs and what they will take, measured by a few steps of each kind, and train nothing
    """
    check_counts(seeds=seeds, jobs=jobs)
    parameters = {name: value for name, _, value in (each.partition("=") for each in slurm)}
    if odd := [name for name, value in parameters.items() if not value]:
        raise SchurganError(f"--slurm: {odd[0]!r} given, KEY=VALUE is needed, such as timeout_min=600")
    if cluster and slurm:
        raise SchurganError("--cluster and --slurm: both given, one of the two is needed")
    from schurgan.studies.study import load_study

    chosen = load_study(name)
    folders = _folders(chosen, scale, data)
    trials = chosen.trials(scale, seeds, folders, out.resolve() if cluster or slurm else out, precision)
    classes = _classes(chosen, scale, trials)
    if dry_run:
        _list(chosen, scale, trials, classes, jobs)
        return
    missing = [name for name in chosen.needed(scale) if name not in folders]
    if missing:
        raise SchurganError(f"--data {missing[0]}=DIR: missing, {chosen.about_data(scale, missing[0])} makes it")
    _check_sizes(chosen, scale, folders)
    from schurgan.core.distributed import World
    from schurgan.core.progress import Bar
    from schurgan.core.terminal import say
    from schurgan.studies.estimate import check_extractors, estimate, summary
    from schurgan.studies.figures import save_figures
    from schurgan.studies.runner import run_trials, slurm_executor
    from schurgan.studies.table import save_table
    from schurgan.studies.trial import is_main

    check_extractors(trials, classes)
    with Bar("estimate", unit="trial", quiet=not is_main()) as bar:
        estimates = list(estimate(trials, classes, bar))
    if is_main():
        say(summary(estimates, jobs))
    with World().lock(out) if is_main() else nullcontext():
        executor = slurm_executor(out.resolve() / "slurm", parameters) if slurm else None
        run_trials(trials, jobs, executor=executor, cluster=cluster)
        if not is_main():
            return
        if chosen.columns:
            print(save_table(chosen, scale, trials, out), end="")
            print(f"table: {out / f'{chosen.name}-{scale}.md'}")
        if chosen.kind != "table":
            with Bar("figures"):
                paths = save_figures(chosen, scale, trials, out)
            for path in paths:
                print(f"figure: {path}")


def _folders(study: Study, scale: ScaleName, arguments: Sequence[str]) -> dict[str, Path]:
    """Read NAME=DIR arguments; refuse names that the study does not know, and folders that do not exist."""
    known, folders = study.known_data(scale), dict[str, Path]()
    for text in arguments:
        name, _, folder = text.partition("=")
        if not folder:
            raise SchurganError(f"--data: {text!r} given, NAME=DIR is needed, such as {known[0]}=data/{known[0]}")
        if name not in known:
            near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise SchurganError(f'--data: "{name}" is no data set of study {study.name} at scale {scale}{near}')
        if name in folders:
            raise SchurganError(f"--data: {name} given twice")
        if not Path(folder).is_dir():
            raise SchurganError(f"--data {name}: {wrong_place(folder, 'data')}")
        folders[name] = Path(folder).resolve()
    return folders


def _classes(study: Study, scale: ScaleName, trials: Sequence[Trial]) -> list[int]:
    """Number of classes of each trial's data, or what the study says of it where it is not given."""
    from schurgan.data.manifest import Manifest

    rows = {row.name: row.data for row in study.rows}
    given = {data: len(Manifest.load(data).classes) for data in {trial.config.data for trial in trials} if data}
    return [
        given[trial.config.data] if trial.config.data else study.data_at(scale, rows[trial.row]).classes
        for trial in trials
    ]


def _check_sizes(study: Study, scale: ScaleName, folders: Mapping[str, Path]) -> None:
    """Before hours of training: each folder holds images of the size that the rows are for."""
    from schurgan.data.manifest import Manifest

    for name, folder in folders.items():
        size, shape = study.data_at(scale, name).size, Manifest.load(folder).shape
        if shape[1:] != (size, size):
            raise SchurganError(
                f"--data {name}: {folder} holds images of {shape[1]}x{shape[2]}, scale {scale} needs {size}x{size}: "
                f"{study.about_data(scale, name)} makes them"
            )


def _list(study: Study, scale: ScaleName, trials: Sequence[Trial], classes: Sequence[int], jobs: int) -> None:
    from schurgan.core.progress import Bar
    from schurgan.studies.estimate import check_extractors, estimate, summary

    print(f"{study.title}\n{study.scale(scale).about}")
    for name in study.known_data(scale):
        print(f"--data {name}=DIR  {study.about_data(scale, name)}")
    space = max(len(trial.name) for trial in trials)
    print(f"\n{'trial':<{space}} {'steps':>7} {'TFLOP':>13} {'GiB':>8}  time of its steps, about")
    estimates = []
    with Bar("estimate", unit="trial") as bar:
        for each in estimate(trials, classes, bar):
            estimates.append(each)
            print(f"{each.trial:<{space}} {each}", flush=True)
    print(f"\n{summary(estimates, jobs)}; watching and scoring come on top")
    try:
        check_extractors(trials, classes, weights=False)
    except SchurganError as error:
        print(f"missing: {error}")
