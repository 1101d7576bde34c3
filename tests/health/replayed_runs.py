"""Runs to replay before a monitor: collapsing, steady, and as they were measured."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import measured_runs

from schurgan.health import RULES, Monitor, Verdict

EVERY, LAST = 50, 1400
COLLAPSES = [  # of three measured runs: Fréchet over twice its best, variety under half, accuracy over 95 % since; best
    (1000, 700, 650, 3.97),
    (1300, 500, 800, 4.92),
    (1100, 750, 650, 4.06),
]


def ramp(step: float, *points: tuple[float, float]) -> float:
    """Straight lines through (step, value) points."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if step <= x1:
            return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
    return points[-1][1]


def collapsing(frechet: int, variety: int, accuracy: int, best: float) -> Iterator[tuple[int, dict[str, float]]]:
    """A run that memorises 150 windows without spectral normalisation: each signal crosses its line where measured."""
    for step in range(EVERY, LAST + 1, EVERY):
        crossing = frechet - EVERY / 2
        yield (
            step,
            {
                "frechet": ramp(
                    step,
                    (0, 30),
                    (350, best),
                    (500, best),
                    (crossing - 200, 1.3 * best),
                    (crossing, 2 * best),
                    (1500, 12),
                ),
                "variety": ramp(step, (0, 0.1), (200, 0.8), (variety - 200, 0.75), (variety - 25, 0.5), (1500, 0.27)),
                "accuracy_d": ramp(step, (0, 0.6), (accuracy - 25, 0.95), (accuracy + 200, 0.99)),
                "held_out": ramp(step, (0, 0.0), (175, 0.5), (400, 0.9)),
                "gap": ramp(step, (0, -0.58), (200, 0.03), (700, 0.1), (1150, 0.5), (1400, 0.8)),
                "gap_standard_error": 0.1,
            },
        )


def steady(
    seed: int, length: int = LAST, *, frechet: float = 2.5, variety: float = 0.75, noise: float = 0.12
) -> Iterator[tuple[int, dict[str, float]]]:
    """A run that becomes good and stays so, its Fréchet distance with log-normal noise."""
    draws = random.Random(seed)
    for step in range(EVERY, length + 1, EVERY):
        level = ramp(step, (0, 10 * frechet), (400, frechet), (length, frechet))
        yield (
            step,
            {
                "frechet": level * math.exp(draws.gauss(0, noise)),
                "variety": ramp(step, (0, 0.1), (250, variety), (length, variety)) + draws.gauss(0, 0.04),
                "accuracy_d": min(0.8 + draws.gauss(0, 0.05), 1.0),
                "gradient_g": 0.5 * math.exp(draws.gauss(0, 0.3)),
                "loss_d": 1.2 + draws.gauss(0, 0.2),
                "loss_g": draws.gauss(0, 0.3),
            },
        )


def follow(
    run: Iterator[tuple[int, dict[str, float]]],
    monitor: Monitor | None = None,
    until: Callable[[Verdict], bool] | None = None,
) -> Verdict:
    monitor = monitor or Monitor()
    for step, signals in run:
        verdict = monitor.update(step, **signals)
        if until and until(verdict):
            break
    return verdict


def replay(name: str) -> Iterator[tuple[int, dict[str, float]]]:
    """A run as it was measured, evaluation by evaluation."""
    for number, row in enumerate(measured_runs.RUNS[name], 1):
        yield number * EVERY, dict(zip(measured_runs.SIGNALS, row, strict=True))


def collapsed(verdict: Verdict) -> bool:
    return verdict.state == "collapsed"


def only(*names: str, **options: int) -> Monitor:
    return Monitor([RULES[name] for name in names], **options)
