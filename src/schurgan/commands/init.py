"""The command `init`: look at a folder and at this machine, and propose everything that `go` does, in a file."""

from __future__ import annotations

import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from schurgan.commands.parsing import arg, name_options
from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write
from schurgan.core.terminal import harmless
from schurgan.runs.messages import counted

if TYPE_CHECKING:
    from schurgan.data.sources.base import Source
    from schurgan.data.survey import Survey

FILE = Path("schurgan.yaml")
_RATES = 8000, 16000, 22050
"""Sample rates in Hz. Round trips of 64 rows (docs/results.md) are no better at higher ones."""
_SHARE = 0.85
"""Of the time, what steps take; the rest is for evaluations and samples."""
_EPOCHS, _LEAST, _SLOW = 200, 1000, 1000
"""Passes over the recordings after which they are learned by heart (docs/training.md, "Measured"), steps that a
generator needs all the same, and steps for which there must be time, or smaller images are better."""
_FASTER = 0.85
"""Time of a step by all cores, as a share of that by one thread, from which on they are worth it."""


@dataclass(frozen=True)
class Choice:
    """An option of a section of the file, and why it has this value."""

    section: Literal["prepare", "train", "sample"]
    key: str
    value: Any
    why: str


def init(
    clips: Annotated[Path, arg(metavar="CLIPS", help="folder of recordings or images")],
    /,
    *,
    out: Annotated[Path, arg(metavar="FILE", help="the file that is written")] = FILE,
    minutes: Annotated[float, arg(help="how long the training may take")] = 15.0,
    kind: Annotated[
        Literal["audio", "images"] | None,
        arg(help="which files to take where both are there: audio (default) or images"),
    ] = None,
    table: Annotated[
        Path | None, arg(metavar="FILE", help="a CSV file of path, label and fold, instead of a folder a class")
    ] = None,
    class_from: Annotated[
        str | None,
        arg(metavar="HOW", help="top, leaf, name, word, none, or a pattern that finds the class in a path"),
    ] = None,
) -> None:
    """Look at a folder of clips and at this machine, and write what `schurgan go` shall do into a file to edit.

    Example:
        schurgan init clips
        schurgan init clips --minutes 60 --out drums.yaml
    """
    if not 0.1 <= minutes <= 1e5:
        raise SchurganError(f"--minutes: {minutes:g} given, 0.1 to 100000 is needed")
    if out.exists():
        raise SchurganError(
            f"{out}: is there already; `{go_command(out)}` does what it says, --out FILE writes another one"
        )
    from schurgan.core.progress import Bar
    from schurgan.data.sources import open_source
    from schurgan.data.survey import survey

    given = {"kind": kind, "table": table, "class_from": class_from}
    reading = {name: str(value) for name, value in given.items() if value is not None}
    source = open_source("folder", clips, **reading)
    with Bar("listen to some"):
        looked = survey(source)
    counts = Counter(item.label for item in source.items())
    with Bar("time some steps"):
        choices = [*_sounds(looked), *_training(looked, counts, minutes)]
    about = _about(clips, source, looked, counts)
    with writing(out), atomic_write(out, "w") as file:
        file.write("\n".join(_document(clips, out, about, reading, choices)))
    width = max(len(choice.key) for choice in choices)
    print("\n".join(about))
    for choice in choices:
        print(f"  {choice.key:<{width}}  {_yaml(choice.value):<9}  {choice.why}")
    print(f"{out}: written, change what you like; `{go_command(out)}` does it all")


def go_command(file: Path) -> str:
    """What does what the file says."""
    return "schurgan go" if file == FILE else f"schurgan go {shlex.quote(str(file))}"


def _about(clips: Path, source: Source, looked: Survey, counts: Counter[str]) -> list[str]:
    """What the folder holds, in lines."""
    names = ", ".join(f"{name} {counts[name]}" for name in sorted(counts)[:12]) + ", …" * (len(counts) > 12)
    said = name_options(getattr(source, "said", ""), {"class_from": "--class-from"}) or f"classes: {names}"
    unused = f"; not used: {counted(len(source.skipped), 'file')}" if source.skipped else ""
    unused += f"; {len(looked.refused)} that were tried cannot be: {looked.refused[0]}" if looked.refused else ""
    lines = [f"{clips}: {counted(len(source.items()), 'file')} in {counted(len(counts), 'class')}{unused}", said]
    if looked.kind == "pictures":
        lines.append(f"pictures of {looked.size} rows")
    else:
        figures = f"{looked.seconds:.3g} s long, loudest after {looked.rise:.2g} s, {looked.silence:.0%} silence"
        lines.append(f"{looked.kind}, by {looked.looked} of them: {figures}, up to {looked.highest / 1000:.2g} kHz")
    few = [name for name, count in sorted(counts.items()) if count < 10]
    if few:
        lines.append(f"few to learn from: {', '.join(few[:5])}{' …' * (len(few) > 5)} with under 10")
    return [harmless(" ".join(line.split())) for line in lines]


