"""Scores beside other packages on the same features: values that agree, and CPU times on one thread."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import torch
from prdc import compute_prdc  # type: ignore[import-untyped]
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from schurgan.evaluation.features.extractor import Extracted
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.inception_score import inception_score
from schurgan.evaluation.metrics.kernel import kernel_distance
from schurgan.evaluation.metrics.neighbours import prdc
from tables import head, row

NEIGHBOURHOODS = ("precision", "recall", "density", "coverage")
ROUNDS = 5
warnings.filterwarnings("ignore", category=UserWarning, module="torchmetrics")  # that it keeps features


def cpu(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def by_sqrtm(a: Tensor, b: Tensor) -> float:
    first, second = (np.cov(rows.numpy().T) for rows in (a, b))
    root = np.real(scipy.linalg.sqrtm(first @ second))
    return float((a.mean(0) - b.mean(0)).square().sum() + np.trace(first + second - 2 * root))


def passing(width: int) -> torch.nn.Module:
    module = torch.nn.Identity()
    module.num_features = width  # type: ignore[assignment]
    return module


def measured(oracle: Metric, real: Tensor, made: Tensor) -> Any:
    oracle.set_dtype(torch.float64)
    oracle.update(real, real=True)
    oracle.update(made, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return oracle.compute()


def fid_by_torchmetrics(real: Tensor, made: Tensor) -> float:
    return float(measured(FrechetInceptionDistance(feature=passing(real.shape[1])), real, made))


def kid_by_torchmetrics(real: Tensor, made: Tensor, size: int) -> float:
    oracle = KernelInceptionDistance(feature=passing(real.shape[1]), subsets=100, subset_size=size)
    return float(measured(oracle, real, made)[0])


def is_by_torchmetrics(probabilities: Tensor) -> float:
    oracle = InceptionScore(feature=passing(probabilities.shape[1]), splits=1).set_dtype(torch.float64)
    oracle.update(probabilities.log())  # of which it takes the softmax
    return float(oracle.compute()[0])


def prdc_by_prdc(real: Tensor, made: Tensor) -> tuple[float, ...]:
    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(real.numpy(), made.numpy(), nearest_k=5)
    return tuple(found[name] for name in NEIGHBOURHOODS)


def ours_prdc(real: Tensor, made: Tensor) -> tuple[float, ...]:
    found = prdc(real, made)
    return tuple(getattr(found, name) for name in NEIGHBOURHOODS)


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """A row of the values, one or some, their largest relative difference, and CPU times."""
    values, others = np.atleast_1d(ours()), np.atleast_1d(theirs())
    times = [(cpu(ours), cpu(theirs)) for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b in times)
    fast, slow = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
    difference = np.max(np.abs(values / others - 1))
    shown = ", ".join(f"{value:.6g}" for value in values)
    row(name, shown, f"{difference:.1e}", f"{fast:.2f}", f"{slow:.2f}", f"{ratio:.1f}x")


def agreement(title: str, a: Extracted, b: Extracted) -> None:
    """Of more images than features; of the classes' probabilities of `b` and what else there is, if it has any."""
    real, made, given = a.features, b.features, b.probabilities
    frechet = partial(frechet_distance, real, made)
    head(f"{title}: {len(real)} and {len(made)} x {real.shape[1]}", "value", "difference", "ms", "theirs", "ratio")
    compare("FID, SciPy's sqrtm", frechet, partial(by_sqrtm, real, made))
    compare("FID, torchmetrics", frechet, partial(fid_by_torchmetrics, real, made))
    if given is not None:
        size = min(len(real), len(made)) // 2
        kernel = partial(kernel_distance, real, made, subset_size=size)
        compare("KID, torchmetrics", lambda: kernel().mean, partial(kid_by_torchmetrics, real, made, size))
        compare("IS, torchmetrics", lambda: inception_score(given, 1).mean, partial(is_by_torchmetrics, given))
        compare("PRDC, prdc", partial(ours_prdc, real, made), partial(prdc_by_prdc, real, made))
    itself = frechet_distance(real, real.flip(0)) / real.var(0).sum().item()
    print(f"\nFID of the first set to itself, over tr Σ: {itself:.1e}")
