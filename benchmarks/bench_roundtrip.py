"""What a recording keeps on its way through the image: SNR of sound -> image -> sound with its original phase.

    python benchmarks/bench_roundtrip.py [FOLDER] [--limit N] [--sizes 128 256]

FOLDER is searched for sound files in all its folders; each is cut or padded to 5 s at 16 kHz. Without one, the sounds
that the program itself makes are used. "plain" is the paper's image times phase, "refined" ten iterations more.
Printed: the median (10th to 90th percentile) over clips of 10 log10 signal/residual, dB, and the median per clip of how
far the scale falls behind the linear one, plain.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from torch import Tensor

from schurgan.audio import AudioError, AudioWarning, Spectrogram, fit_clip, read_audio, snr_db
from schurgan.data.sources import open_source

SECONDS, RATE, BATCH, REFINE = 5, 16_000, 8, 10
SCALES = ("linear", "log", "log_real")
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff")


def sounds(folder: Path | None, limit: int | None) -> Iterator[Tensor]:
    """Clips (L,) of peak 1; a file that cannot be used is named and left out."""
    if folder is None:
        source = open_source("soundscape", per_class=10, seconds=SECONDS)
        yield from (fit_clip(source.load(item, RATE), RATE * SECONDS)[0] for item in source.items()[:limit])
        return
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:limit]
    for file in files:
        try:
            yield fit_clip(read_audio(file, RATE), RATE * SECONDS)[0]
        except AudioError as error:
            print(error, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AudioWarning)
    clips = list(sounds(args.folder, args.limit))
    if not clips:
        parser.error(f"{args.folder}: no sound file that can be used")
    print(f"{len(clips)} clips of {SECONDS} s; dB\n")
    print("| image | scale | plain | refined | behind linear |\n|---|---|---|---|---|")
    for size in args.sizes:
        linear = None
        for scale in SCALES:
            spectrogram = Spectrogram("wavelet", size, scale, channels=1, n_samples=RATE * SECONDS)
            plain, refined = [], []
            for batch in torch.stack(clips).split(BATCH):
                image, aux = spectrogram.encode(batch)
                plain.append(snr_db(batch, spectrogram.decode(image, aux)))
                refined.append(snr_db(batch, spectrogram.decode(image, aux, refine=REFINE)))
            linear = torch.cat(plain) if linear is None else linear
            behind = (linear - torch.cat(plain)).median().item()
            print(f"| {size}² | {scale} | {_spread(plain)} | {_spread(refined)} | {behind:.3f} |", flush=True)


def _spread(parts: list[Tensor]) -> str:
    low, median, high = torch.quantile(torch.cat(parts), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return f"{median:.2f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
