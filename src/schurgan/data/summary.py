"""A prepared set as a whole: its manifest from its parts, what is odd about it, and lines for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
from pydantic import JsonValue

from schurgan.data.manifest import IMAGE, MANIFEST, Clip, Clips, DType, Manifest, Part, Skipped
from schurgan.version import __version__

FEW = 10
"""Clips a class below which it is worth a word."""
FAINT = 1e-3
"""Peak of a recording, full scale 1, under which its noise floor is what gets learnt."""


def assemble(
    parts: Sequence[Part],
    *,
    classes: Sequence[str],
    unlisted: Iterable[Skipped],
    plan: str,
    dtype: DType,
    planes: int,
    transform: dict[str, JsonValue],
    source: dict[str, JsonValue],
) -> Manifest:
    """The manifest of finished parts, one clip or more in them. Classes left empty are dropped and warned of."""
    rows = [row for part in parts for row in part.clips.rows()]
    counts = np.bincount([row.label for row in rows], minlength=len(classes))
    kept = np.flatnonzero(counts).tolist()
    names = tuple(classes[label] for label in kept)
    renumbered = {old: new for new, old in enumerate(kept)}
    rows = [row._replace(label=renumbered[row.label]) for row in rows]
    levels: list[list[float]] = [[] for _ in kept]
    for row in rows:
        levels[row.label].append(row.reference)
    pictures = transform.get("transform") == IMAGE
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    channels, size = cast(int, transform["channels"]), cast(int, transform["size"])
    return Manifest(
        schurgan=__version__,
        plan=plan,
        shape=(channels, size, size),
        planes=planes,
        dtype=dtype,
        classes=names,
        histogram=tuple(counts[kept].tolist()),
        references=tuple(float(np.median(each)) for each in levels),
        warnings=tuple(_oddities(rows, names, empty, "image" if pictures else "sound")),
        skipped=(*unlisted, *(skipped for part in parts for skipped in part.skipped)),
        transform=transform,
        source=source,
        shards=tuple(part.shard for part in parts if part.shard),
        clips=Clips.of(rows),
    )


def _oddities(rows: Sequence[Clip], classes: Sequence[str], empty: Iterable[str], what: str) -> Iterator[str]:
    """What a person should know of the set as a whole before training on it; copies are no clips of their own."""
    rows = [row for row in rows if row.parent is None]
    for name in empty:
        yield f'class "{name}": none of its recordings can be used, it is left out'
    if len(classes) == 1:
        yield f'only one class, "{classes[0]}": there is nothing to condition on'
    for name, count in zip(
        classes, np.bincount([row.label for row in rows], minlength=len(classes)).tolist(), strict=True
    ):
        if count < FEW:
            yield f'class "{name}": {count} clip{"s" * (count > 1)}, too few to learn from ({FEW} or more would do)'
    same: dict[str, list[Clip]] = {}
    for row in rows:
        same.setdefault(row.digest, []).append(row)
    for group in same.values():
        if len(group) > 1:
            named = ", ".join(row.origin for row in group)
            across = " in different classes" * (len({row.label for row in group}) > 1)
            across += " in different folds" * (len({row.fold for row in group}) > 1)
            yield f"the same {what} {len(group)} times{across}: {named}"
    faint = [row.origin for row in rows if row.gain < FAINT]
    if faint:
        yield f"nearly silent (peak below −60 dB), so mostly noise once normalised: {', '.join(faint)}"


def summary(manifest: Manifest, width: int = 40, most: int = 10) -> list[str]:
    """Lines for a terminal: clips a class as bars of up to `width`, then `most` warnings, notes and skipped at most."""
    longest = max(map(len, manifest.classes))
    top = max(manifest.histogram)
    lines = [
        f"{name:<{longest}}  {count:>{len(str(top))}}  {'█' * max(1, round(width * count / top))}"
        for name, count in zip(manifest.classes, manifest.histogram, strict=True)
    ]
    many = f"of {len(manifest.classes)} classes"
    if manifest.kind == "images":
        lines.append(f"{len(manifest)} images {many}")
    else:
        minutes, seconds = divmod(round(manifest.seconds), 60)
        lines.append(f"{len(manifest)} clips {many}, {minutes} min {seconds} s of sound")
    if copies := sum(parent is not None for parent in manifest.clips.parent):
        lines.append(f"{copies} of them are altered copies of the other {len(manifest) - copies}")
    lines += _first(most, [f"warning: {warning}" for warning in manifest.warnings], "warnings")
    lines += _first(most, _notes(manifest), "kinds of notes")
    return lines + _first(most, [f"skipped: {clip.origin}: {clip.reason}" for clip in manifest.skipped], "skipped")


def _notes(manifest: Manifest) -> list[str]:
    """Notes on single clips that differ in their numbers alone are one line: how many, and the first of them."""
    kinds: dict[str, list[str]] = {}
    for clip in manifest.clips.rows():
        for note in clip.warnings:
            kinds.setdefault(re.sub(r"[\d.]+", "#", note), []).append(f"{clip.origin}: {note}")
    alike = [(notes[0], f" (and {len(notes) - 1} more like it)" if len(notes) > 1 else "") for notes in kinds.values()]
    return [f"note: {first}{more}" for first, more in alike]


def _first(most: int, lines: list[str], what: str) -> list[str]:
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"… and {rest} more {what}, listed in {MANIFEST}"]
