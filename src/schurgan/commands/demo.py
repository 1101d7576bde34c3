"""The whole way, from sounds that the program makes itself to a page that plays what a GAN learned of them."""

from __future__ import annotations

import time
from pathlib import Path

from schurgan.commands.parsing import Folder
from schurgan.core.progress import Bar
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted

_SECONDS, _SIZE, _RATE = 2.0, 64, 16000


def demo(*, out: Folder = Path("runs/demo")) -> None:
    """Make soundscapes, train on them, sample every class and write a page, in a few minutes.

    Example:
        schurgan demo

    Args:
        out: folder of the run; a demo that was stopped continues there
    """
    from schurgan.audio import Spectrogram
    from schurgan.core.distributed import World
    from schurgan.core.files import file_name
    from schurgan.data import Shards, prepare
    from schurgan.data.sources import open_source
    from schurgan.model import load
    from schurgan.report.page import write_report
    from schurgan.training import resume, train

    folder, began = RunFolder(out), time.monotonic()
    source = open_source("soundscape", seconds=_SECONDS)
    spectrogram = Spectrogram(size=_SIZE, channels=1, sample_rate=_RATE, n_samples=round(_SECONDS * _RATE))
    with World().lock(out):
        with Bar("prepare", len(source.items()), "clips") as bar:

            def progress(done: int, _: int, heard: float) -> None:
                bar.update(done, f"{heard:.0f} s of sound")

            prepare(source, folder.data, spectrogram, progress=progress)
        if folder.config.exists():
            resume(out)
        else:
            train(Config.from_preset("demo", data=folder.data), out)
        model = load(out)
        with Bar("sample", len(model.classes), "classes") as bar:
            for i, name in enumerate(model.classes):
                model.sample(name, 6, seed=0).save(folder.samples / file_name(name))
                bar.update(i + 1)
        page = write_report(out)
    took = f"{time.monotonic() - began:.0f} s in all"
    print(f"{counted(len(Shards(folder.data)), 'recording')} learned, sounds in {folder.samples}, {took}")
    print(f"open {page.resolve().as_uri()}")
