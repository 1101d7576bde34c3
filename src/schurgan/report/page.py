"""A run as one HTML page without other files: sounds to play, spectrograms, a classifier's verdict, curves, events."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import soundfile
import torch
from torch import Tensor

from schurgan.audio.pictures import picture, png
from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write, lock, write_json
from schurgan.core.progress import Bar, Stages
from schurgan.core.terminal import duration
from schurgan.data.codec import open_codec
from schurgan.data.shards import Shards, describe_split, held_out_folds, split
from schurgan.evaluation.features.classifier import cached_classifier, judge, steps_to_train
from schurgan.evaluation.metric_table import ABOUT
from schurgan.evaluation.metrics.neighbours import nearest
from schurgan.evaluation.pace import Pace
from schurgan.evaluation.scores import Evaluation
from schurgan.evaluation.table import COLUMNS, LEGEND, describe_protocol, ordered, score_cells
from schurgan.evaluation.target import chunks, shrink
from schurgan.model import Model, Sounds, load
from schurgan.report.answers import Answer, Verdict, judge_sounds, judge_training, next_steps
from schurgan.report.charts import charts
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import capitalised, counted, event_sentence, tone_of
from schurgan.runs.records import Event, Records
from schurgan.runs.status import Status, read_status

_MOST_EVENTS = 200
_SHOWN, _JUDGED = 3, 12
"""Sounds of each class that the page plays, and that the classifier judges."""
_TRUNCATION, _SEED = 1.0, 1
_COMPARED, _MOST_READ = 100, 5000
"""Real images whose distances from each other are taken, and those that generated ones are compared with."""


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html and, where the run has a generator, RUN/classifier.json.

    A run without a generator, because it has not saved one yet or died before, gets a page of curves and events.

    Returns:
        The page's file.

    Raises:
        SchurganError: the folder is no run, or its data is gone.
    """
    folder = RunFolder(run)
    folder.require()
    with writing(folder.report), lock(folder.report, beside=True):
        verdict, answers, sounds = None, list[Answer](), ""
        subtitle = "The run has not saved a generator yet: there is nothing to hear."
        if folder.generator.exists() or not (folder.config.exists() or folder.metrics.exists()):
            verdict, answers, subtitle, sounds = _compare_sounds(folder)
        records, status, scores = folder.read_records(), _status(folder), score_table(folder.path)
        answers.append(judge_training(records))
        template = Template((resources.files("schurgan.report") / "templates" / "page.html").read_text("utf-8"))
        page = template.substitute(
            title=f"Schurgan: {escape(folder.path.resolve().name)}",
            subtitle=escape(subtitle),
            state=_state(status),
            answers="\n".join(answer.html() for answer in answers),
            next=_next(next_steps(folder, status, verdict, evaluated=bool(scores))),
            sounds=sounds,
            scores=scores,
            charts=charts(records),
            events=_events(records),
            options=escape(folder.config.read_text("utf-8", "replace")) if folder.config.exists() else "",
        )
        if verdict is not None:
            write_json(folder.classifier, asdict(verdict))
        with atomic_write(folder.report, "w") as file:
            file.write(page)
    return folder.report


