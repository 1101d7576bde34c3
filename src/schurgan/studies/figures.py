"""The figures of a study from its finished trials; each is drawn from what the runs themselves have written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from schurgan.audio import Aux, MorletCWT, snr_paper_db, write_audio
from schurgan.audio.pictures import picture, save_png
from schurgan.core.errors import UserError, writing
from schurgan.core.files import atomic_write
from schurgan.data.shards import Shards, split
from schurgan.evaluation.sweep import sweep
from schurgan.evaluation.table import figure as digits
from schurgan.model import Model, load
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import ScaleName, Study, Trial
from schurgan.studies.trial import read_outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST_MS = 500
_EXAMPLES = 9
_LETTERS = "abcdefghij"
_FIRST_PANELS = 5  # number of the paper's figure that the first signal of the first row is


def save_figures(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Draw what the study is for: -> the PNG files (an SVG lies beside each).

    Raises UserError where the trials that are needed have no generator.
    """
    draw = {"gap": _gaps, "sweep": _sweep, "waveform": _waveforms, "panels": _panels}[study.kind]
    return draw(study, scale, trials, out)


def _gaps(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Figure 1: a panel a row, the gap of the departure over steps, an arrow at each onset of collapse."""
    rows = study.rows_at(scale)
    path = out / f"{study.name}-{scale}"
    with sheet(path, 2.2 * -(-len(rows) // 2)) as page:
        axes = page.subplots(-(-len(rows) // 2), 2, squeeze=False).flat
        for letter, row, ax in zip(_LETTERS, rows, axes, strict=False):
            for style, variant in zip(LINES, ("", *study.variants), strict=False):
                label = study.variants[variant].about if variant else "logarithmic wavelet images"
                for trial in (c for c in trials if (c.row, c.variant) == (row.name, variant)):
                    _one_gap(ax, trial, style, label)
                    label = ""
            ax.axhline(0, color="0.85", linewidth=0.6, zorder=0)
            ax.set_title(f"({letter}) {row.label}")
        for ax in list(page.axes)[len(rows) :]:
            ax.remove()
        curves, labels = page.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            page.legend(curves, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        page.supxlabel("step (arrow: onset of collapse)")
        page.supylabel("E Δ²(G(z)) − E Δ²(x)")
    return [path.with_suffix(".png")]


def _one_gap(ax: Any, trial: Trial, style: dict[str, Any], label: str) -> None:
    records = RunFolder(trial.folder).read_records().health
    points = [(each.step, gap) for each in records if (gap := each.scores.get("gap")) is not None]
    steps, gaps = [step for step, _ in points], [gap for _, gap in points]
    ax.plot(steps, gaps, alpha=1.0 if trial.seed == 0 else 0.5, label=label or None, **style)
    outcome = read_outcome(trial.folder)
    if outcome is not None and outcome.onset in steps:
        at = gaps[steps.index(outcome.onset)]
        arrow = {"arrowstyle": "->", "color": style["color"]}
        ax.annotate("", (outcome.onset, at), (0, 18), textcoords="offset points", arrowprops=arrow)


def _sweep(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Figure 2: generated images at each truncation with gap and kinds in a batch; under them both over truncation."""
    trial = _first(study, trials)
    at = study.scale(scale)
    found = sweep(
        trial.folder, extractor=at.extractor, images=at.images, data=trial.config.data, seed=trial.seed, figures=False
    )
    points = dict(zip(found.truncations, found.points, strict=True))
    if missing := [alpha for alpha in study.alphas if alpha not in points]:
        raise UserError(f"study {study.name}: truncation {missing[0]:g} is none of a sweep's")
    model = load(trial.folder)
    path = out / f"{study.name}-{scale}"
    labels = torch.arange(_EXAMPLES) % len(model.classes)
    with sheet(path, 4.2) as page:
        upper, lower = page.subfigures(2, 1, height_ratios=(1.1, 1), squeeze=False)[:, 0]
        for alpha, ax in zip(study.alphas, upper.subplots(1, len(study.alphas), squeeze=False).flat, strict=True):
            images = model.images(labels, alpha, trial.seed).mean(1).numpy()
            ax.imshow(_tiled(images), cmap="gray", vmin=-1, vmax=1)
            ax.set_axis_off()
            gap, kinds = (points[alpha][name].value for name in ("departure_gap", "vendi_score"))
            ax.set_title(f"α = {alpha:g}, ε = {digits(None if gap is None else abs(gap))}\nk = {digits(kinds)}")
        curves = (("fid", "FID"), ("inception_score", "Inception Score"), ("variety", "variety, share of real"))
        x = sorted(points)
        for (name, title), ax in zip(curves, lower.subplots(1, len(curves)), strict=True):
            y = [points[alpha][name].value if name in points[alpha] else None for alpha in x]
            ax.plot(x, [np.nan if value is None else value for value in y], marker="o", **LINES[0])
            floor = points[x[0]][name].floor if name in points[x[0]] else None
            if floor is not None:
                ax.axhline(floor, **LINES[3])
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{value:g}" for value in x], rotation=45)
            ax.minorticks_off()
            ax.set_title(title)
        lower.supxlabel("truncation α (dotted: real images)")
    with writing(out), atomic_write(path.with_suffix(".md"), "w") as file:
        notes = "".join(f"- {note}\n" for note in study.notes)
        file.write(f"# {study.title}\n\n{found.cells().markdown()}\n- Scale {scale}: {at.about}\n{notes}")
    return [path.with_suffix(".png")]


def _waveforms(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Figure 3: the first half second of a recording and of generated images with its phase; and sets to hear."""
    trial = _first(study, trials)
    model, shards = load(trial.folder), _shards(trial)
    sets = [borrow(model, shards, clip, study.alphas, trial.seed) for clip in choose_clips(shards, 2, seed=trial.seed)]
    for number, found in enumerate(sets, 1):
        save_set(model, found, out / f"{study.name}-{scale}-sounds" / f"set-{number}", trial.seed)
    path = out / f"{study.name}-{scale}"
    found, rate = sets[0], model.spectrogram.sample_rate
    count = min(round(rate * _FIRST_MS / 1000), len(found.original))
    time = np.arange(count) / rate * 1000
    with sheet(path, 1.0 * (1 + len(found.alphas))) as page:
        axes = page.subplots(1 + len(found.alphas), 1, sharex=True, sharey=True)
        axes[0].plot(time, found.original[:count].numpy(), linewidth=0.5, **LINES[0])
        axes[0].set_title(f'original, "{found.label}"', loc="left")
        for number, (alpha, ax) in enumerate(zip(found.alphas, axes[1:], strict=True)):
            ax.plot(time, found.sounds[number, :count].numpy(), linewidth=0.5, **LINES[0])
            ax.set_title(f"generated, α = {alpha:g}, its phase (SNR {found.snr(number):.1f} dB)", loc="left")
        axes[-1].set_xlabel("ms")
    return [path.with_suffix(".png")]


def _panels(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Figures 5 to 10: for each scale of images two signals, the phase, the original and generated images."""
    paths, clips = [], list[str]()
    for place, row in enumerate(study.rows_at(scale)):
        trial = _first(study, [c for c in trials if c.row == row.name])
        model, shards = load(trial.folder), _shards(trial)
        if not clips:  # the same two recordings in all sets
            clips = [shards.origins[clip] for clip in choose_clips(shards, 2, seed=trial.seed)]
        for number, origin in enumerate(clips):
            if origin not in shards.origins:
                raise UserError(f"{shards.folder}: has no {origin}, which the first set has; prepare both alike")
            # Four generated images of the first signal and two of the second, as the paper has.
            alphas = study.alphas if number == 0 else study.alphas[:2]
            found = borrow(model, shards, shards.origins.index(origin), alphas, trial.seed)
            path = out / f"figure{_FIRST_PANELS + 2 * place + number}-{scale}"
            _panel(path, f"{row.label}, sig{number + 1}", model, found)
            paths.append(path.with_suffix(".png"))
    return paths


def _panel(path: Path, name: str, model: Model, found: Borrowed) -> None:
    count = 2 + len(found.alphas)
    with sheet(path, 1.5 * -(-count // 3) + 0.4) as page:
        axes = list(page.subplots(-(-count // 3), 3, squeeze=False).flat)
        pictures = [("original phase", phase_picture(model, found.original), "twilight", np.pi)]
        pictures += [("original spectrogram", found.image.mean(0), "gray", 1.0)]
        pictures += [
            (f"generated, α = {alpha:g} (SNR {found.snr(n):.1f} dB)", found.images[n].mean(0), "gray", 1.0)
            for n, alpha in enumerate(found.alphas)
        ]
        for letter, (title, values, colours, most), ax in zip(_LETTERS, pictures, axes, strict=False):
            ax.imshow(values.numpy(), cmap=colours, vmin=-most, vmax=most, origin="lower", aspect="auto")
            ax.set_title(f"({letter}) {title}")
            ax.set_xticks([])
            ax.set_yticks([])
        for ax in axes[count:]:
            ax.remove()
        page.suptitle(f'{name}: "{found.label}"', fontsize=9)


def _first(study: Study, trials: Sequence[Trial]) -> Trial:
    """The trial of the first seed. Raises UserError where it was not scored."""
    trial = min(trials, key=lambda each: (each.seed, each.variant != ""))
    outcome = read_outcome(trial.folder)
    if outcome is None or outcome.scored_step is None:
        why = outcome.reason if outcome else "it was not run"
        raise UserError(f"study {study.name}: trial {trial.name} has no generator to draw ({why})")
    return trial


def _shards(trial: Trial) -> Shards:
    assert trial.config.data is not None
    train = trial.config.train
    shards, _ = split(Shards(trial.config.data), train.val_folds, train.val_fraction)
    return shards


def _tiled(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(9, R, R) -> three by three, lowest frequencies at the bottom, a line between them."""
    framed = np.pad(images[:, ::-1], ((0, 0), (1, 1), (1, 1)), constant_values=1.0)
    rows = [np.concatenate(list(framed[i : i + 3]), axis=1) for i in range(0, len(framed), 3)]
    return np.concatenate(rows, axis=0)


LINES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-"},
    {"color": "0.45", "linestyle": "--"},
    {"color": "0.65", "linestyle": "-."},
    {"color": "0.3", "linestyle": ":"},
)
"""Of the curves of a panel."""
WIDE = 7.2
"""Inches across a page."""
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "schurgan",
}


@contextmanager
def sheet(path: Path, height: float) -> Iterator[Figure]:
    """Yield a figure of a page's width and `height` inches, and save it as PATH.png and PATH.svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDE, height), layout="constrained")
        yield figure
        formats: dict[str, dict[str, Any]] = {"png": {"dpi": 200}, "svg": {"metadata": {"Date": None}}}
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for kind, about in formats.items():
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, **about)
                with atomic_write(path.with_suffix(f".{kind}")) as file:
                    file.write(buffer.getvalue())


APPROXIMATED = ("noise", "griffin-lim")
"""Ways to a phase without a recording's. The paper's others (Krawczyk and Gerkmann, MelGAN) are not here."""


@dataclass(frozen=True)
class Borrowed:
    """A recording, and generated images of its class with its phase (the paper's: image times phase)."""

    label: str
    original: Tensor
    """(L,), peak 1."""
    image: Tensor
    """(C, R, R) of the recording."""
    reference: Tensor
    """(1,), magnitude that the top of the scale stands for."""
    alphas: tuple[float, ...]
    images: Tensor
    """(A, C, R, R), one an alpha, all of one noise."""
    sounds: Tensor
    """(A, L)."""

    def snr(self, number: int) -> float:
        """20 log₁₀ of signal over residual, as the paper counts, of a sound against the recording."""
        return float(snr_paper_db(self.original, self.sounds[number]))


def choose_clips(shards: Shards, count: int, seed: int) -> list[int]:
    """`count` recordings (no altered copies) of different classes where there are as many, drawn by the seed.

    Raises UserError where there are fewer recordings.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~shards.augmented))
    if len(order) < count:
        raise UserError(f"{shards.folder}: {len(order)} recordings, {count} are needed")
    firsts = {int(shards.labels[clip]): int(clip) for clip in reversed(order)}
    chosen = sorted(firsts.values(), key=lambda clip: int(np.flatnonzero(order == clip)[0]))[:count]
    return chosen + [int(clip) for clip in order if int(clip) not in chosen][: count - len(chosen)]


@torch.no_grad()
def borrow(model: Model, shards: Shards, clip: int, alphas: Sequence[float], seed: int) -> Borrowed:
    """Raises UserError for a set without recordings."""
    original = shards.recording(clip)
    label = shards.classes[int(shards.labels[clip])]
    image, aux = model.spectrogram.encode(original[None])
    number = torch.tensor([model.classes.index(label)])
    images = torch.cat([model.images(number, alpha, seed) for alpha in alphas])
    carrier = original.expand(len(alphas), -1)
    here = Aux(aux.reference.expand(len(alphas)), carrier)
    sounds = model.spectrogram.decode(images, here, phase="carrier", refine=0)
    return Borrowed(label, original, image[0], aux.reference, tuple(alphas), images, sounds)


@torch.no_grad()
def phase_picture(model: Model, original: Tensor) -> Tensor:
    """Recording (L,) -> its phase (R, R) in [−π, π], rows ascending in frequency, at the middle of each column.

    Raises UserError for images that are not of wavelets.
    """
    transform, size = model.spectrogram.transform, model.spectrogram.size
    if not isinstance(transform, MorletCWT):
        raise UserError("a picture of the phase needs images of wavelets; prepare the data with --transform wavelet")
    coefficients = transform.full_rate(original[None])[0]
    middles = ((torch.arange(size) + 0.5) * (coefficients.shape[-1] / size)).long()
    return coefficients[:, middles].angle()


def save_set(model: Model, found: Borrowed, folder: Path, seed: int) -> None:
    """Write a set to listen to: each sound as WAV with its image as PNG, and about.json.

    The files are original, synthesized-1, ..., approximated-noise, ...; approximated phases are of the first image.
    """
    rate = model.spectrogram.sample_rate
    of_first = {
        f"approximated-{phase}": (
            found.images[0],
            model.spectrogram.decode(found.images[:1], Aux(found.reference), phase=phase, seed=seed)[0],
        )
        for phase in APPROXIMATED
    }
    made = {
        f"synthesized-{number}": (image, sound)
        for number, (image, sound) in enumerate(zip(found.images, found.sounds, strict=True), 1)
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (image, sound) in ({"original": (found.image, found.original)} | made | of_first).items():
            write_audio(folder / f"{name}.wav", sound / sound.abs().amax().clamp_min(1), rate)
            save_png(picture(image, max(1, 256 // image.shape[-1])), folder / f"{name}.png")
        about = {
            "class": found.label,
            "synthesized": [
                {"name": f"synthesized-{n}", "truncation": alpha, "snr_paper_db": round(found.snr(n - 1), 3)}
                for n, alpha in enumerate(found.alphas, 1)
            ],
            "approximated_of": "synthesized-1",
        }
        with atomic_write(folder / "about.json", "w") as file:
            json.dump(about, file, indent=1, ensure_ascii=False)
