"""Pitch shift of a harmonic tone, two seconds at 16 kHz: how far off, how clean, how long an onset, how fast.

python benchmarks/bench_pitch.py [--fundamental 220] [--harmonics 10] [--repeats 20]

Cents: of the harmonic that is farthest off, by how far its phase turns from the first half to the second. Harmonics to
noise: of a series of sinusoids fitted by least squares, and what it leaves. Click: root mean square width of a single
sample's energy. A plain resampling, which changes the length, says what the resampler alone costs.
"""

import argparse
import statistics
import time

import numpy as np
import soxr
import torch

from schurgan.audio.pitch import pitch_shift
from schurgan.data.prepare import PITCHES

RATE, N = 16000, 32000


def harmonic_tone(fundamental: float, count: int) -> torch.Tensor:
    seconds = np.arange(N) / RATE
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, count)
    tone = sum(np.sin(2 * np.pi * fundamental * k * seconds + phases[k - 1]) / k for k in range(1, count + 1))
    return torch.from_numpy((0.5 * tone / np.abs(tone).max()).astype(np.float32))[None]


def judge(samples: np.ndarray, fundamental: float, count: int) -> tuple[float, float]:
    """(cents, dB) of the middle three quarters."""
    samples = samples.astype(np.float64)[len(samples) // 8 : -len(samples) // 8]
    seconds = np.arange(len(samples)) / RATE
    half = len(samples) // 2
    window = np.blackman(half)
    found = []
    for k in range(1, count + 1):
        heard = samples * np.exp(-2j * np.pi * fundamental * k * seconds)
        turned = np.angle((heard[half : 2 * half] @ window) / (heard[:half] @ window))
        found.append(fundamental + turned * RATE / (2 * np.pi * k * half))
    angles = 2 * np.pi * np.median(found) * np.outer(seconds, np.arange(1, count + 1))
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    tone = basis @ np.linalg.lstsq(basis, samples, rcond=None)[0]
    cents = float(np.abs(1200 * np.log2(np.array(found) / fundamental)).max())
    return cents, float(10 * np.log10(np.square(tone).sum() / np.square(samples - tone).sum()))


def click_width(ratio: float) -> float:
    click = torch.zeros(1, N)
    click[0, N // 2] = 1
    energy = pitch_shift(click, ratio)[0].double().square()
    seconds = torch.arange(N) / RATE
    middle = (energy * seconds).sum() / energy.sum()
    return float(((energy * (seconds - middle).square()).sum() / energy.sum()).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fundamental", type=float, default=220.0)
    parser.add_argument("--harmonics", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tone = harmonic_tone(args.fundamental, args.harmonics)
    print("| ratio | cents off | harmonics to noise, dB | resampled only, dB | click, ms | CPU ms | resampling, ms |")
    print("|---|---|---|---|---|---|---|")
    for ratio in PITCHES:
        count = min(args.harmonics, int(0.45 * RATE / (args.fundamental * ratio)))
        cents, clean = judge(pitch_shift(tone, ratio)[0].numpy(), args.fundamental * ratio, count)
        resampled = soxr.resample(tone[0].numpy(), ratio * 2**20, 2**20, quality="HQ")
        _, bound = judge(resampled, args.fundamental * ratio, count)
        whole, resampling = [], []
        for _ in range(args.repeats):
            start = time.process_time()
            pitch_shift(tone, ratio)
            between = time.process_time()
            soxr.resample(np.zeros(round(N * ratio), np.float32), ratio * 2**20, 2**20, quality="HQ")
            whole.append(1000 * (between - start))
            resampling.append(1000 * (time.process_time() - between))
        times = f"{statistics.median(whole):.1f} | {statistics.median(resampling):.1f}"
        print(f"| {ratio} | {cents:.3f} | {clean:.1f} | {bound:.1f} | {1000 * click_width(ratio):.1f} | {times} |")


if __name__ == "__main__":
    main()