def _compare_sounds(folder: RunFolder) -> tuple[Verdict, list[Answer], str, str]:
    """(the classifier's verdict, what it answers, subtitle, HTML of real and generated sounds side by side)."""
    model = load(folder.path)
    everything = model.open_data()
    config = folder.read_config() if folder.config.exists() else Config()
    chosen = config.train.val_folds, config.train.val_fraction
    folds, (shards, held_out) = held_out_folds(everything, *chosen), split(everything, *chosen)
    # The classifier that watched the run, where it is the same, or the page would take minutes to write.
    seen = everything if folds else shards
    count = len(model.classes) * _JUDGED

    def plan() -> dict[str, float]:
        pace, steps = Pace.measure(model, shards), steps_to_train(seen, val_folds=folds, quick=True)
        return {"classifier": steps * pace.step, "sounds": count * (pace.image + pace.sound)}

    with Stages("report", plan):
        with Bar("classifier", unit="step") as bar:
            classifier = cached_classifier(seen, val_folds=folds, quick=True, progress=bar)
        generated, analysed = list[Sounds](), list[Tensor]()
        with Bar("sounds", count, "sound") as bar:
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
        *_nearest_training(model, shards, held_out, generated),
        None if model.pictures else model.codec.size,
        classifier.n_train,
        classifier.n_test,
        len(labels),
        _TRUNCATION,
        model.card.step,
        _SEED,
    )
    made, real = ("picture", "real picture") if model.pictures else ("sound", "recording")
    size, transform = model.codec.size, "" if model.pictures else f" {model.codec.config['transform']} spectrograms"
    own = int((~shards.augmented).sum())
    subtitle = f"{counted(own, real)} of {counted(len(model.classes), 'class')}, "
    subtitle += f"{counted(model.card.step, 'step')} of training, {size}x{size}{transform}. "
    subtitle += f"Held out: {describe_split(everything, held_out, *chosen)}."
    legend = f"Of each class, {real}s that the model learned from and {made}s that it made."
    if not model.pictures:
        legend += " The pictures are spectrograms: low notes at the bottom, loud ones bright."
    sections = (_class_section(sounds, shards, verdict, (real, made)) for sounds in generated)
    parts = [f"<h2>{'Look' if model.pictures else 'Listen'}</h2>\n<p>{legend}</p>", *sections]
    return verdict, list(judge_sounds(verdict, made, real)), subtitle, "\n".join(parts)


def _analyse_again(model: Model, sounds: Sounds) -> Tensor:
    """Images as `prepare` would make them of the sounds, at peak 1; pictures as they are."""
    audio = sounds.audio
    if audio is None:
        return sounds.images
    peak = audio.abs().amax(1, keepdim=True).clamp_min(1e-9)
    return model.codec.invert_colormap(model.spectrogram.encode(audio / peak)[0])


def _variety(model: Model, shards: Shards, sounds: Sounds) -> float:
    clips = (shards.labels == shards.classes.index(sounds.label)).nonzero()[0][:_COMPARED]
    generated = model.codec.invert_colormap(sounds.images)
    if len(generated) < 2 or len(clips) < 2:
        return 0.0
    real = open_codec(shards.manifest.transform).invert_colormap(shards.images(clips))
    made, usual = (torch.pdist(images.flatten(1)).mean().item() for images in (generated, real))
    return made / usual if usual else 0.0


