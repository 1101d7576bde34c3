"""What Δ² is on real spectrograms: its estimates, what it sees, and section 3.1 of the paper as printed.

    python benchmarks/plot_normality.py DATA OUT.png [--limit N]

DATA is a prepared set of spectrograms, e.g. `schurgan prepare esc50 ESC-50-master --out build/esc10-128 --size 128`.
Prints the tables of docs/normality.md and draws its figure. Everything is compared with the
exact Δ² and its gradient, of images in [-1, 1] (signed) and mapped to [0, 1] (unit), their first channel. Costs are CPU
time on one thread, medians of interleaved rounds over 32 images, relative to `torch.linalg.eigvals` of the same images
in float64. About a minute and a half for the 400 clips of ESC-10 at 128².
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

from schurgan.data import Shards
from schurgan.normality import (
    departure_bounds,
    departure_counters,
    departure_from_normality,
    reset_departure_counters,
)

METHODS = (
    ("exact", 2),
    ("hybrid", 2),
    ("hybrid", 4),
    ("perron", 2),
    ("moments", 2),
    ("asymmetry", 2),
    ("paper_symmetric", 2),
)
TIMED, ROUNDS = 32, 9
SHIFT = 16  # columns, an eighth of 128
BATCHES = (32, 256)


class Change(NamedTuple):
    """Relative changes of a mean Δ²: one figure three times, or the median and the range of several."""

    middle: float
    low: float  # 5 % and
    high: float  # 95 % of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, help="take only so many images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shards = Shards(args.data)
    images, labels = next(shards.batches(args.limit or len(shards)))
    signed = images[:, 0].contiguous()
    scalings = {"signed": signed, "unit": (signed + 1) / 2}
    exact = {name: with_gradient(x, "exact", 2) for name, x in scalings.items()}

    for name, x in scalings.items():
        print(f"## Estimates, {name}, {len(x)} images of {x.shape[-1]}²\n")
        print_estimates(x, *exact[name], unit=name == "unit")
        print_bounds(x, exact[name][0])
    print("## What it sees\n")
    floors = {"signed": -1.0, "unit": 0.0}
    changes = {name: sensitivity(x, exact[name][0], labels, floors[name]) for name, x in scalings.items()}
    print_sensitivity(changes)
    for name, (values, _) in exact.items():
        near = ((values / values.mean() - 1).abs() < 0.1).double().mean()
        print(
            f"{name}: mean Δ² {values.mean():.0f}, sd {values.std():.0f}; {near:.0%} of images within 10 % of the mean"
        )
    print()
    print("## Section 3.1 as printed\n")
    for name, x in scalings.items():
        print_section_31(name, x, *exact[name])
    draw(args.out, shards.classes, scalings, {name: values for name, (values, _) in exact.items()}, labels, changes)
    print(f"{args.out}: {args.out.stat().st_size // 1024} kB")


def with_gradient(x: Tensor, method: str, factor: int, **options: object) -> tuple[Tensor, Tensor]:
    """Values (B,) and gradients (B, n, n) of images (B, n, n), in float64, in batches that fit the cache."""
    parts = []
    for batch in x.double().split(TIMED):
        batch = batch.clone().requires_grad_()
        values = departure_from_normality(batch, method, factor=factor, **options)
        (gradient,) = torch.autograd.grad(values.sum(), batch)
        parts.append((values.detach(), gradient))
    values, gradients = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(gradients)


def values_of(x: Tensor) -> Tensor:
    return torch.cat([departure_from_normality(batch.double()) for batch in x.split(TIMED)])


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = [x.argsort().argsort().double() for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)


def cpu_times(calls: list[Callable[[], object]]) -> list[float]:
    """Median CPU seconds of each, taken in turn so that a busy moment falls on all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            taken.append(time.process_time() - start)
    return [statistics.median(taken) for taken in times]


