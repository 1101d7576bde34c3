"""Images of 128² a second and core from a warm cache: prepared shards, webdataset, tar files, decoding on the fly.

python benchmarks/bench_loader.py [--clips 16384] [--shard-clips 1024] [--batch 64] [--rounds 7]

Every row ends with batches of float32 in [-1, 1] in an order that is shuffled (webdataset's and tarfile's within a
buffer of 1,000). webdataset is left out where it is not installed.
"""

import argparse
import hashlib
import io
import math
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from schurgan.audio import Spectrogram, fit_clip, read_audio
from schurgan.data import Batches, Manifest, Shards
from schurgan.data.loader import Prefetch
from schurgan.data.manifest import Clip, Clips, Shard, ShardFile
from schurgan.data.shards import dequantise

SIZE, CLASSES, BUFFER, RECORDINGS = 128, 10, 1000, 64
SPECTROGRAM = Spectrogram(size=SIZE, channels=1, sample_rate=16000, n_samples=80000)
Load = Callable[[int], int]
"""Shows this many images or a few more, from where it left off; says how many."""


def make_shards(out: Path, clips: int, shard_clips: int) -> Shards:
    """A set of random pixels: what they show does not matter to a loader."""
    chance, shards = np.random.default_rng(0), []
    for number, first in enumerate(range(0, clips, shard_clips)):
        path = out / f"images-{number:05}.npy"
        count = min(shard_clips, clips - first)
        np.save(path, chance.integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = ShardFile(file=path.name, bytes=path.stat().st_size, sha256=digest)
        shards.append(Shard(count=count, images=file, audio=None))
    labels = np.arange(clips) % CLASSES
    Manifest(
        schurgan="0",
        plan="",
        shape=(1, SIZE, SIZE),
        planes=1,
        dtype="uint8",
        classes=tuple(f"class{label}" for label in range(CLASSES)),
        histogram=tuple(np.bincount(labels).tolist()),
        references=(1.0,) * CLASSES,
        warnings=(),
        skipped=(),
        transform=SPECTROGRAM.config,
        source={},
        shards=tuple(shards),
        clips=Clips.of(Clip(f"{i:06}", int(label), None, 5.0, 1.0, 1.0, "", ()) for i, label in enumerate(labels)),
    ).save(out)
    return Shards(out)


def make_tars(out: Path, shards: Shards) -> list[Path]:
    """The same clips as webdataset lays them out: a file of bytes and a file of the class number for each."""
    paths = []
    for number, shard in enumerate(shards.manifest.shards):
        paths.append(out / f"images-{number:05}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for i, image in enumerate(np.load(shards.folder / shard.images.file, mmap_mode="r")):
                for suffix, content in (("img", image.tobytes()), ("cls", b"%d" % (i % CLASSES))):
                    info = tarfile.TarInfo(f"{number:05}-{i:05}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return paths


def make_recordings(out: Path) -> list[Path]:
    chance, paths = np.random.default_rng(1), []
    for number in range(RECORDINGS):
        noise = chance.standard_normal(5 * 44100).cumsum()
        paths.append(out / f"{number}.wav")
        soundfile.write(paths[-1], 0.9 * noise / np.abs(noise).max(), 44100)
    return paths


def by_step(batch: Callable[[int], tuple[Tensor, Tensor]]) -> Load:
    step = 0

    def load(images: int) -> int:
        nonlocal step
        shown = 0
        while shown < images:
            shown += len(batch(step)[1])
            step += 1
        return shown

    return load


def by_iterator(batches: Iterator[tuple[Tensor, Tensor]]) -> Load:
    return by_step(lambda step: next(batches))


def batched(samples: Iterable[tuple[bytes, bytes]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = [], []
    for image, label in samples:
        images.append(np.frombuffer(image, np.uint8).reshape(1, SIZE, SIZE))
        labels.append(int(label))
        if len(images) == size:
            yield dequantise(np.stack(images)), torch.tensor(labels)
            images, labels = [], []


def from_tars(paths: list[Path]) -> Iterator[tuple[bytes, bytes]]:
    """Python's tarfile through a shuffling buffer, tar after tar without an end."""
    chance, held = random.Random(0), []
    while True:
        for path in chance.sample(paths, len(paths)):
            with tarfile.open(path) as tar:
                members = iter(tar)
                for image, label in zip(members, members, strict=True):
                    held.append((tar.extractfile(image).read(), tar.extractfile(label).read()))
                    if len(held) > BUFFER:
                        yield held.pop(chance.randrange(len(held)))


def from_webdataset(paths: list[Path]) -> Iterator[tuple[bytes, bytes]] | None:
    try:
        import webdataset
    except ImportError:
        return None
    row = webdataset.WebDataset([str(path) for path in paths], shardshuffle=len(paths), empty_check=False)
    return iter(row.shuffle(BUFFER, rng=random.Random(0)).to_tuple("img", "cls").repeat())


def from_recordings(paths: list[Path], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What `prepare` does to a clip, done again whenever it is shown."""
    chance = random.Random(0)
    while True:
        chosen = chance.choices(paths, k=size)
        sounds = torch.stack([fit_clip(read_audio(path), SPECTROGRAM.n_samples)[0] for path in chosen])
        yield torch.cat([SPECTROGRAM.encode(chunk)[0] for chunk in sounds.split(8)]), torch.zeros(size)


def measure(loads: dict[str, Load], images: dict[str, int], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall time of an image, s, the rows in turn in every round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
    for _ in range(rounds):
        for name, load in loads.items():
            wall, cpu = time.perf_counter(), time.process_time()
            shown = load(images[name])
            times[name].append(((time.process_time() - cpu) / shown, (time.perf_counter() - wall) / shown))
    medians = {}
    for name, each in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*each, strict=True))
        medians[name] = cpu, wall
    return medians


def profile(shards: Shards, size: int, rounds: int) -> None:
    """Where the time of a batch goes, and what other ways of dequantising would take."""
    batches = Batches(shards, size)
    balanced = Batches(shards, size, balanced=True)
    chosen = [batches.indices(step) for step in range(50)]
    stored = shards.stored(chosen[0])
    out, table = torch.empty(stored.shape), torch.arange(256) / 127.5 - 1
    flat = torch.from_numpy(stored).flatten()
    ways: dict[str, Callable[[int], object]] = {
        "indices, shuffled": lambda i: batches.indices(i),
        "indices, balanced": lambda i: balanced.indices(i),
        "gather, as stored": lambda i: shards.stored(chosen[i]),
        "dequantise": lambda i: dequantise(stored),
        "… convert, divide, subtract in place": lambda i: torch.from_numpy(stored).float().div_(127.5).sub_(1),
        "… divide while converting": lambda i: torch.div(torch.from_numpy(stored), 127.5).sub_(1),
        "… the same into a tensor kept": lambda i: torch.div(torch.from_numpy(stored), 127.5, out=out).sub_(1),
        "… table, numpy": lambda i: table.numpy()[stored],
        "… table, torch": lambda i: table.index_select(0, flat.int()),
    }
    print(f"\n| part of a batch of {size} | µs an image |\n|---|---|")
    for name, way in ways.items():
        seconds = []
        for _ in range(rounds):
            began = time.process_time()
            for i in range(50):
                way(i)
            seconds.append(time.process_time() - began)
        print(f"| {name} | {statistics.median(seconds) / 50 / size * 1e6:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16384)
    parser.add_argument("--shard-clips", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        shards = make_shards(Path(work), args.clips, args.shard_clips)
        tars, recordings = make_tars(Path(work), shards), make_recordings(Path(work))
        with Prefetch(Batches(shards, args.batch)) as ready:
            loads = {
                "shards": by_step(Batches(shards, args.batch).batch),
                "shards, balanced classes": by_step(Batches(shards, args.batch, balanced=True).batch),
                "shards, prefetched": by_step(ready.batch),
                "tar files, tarfile": by_iterator(batched(from_tars(tars), args.batch)),
                "decoded on the fly": by_iterator(from_recordings(recordings, args.batch)),
            }
            if (row := from_webdataset(tars)) is not None:
                loads["tar files, webdataset"] = by_iterator(batched(row, args.batch))
            few = {"decoded on the fly": args.batch}
            images = {name: few.get(name, math.ceil(args.clips / 2)) for name in loads}
            for load in loads.values():
                load(args.batch)  # caches and buffers are filled before the first round
            loads["shards"](2 * args.clips)
            times = measure(loads, images, args.rounds)
            best = times["shards"][0]
            print(f"{args.clips} clips, {args.shard_clips} a shard, batches of {args.batch}, one thread\n")
            print("| images of 128² from | a second and core | CPU µs each | wall µs each | |\n|---|---|---|---|---|")
            for name, (cpu, wall) in sorted(times.items(), key=lambda row: row[1]):
                rate = f"{1 / cpu:,.0f} | {cpu * 1e6:,.1f} | {wall * 1e6:,.1f}"
                print(f"| {name} | {rate} | {cpu / best:,.1f}x |")
        profile(shards, args.batch, args.rounds)


if __name__ == "__main__":
    main()
