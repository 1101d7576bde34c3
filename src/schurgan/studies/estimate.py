"""What a study would cost, before anything is trained: each trial is built on tensors without numbers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.core.isolation import own_settings, seeded
from schurgan.core.launch import choose_device, count_cores
from schurgan.core.terminal import duration
from schurgan.evaluation.features.classifier import Classifier
from schurgan.evaluation.features.inception import load_library
from schurgan.evaluation.features.registry import open_extractor
from schurgan.networks.costs import Costs, network_costs
from schurgan.runs.config import Config
from schurgan.runs.messages import counted
from schurgan.studies.study import Trial
from schurgan.studies.trial import finished_outcome
from schurgan.training.build import build_architecture, build_trainer

_WARM, _TIMED = 1, 3  # steps
_LONG = 3.0  # seconds after which no other step of a kind is timed
_MOST = {"cpu": 2e11, "cuda": 2e13}
"""Operations of a step that is timed; a larger batch is cut down, and the time taken in proportion."""
_PATIENCE = 8.0
"""Seconds after which no other kind of step is timed; the rest take as long for an operation as those."""
A100 = {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12}
"""Operations a second by precision, as NVIDIA prints them."""
SHARE = 0.3
"""Of them, what wide networks reach; narrow ones reach less."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial. Evaluations of its health, samples and scores come on top."""

    trial: str
    steps: int
    flops: int
    """Of all steps; networks alone, as `networks.costs` counts them."""
    memory: int
    """Bytes that a step holds, those kept for backward passes halved in formats of 16 bits."""
    seconds: float
    """Of all steps."""
    device: Literal["cpu", "cuda", "a100"]
    """Where that long: here, or on an A100, where a trial may have a GPU and none is here."""
    done: bool

    def __str__(self) -> str:
        time_left = "done" if self.done else duration(self.seconds)
        return f"{self.steps:>7,} {self.flops / 1e12:>13,.1f} {self.memory / 2**30:>8.2f}  {time_left}"


