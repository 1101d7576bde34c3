"""The commands that make, fetch and check data sets. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from schurgan.commands.parsing import Folder, check_counts, check_rate
from schurgan.core.errors import UserError, say

Scale = Literal["log", "linear", "log_real"]
TransformName = Literal["wavelet", "stft"]
Frame = Literal["paper", "native"]


@dataclass(frozen=True)
class ShardOptions:
    """Where the shards go, and how they are made."""

    out: Folder
    """Folder for the shards and manifest.json."""
    size: int = 0
    """Rows and columns of an image, 8 to 1024; 0 is 64, but for square pictures up to 128 x 128 their own."""
    dtype: Literal["uint8", "float16", "float32"] | None = None
    """How pixels are stored; by default uint8 for log scales and pictures, float16 for the linear scale."""
    shard_clips: int = 1024
    """Clips a shard."""
    workers: int | None = None
    """Processes, all cores by default."""
    cluster: str | None = None
    """Address of a Dask scheduler whose workers do the work, such as tcp://10.0.0.7:8786."""
    strict: bool = False
    """Stop at the first recording that cannot be used instead of listing it."""
    overwrite: bool = False
    """Replace shards of other data or options in the folder."""


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are kept."""

    images: Literal["colour", "grey"] = "colour"
    """How pictures are kept."""


@dataclass(frozen=True)
class SoundOptions:
    """How recordings become images."""

    scale: Scale = "log"
    """Magnitude scale of the images."""
    transform: TransformName = "wavelet"
    """wavelet (complex Morlet) or stft."""
    frame: Frame = "paper"
    """50 ms frames resized to the columns (paper), or one frame a column (native)."""
    sample_rate: int = 16000
    """In Hz."""
    seconds: float | None = None
    """Length of a clip: longer ones are cut and shorter ones padded; 5 by default, for soundscape 2."""
    augment_pitch: bool = False
    """Add copies of recordings of 2 s or less, at 0.75, 0.9, 1.15 and 1.5 times their pitch."""
    audio: bool = True
    """Keep the recordings in the shards, which phases can be borrowed from."""


Root = Annotated[Positional[Path], arg(metavar="ROOT")]
_Shards = Annotated[ShardOptions, arg(name="")]
_Sounds = Annotated[SoundOptions, arg(name="")]
_Pictures = Annotated[PictureOptions, arg(name="")]


def prepare_folder(
    root: Root,
    /,
    shards: _Shards,
    sounds: _Sounds,
    pictures: _Pictures,
    *,
    kind: Literal["audio", "images"] | None = None,
    table: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Your own recordings or images, a folder a class, to shards; started again, it does what is missing.

    Args:
        root: folder with one folder of recordings (any audio) or images for each class
        shards: where the shards go, and how they are made
        sounds: how recordings become images
        pictures: how pictures are kept
        kind: images where both are there, or audio
        table: a CSV file with the columns path, label and, where wanted, fold, instead of a folder a class
    """
    _prepare("folder", root, {"kind": kind, "table": table}, shards, sounds, pictures)


def prepare_esc50(root: Root, /, shards: _Shards, sounds: _Sounds, *, subset: str = "all") -> None:
    """ESC-50, 2,000 recordings in 50 classes, to shards.

    Args:
        root: the unpacked data set, with meta/esc50.csv and audio/
        shards: where the shards go, and how they are made
        sounds: how recordings become images
        subset: all, or esc10, its 400 recordings in 10 classes
    """
    _prepare("esc50", root, {"subset": subset}, shards, sounds)


def prepare_urbansound8k(root: Root, /, shards: _Shards, sounds: _Sounds) -> None:
    """UrbanSound8K, 8,732 recordings in 10 classes, to shards.

    Args:
        root: the unpacked data set, with metadata/ and audio/fold*/
        shards: where the shards go, and how they are made
        sounds: how recordings become images
    """
    _prepare("urbansound8k", root, {}, shards, sounds)


def prepare_common_voice(
    root: Root,
    /,
    shards: _Shards,
    sounds: _Sounds,
    *,
    by: str = "locale",
    locales: str | None = None,
    split: str = "validated",
    max_seconds: float | None = None,
    clips: int = 100_000,
    seed: int = 0,
) -> None:
    """A release of Common Voice, spoken sentences, to shards.

    Args:
        root: the release, with validated.tsv and clips/ for each language, or the folder of one language
        shards: where the shards go, and how they are made
        sounds: how recordings become images
        by: classes by locale, sentence, gender, age or accents
        locales: languages with commas between them, as en,de; all that are there by default
        split: its tables; of train,dev,test they are folds 1, 2 and 3
        max_seconds: longer clips are left out
        clips: how many are drawn
        seed: of the draw
    """
    options = {"by": by, "locales": locales, "split": split, "max_seconds": max_seconds, "clips": clips, "seed": seed}
    _prepare("common_voice", root, options, shards, sounds)


