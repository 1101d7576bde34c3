"""`schurgan prepare` from WAV to shards, start-up of everything included, in seconds of sound per second.

python benchmarks/bench_prepare.py [ROOT] [--source folder|esc50] [--size 128] [--repeats 3] [--clips 40] [--profile]

Without ROOT it makes --clips clips of 5 s for each of ten classes at 44.1 kHz itself. The wall clock counts, so the
machine must be calm: its load is printed. --profile works in one process, and shows the functions that took longest.
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile


def make_clips(root: Path, clips: int = 40) -> None:
    chance = np.random.default_rng(0)
    for name in range(10):
        (root / f"class{name}").mkdir(parents=True)
        for clip in range(clips):
            noise = chance.standard_normal(5 * 44100).cumsum()
            soundfile.write(root / f"class{name}" / f"{clip}.wav", 0.9 * noise / np.abs(noise).max(), 44100)


def profile(source: str, root: Path, size: int, out: Path) -> None:
    import torch

    from schurgan.audio import Spectrogram
    from schurgan.data import prepare
    from schurgan.data.sources import open_source

    torch.set_num_threads(1)
    opened, spectrogram = open_source(source, root), Spectrogram(size=size, channels=1)
    with cProfile.Profile() as profiler:
        began = time.process_time()
        manifest = prepare(opened, out, spectrogram, workers=1)
        seconds = time.process_time() - began
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)
    print(f"{manifest.seconds / seconds:.0f} s of sound per second of one core, imports left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("--source", default="folder")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    rates = []
    with tempfile.TemporaryDirectory() as work:
        root = args.root or Path(work) / "clips"
        if args.root is None:
            make_clips(root, args.clips)
        if args.profile:
            profile(args.source, root, args.size, Path(work) / "shards")
            return
        for repeat in range(args.repeats):
            out = Path(work) / f"shards{repeat}"
            command = [sys.executable, "-m", "schurgan", "prepare", args.source, str(root), "--out", str(out)]
            began = time.monotonic()
            subprocess.run([*command, "--size", str(args.size)], check=True, capture_output=True)
            seconds = time.monotonic() - began
            sound = sum(json.loads((out / "manifest.json").read_text("utf-8"))["clips"]["seconds"])
            rates.append(sound / seconds)
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"{sound:.0f} s of sound in {seconds:.1f} s: {rates[-1]:.0f} times real time, {load}", flush=True)
    print(f"median: {statistics.median(rates):.0f} times real time at {args.size} x {args.size}")


if __name__ == "__main__":
    main()
