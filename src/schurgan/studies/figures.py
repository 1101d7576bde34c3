"""The figures of a study from its finished trials; each is drawn from what the runs themselves have written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write
from schurgan.data.shards import Shards, split
from schurgan.evaluation.sweep import sweep
from schurgan.evaluation.table import figure as digits
from schurgan.model import Model, load
from schurgan.runs.folder import RunFolder
from schurgan.studies.listening import Borrowed, borrow, choose_clips, join_alphas, phase_picture, save_set
from schurgan.studies.study import ScaleName, Study, Trial
from schurgan.studies.trial import read_outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIRST_MS = 500
_EXAMPLES = 9
_LETTERS = "abcdefghij"
_FIRST_PANELS = 5  # number of the paper's figure that the first signal of the first row is
_LINES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-"},
    {"color": "0.45", "linestyle": "--"},
    {"color": "0.65", "linestyle": "-."},
    {"color": "0.3", "linestyle": ":"},
)
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


def save_figures(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Draw what the study is for, and return the PNG files (an SVG lies beside each).

    Raises:
        SchurganError: a trial that is needed has no generator.
    """
    path = out / f"{study.name}-{scale}"
    if study.kind == "panels":
        return _draw_panels(study, scale, trials, out)
    if study.kind == "gap":
        return _draw_gaps(study, scale, trials, path)
    if study.kind == "sweep":
        _draw_sweep(study, scale, trials, path)
    else:
        _draw_waveforms(study, scale, trials, path)
    return [path.with_suffix(".png")]


def _draw_gaps(study: Study, scale: ScaleName, trials: Sequence[Trial], path: Path) -> list[Path]:
    """Figure 1: the gap of images over steps, a panel a row, an arrow at each onset of collapse; that of a layer."""
    drawn = [("gap", "E Δ²(G(z)) − E Δ²(x)", path)]
    layers = [name for trial in trials if (name := trial.config.health.layer)]
    if layers:
        label = f"E Δ²({layers[0]} of G) − E Δ²(x), x pooled to its size"
        drawn.append(("layer_gap", label, path.with_name(f"{path.name}-layer")))
    for score, label, to in drawn:
        _draw_gap_panels(study, scale, trials, score, label, to)
    return [to.with_suffix(".png") for _, _, to in drawn]


