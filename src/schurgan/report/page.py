"""A run as one HTML page without other files: sounds to play, spectrograms, a classifier's verdict, curves, events."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import soundfile
import torch
from torch import Tensor

from schurgan.audio.pictures import picture, png
from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write, lock, write_json
from schurgan.core.progress import Bar, Parts
from schurgan.core.terminal import duration
from schurgan.data.codec import open_codec
from schurgan.data.shards import Shards, split
from schurgan.evaluation.features.classifier import cached_classifier, judge, steps_to_train
from schurgan.evaluation.metric_table import title
from schurgan.evaluation.pace import Pace
from schurgan.evaluation.scores import Evaluation
from schurgan.evaluation.table import MARK, ordered, real_figure, score_figure
from schurgan.model import Model, Sounds, load
from schurgan.report.charts import charts
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import event_sentence, health_sentence, tone_of, verdict_of
from schurgan.runs.records import Event, Records
from schurgan.runs.status import read_status

_MOST_EVENTS = 200
_SHOWN, _JUDGED = 3, 12
"""Sounds of each class that the page plays, and that the classifier judges."""
_TRUNCATION, _SEED = 1.0, 1


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


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html and, where the run has a generator, RUN/classifier.json.

    A run without a generator, because it has not saved one yet or died before, gets a page of curves and events.

    Returns:
        The page's file.

    Raises:
        SchurganError: the folder is no run, or its data is gone.
    """
    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise SchurganError(f"{run}: no such run folder")
    with writing(folder.report), lock(folder.report, beside=True):
        verdict = None
        subtitle, sounds = "The run has not saved a generator yet: there is nothing to hear.", ""
        if folder.generator.exists() or not (folder.config.exists() or folder.metrics.exists()):
            verdict, subtitle, sounds = _compare_sounds(folder)
        records = folder.read_records()
        template = Template((resources.files("schurgan.report") / "templates" / "page.html").read_text("utf-8"))
        page = template.substitute(
            title=f"Schurgan: {escape(folder.path.resolve().name)}",
            subtitle=subtitle,
            state=_state(folder.path),
            health=_health(records),
            sounds=sounds,
            scores=score_table(folder.path),
            charts=charts(records),
            events=_events(records),
            options=escape(folder.config.read_text("utf-8", "replace")) if folder.config.exists() else "",
        )
        if verdict is not None:
            write_json(folder.classifier, asdict(verdict))
        with atomic_write(folder.report, "w") as file:
            file.write(page)
    return folder.report


def _compare_sounds(folder: RunFolder) -> tuple[Verdict, str, str]:
    """(the classifier's verdict, subtitle, HTML of real and generated sounds side by side)."""
    model = load(folder.path)
    everything = model.open_data()
    config = folder.read_config() if folder.config.exists() else Config()
    folds = config.train.val_folds
    shards, _ = split(everything, folds, config.train.val_fraction)
    # The classifier that watched the run, where it is the same, or the page would take minutes to write.
    seen = everything if folds else shards
    pace, sounds_made = Pace.measure(model, shards), len(model.classes) * _JUDGED
    steps = steps_to_train(seen, val_folds=folds, quick=True)
    with Parts("report", {"classifier": steps * pace.step, "sounds": sounds_made * (pace.image + pace.sound)}):
        with Bar("classifier", unit="step") as bar:
            classifier = cached_classifier(seen, val_folds=folds, quick=True, progress=bar)
        generated, analysed = list[Sounds](), list[Tensor]()
        with Bar("sounds", sounds_made, "sounds") as bar:
            for name in model.classes:
                generated.append(model.sample(name, _JUDGED, _TRUNCATION, _SEED))
                analysed.append(_analyse_again(model, generated[-1]))
                bar.update(len(generated) * _JUDGED)
    images, labels = torch.cat(analysed), torch.repeat_interleave(torch.arange(len(generated)), _JUDGED)
    accuracy, per_class = judge(classifier.network, images, labels)
    verdict = Verdict(
        classifier.accuracy,
        accuracy,
        dict(zip(model.classes, per_class, strict=True)),
        {sounds.label: _variety(model, shards, sounds) for sounds in generated},
        classifier.n_train,
        classifier.n_test,
        len(labels),
        _TRUNCATION,
        model.card.step,
        _SEED,
    )
    real, fake, heading = ("pictures", "pictures", "Look") if model.pictures else ("recordings", "sounds", "Listen")
    size, kind = model.codec.size, "" if model.pictures else f" {model.codec.config['transform']} spectrograms"
    subtitle = f"{len(shards)} {real} of {len(model.classes)} classes, {model.card.step} steps of training, "
    subtitle += f"{size}x{size}{kind}"
    legend = f"Left: {real} that the model learned from. Right: {fake} that it made."
    if not model.pictures:
        legend += " The pictures are the spectrograms, low notes at the bottom."
    variety = sum(verdict.variety.values()) / len(verdict.variety)
    parts = [
        f'<p class="verdict">A classifier trained on {verdict.n_train} of the {real} knows the class of '
        f"<b>{verdict.real_accuracy:.1%}</b> of the {verdict.n_test} others, and of "
        f"<b>{verdict.generated_accuracy:.1%}</b> of {verdict.n_generated} generated {fake}. Two generated "
        f"ones of a class differ {variety:.2f} times as much as two real ones.</p>",
        f"<h2>{heading}</h2>\n<p>{legend}</p>",
        *(_class_section(sounds, shards, verdict) for sounds in generated),
    ]
    return verdict, subtitle, "\n".join(parts)