def _sounds(looked: Survey) -> Iterator[Choice]:
    """How recordings become images."""
    if looked.kind == "pictures":
        return
    rate = next((rate for rate in _RATES if rate >= 2.1 * looked.highest), _RATES[-1])
    if looked.kind == "field recordings":
        seconds = min(2.5, math.floor(looked.sounding * 10) / 10)
        why = "the loudest of each; columns of 39 ms keep textures, those of 5 s blur them"
    else:
        seconds = min(2.0, max(0.25, math.ceil(looked.sounding * 20) / 20))
        why = f"nine in ten sound for {looked.sounding:.2g} s or less"
    yield Choice("prepare", "seconds", seconds, why)
    yield Choice(
        "prepare", "sample_rate", rate, f"Hz; what they hold is under {looked.highest / 1000:.2g} kHz in nine of ten"
    )
    if seconds < 1.6:
        yield Choice(
            "prepare", "frame", "native", f"a column is {1000 * seconds / 64:.0f} ms: frames of 50 ms blur attacks"
        )


def _training(looked: Survey, counts: Counter[str], minutes: float) -> Iterator[Choice]:
    """Size, preset, steps and what is against learning by heart, by timing steps of the candidates here."""
    from schurgan.core.launch import choose_device, count_cores
    from schurgan.core.terminal import duration
    from schurgan.runs.config import Config
    from schurgan.studies.estimate import step_seconds

    clips, channels = sum(counts.values()), 3 if looked.kind == "pictures" else 1
    device, cores = choose_device("auto"), count_cores()
    options: dict[str, Any] = {"descriptor": "gram", "model": {"channels": channels}}
    for size in (32,) if 0 < looked.size <= 32 else (64, 32):
        preset = f"small-{size}"
        tried = (1, cores) if device.type == "cpu" else (cores,)
        times = {n: step_seconds(Config.from_preset(preset, threads=n, **options), len(counts)) for n in tried}
        threads = cores if times[cores] < _FASTER * times[tried[0]] else tried[0]
        once = times[threads]
        if (most := int(_SHARE * 60 * minutes / once)) >= _SLOW:
            break
    batch = Config.from_preset(preset).train.batch_size
    steps = max(1, min(most, max(_LEAST, _EPOCHS * clips // batch)))
    steps = steps // 100 * 100 or steps
    epochs = steps * batch / clips
    machine = "a GPU" if device.type == "cuda" else f"{counted(cores, 'core')} and no GPU"
    slow = "64 would take too long here" if size == 32 and looked.size == 0 else f"about {once:.2g} s a step here"
    yield Choice("prepare", "size", size, f"rows and columns of an image; {slow}")
    yield Choice("train", "preset", preset, f"networks for images of {size} x {size} that {machine} can train")
    if channels == 3:
        yield Choice("train", "model", {"channels": 3}, "pictures in colour")
    if threads < cores:
        both = f"{times[1]:.2g} s a step against {times[cores]:.2g} s by {cores}"
        yield Choice("train", "threads", 1, f"{both}, and other programs do not matter as much")
    time = duration(once * steps / _SHARE)
    enough = f", enough for {counted(clips, 'clip')}" if steps < most // 100 * 100 else ""
    yield Choice(
        "train",
        "steps",
        steps,
        f"about {time} on this machine{enough}: each clip is seen {counted(round(epochs), 'time')}",
    )
    yield Choice("train", "descriptor", "gram", "moments of each class: more of what it does not know by heart is kept")
    yield Choice("sample", "count", 8, "sounds of each class" if channels == 1 else "pictures of each class")


def _document(
    clips: Path, out: Path, about: list[str], reading: dict[str, str], choices: list[Choice]
) -> Iterator[str]:
    """The lines of the file."""
    root = clips if clips.is_absolute() else Path(os.path.relpath(clips, out.parent))
    place, here = clips.resolve(), out.parent.resolve()
    inside = place in (here, *here.parents)  # where what is made would be listed as clips
    name = os.path.relpath(place.parent / f"{place.name}-run", here) if inside else f"runs/{place.stem or 'clips'}"
    homes = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    home = next(each for each in homes if not (out.parent / each).exists())
    yield from (f"# {line}" for line in about)
    yield f"# Change what you like. `{go_command(out)}` does what is missing, and goes on where it was stopped."
    yield ""
    yield f"out: {_yaml(home)}  # all that is made: data, the run, sounds, the page"
    heads = {"prepare": "prepare folder", "train": "train", "sample": "sample"}
    for section, command in heads.items():
        yield ""
        yield f"{section}:  # options of `schurgan {command}`, which its --help lists"
        if section == "prepare":
            yield from (f"  {name}: {_yaml(value)}" for name, value in {"root": str(root), **reading}.items())
        for choice in choices:
            if choice.section == section:
                yield f"  {f'{choice.key}: {_yaml(choice.value)}':<24}  # {choice.why}"
    yield ""


def _yaml(value: Any) -> str:
    """A value in one line."""
    return yaml.safe_dump(value, allow_unicode=True, width=10**6, default_flow_style=True).partition("\n")[0]
