"""Wavelet coefficients of 5 s of sound: this package beside fCWT and ssqueezepy, in one run, on one thread.

    python benchmarks/bench_wavelet.py [--repeats 15]

128 Morlet scales, 40-7600 Hz, w0 = 16, 16 kHz, float32. Each round times every implementation once, so that a busy
machine slows all of them alike; the medians of CPU time are printed as a Markdown table with the ratio to ours. That
the others compute the same transform is shown by the relative difference to our full-rate coefficients, after one gain
for all. ssqueezepy is measured twice: with its wavelets sampled anew in every call (a wavelet given by name), and kept
(a `Wavelet` object).
An implementation that cannot be imported is named and left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", SSQ_PARALLEL="0")

import numpy as np
import torch

from schurgan.audio import MorletCWT, Spectrogram

RATE, SECONDS, SCALES, W0 = 16_000, 5, 128, 16.0
INTERIOR = slice(RATE, -RATE)  # how a transform continues the sound past its ends is its own matter


def fcwt_coefficients(x: np.ndarray, frequencies: np.ndarray) -> Callable[[], np.ndarray]:
    import fcwt

    morlet = fcwt.Morlet(W0 / (2 * np.pi))
    scales = fcwt.Scales(morlet, fcwt.FCWT_LOGSCALES, RATE, frequencies[0], frequencies[-1], len(frequencies))
    transform = fcwt.FCWT(morlet, 1, False, True)
    out = np.zeros((len(frequencies), len(x)), np.complex64)

    def run(_alive: object = morlet) -> np.ndarray:  # fCWT itself keeps only a bare pointer to its wavelet
        transform.cwt(x, scales, out)
        return out[::-1]

    return run


def ssqueezepy_coefficients(x: np.ndarray, frequencies: np.ndarray, keep: bool = False) -> Callable[[], np.ndarray]:
    from ssqueezepy import Wavelet, cwt

    wavelet = Wavelet(("morlet", {"mu": W0}), dtype="float32")
    scales = (W0 / (2 * np.pi) * RATE / frequencies[::-1]).astype(np.float32)
    return lambda: cwt(x, wavelet, scales=scales, fs=RATE, cache_wavelet=keep)[0][::-1]


class Exact(MorletCWT):
    tolerance = 1e-6


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """‖theirs − g ours‖ / ‖theirs‖ with the best gain g, inside the clip; without the flat filters at both ends."""
    a, b = ours[1:-1, INTERIOR], theirs[1:-1, INTERIOR]
    gain = np.vdot(a, b) / np.vdot(a, a)
    return float(np.linalg.norm(b - gain * a) / np.linalg.norm(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    x = torch.randn(1, RATE * SECONDS, generator=torch.Generator().manual_seed(0))
    cwt = MorletCWT(x.shape[-1], RATE, SCALES, w0=W0)
    image = Spectrogram(n_samples=x.shape[-1], size=SCALES, w0=W0)
    coefficients = cwt.analyze(x)
    columns = torch.rand(1, SCALES, SCALES)
    runs: dict[str, Callable[[], object]] = {
        "analyze: sound to coefficients": lambda: cwt.analyze(x),
        "encode: sound to 128² image": lambda: image.encode(x),
        "synthesize: coefficients to sound": lambda: cwt.synthesize(coefficients),
        "spread: 128² columns to coefficients": lambda: cwt.spread(columns),
        "full_rate: nothing decimated": lambda: cwt.full_rate(x),
    }
    notes = dict.fromkeys(runs, "")
    truth = Exact(x.shape[-1], RATE, SCALES, w0=W0).full_rate(x)[0].numpy()
    for name, prepare in (
        ("fCWT", fcwt_coefficients),
        ("ssqueezepy", ssqueezepy_coefficients),
        ("ssqueezepy, wavelets kept", partial(ssqueezepy_coefficients, keep=True)),
    ):
        try:
            run = prepare(x[0].numpy(), cwt.frequencies.numpy())
        except ImportError as error:
            print(f"{name}: not measured ({error})")
            continue
        runs[name] = run
        notes[name] = f"differs by {difference(truth, run()):.1e}"
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()  # brings back to the caches what the one before has driven out
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    median = {name: statistics.median(values) for name, values in times.items()}
    analyze, encode, *_ = median.values()
    held = sum(group.nbytes for group in coefficients)
    print(f"{held / 1e6:.1f} MB of coefficients a clip, {truth.nbytes / 1e6:.1f} MB at full rate\n")
    print("| 5 s, 128 scales | CPU ms | over analyze | over encode | |\n|---|---|---|---|---|")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | {value / analyze:.1f}x | {value / encode:.1f}x | {notes[name]} |")


if __name__ == "__main__":
    main()