def estimate(
    trials: Sequence[Trial], classes: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> Iterator[Estimate]:
    """Build everything that the trials need, and estimate them one by one; those of other seeds alone once.

    Args:
        trials: those of a study.
        classes: number of classes of each trial's data.
        progress: called with the trials estimated and their number.

    Raises:
        SchurganError: options do not fit.
    """
    known: dict[str, tuple[int, int]] = {}
    costs: dict[str, Costs] = {}
    times, until = dict[str, float](), time.monotonic() + _PATIENCE
    for number, (trial, count) in enumerate(zip(trials, classes, strict=True), 1):
        config, train = trial.config, trial.config.train
        kind = train.model_copy(update={"seed": 0, "steps": 1, "threads": None})
        text = f"{count} {config.model_copy(update={'data': None, 'train': kind}).model_dump_json()}"
        device = _device(config)
        try:
            if text not in known:
                known[text] = arithmetic(config, count, costs)
                if device is not None and (not times or time.monotonic() < until):
                    times[text] = step_seconds(config, count, device, known[text][0])
        except SchurganError:
            raise
        except ValueError as error:
            raise SchurganError(f"{trial.name}: options do not fit: {error}") from None
        flops, memory = known[text]
        rate = A100[train.precision] * SHARE
        if device is not None:
            rate = statistics.median(known[each][0] / times[each] for each in times)
        seconds = times.get(text, flops / rate) * train.steps
        done = finished_outcome(trial) is not None
        where: Literal["cpu", "cuda", "a100"] = "a100" if device is None else "cpu" if device.type == "cpu" else "cuda"
        if progress:
            progress(number, len(trials))
        yield Estimate(trial.name, train.steps, flops * train.steps, memory, seconds, where, done)


def summary(estimates: Sequence[Estimate], jobs: int) -> str:
    """The last line of a dry run, and what a study says before it starts."""
    left = [each for each in estimates if not each.done]
    seconds, flops = sum(each.seconds for each in left), sum(each.flops for each in left)
    where = {each.device for each in left}
    hours = seconds / 3600
    spent = f"{hours:,.{1 if hours >= 1 else 3}f} GPU-hours" if where != {"cpu"} else f"{duration(seconds)} of steps"
    spent += f" (of an A100 at {SHARE:.0%} of its peak)" if "a100" in where else ""
    beside = f", {duration(seconds / min(jobs, len(left)))} by {jobs} jobs" if jobs > 1 and left else ""
    most = max((each.memory for each in left), default=0) / 2**30
    what = f"{counted(len(left), 'trial')} to run, {flops / 1e15:,.2f} PFLOP"
    return f"{what}, about {spent}{beside}, {most:.2f} GiB at most each"


def arithmetic(config: Config, classes: int, known: dict[str, Costs] | None = None) -> tuple[int, int]:
    """Operations of a step, and bytes that it holds: networks, losses, conditions and augmentation on the meta device.

    Raises:
        ValueError: options do not fit each other.
    """
    train = config.train
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        trainer = build_trainer(config, classes, world=World(device=torch.device("meta")))
    known = {} if known is None else known
    key = f"{config.model.model_dump_json()} {classes} {trainer.part_size}"
    if key not in known:
        known[key] = network_costs(trainer.generator, trainer.discriminator, trainer.part_size)
    costs = known[key]
    flops = train.gradient_accumulation_steps * (costs.flops + (train.d_steps - 1) * costs.flops_d)
    return flops, costs.state + costs.activations // (2 if train.precision in ("bf16", "fp16") else 1)


def step_seconds(config: Config, classes: int, device: torch.device | None = None, flops: int | None = None) -> float:
    """Seconds of a training step here: the median of three, after one that is not counted, on images of noise.

    A batch that is too much to try is cut down, and the time taken in proportion. Threads, settings and random numbers
    of the caller are as before.

    Args:
        config: options of a run; its data is not read.
        classes: number of classes.
        device: where; by default where `config` says.
        flops: operations of a step, where they are known already.

    Raises:
        ValueError: options do not fit each other, or there is no such device.
    """
    device = choose_device(config.train.device) if device is None else device
    flops = arithmetic(config, classes)[0] if flops is None else flops
    whole = config.train.batch_size
    batch = min(whole, max(2, int(whole * _MOST[device.type] / flops)))
    train = config.train.model_copy(update={"batch_size": batch, "gradient_accumulation_steps": 1, "compile": False})
    try:
        with own_settings(), seeded(0, device):
            torch.set_num_threads(train.threads or count_cores())  # as a run of one process does
            seconds = _measure(config.model_copy(update={"train": train}), classes, device)
    except torch.OutOfMemoryError:
        return flops / (A100[train.precision] * SHARE)
    return seconds * whole / batch


def check_extractors(trials: Sequence[Trial], classes: Sequence[int], *, weights: bool = True) -> None:
    """Build what will score the trials, before hours of training.

    Args:
        trials: those of a study.
        classes: number of classes of each trial's data.
        weights: whether to fetch those of Inception too, where they are not here yet.

    Raises:
        SchurganError: something is missing.
    """
    needed = {(trial.extractor, trial.config.model, count) for trial, count in zip(trials, classes, strict=True)}
    for model, count in {(model, count) for name, model, count in needed if name == "classifier"}:
        size = build_architecture(model).size
        with torch.device("meta"):
            Classifier(count, size[0], model.channels)(torch.empty(2, model.channels, *size))
    for name in sorted({name for name, *_ in needed} - {"classifier"}):
        if name == "inception" and not weights:
            load_library()
        else:
            open_extractor(name)


def _device(config: Config) -> torch.device | None:
    """Where the trial's steps can be timed; None where it wants a GPU and there is none."""
    if config.train.device == "cpu":
        return torch.device("cpu")
    return choose_device(config.train.device) if torch.cuda.is_available() else None


def _measure(config: Config, classes: int, device: torch.device) -> float:
    trainer = build_trainer(config, classes, world=World(device=device))
    generator = torch.Generator().manual_seed(0)
    shape = (config.train.batch_size, config.model.channels, *build_architecture(config.model).size)
    images = torch.rand(shape, generator=generator) * 2 - 1
    labels = torch.arange(len(images)) % classes
    every = torch.arange(2 * classes) % classes  # two images a class, as conditions want to see a spread
    for condition in trainer.conditions.values():
        real = torch.rand(len(every), *shape[1:], generator=generator) * 2 - 1
        condition.fit_real([(real, every)])
    batches = [(images.to(device), labels.to(device))] * config.train.d_steps
    seconds, began = list[float](), time.perf_counter()
    with trainer.precision.switches():
        while not seconds or (len(seconds) < _WARM + _TIMED and time.perf_counter() - began < _LONG):
            start = time.perf_counter()
            metrics = trainer.training_step(batches)
            metrics["loss_g"].item()  # waits for an accelerator
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM:] or seconds)
