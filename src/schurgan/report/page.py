"""A run as one page that needs nothing else: sounds to play, spectrograms, a classifier's verdict, curves, events."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import soundfile
import torch
from torch import Tensor

from schurgan.audio.pictures import picture, png
from schurgan.core.errors import UserError, writing
from schurgan.core.files import atomic_write, write_json
from schurgan.data.codec import open_codec
from schurgan.data.shards import Shards, split
from schurgan.evaluation.features.classifier import Trained, cached_classifier, judge
from schurgan.model import Model, Sounds, load
from schurgan.report import curves
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import duration
from schurgan.runs.status import read_status


@dataclass(frozen=True)
class Verdict:
    """What a classifier of the real images takes generated sounds for, after these were decoded and analysed again."""

    real_accuracy: float
    generated_accuracy: float
    per_class: dict[str, float]
    variety: dict[str, float]
    """Mean distance between two generated images of a class, as a share of that between two real ones."""
    n_train: int
    n_test: int
    n_generated: int
    truncation: float
    step: int
    seed: int


def write_report(run: str | Path, *, shown: int = 3, judged: int = 12, truncation: float = 1.0, seed: int = 1) -> Path:
    """RUN/report.html and, where the run has a generator, RUN/classifier.json.

    Per class, `shown` real and generated sounds can be played and `judged` generated ones are classified. A run that
    has not saved a generator yet, or died before, has a page of curves and events. Raises UserError when the folder
    is no run or its data is gone.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    folder = RunFolder(run)
    bare = not folder.generator.exists() and (folder.config.exists() or folder.metrics.exists())
    verdict, parts = (None, _bare()) if bare else _heard(run, shown, judged, truncation, seed)
    records = folder.read_records()
    page = Template((resources.files("schurgan.report") / "templates" / "page.html").read_text("utf-8")).substitute(
        parts,
        title=f"Schurgan: {escape(run.resolve().name)}",
        state=_state(run),
        health=curves.verdict(records),
        scores=curves.scores(run),
        charts=curves.charts(records),
        events=curves.events(records),
        options=escape(folder.config.read_text("utf-8", "replace")) if folder.config.exists() else "",
    )
    with writing(folder.report):
        if verdict is not None:
            write_json(folder.classifier, verdict.__dict__)
        with atomic_write(folder.report, "w") as file:
            file.write(page)
    return folder.report


def _bare() -> dict[str, str]:
    """The parts of the page that need a generator, without one."""
    return {"subtitle": "The run has not saved a generator yet: there is nothing to hear.", "heard": ""}


def _state(run: Path) -> str:
    """How far the run was when the page was written."""
    try:
        status = read_status(run)
    except UserError:  # options of another version; the page has them as they are
        return ""
    silent = f"no line for {duration(status.seconds_silent)} when this page was written"
    said = silent if status.state == "silent" else status.state
    return f'<p class="faint">Step {status.step} of {status.steps}, {said}.</p>'


def _heard(run: Path, shown: int, judged: int, truncation: float, seed: int) -> tuple[Verdict, dict[str, str]]:
    """The classifier's verdict, and the parts of the page that show what the generator makes."""
    model = load(run)
    if model.card.data is None or not Path(model.card.data).is_dir():
        raise UserError(f"{run}: its data folder {model.card.data} is gone, which the report compares with")
    shards = Shards(model.card.data)
    if shards.classes != model.classes:
        raise UserError(f"{model.card.data}: holds other classes than {run} was trained on; the report compares them")
    config = RunFolder(run).read_config() if RunFolder(run).config.exists() else Config()
    folds = config.train.val_folds
    learned, _ = split(shards, folds, config.train.val_fraction)
    # The one that watched the run, where it is the same: a page should not take longer than to be read.
    trained = cached_classifier(shards if folds else learned, val_folds=folds, quick=True)
    shards = learned
    generated = [model.sample(name, judged, truncation, seed) for name in model.classes]
    real, made = ("pictures", "pictures") if model.pictures else ("recordings", "sounds")
    verdict = _judge(model, shards, trained, generated, truncation, seed)
    subtitle = (
        f"{len(shards)} {real} of {len(model.classes)} classes, {model.card.step} steps of training, "
        f"{model.codec.size}x{model.codec.size}"
        + ("" if model.pictures else f" {model.codec.config['transform']} spectrograms")
    )
    legend = f"Left: {real} that the model learned from. Right: {made} that it made." + (
        "" if model.pictures else " The pictures are the spectrograms, low notes at the bottom."
    )
    classes = "\n".join(
        _class(name, sounds, shards, shown, verdict) for name, sounds in zip(model.classes, generated, strict=True)
    )
    heading = "Look" if model.pictures else "Listen"
    heard = f"{_verdict(verdict, real, made)}\n<h2>{heading}</h2>\n<p>{legend}</p>\n{classes}"
    return verdict, {"subtitle": subtitle, "heard": heard}