def _analyse_again(model: Model, sounds: Sounds) -> Tensor:
    """Images as `prepare` would make them of the sounds, at peak 1; pictures as they are."""
    audio = sounds.audio
    if audio is None:
        return sounds.images
    peak = audio.abs().amax(1, keepdim=True).clamp_min(1e-9)
    return model.codec.invert_colormap(model.spectrogram.encode(audio / peak)[0])


def _variety(model: Model, shards: Shards, sounds: Sounds) -> float:
    clips = (shards.labels == shards.classes.index(sounds.label)).nonzero()[0][:100]
    generated = model.codec.invert_colormap(sounds.images)
    if len(generated) < 2 or len(clips) < 2:
        return 0.0
    real = open_codec(shards.manifest.transform).invert_colormap(shards.images(clips))
    return (torch.pdist(generated.flatten(1)).mean() / torch.pdist(real.flatten(1)).mean()).item()


def _class_section(sounds: Sounds, shards: Shards, verdict: Verdict) -> str:
    name, rate = sounds.label, sounds.sample_rate
    clips = (shards.labels == shards.classes.index(name)).nonzero()[0]
    chosen = clips[:: max(1, len(clips) // _SHOWN)][:_SHOWN]
    real = [_figure(shards.recording(int(i)) if rate else None, shards.images([int(i)])[0], rate) for i in chosen]
    audio = sounds.audio if sounds.audio is not None else [None] * len(sounds)
    fake = [_figure(audio[i], sounds.images[i], rate) for i in range(min(_SHOWN, len(sounds)))]
    return (
        f'<section class="class"><header><h3>{escape(name)}</h3>'
        f'<span class="faint">{verdict.per_class[name]:.0%} of what was generated is recognised, '
        f"variety {verdict.variety[name]:.2f} of the real</span></header>"
        f'<div class="sides"><div class="side"><p>real</p><div class="sounds">{"".join(real)}</div></div>'
        f'<div class="side"><p>generated</p><div class="sounds">{"".join(fake)}</div></div></div></section>'
    )


def _figure(audio: Tensor | None, image: Tensor, sample_rate: int | None) -> str:
    if audio is None or sample_rate is None:
        return f'<figure><img alt="picture" src="{_data_url(png(picture(image, photo=True)), "image/png")}"></figure>'
    wav = io.BytesIO()
    soundfile.write(wav, audio.numpy(), sample_rate, subtype="PCM_16", format="WAV")
    return (
        f'<figure><img alt="spectrogram" src="{_data_url(png(picture(image)), "image/png")}">'
        f'<audio controls preload="none" src="{_data_url(wav.getvalue(), "audio/wav")}"></audio></figure>'
    )


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _state(run: Path) -> str:
    """How far the run was when the page was written."""
    try:
        status = read_status(run)
    except SchurganError:  # options of another version; the page shows them as they are
        return ""
    silent = f"no line for {duration(status.seconds_silent)} when this page was written"
    state = silent if status.state == "silent" else status.state
    return f'<p class="faint">Step {status.step} of {status.steps}, {state}.</p>'


def _health(records: Records) -> str:
    """The last evaluation of health as a paragraph, "" where there is none."""
    if not records.health:
        return ""
    last = records.health[-1]
    return f'<p class="verdict {verdict_of(last)[1]}">{escape(_capitalised(health_sentence(last)))}</p>'


def _events(records: Records) -> str:
    """The newest events with their times, oldest first."""
    if not records.events:
        return "<p>Nothing to tell.</p>"
    left_out = max(0, len(records.events) - _MOST_EVENTS)
    first = [f'<li class="plain">{left_out} events before these</li>'] if left_out else []
    lines = [
        f'<li class="{tone_of(event)}">{escape(_capitalised(event_sentence(event)))}{_time(event)}</li>'
        for event in records.events[left_out:]
    ]
    return f'<ul class="events">{"".join(first + lines)}</ul>'


def _time(event: Event) -> str:
    try:
        text = "" if event.time is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(event.time))
    except (OverflowError, ValueError, OSError):
        text = ""
    return f" <small>{text}</small>" if text else ""


def score_table(run: Path) -> str:
    """RUN/scores.json as an HTML table with its protocol, "" where the file is missing or damaged."""
    try:
        evaluation = Evaluation.load(RunFolder(run).scores)
    except SchurganError:
        return ""
    rows = "".join(
        f"<tr><td>{escape(title(name))}{MARK.get(score.higher_is_better, '')}</td>"
        f'<td class="number">{score_figure(name, score.value)}</td>'
        f'<td class="number">{real_figure(name, score)}</td></tr>'
        for name, score in ordered(evaluation.scores)
    )
    head = "<tr><th>score</th><th>generated</th><th>real against real</th></tr>"
    protocol = ", ".join(f"{name} {value}" for name, value in asdict(evaluation.protocol).items())
    return f'<h2>Scores</h2><table>{head}{rows}</table><p class="legend">{escape(protocol)}</p>'


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
