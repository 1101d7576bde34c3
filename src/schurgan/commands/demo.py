"""The whole way, from sounds that the program makes itself to a page that plays what a GAN learned of them."""

from __future__ import annotations

import time
from pathlib import Path

from schurgan.audio import Spectrogram
from schurgan.core.progress import Bar
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.model import load
from schurgan.report.page import write_report
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training import resume, train

_SECONDS = 2.0
_SIZE = 64
_RATE = 16000


def run_demo(out: str | Path) -> None:
    """OUT/data, the run itself, OUT/samples/CLASS/*.wav and OUT/report.html; continues where it was stopped."""
    out = Path(out)
    began = time.monotonic()
    source = open_source("soundscape", seconds=_SECONDS)
    spectrogram = Spectrogram(size=_SIZE, channels=1, sample_rate=_RATE, n_samples=round(_SECONDS * _RATE))
    with Bar("prepare", len(source.items()), "clips") as bar:

        def progress(done: int, _: int, heard: float) -> None:
            bar.update(done, f"{heard:.0f} s of sound")

        prepare(source, RunFolder(out).data, spectrogram, progress=progress)
    if RunFolder(out).config.exists():
        resume(out)
    else:
        train(Config.from_preset("demo", data=RunFolder(out).data), out)
    model = load(out)
    with Bar("sample", len(model.classes), "classes") as bar:
        for i, name in enumerate(model.classes):
            model.sample(name, 6, seed=0).save(RunFolder(out).samples / name)
            bar.update(i + 1)
    page = write_report(out)
    shown = len(Shards(RunFolder(out).data))
    print(f"{shown} recordings learned, sounds in {RunFolder(out).samples}, {time.monotonic() - began:.0f} s in all")
    print(f"open {page.resolve().as_uri()}")