def _draw_gap_panels(
    study: Study, scale: ScaleName, trials: Sequence[Trial], score: str, label: str, path: Path
) -> None:
    rows = study.rows_at(scale)
    with _sheet(path, 2.2 * -(-len(rows) // 2)) as page:
        axes = page.subplots(-(-len(rows) // 2), 2, squeeze=False).flat
        for letter, row, ax in zip(_LETTERS, rows, axes, strict=False):
            for style, variant in zip(_LINES, ("", *study.variants), strict=False):
                name = study.variants[variant].about if variant else "logarithmic wavelet images"
                for trial in (c for c in trials if (c.row, c.variant) == (row.name, variant)):
                    _draw_gap(ax, trial, score, style, name)
                    name = ""
            ax.axhline(0, color="0.85", linewidth=0.6, zorder=0)
            ax.set_title(f"({letter}) {row.label}")
        for ax in list(page.axes)[len(rows) :]:
            ax.remove()
        curves, labels = page.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            page.legend(curves, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        page.supxlabel("step (arrow: onset of collapse)")
        page.supylabel(label)


def _draw_gap(ax: Axes, trial: Trial, score: str, style: dict[str, Any], label: str) -> None:
    records = RunFolder(trial.folder).read_records().health
    gaps = {each.step: gap for each in records if (gap := each.scores.get(score)) is not None}
    ax.plot([*gaps], [*gaps.values()], alpha=1.0 if trial.seed == 0 else 0.5, label=label or None, **style)
    outcome = read_outcome(trial.folder)
    if outcome is not None and outcome.onset in gaps:
        arrow = {"arrowstyle": "->", "color": style["color"]}
        point = (outcome.onset, gaps[outcome.onset])
        ax.annotate("", point, (0, 18), textcoords="offset points", arrowprops=arrow)


def _draw_sweep(study: Study, scale: ScaleName, trials: Sequence[Trial], path: Path) -> None:
    """Figure 2: a model's images at each truncation, its ε, gap and kinds in a batch; under them its scores."""
    at, pairs = study.scale(scale), _pairs(study, scale, trials)
    swept = [
        sweep(
            trial.folder,
            [alpha],
            extractor=at.extractor,
            images=at.images,
            data=trial.config.data,
            seed=trial.seed,
            figures=False,
        )
        for trial, alpha in pairs
    ]
    points = {alpha: each.points[0] for (_, alpha), each in zip(pairs, swept, strict=True)}
    result = replace(swept[0], truncations=tuple(points), points=tuple(points.values()))
    with _sheet(path, 4.2) as page:
        upper, lower = page.subfigures(2, 1, height_ratios=(1.1, 1), squeeze=False)[:, 0]
        for (trial, alpha), ax in zip(pairs, upper.subplots(1, len(pairs), squeeze=False).flat, strict=True):
            model = load(trial.folder)
            images = model.images(torch.arange(_EXAMPLES) % len(model.classes), alpha, trial.seed).mean(1).numpy()
            # Three by three, lowest frequencies at the bottom, a line between them.
            framed = np.pad(images[:, ::-1], ((0, 0), (1, 1), (1, 1)), constant_values=1.0)
            ax.imshow(np.block([list(framed[i : i + 3]) for i in (0, 3, 6)]), cmap="gray", vmin=-1, vmax=1)
            ax.set_axis_off()
            gap, kinds = (points[alpha][name].value for name in ("departure_gap", "vendi_score"))
            came = digits(None if gap is None else abs(gap))
            ax.set_title(f"α = {alpha:g}, ε = {_epsilon(trial)}\ngap {came}, k = {digits(kinds)}")
        curves = (("fid", "FID"), ("inception_score", "Inception Score"), ("variety", "variety, share of real"))
        x = sorted(points)
        for (name, title), ax in zip(curves, lower.subplots(1, len(curves)), strict=True):
            y = [points[alpha][name].value if name in points[alpha] else None for alpha in x]
            ax.plot(x, [np.nan if value is None else value for value in y], marker="o", **_LINES[0])
            floor = points[x[0]][name].floor if name in points[x[0]] else None
            if floor is not None:
                ax.axhline(floor, **_LINES[3])
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{value:g}" for value in x], rotation=45)
            ax.minorticks_off()
            ax.set_title(title)
        lower.supxlabel("truncation α (dotted: real images)")
    with writing(path.parent), atomic_write(path.with_suffix(".md"), "w") as file:
        notes = "".join(f"- {note}\n" for note in study.notes)
        file.write(f"# {study.title}\n\n{result.cells().markdown()}\n- Scale {scale}: {at.about}\n{notes}")


def _draw_waveforms(study: Study, scale: ScaleName, trials: Sequence[Trial], path: Path) -> None:
    """Figure 3: the first half second of a recording and of generated images with its phase; and sets to hear."""
    pairs = _pairs(study, scale, trials)
    models = [load(trial.folder) for trial, _ in pairs]
    model, shards, seed = models[0], _shards(pairs[0][0]), pairs[0][0].seed
    sets = []
    for number, clip in enumerate(choose_clips(shards, 2, seed=seed), 1):
        parts = [borrow(m, shards, clip, [alpha], seed) for m, (_, alpha) in zip(models, pairs, strict=True)]
        sets.append(join_alphas(parts))
        folder = path.with_name(f"{path.name}-sounds") / f"set-{number}"
        save_set(model, sets[-1], [trial.config.ddfn for trial, _ in pairs], folder, seed)
    first, rate = sets[0], model.spectrogram.sample_rate
    count = min(round(rate * _FIRST_MS / 1000), len(first.original))
    time = np.arange(count) / rate * 1000
    with _sheet(path, 1.0 * (1 + len(first.alphas))) as page:
        axes = page.subplots(1 + len(first.alphas), 1, sharex=True, sharey=True)
        axes[0].plot(time, first.original[:count].numpy(), linewidth=0.5, **_LINES[0])
        axes[0].set_title(f'original, "{first.label}"', loc="left")
        for number, ((trial, alpha), ax) in enumerate(zip(pairs, axes[1:], strict=True)):
            ax.plot(time, first.sounds[number, :count].numpy(), linewidth=0.5, **_LINES[0])
            made = f"generated, α = {alpha:g}, ε = {_epsilon(trial)}, its phase (SNR {first.snr(number)})"
            ax.set_title(made, loc="left")
        axes[-1].set_xlabel("ms")


def _draw_panels(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> list[Path]:
    """Figures 5 to 10: for each scale of images two signals, the phase, the original and generated images."""
    paths, clips = [], list[str]()
    for place, row in enumerate(study.rows_at(scale)):
        trial = _first(study, [c for c in trials if c.row == row.name])
        model, shards = load(trial.folder), _shards(trial)
        if not clips:  # the same two recordings in all sets
            clips = [shards.origins[clip] for clip in choose_clips(shards, 2, seed=trial.seed)]
        for number, origin in enumerate(clips):
            if origin not in shards.origins:
                raise SchurganError(f"{shards.folder}: has no {origin}, which the first set has; prepare both alike")
            # Four generated images of the first signal and two of the second, as the paper has.
            alphas = study.alphas if number == 0 else study.alphas[:2]
            borrowed = borrow(model, shards, shards.origins.index(origin), alphas, trial.seed)
            path = out / f"figure{_FIRST_PANELS + 2 * place + number}-{scale}"
            _draw_panel(path, f"{row.label}, sig{number + 1}", model, borrowed)
            paths.append(path.with_suffix(".png"))
    return paths


def _draw_panel(path: Path, name: str, model: Model, borrowed: Borrowed) -> None:
    pictures = [("original phase", phase_picture(model, borrowed.original), "twilight", np.pi)]
    pictures += [("original spectrogram", borrowed.image.mean(0), "gray", 1.0)]
    for n, alpha in enumerate(borrowed.alphas):
        title = f"generated, α = {alpha:g} (SNR {borrowed.snr(n)})"
        pictures.append((title, borrowed.images[n].mean(0), "gray", 1.0))
    lines = -(-len(pictures) // 3)
    with _sheet(path, 1.5 * lines + 0.4) as page:
        axes = list(page.subplots(lines, 3, squeeze=False).flat)
        for letter, (title, values, colours, most), ax in zip(_LETTERS, pictures, axes, strict=False):
            ax.imshow(values.numpy(), cmap=colours, vmin=-most, vmax=most, origin="lower", aspect="auto")
            ax.set_title(f"({letter}) {title}")
            ax.set_xticks([])
            ax.set_yticks([])
        for ax in axes[len(pictures) :]:
            ax.remove()
        page.suptitle(f'{name}: "{borrowed.label}"', fontsize=9)


def _pairs(study: Study, scale: ScaleName, trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    """A trial and its truncation, for each row that has one; else the first row's trial at each of the study's."""
    rows = study.rows_at(scale)
    own = {row.name: row.alpha for row in rows if row.alpha is not None}
    if not own:
        return [(_first(study, trials), alpha) for alpha in study.alphas]
    return [(_first(study, [t for t in trials if t.row == name]), alpha) for name, alpha in own.items()]


def _epsilon(trial: Trial) -> str:
    """ε as the run had it: in units of Δ², or as a share of the real mean."""
    ddfn = trial.config.ddfn
    return f"{ddfn.epsilon:g}" if ddfn.relative_epsilon is None else f"{ddfn.relative_epsilon:.3g} E Δ²(x)"


def _first(study: Study, trials: Sequence[Trial]) -> Trial:
    """The trial of the first seed. Raises SchurganError where it was not scored."""
    trial = min(trials, key=lambda each: (each.seed, each.variant != ""))
    outcome = read_outcome(trial.folder)
    if outcome is None or outcome.scored_step is None:
        why = outcome.reason if outcome else "it was not run"
        raise SchurganError(f"study {study.name}: trial {trial.name} has no generator to draw ({why})")
    return trial


def _shards(trial: Trial) -> Shards:
    assert trial.config.data is not None
    train = trial.config.train
    shards, _ = split(Shards(trial.config.data), train.val_folds, train.val_fraction)
    return shards


@contextmanager
def _sheet(path: Path, height: float) -> Iterator[Figure]:
    """Yield a figure of a page's width and `height` inches, and save it as PATH.png and PATH.svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        yield figure
        formats: dict[str, dict[str, Any]] = {"png": {"dpi": 200}, "svg": {"metadata": {"Date": None}}}
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for kind, options in formats.items():
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, **options)
                with atomic_write(path.with_suffix(f".{kind}")) as file:
                    file.write(buffer.getvalue())