def _judge(
    model: Model, shards: Shards, trained: Trained, generated: list[Sounds], truncation: float, seed: int
) -> Verdict:
    heard = torch.cat([_analysed(model, sounds) for sounds in generated])
    labels = torch.repeat_interleave(torch.arange(len(generated)), len(generated[0]))
    accuracy, per_class = judge(trained.network, heard, labels)
    return Verdict(
        trained.accuracy,
        accuracy,
        dict(zip(model.classes, per_class, strict=True)),
        {sounds.label: _variety(model, shards, sounds) for sounds in generated},
        trained.n_train,
        trained.n_test,
        len(labels),
        truncation,
        model.card.step,
        seed,
    )


def _variety(model: Model, shards: Shards, sounds: Sounds) -> float:
    clips = (shards.labels == shards.classes.index(sounds.label)).nonzero()[0][:100]
    made = model.codec.invert_colormap(sounds.images)
    if len(made) < 2 or len(clips) < 2:
        return 0.0
    real = open_codec(shards.manifest.transform).invert_colormap(shards.images(clips))
    return (_spread(made) / _spread(real)).item()


def _spread(images: Tensor) -> Tensor:
    """Mean Euclidean distance between two different images."""
    return torch.pdist(images.flatten(1)).mean()


def _analysed(model: Model, sounds: Sounds) -> Tensor:
    """Images, as `prepare` would make them of the sounds, at peak 1; pictures as they are."""
    audio = sounds.audio
    if audio is None:
        return sounds.images
    peak = audio.abs().amax(1, keepdim=True).clamp_min(1e-9)
    return model.codec.invert_colormap(model.spectrogram.encode(audio / peak)[0])


def _verdict(verdict: Verdict, real: str, made: str) -> str:
    variety = sum(verdict.variety.values()) / len(verdict.variety)
    return (
        f'<p class="verdict">A classifier trained on {verdict.n_train} of the {real} knows the class of '
        f"<b>{verdict.real_accuracy:.1%}</b> of the {verdict.n_test} others, and of "
        f"<b>{verdict.generated_accuracy:.1%}</b> of {verdict.n_generated} generated {made}. Two generated "
        f"ones of a class differ {variety:.2f} times as much as two real ones.</p>"
    )


def _class(name: str, sounds: Sounds, shards: Shards, shown: int, verdict: Verdict) -> str:
    clips = (shards.labels == shards.classes.index(name)).nonzero()[0]
    chosen = clips[:: max(1, len(clips) // shown)][:shown]
    rate = sounds.sample_rate
    real = [_sound(shards.recording(int(i)) if rate else None, shards.images([int(i)])[0], rate) for i in chosen]
    audio = sounds.audio if sounds.audio is not None else [None] * len(sounds)
    made = [_sound(audio[i], sounds.images[i], rate) for i in range(min(shown, len(sounds)))]
    return (
        f'<section class="class"><header><h3>{escape(name)}</h3>'
        f'<span class="faint">{verdict.per_class[name]:.0%} of what was generated is recognised, '
        f"variety {verdict.variety[name]:.2f} of the real</span></header>"
        f'<div class="sides"><div class="side"><p>real</p><div class="sounds">{"".join(real)}</div></div>'
        f'<div class="side"><p>generated</p><div class="sounds">{"".join(made)}</div></div></div></section>'
    )


def _sound(audio: Tensor | None, image: Tensor, sample_rate: int | None) -> str:
    if audio is None or sample_rate is None:
        return f'<figure><img alt="picture" src="{_data(png(picture(image, photo=True)), "image/png")}"></figure>'
    wav = io.BytesIO()
    soundfile.write(wav, audio.numpy(), sample_rate, subtype="PCM_16", format="WAV")
    return (
        f'<figure><img alt="spectrogram" src="{_data(png(picture(image)), "image/png")}">'
        f'<audio controls preload="none" src="{_data(wav.getvalue(), "audio/wav")}"></audio></figure>'
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
