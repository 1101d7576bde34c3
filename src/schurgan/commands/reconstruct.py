"""Recording -> image -> recording: what of a sound its image keeps, as files to hear and three numbers to compare."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from schurgan.audio import (
    AudioError,
    AudioWarning,
    Spectrogram,
    fit_clip,
    power_ratio_db,
    read_audio,
    snr_db,
    snr_paper_db,
    write_audio,
)
from schurgan.audio.pictures import picture, save_png
from schurgan.core.errors import UserError, writing

_SHORTEST = 0.25  # seconds; shorter recordings are padded to this, so that their image has some frames


def reconstruct(
    files: Sequence[Path],
    out: Path,
    settings: Mapping[str, Any],
    *,
    phase: str = "carrier",
    refine: int | None = None,
    seconds: float = 5.0,
    as_json: bool = False,
) -> int:
    """Rebuild each file from its image, print its scores, and return how many were rebuilt.

    settings are those of `Spectrogram`. OUT gets NAME.wav (rebuilt), NAME.original.wav (what went in: mono, at the
    transform's rate, peak 1) and NAME.png. One of several files that cannot be used is named on standard error;
    UserError when none can, or when nothing can be written.
    """
    if not files:
        raise UserError("FILE: missing; one recording or more is needed")
    if not _SHORTEST <= seconds <= 600:
        raise UserError(f"--seconds: {seconds:g} given, {_SHORTEST:g} to 600 is needed")
    try:
        Spectrogram(**settings, channels=1, n_samples=round(seconds * settings["sample_rate"]))
    except ValueError as error:
        raise UserError(str(error)) from None
    torch.set_num_threads(1)  # short FFTs: more threads would wait for each other
    transforms: dict[int, Spectrogram] = {}
    rebuilt = 0
    for file, name in zip(files, _names(files), strict=True):
        try:
            scores = _one(file, out / name, settings, transforms, phase, refine, seconds)
        except AudioError as error:
            if len(files) == 1:
                raise UserError(str(error)) from None
            print(f"schurgan: {error}", file=sys.stderr)
            continue
        rebuilt += 1
        print(json.dumps(scores) if as_json else _line(scores), flush=True)
    if not rebuilt:
        raise UserError(f"none of {len(files)} recordings can be used")
    if not as_json:
        print(f"{rebuilt} sound{'s' * (rebuilt > 1)} in {out}")
    return rebuilt


def _one(
    file: Path,
    target: Path,
    settings: Mapping[str, Any],
    transforms: dict[int, Spectrogram],
    phase: str,
    refine: int | None,
    seconds: float,
) -> dict[str, Any]:
    rate = settings["sample_rate"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        samples = read_audio(file, rate)
    n = min(max(len(samples), math.ceil(_SHORTEST * rate), settings["size"]), round(seconds * rate))
    clip, _, notes = fit_clip(samples, n, rate)
    if n not in transforms:
        try:
            transforms[n] = Spectrogram(**settings, channels=1, n_samples=n)
        except ValueError as error:
            raise AudioError(f"{file}: too short for this transform ({error})") from None
    spectrogram = transforms[n]
    image, aux = spectrogram.encode(clip[None])
    rebuilt = spectrogram.decode(image, aux, phase=phase, refine=refine)[0]
    with warnings.catch_warnings(), writing(target.parent):
        warnings.simplefilter("ignore", AudioWarning)  # a rebuilt peak may pass full scale by a hair
        target.parent.mkdir(parents=True, exist_ok=True)
        write_audio(target.with_name(target.name + ".wav"), rebuilt, rate)
        write_audio(target.with_name(target.name + ".original.wav"), clip, rate)
        save_png(picture(image[0], max(1, 256 // settings["size"])), target.with_name(target.name + ".png"))
    scores = {"snr_db": snr_db, "snr_paper_db": snr_paper_db, "power_ratio_db": power_ratio_db}
    values = {name: float(score(clip, rebuilt)) for name, score in scores.items()}
    return {
        "file": str(file),
        **{name: round(value, 4) if math.isfinite(value) else None for name, value in values.items()},
        "seconds": n / rate,
        "notes": [str(note.message) for note in caught if issubclass(note.category, AudioWarning)] + notes,
        "wav": str(target.with_name(target.name + ".wav")),
    }


def _names(files: Sequence[Path]) -> list[str]:
    """A name for each file's results: its stem, numbered where two would be the same."""
    names: list[str] = []
    for file in files:
        name, number = file.stem, 2
        while name in names:
            name, number = f"{file.stem}-{number}", number + 1
        names.append(name)
    return names


def _line(scores: Mapping[str, Any]) -> str:
    names = ("snr_db", "snr_paper_db", "power_ratio_db")
    return "  ".join([scores["file"], *(f"{name} {scores[name]:.2f}" for name in names if scores[name] is not None)])
