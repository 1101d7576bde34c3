"""Small data sets, made in the layouts of the public ones without the code under test, and a source that fails."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from schurgan.audio import Spectrogram, read_audio
from schurgan.data import workers
from schurgan.data.sources.base import Item
from schurgan.data.sources.folder import open_folder

RATE, N_SAMPLES, SIZE = 16000, 8000, 32
SMALL = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=1)

ESC50_HEADER = "filename,fold,target,category,esc10,src_file,take"
ESC50_ROWS = [
    "1-1-A-7.wav,1,7,rooster,False,1,A",
    "1-2-A-0.wav,1,0,dog,True,2,A",
    "5-3-A-0.wav,5,0,dog,True,3,A",
    "2-4-B-11.wav,2,11,sea_waves,True,4,B",
]
US8K_HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"
US8K_ROWS = [
    "100-3-0-0.wav,100,0.0,0.1,1,5,3,dog_bark",
    "101-2-0-7.wav,101,35.0,35.1,1,5,2,children_playing",
    "102-3-0-0.wav,102,0.0,0.1,2,10,3,dog_bark",
    "103-0-0-1.wav,103,1.0,1.1,1,1,0,air_conditioner",
]
VOICE_HEADER = [
    *("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes"),
    *("age", "gender", "accents", "variant", "locale", "segment"),
]
CIFAR10_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
]


def clip(path: Path, frequency: float = 440.0, seconds: float = 0.1) -> Path:
    """A small WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.sin(2 * np.pi * frequency * np.arange(int(seconds * 16_000)) / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((16_000 * sound).astype("<i2").tobytes())
    return path


def esc50(root: Path, rows: list[str] = ESC50_ROWS, header: str = ESC50_HEADER, missing: tuple[str, ...] = ()) -> Path:
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "esc50.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "audio").mkdir()
    for row in rows:
        if (name := row.split(",")[0]) not in missing:
            clip(root / "audio" / name)
    return root


def urbansound8k(root: Path, rows: list[str] = US8K_ROWS) -> Path:
    (root / "metadata").mkdir(parents=True)
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join([US8K_HEADER, *rows]) + "\n")
    for row in rows:
        name, fold = row.split(",")[0], row.split(",")[5]
        clip(root / "audio" / f"fold{fold}" / name)
    return root


def mp3(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 32_000)) / 32_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 300 * time), 32_000, format="MP3")
    return path


def table(path: Path, rows: list[dict[str, str]], header: list[str] = VOICE_HEADER) -> Path:
    """A TSV as Common Voice writes it: nothing is quoted."""
    lines = ["\t".join(header), *("\t".join(row.get(column, "") for column in header) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def common_voice(root: Path, locale: str = "en", count: int = 6, seconds: float = 0.2) -> Path:
    """`count` clips of a language in `root`/`locale`, the first of `seconds`, each a tenth longer; sentences repeat."""
    names = [f"common_voice_{locale}_{number}.mp3" for number in range(count)]
    for number, name in enumerate(names):
        mp3(root / locale / "clips" / name, seconds * (1 + 0.1 * number))
    said = ["yes", "no", 'the "firefox']
    rows = [{"path": name, "sentence": said[number % 3], "locale": locale} for number, name in enumerate(names)]
    table(root / locale / "validated.tsv", rows)
    durations = [
        {"clip": name, "duration[ms]": str(round(1000 * seconds * (1 + 0.1 * number)))}
        for number, name in enumerate(names)
    ]
    table(root / locale / "clip_durations.tsv", durations, ["clip", "duration[ms]"])
    return root


def cifar10_batch(number: int, count: int = 4) -> tuple[np.ndarray, list[int]]:
    """Pixels (count, 3072) and classes of batch 1 to 6."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (count, 3072), np.uint8), [(7 * number * count + 3 * i) % 10 for i in range(count)]


def cifar10(root: Path, protocol: int = 2, keys: type = bytes, count: int = 4) -> Path:
    """The layout for Python; keys are bytes, as Python 3 reads the official ones, or str."""
    root.mkdir(parents=True)
    for number in range(1, 7):
        images, labels = cifar10_batch(number, count)
        batch = {"batch_label": "a batch", "labels": labels, "data": images, "filenames": ["a.png"] * count}
        if keys is bytes:
            batch = {key.encode(): value for key, value in batch.items()}
            batch[b"filenames"] = [b"a_s_000001.png"] * count
        name = f"data_batch_{number}" if number < 6 else "test_batch"
        (root / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    return root


def cifar10_binary(root: Path, count: int = 4) -> Path:
    root.mkdir(parents=True)
    for number in range(1, 7):
        images, labels = cifar10_batch(number, count)
        name = f"data_batch_{number}.bin" if number < 6 else "test_batch.bin"
        (root / name).write_bytes(np.c_[np.array(labels, np.uint8), images].tobytes())
    return root


def write_clips(root: Path, counts: dict[str, int]) -> Path:
    """Half a second of decaying tone in noise a clip, another one each."""
    rng = np.random.default_rng(0)
    time_ = np.arange(N_SAMPLES) / RATE
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            tone = np.sin(2 * np.pi * rng.uniform(200, 4000) * time_) * np.exp(-rng.uniform(1, 9) * time_)
            noise = 0.05 * rng.standard_normal(N_SAMPLES)
            soundfile.write(root / label / f"{number:03}.wav", rng.uniform(0.1, 0.7) * tone + 0.1 * noise, RATE)
    return root


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def wait_for_workers(done: int, total: int, seconds: float) -> None:
    """A progress callback that holds the parent until a worker runs: it would do so small a set all by itself."""
    while done == 16 and not workers.answered:
        time.sleep(0.01)
    time.sleep(0.05)


@dataclass(frozen=True)
class Faulty:
    """The first `count` clips of a folder; what happens on loading some of them can be commanded."""

    root: Path
    raising: tuple[tuple[str, type[BaseException]], ...] = ()
    deadly: str = ""
    pids: Path | None = None
    parent: int = field(default_factory=os.getpid)
    name: str = "faulty"
    kind: str = "audio"
    skipped: tuple[tuple[str, str], ...] = ()

    def classes(self) -> tuple[str, ...]:
        return open_folder(self.root).classes()

    def items(self) -> list[Item]:
        return open_folder(self.root).items()

    def load(self, item: Item, sample_rate: int) -> Tensor:
        if self.pids:
            (self.pids / str(os.getpid())).touch()
        if item.origin == self.deadly and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        for origin, error in self.raising:
            if item.origin == origin:
                raise error("as commanded")
        return read_audio(self.root / item.origin, sample_rate)

    def describe(self) -> dict[str, object]:
        return {"source": self.name}


def interrupt_after(count: int):
    def progress(done: int, total: int, seconds: float) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return progress