def prepare_cifar10(root: Root, /, shards: _Shards, pictures: _Pictures, *, per_class: int | None = None) -> None:
    """CIFAR-10, 60,000 images in 10 classes, to shards.

    Args:
        root: the unpacked data set, cifar-10-batches-py or cifar-10-batches-bin
        shards: where the shards go, and how they are made
        pictures: how pictures are kept
        per_class: the first so many images a class of each batch
    """
    _prepare("cifar10", root, {"per_class": per_class}, shards, SoundOptions(), pictures)


def prepare_soundscape(shards: _Shards, sounds: _Sounds, *, per_class: int = 150, seed: int = 0) -> None:
    """Eight classes of sounds that the program makes itself, to shards.

    Args:
        shards: where the shards go, and how they are made
        sounds: how recordings become images
        per_class: clips a class
        seed: other seeds make other clips
    """
    options = {"per_class": per_class, "seed": seed, "seconds": sounds.seconds}
    _prepare("soundscape", None, options, shards, sounds)


def _prepare(
    name: str,
    root: Path | None,
    options: Mapping[str, object],
    shards: ShardOptions,
    sounds: SoundOptions,
    pictures: PictureOptions | None = None,
) -> None:
    from schurgan.data.sources import open_source

    source = open_source(name, root, **{option: value for option, value in options.items() if value is not None})
    if sounds.seconds is not None and not 0.05 <= sounds.seconds <= 600:
        raise UserError(f"--seconds: {sounds.seconds:g} given, 0.05 to 600 is needed")
    check_rate(sounds.sample_rate)
    check_counts(shard_clips=shards.shard_clips, workers=shards.workers)

    from schurgan.core.progress import Bar
    from schurgan.data import prepare, summary
    from schurgan.data.codec import codec_for
    from schurgan.data.prepare import PITCHES

    try:
        codec = codec_for(
            source,
            shards.size,
            grey=pictures is not None and pictures.images == "grey",
            seconds=sounds.seconds,
            sample_rate=sounds.sample_rate,
            transform=sounds.transform,
            scale=sounds.scale,
            frame=sounds.frame,
        )
        with Bar("prepare", len(source.items()), "clips") as bar:
            manifest = prepare(
                source,
                shards.out,
                codec,
                dtype=shards.dtype,
                shard_clips=shards.shard_clips,
                keep_audio=sounds.audio,
                pitches=PITCHES if sounds.augment_pitch else (),
                workers=shards.workers,
                cluster=shards.cluster,
                strict=shards.strict,
                overwrite=shards.overwrite,
                progress=lambda done, total, heard: bar.update(done, f"{heard:.0f} s of sound" if heard else ""),
            )
    except ValueError as error:
        raise UserError(f"prepare: {error}") from None
    print("\n".join(summary(manifest)))
    print(f"{len(manifest)} clips in {shards.out}")


def download(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    *,
    out: Folder = Path("data"),
    release: Annotated[str | None, arg(metavar="ID")] = None,
) -> None:
    """Fetch a public data set; started again, it goes on where it was stopped.

    Args:
        name: esc50 (0.6 GB), urbansound8k (6 GB), cifar10 (0.2 GB) or common_voice
        out: folder for the unpacked data set
        release: of common_voice: the id of a release at Mozilla Data Collective
    """
    from schurgan.data.download import download as fetch

    home, source = fetch(name, out, release=release)
    if source.skipped:
        print(f"{len(source.skipped)} not used; the first, {': '.join(source.skipped[0])}")
    print(f"{len(source.items())} items in {home}; `schurgan prepare {name} {home} --out DIR` is next")


def data_verify(folder: Annotated[Positional[Path], arg(metavar="DIR")], /) -> None:
    """Read every byte of prepared shards and name what is missing, damaged or too much; exit status 2 if anything is.

    Args:
        folder: folder of the shards
    """
    from schurgan.core.progress import Bar
    from schurgan.data.manifest import Manifest
    from schurgan.data.verify import verify

    sizes = [file.bytes for file in Manifest.load(folder).files()]
    with Bar("verify", round(sum(sizes) / 1e6), "MB") as bar:
        problems = verify(folder, lambda done, total: bar.update(round(done / 1e6)))
    for problem in problems:
        say(problem)
    if problems:
        found = f"{len(problems)} problem{'s' * (len(problems) > 1)} found"
        raise UserError(f"{folder}: {found}; copy the folder again, or prepare the data again with --overwrite")
    print(f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, all as they were written")


def data_export(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    /,
    *,
    out: Folder,
    clips_per_tar: int = 1000,
    audio: bool = False,
) -> None:
    """Prepared shards as tar files that the webdataset library reads.

    Args:
        folder: folder of the shards
        out: new folder for the tar files
        clips_per_tar: clips a file
        audio: the recordings too
    """
    check_counts(clips_per_tar=clips_per_tar)
    from schurgan.data.export import export_webdataset
    from schurgan.data.shards import Shards

    paths = export_webdataset(Shards(folder), out, clips_per_tar=clips_per_tar, keep_audio=audio)
    print(f"{len(paths)} tar files in {out}")
