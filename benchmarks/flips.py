"""What becomes of every kind of file that the program reads when a bit of it flips, or its end is lost.

    python benchmarks/flips.py [--flips 300] [--cuts 40] [--only scores]

Each file is damaged, read by the function that reads it in earnest, and mended again. `noticed`: a SchurganError, or a
reader that says it has nothing; `same`: what was read is what was written; `other`: it is not, and nobody said so;
`escaped`: any other error, or more than ten seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import random
import signal
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import schurgan
from schurgan.audio import Spectrogram, read_audio
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.sources import cifar10, open_source
from schurgan.data.unpack import unpack
from schurgan.data.verify import verify
from schurgan.evaluation.features import cache
from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.status import read_status
from schurgan.studies.trial import Outcome, read_outcome
from schurgan.training import train
from schurgan.training.checkpoint import read

SECONDS = 10
Read = Callable[[], object]


def model(run: Path) -> object:
    found = schurgan.load(run)
    return found.card, [(name, value) for name, value in sorted(found.generator.state_dict().items())]


def images(data: Path) -> object:
    shards = Shards(data)
    return shards.classes, shards.references, shards.origins, shards.images(range(len(shards)))


def recordings(data: Path) -> object:
    shards = Shards(data)
    return [shards.recording(number) for number in range(len(shards))]


def verified(data: Path) -> object:
    if problems := verify(data):
        raise SchurganError(problems[0])
    return None


def pictures(root: Path) -> object:
    cifar10._read.cache_clear()
    source = cifar10.open_cifar10(root)
    if "data_batch_1" in dict(source.skipped):
        raise SchurganError(str(source.skipped))
    return source.digest, source.labels


def status(run: Path) -> object:
    found = read_status(run, now=0.0)
    return found.as_json()


def cached(key: dict[str, Any], network: torch.nn.Module) -> object:
    about = cache.load(key, network)
    if about is None:
        raise SchurganError("nothing is kept")
    return about, list(network.state_dict().items())


def unpacked(packed: Path, name: str) -> object:
    archive, out = packed.with_name(f"again{name}"), packed.with_name(f"folder{name}")
    archive.write_bytes(packed.read_bytes())
    unpack(archive, out, None, lambda home: None)
    found = [(path.name, path.read_bytes()) for path in sorted(out.rglob("*")) if path.is_file()]
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    out.rmdir()
    return found


def kinds(home: Path) -> dict[str, tuple[Path, Read]]:
    """A file of each kind, and what reads it."""
    data, run = home / "data", home / "run"
    source = open_source("soundscape", per_class=2, seconds=0.5)
    prepare(source, data, Spectrogram(size=16, channels=1, sample_rate=8000, n_samples=4000), workers=1)
    options = {"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "threads": 1}
    config = Config.model_validate(
        {"data": data, "model": {"architecture": "small-16", "width": 4}, "train": options, "health": {"every": 0}}
    )
    train(config, run)
    folder = RunFolder(run)
    names = dict.fromkeys(("run", "data", "extractor", "extractor_digest", "resize", "batch_norm", "weights"), "a")
    names |= dict.fromkeys(("version", "torch", "device", "date"), "b")
    counts = dict.fromkeys(("step", "classes", "n_real", "n_held_out", "n_fake", "runs", "seed"), 3)
    protocol = Protocol(**names, **counts, held_out_data=None, val_folds=(5,), extractor_accuracy=0.8, truncation=1.0)  # type: ignore[arg-type]
    scores = {"fid": Score(12.5, 0.5, floor=2.0, n_real=3, flags=("few",)), "recall": Score(None)}
    Evaluation(protocol, scores, ("a note",)).save(folder.scores)
    Outcome("collapsed", "variety fell to 0.2", onset=3, best_step=2, worse=1.5).save(run)
    network, key = torch.nn.Linear(8, 4), {"data": "a", "seed": 0}
    cache.save(key, network, {"accuracy": 0.5})
    batches = home / "cifar-10-batches-py"
    batches.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)
    (batches / "data_batch_1").write_bytes(pickle.dumps({b"data": pixels, b"labels": [3] * 20}, protocol=2))
    sound, packed, zipped = home / "a.wav", home / "a.tar.gz", home / "a.zip"
    soundfile.write(sound, np.sin(np.arange(4000) / 9), 8000)
    with tarfile.open(packed, "w:gz") as tar, zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("one.txt", "two.txt"):
            content = random.Random(name).randbytes(700)
            (entry := tarfile.TarInfo(name)).size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            archive.writestr(name, content)
    state = folder.checkpoint_files()[-1].path
    (kept,) = cache.cache_folder().glob("*.safetensors")  # type: ignore[union-attr]
    return {
        "config.yaml": (folder.config, partial(Config.load, folder.config)),
        "metrics.jsonl": (folder.metrics, folder.read_records),
        "metrics.jsonl (status)": (folder.metrics, partial(status, run)),
        "checkpoint": (state, partial(read, state)),
        "sidecar": (state.with_suffix(".json"), partial(read, state)),
        "generator.safetensors": (folder.generator, partial(model, run)),
        "scores.json": (folder.scores, partial(Evaluation.load, folder.scores)),
        "outcome.json": (folder.outcome, partial(read_outcome, run)),
        "manifest.json": (data / "manifest.json", partial(images, data)),
        "manifest.json (verify)": (data / "manifest.json", partial(verified, data)),
        "images.npy": (data / "images-00000.npy", partial(images, data)),
        "audio.npy": (data / "audio-00000.npy", partial(recordings, data)),
        "shards (verify)": (data / "images-00000.npy", partial(verified, data)),
        "classifier cache": (kept, partial(cached, key, network)),
        "CIFAR-10 pickle": (batches / "data_batch_1", partial(pictures, batches)),
        "WAV": (sound, partial(read_audio, sound)),
        "archive .tar.gz": (packed, partial(unpacked, packed, ".tar.gz")),
        "archive .zip": (zipped, partial(unpacked, zipped, ".zip")),
    }


def digest(value: object) -> str:
    """Of all that is in a value, tensors with every bit."""
    torch.set_printoptions(profile="full", precision=17)
    return hashlib.sha256(pickle.dumps(_plain(value))).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        return str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return [(_plain(key), _plain(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return repr(value)


def attempt(read: Read, whole: str) -> tuple[str, str]:
    def late(*_: object) -> None:
        raise TimeoutError("too slow")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return ("same" if digest(read()) == whole else "other"), ""
    except SchurganError as error:
        return "noticed", str(error)
    except Exception as error:
        return "escaped", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        import os

        os.environ["SCHURGAN_CACHE"] = f"{home}/cache"
        files = kinds(Path(home))
        print(f"{'file':<24} {'bytes':>7}  damage  noticed  same  other  escaped")
        for name, (path, read_) in files.items():
            if options.only not in name:
                continue
            content, chance = path.read_bytes(), random.Random(name)
            whole = digest(read_())
            for kind, count in (("flip", options.flips), ("cut", options.cuts)):
                found, examples = Counter[str](), []
                for _ in range(count):
                    damaged = bytearray(content)
                    place = chance.randrange(len(content))
                    if kind == "flip":
                        damaged[place] ^= 1 << chance.randrange(8)
                    else:
                        del damaged[place:]
                    path.write_bytes(damaged)
                    became, why = attempt(read_, whole)
                    found[became] += 1
                    if became in ("other", "escaped"):
                        examples.append(f"{place}: {became} {why}"[:110])
                path.write_bytes(content)
                counts = "  ".join(f"{found[each]:>6}" for each in ("noticed", "same", "other", "escaped"))
                print(f"{name:<24} {len(content):>7}  {kind:<5} {counts}", flush=True)
                for example in examples[:3]:
                    print(f"    {example}")


if __name__ == "__main__":
    main()