def print_estimates(x: Tensor, exact: Tensor, slope: Tensor, *, unit: bool) -> None:
    methods = [row for row in METHODS if unit or row[0] != "perron"]
    some = x[:: max(1, len(x) // TIMED)][:TIMED].contiguous()  # as they come in training: float32, of all classes

    def forward(method: str, factor: int) -> Callable[[], object]:
        return lambda: departure_from_normality(some, method, factor=factor)

    def both(method: str, factor: int) -> Callable[[], object]:
        leaf = some.clone().requires_grad_()
        return lambda: torch.autograd.grad(departure_from_normality(leaf, method, factor=factor).sum(), leaf)

    calls = [f(*row) for row in methods for f in (forward, both)]
    reference, *taken = cpu_times([lambda: torch.linalg.eigvals(some.double()), *calls])
    print(f"eigvals takes {1e3 * reference / len(some):.2f} ms an image\n")
    print(
        "| method | value | with gradient | Spearman | median error | 95 % | ratio | gradient cosine | 5 % | clipped |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for k, (method, factor) in enumerate(methods):
        reset_departure_counters()
        value, gradient = with_gradient(x, method, factor)
        error = (value / exact - 1).abs()
        angle = cosine(gradient, slope)
        name = f"{method} ×{factor}" if method in ("hybrid", "paper_symmetric") else method
        cost = " | ".join(f"{t / reference:.2g}" for t in taken[2 * k : 2 * k + 2])
        print(
            f"| {name} | {cost} | {spearman(value, exact):.4f} | {error.median():.2%} | {error.quantile(0.95):.2%} | "
            f"{(value / exact).median():.3f} | {angle.median():.3f} | {angle.quantile(0.05):.3f} | "
            f"{departure_counters()['clipped']} |"
        )
    print()


def print_bounds(x: Tensor, exact: Tensor) -> None:
    lower, upper = departure_bounds(x.double())
    violated = int(((exact < lower) | (exact > upper)).sum())
    rounding = 1e-11 * x.double().square().sum((1, 2))
    serious = int(((exact < lower - rounding) | (exact > upper + rounding)).sum())
    low, high = ((bound / exact).median() for bound in (lower, upper))
    print(f"bounds: median lower {low:.2f} Δ², upper {high:.3f} Δ²; violated {violated}, beyond rounding {serious}\n")


def blurred(x: Tensor, width: int) -> Tensor:
    padded = torch.nn.functional.pad(x[:, None], (width // 2,) * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, width, stride=1)[:, 0]


def sensitivity(x: Tensor, real: Tensor, labels: Tensor, floor: float) -> dict[str, Change]:
    """Change of the mean Δ² when the images x in [floor, 1] are changed, or only some of them are taken."""
    generator = torch.Generator().manual_seed(0)
    mean = real.mean()
    members = [(labels == c).nonzero()[:, 0] for c in labels.unique()]

    def change(images: Tensor) -> Change:
        return spread((values_of(images).mean() / mean - 1)[None])

    def spread(gaps: Tensor) -> Change:
        return Change(*(float(gaps.quantile(q)) for q in (0.5, 0.05, 0.95)))

    noise = torch.randn(x.shape, generator=generator)
    partner = torch.empty(len(x), dtype=torch.long)
    for rows in members:
        partner[rows] = rows.roll(1)
    centres = torch.stack([x[rows].mean(0) for rows in members])
    shares = torch.tensor([len(rows) / len(x) for rows in members], dtype=torch.float64)
    centre_gap = ((values_of(centres) * shares).sum() / mean - 1)[None]
    shuffled = torch.stack([image.flatten()[torch.randperm(image.numel(), generator=generator)] for image in x])
    one_each = torch.stack([rows[torch.randint(len(rows), (2000,), generator=generator)] for rows in members], 1)
    batches = {b: real[torch.randint(len(x), (2000, b), generator=generator)].mean(1) / mean - 1 for b in BATCHES}
    return {
        "transposed": change(x.mT.contiguous()),
        "turned by 180°": change(x.flip(1, 2)),
        "time reversed": change(x.flip(2)),
        "frequency reversed": change(x.flip(1)),
        "moved by an eighth in time": change(x.roll(SHIFT, 2)),
        "pixels shuffled": change(shuffled.reshape(x.shape)),
        "noise, sd 0.05 of the range": change((x + 0.05 * (1 - floor) * noise).clamp(floor, 1)),
        "brightness × 0.9": change(floor + 0.9 * (x - floor)),
        "blurred 3×3": change(blurred(x, 3)),
        "blurred 7×7": change(blurred(x, 7)),
        "mixed with another clip of its class": change((x + x[partner]) / 2),
        "mean image of each class": spread(centre_gap),
        "one class alone": spread(torch.stack([real[rows].mean() for rows in members]) / mean - 1),
        "one image per class": spread((real[one_each] * shares).sum(1) / mean - 1),
        "one image in all": spread(real / mean - 1),
        **{f"a batch of {b} real images": spread(gaps) for b, gaps in batches.items()},
    }


def print_sensitivity(changes: dict[str, dict[str, Change]]) -> None:
    print("| | " + " | ".join(changes) + " |\n|---|" + "---|" * len(changes))
    for row in changes["signed"]:
        cells = []
        for table in changes.values():
            middle, low, high = table[row]
            cells.append(f"{middle:+.1%}" + (f" ({low:+.0%} to {high:+.0%})" if low != high else ""))
        print(f"| {row} | " + " | ".join(cells) + " |")
    print()


def print_section_31(name: str, x: Tensor, exact: Tensor, slope: Tensor) -> None:
    """ln Ŝ against what it is to stand for, ln Σ|λ|², and ‖x‖² − Ŝ against Δ²."""
    norms = x.double().square().sum((1, 2))
    spectral = norms - exact
    pooled = torch.nn.functional.avg_pool2d(x.double()[:, None], 2)[:, 0]
    eigenvalues = torch.linalg.eigvalsh((pooled + pooled.mT) / 2)
    floor = eigenvalues.shape[1] * torch.finfo(torch.float64).eps * eigenvalues.norm(dim=1, keepdim=True)
    singular = (eigenvalues.abs() <= floor).any(1)
    sign = eigenvalues.sign().prod(1)
    negative = (sign[~singular] < 0).double().mean()
    print(f"{name}: ln Σ|λ|² {span(spectral.log())}; f̂ singular to rounding: {int(singular.sum())}, of the others")
    print(f"det f̂ < 0: {negative:.0%}; Spearman of −ln|det f̂| with Δ² below (the constants cancel)\n")
    print("| V | ln Ŝ | Ŝ v Σ|λ|² | −ln Ŝ v Δ² | with det's sign: −Ŝ v Δ² | gradient cosine | 5 to 95 % |")
    print("|---|---|---|---|---|---|---|")
    for constant in ("gamma", "minkowski"):
        log, log_slope = with_gradient(x, "paper_determinant", 2, constant=constant)
        # ∇(‖x‖² − Ŝ) = 2x − Ŝ ∇ln Ŝ up to a positive factor that keeps it within float64.
        weight = log[:, None, None].clamp(max=0).exp()
        direction = 2 * x.double() * (-log[:, None, None].clamp(min=0)).exp() - weight * log_slope
        angle = cosine(direction, slope)
        rank = log.argsort().argsort().double() + 1
        print(
            f"| {constant} | {span(log)} | {spearman(log, spectral):+.2f} | {spearman(-log, exact):+.2f} | "
            f"{spearman(-rank * sign, exact):+.2f} | {angle.median():+.3f} | "
            f"{angle.quantile(0.05):+.2f} to {angle.quantile(0.95):+.2f} |"
        )
    print()


def span(x: Tensor) -> str:
    return f"{x.median():.0f} ({x.min():.0f} to {x.max():.0f})"


def draw(
    path: Path,
    classes: tuple[str, ...],
    scalings: dict[str, Tensor],
    exact: dict[str, Tensor],
    labels: Tensor,
    changes: dict[str, dict[str, Change]],
) -> None:
    """Clips from low to high Δ², estimates against exact, section 3.1 against Σ|λ|², changes of the mean."""
    signed = scalings["signed"]
    figure = plt.figure(figsize=(10, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.35])
    order = exact["signed"].argsort()
    for axis, quantile in zip(top.subplots(1, 5), (0.02, 0.25, 0.5, 0.75, 0.98), strict=True):
        index = int(order[round(quantile * (len(order) - 1))])
        axis.imshow(signed[index], origin="lower", cmap="gray", vmin=-1, vmax=1)
        share = exact["signed"][index] / signed[index].double().square().sum()
        title = classes[int(labels[index])].replace("_", " ")
        axis.set_title(f"{title}\nΔ² = {exact['signed'][index]:.0f}, {share:.0%} of ‖x‖²", fontsize="small")
        axis.set_xticks([], [])
        axis.set_yticks([], [])
    estimates, printed, bars = bottom.subplots(1, 3, width_ratios=[1, 1, 1.25])

    for scaling, method, marker, colour in (
        ("signed", "paper_symmetric", "^", "0.7"),
        ("unit", "perron", "x", "#b5367a"),
        ("signed", "hybrid", ".", "0.1"),
    ):
        values = departure_from_normality(scalings[scaling].double(), method)
        estimates.loglog(exact[scaling], values, marker, color=colour, markersize=3.5, label=f"{method} ({scaling})")
    low, high = float(exact["unit"].min()), float(exact["signed"].max())
    estimates.plot([low, high], [low, high], color="0.4", linewidth=0.8)
    estimates.set_title("estimates", fontsize="medium")
    estimates.set_xlabel("exact Δ²")
    estimates.legend(fontsize="x-small")

    spectral = signed.double().square().sum((1, 2)) - exact["signed"]
    for constant, name, marker, colour in (("gamma", "V = Γ", ".", "0.1"), ("minkowski", "V = ?", "^", "0.6")):
        logs = departure_from_normality(signed.double(), "paper_determinant", constant=constant)
        printed.plot(spectral.log(), logs, marker, color=colour, markersize=3.5, label=name)
    ends = [float(spectral.log().min()), float(spectral.log().max())]
    printed.plot(ends, ends, color="#b5367a", linewidth=2, label="where they should lie")
    printed.set_title("section 3.1 as printed", fontsize="medium")
    printed.set_xlabel("ln Σ|λ|²")
    printed.set_ylabel("ln Ŝ")
    printed.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(0, 0.62))

    rows = [row for row in changes["signed"] if not row.startswith("pixels")][::-1]
    for offset, scaling, colour in ((0.2, "signed", "0.25"), (-0.2, "unit", "0.7")):
        middles = [100 * changes[scaling][row][0] for row in rows]
        places = [k + offset for k in range(len(rows))]
        bars.barh(places, middles, 0.38, color=colour, label=scaling)
        for place, row in zip(places, rows, strict=True):
            _, first, last = (100 * value for value in changes[scaling][row])
            if first != last:
                bars.plot([first, last], [place, place], color="#b5367a", linewidth=1)
    bars.axvline(0, color="0.4", linewidth=0.8)
    bars.set_yticks(range(len(rows)), rows, fontsize="x-small")
    bars.set_xlim(-100, 150)
    bars.set_title("change of the mean Δ², %", fontsize="medium")
    bars.legend(fontsize="x-small", loc="upper right")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
