"""What a study would cost, before anything is trained: steps, arithmetic, memory, and the time of a few real steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.core.launch import choose_device
from schurgan.networks.costs import Costs, step_costs
from schurgan.runs.config import Config
from schurgan.runs.messages import duration
from schurgan.studies.study import Trial
from schurgan.studies.trial import finished_outcome
from schurgan.training.build import build_architecture, build_trainer

_WARM, _TIMED = 1, 3  # steps
_MOST_ON_CPU = 2e11
"""Operations of a step that is timed on a CPU; a larger batch is cut down, and the time taken in proportion."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial. Evaluations of its health, samples and scores come on top."""

    trial: str
    steps: int
    flops: int
    """Of all steps; networks alone, as `networks.costs` counts them."""
    memory: int
    """Bytes that a step holds."""
    seconds: float
    """Of all steps."""
    cut: int
    """Images of the batch that was timed, where the whole one was too much to try; else 0."""
    done: bool

    def __str__(self) -> str:
        about = f" (by batches of {self.cut})" if self.cut else ""
        time_left = "done" if self.done else f"{duration(self.seconds)}{about}"
        return f"{self.steps:>7,} {self.flops / 1e12:>11,.1f} {self.memory / 2**30:>8.2f}  {time_left}"


def estimate(trials: Sequence[Trial], classes: Sequence[int]) -> Iterator[Estimate]:
    """Estimate trials one by one; those that differ in their seed alone are timed once, on images of noise.

    Args:
        trials: those of a study.
        classes: number of classes of each trial's data.

    Raises:
        SchurganError: options do not fit.
    """
    known: dict[str, tuple[int, Costs, float, int]] = {}
    for trial, count in zip(trials, classes, strict=True):
        config = trial.config
        key = config.model_copy(update={"data": None, "train": config.train.model_copy(update={"seed": 0})})
        text = f"{count} {key.model_dump_json()}"
        try:
            if text not in known:
                flops, costs = arithmetic(config, count)
                known[text] = flops, costs, *_timed(config, count, flops)
        except SchurganError:
            raise
        except ValueError as error:
            raise SchurganError(f"{trial.name}: options do not fit: {error}") from None
        flops, costs, seconds, cut = known[text]
        steps, done = config.train.steps, finished_outcome(trial) is not None
        yield Estimate(trial.name, steps, flops * steps, costs.memory, seconds * steps, cut, done)


def arithmetic(config: Config, classes: int) -> tuple[int, Costs]:
    """Operations of a step with all its steps of D, and the costs of a step with one, on tensors without numbers."""
    model = config.model
    costs = step_costs(
        build_architecture(model),
        width=model.width,
        classes=classes,
        channels=model.channels,
        batch_size=config.train.batch_size,
        spectral_norm_g=model.spectral_norm_g,
        spectral_norm_d=model.spectral_norm_d,
    )
    return costs.flops + (config.train.d_steps - 1) * costs.flops_d, costs


def _timed(config: Config, classes: int, flops: int) -> tuple[float, int]:
    """Seconds of a step, the median of three, and the batch that was timed if it was a smaller one."""
    device = choose_device(config.train.device)
    batch, whole = config.train.batch_size, config.train.batch_size
    if device.type == "cpu" and flops > _MOST_ON_CPU:
        batch = min(whole, max(2, int(whole * _MOST_ON_CPU / flops)))
    train = config.train.model_copy(update={"batch_size": batch, "gradient_accumulation_steps": 1, "compile": False})
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(train.threads or threads)
        with torch.random.fork_rng():
            seconds = _measure(config.model_copy(update={"train": train}), classes, device)
    finally:
        torch.set_num_threads(threads)
    return seconds * whole / batch, batch if batch < whole else 0


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
    seconds = []
    with trainer.precision.switches():
        for number in range(_WARM + _TIMED):
            start = time.perf_counter()
            metrics = trainer.training_step(batches)
            metrics["loss_g"].item()  # waits for an accelerator
            if number >= _WARM:
                seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