def _nearest_training(
    model: Model, shards: Shards, held_out: Shards | None, generated: Sequence[Sounds]
) -> tuple[float | None, float | None]:
    """`Verdict.nearest_training` and `nearest_held_out`; of many real images those of `_MOST_READ` are looked at."""

    def read(shards: Shards) -> Tensor:
        own, codec = np.flatnonzero(~shards.augmented), open_codec(shards.manifest.transform)
        own = own[:: -(-len(own) // _MOST_READ)]
        return torch.cat([shrink(codec.invert_colormap(shards.images(own[rows]))) for rows in chunks(len(own))])

    real = read(shards)
    usual = nearest(real, real[:_COMPARED], 2).distances[:, 1].median().item() if len(real) > 1 else 0.0
    made = torch.cat([shrink(model.codec.invert_colormap(sounds.images)) for sounds in generated])
    sets = made, None if held_out is None else read(held_out)
    found = (None if images is None or not usual else nearest(real, images).distances.median() for images in sets)
    near, unseen = (None if distance is None else distance.item() / usual for distance in found)
    return near, unseen


def _class_section(sounds: Sounds, shards: Shards, verdict: Verdict, kinds: tuple[str, str]) -> str:
    name, rate = sounds.label, sounds.sample_rate
    clips = (shards.labels == shards.classes.index(name)).nonzero()[0]
    chosen = clips[:: max(1, len(clips) // _SHOWN)][:_SHOWN]
    real = [_figure(shards.recording(int(i)) if rate else None, shards.images([int(i)])[0], rate) for i in chosen]
    audio = sounds.audio if sounds.audio is not None else [None] * len(sounds)
    fake = [_figure(audio[i], sounds.images[i], rate) for i in range(min(_SHOWN, len(sounds)))]
    right = f"{round(verdict.per_class[name] * _JUDGED)} of {counted(_JUDGED, f'generated {kinds[1]}')} recognised"
    varied = f", variety {verdict.variety[name]:.2f}" if verdict.variety[name] else ""
    sides = (
        f'<div class="side"><p>{each}</p><div class="sounds">{"".join(figures)}</div></div>'
        for each, figures in (((f"{kinds[0]}s"), real), (f"generated {kinds[1]}s", fake))
    )
    return (
        f'<section class="class"><header><h3 dir="auto">{escape(name)}</h3>'
        f'<span class="faint">{right}{varied}</span></header><div class="sides">{"".join(sides)}</div></section>'
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


def _status(folder: RunFolder) -> Status | None:
    """How far the run was when the page was written; None for a bare generator or options of another version."""
    try:
        return read_status(folder.path)
    except SchurganError:
        return None


def _state(status: Status | None) -> str:
    if status is None:
        return ""
    silent = f"no line for {duration(status.seconds_silent)} when this page was written"
    state = silent if status.state == "silent" else status.state
    return f'<p class="faint">Step {status.step} of {status.steps}, {state}.</p>'


def _next(steps: Sequence[str]) -> str:
    """Advice as a list, commands between backticks as code."""
    if not steps:
        return ""
    lines = (re.sub("`([^`]*)`", r"<code>\1</code>", escape(step)) for step in steps)
    return f'<h2>What next</h2>\n<ul class="next">{"".join(f"<li>{line}</li>" for line in lines)}</ul>'


def _events(records: Records) -> str:
    """The newest events with their times, oldest first."""
    if not records.events:
        return "<p>Nothing to tell.</p>"
    left_out = max(0, len(records.events) - _MOST_EVENTS)
    first = [f'<li class="plain">{counted(left_out, "event")} before these</li>'] if left_out else []
    lines = [
        f'<li class="{tone_of(event)}">{escape(capitalised(event_sentence(event)))}{_time(event)}</li>'
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
    """RUN/scores.json as an HTML table of what the terminal prints, "" where the file is missing or damaged."""
    try:
        evaluation = Evaluation.load(RunFolder(run).scores)
    except SchurganError:
        return ""
    protocol = evaluation.protocol
    head = "".join(f"<th>{escape(name)}</th>" for name in ("score", *COLUMNS))
    rows = []
    for name, score in ordered(evaluation.scores):
        first, *cells = map(escape, score_cells(name, score))
        said = [*([ABOUT[name]] if name in ABOUT else []), *score.flags]
        about = f"<small>{escape(' '.join(f'{capitalised(each)}.' for each in said))}</small>" if said else ""
        numbers = "".join(
            f'<td class="number" data-name="{of}">{cell}</td>' for of, cell in zip(COLUMNS, cells, strict=True)
        )
        rows.append(f"<tr><td>{first}{about}</td>{numbers}</tr>")
    legend = "".join(f"<li>{escape(f'{name}: {meaning}')}</li>" for name, meaning in LEGEND.items())
    how = escape("; ".join((f"step {protocol.step}", describe_protocol(protocol), *evaluation.notes)))
    return (
        f'<h2>Scores</h2><table class="scores"><tr>{head}</tr>{"".join(rows)}</table>'
        f'<ul class="legend">{legend}</ul><p class="legend">{capitalised(how)}.</p>'
    )
