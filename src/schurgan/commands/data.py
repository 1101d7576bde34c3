"""The commands that make, fetch and check data sets. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from schurgan.commands.parsing import Folder, check_counts, name_options
from schurgan.core.errors import SchurganError
from schurgan.core.terminal import say
from schurgan.runs.messages import counted

Scale = Literal["log", "linear", "log_real"]
TransformName = Literal["wavelet", "stft"]
Frame = Literal["paper", "native"]


@dataclass(frozen=True)
class ShardOptions:
    """Where the shards go, and how they are made."""

    out: Annotated[Folder, arg(help="folder for the shards and manifest.json")]
    size: int = 0
    """rows and columns of an image, 8 to 1024; 0 is 64, but for square pictures up to 128 x 128 their own"""
    dtype: Literal["uint8", "float16", "float32"] | None = None
    """how pixels are stored; by default uint8 for log scales and pictures, float16 for the linear scale"""
    shard_clips: Annotated[int, arg(help="clips a shard")] = 1024
    workers: Annotated[int | None, arg(help="processes, all cores by default")] = None
    cluster: str | None = None
    """address of a Dask scheduler whose workers do the work, such as tcp://10.0.0.7:8786"""
    strict: Annotated[bool, arg(help="stop at the first recording that cannot be used instead of listing it")] = False
    overwrite: Annotated[bool, arg(help="replace shards of other data or options in the folder")] = False


@dataclass(frozen=True)
class SoundOptions(ShardOptions):
    """How recordings become images."""

    scale: Annotated[Scale, arg(help="magnitude scale of the images")] = "log"
    transform: Annotated[TransformName, arg(help="wavelet (complex Morlet) or stft")] = "wavelet"
    frame: Frame = "paper"
    """50 ms frames resized to the columns (paper), or one frame a column (native); log_real has none"""
    sample_rate: Annotated[int, arg(help="in Hz")] = 16000
    seconds: float | None = None
    """length of a clip: longer ones are cut and shorter ones padded; 5 by default, for soundscape 2"""
    augment_pitch: bool = False
    """add copies of recordings of 2 s or less, at 0.75, 0.9, 1.15 and 1.5 times their pitch"""
    audio: Annotated[bool, arg(help="keep the recordings in the shards, which phases can be borrowed from")] = True


@dataclass(frozen=True)
class PictureOptions(ShardOptions):
    """How pictures are kept."""

    images: Annotated[Literal["colour", "grey"], arg(help="in colour or in grey")] = "colour"


@dataclass(frozen=True)
class FolderOptions(SoundOptions, PictureOptions):
    """How recordings become images, and how pictures are kept."""


_Unpacked = Annotated[Positional[Path], arg(metavar="ROOT", help="the unpacked data set")]


def prepare_folder(
    root: Annotated[Positional[Path], arg(metavar="ROOT", help="folder of one folder of files for each class")],
    /,
    options: Annotated[FolderOptions, arg(name="")],
    *,
    kind: Annotated[Literal["audio", "images"] | None, arg(help="images where both are there, or audio")] = None,
    table: Annotated[
        Path | None,
        arg(metavar="FILE", help="a CSV file of path, label and, where wanted, fold, instead of a folder a class"),
    ] = None,
) -> None:
    """Your own recordings or images, a folder a class, to shards; started again, it does what is missing."""
    _prepare("folder", root, {"kind": kind, "table": table}, options)


def prepare_esc50(
    root: _Unpacked,
    /,
    options: Annotated[SoundOptions, arg(name="")],
    *,
    subset: Annotated[str, arg(help="all, or esc10, its 400 recordings in 10 classes")] = "all",
) -> None:
    """ESC-50, 2,000 recordings in 50 classes, to shards."""
    _prepare("esc50", root, {"subset": subset}, options)


def prepare_urbansound8k(root: _Unpacked, /, options: Annotated[SoundOptions, arg(name="")]) -> None:
    """UrbanSound8K, 8,732 recordings in 10 classes, to shards."""
    _prepare("urbansound8k", root, {}, options)


def prepare_common_voice(
    root: Annotated[Positional[Path], arg(metavar="ROOT", help="the release, or the folder of one of its languages")],
    /,
    options: Annotated[SoundOptions, arg(name="")],
    *,
    by: Annotated[str, arg(help="classes by locale, sentence, gender, age or accents")] = "locale",
    locales: Annotated[str | None, arg(help="languages, as en,de; all that are there by default")] = None,
    split: Annotated[str, arg(help="its tables; of train,dev,test they are folds 1, 2 and 3")] = "validated",
    max_seconds: Annotated[float | None, arg(help="longer clips are left out")] = None,
    clips: Annotated[int, arg(help="how many are drawn")] = 100_000,
    seed: Annotated[int, arg(help="of the draw")] = 0,
) -> None:
    """A release of Common Voice, spoken sentences, to shards."""
    own = {"by": by, "locales": locales, "split": split, "max_seconds": max_seconds, "clips": clips, "seed": seed}
    _prepare("common_voice", root, own, options)


def prepare_cifar10(
    root: _Unpacked,
    /,
    options: Annotated[PictureOptions, arg(name="")],
    *,
    per_class: Annotated[int | None, arg(help="the first so many images a class of each batch")] = None,
) -> None:
    """CIFAR-10, 60,000 images in 10 classes, to shards."""
    _prepare("cifar10", root, {"per_class": per_class}, options)


def prepare_soundscape(
    options: Annotated[SoundOptions, arg(name="")],
    *,
    per_class: Annotated[int, arg(help="clips a class")] = 150,
    seed: Annotated[int, arg(help="other seeds make other clips")] = 0,
) -> None:
    """Eight classes of sounds that the program makes itself, to shards."""
    _prepare("soundscape", None, {"per_class": per_class, "seed": seed, "seconds": options.seconds}, options)


def _prepare(name: str, root: Path | None, own: Mapping[str, object], options: ShardOptions) -> None:
    """Prepare source `name`, of options of its `own`; those of recordings are the defaults for sources of pictures."""
    from schurgan.core.progress import Bar
    from schurgan.data import prepare, summary
    from schurgan.data.codec import codec_for
    from schurgan.data.prepare import PITCHES
    from schurgan.data.sources import open_source

    sounds = options if isinstance(options, SoundOptions) else SoundOptions(options.out)
    source = open_source(name, root, **{option: value for option, value in own.items() if value is not None})
    try:
        codec = codec_for(
            source,
            options.size,
            grey=isinstance(options, PictureOptions) and options.images == "grey",
            seconds=sounds.seconds,
            sample_rate=sounds.sample_rate,
            transform=sounds.transform,
            scale=sounds.scale,
            frame=sounds.frame,
        )
        with Bar("prepare", len(source.items()), "clips") as bar:
            manifest = prepare(
                source,
                options.out,
                codec,
                dtype=options.dtype,
                shard_clips=options.shard_clips,
                keep_audio=sounds.audio,
                pitches=PITCHES if sounds.augment_pitch else (),
                workers=options.workers,
                cluster=options.cluster,
                strict=options.strict,
                overwrite=options.overwrite,
                progress=lambda done, total, heard: bar.update(done, f"{heard:.0f} s of sound" if heard else ""),
            )
    except SchurganError:
        raise
    except ValueError as error:
        names = {each.name: f"--{each.name.replace('_', '-')}" for each in fields(sounds)}
        raise SchurganError(name_options(str(error), names)) from None
    print("\n".join(summary(manifest)))
    print(f"{counted(len(manifest), 'image' if manifest.kind == 'images' else 'clip')} in {options.out}")


def download(
    name: Annotated[
        Positional[str],
        arg(metavar="NAME", help="esc50 (0.6 GB), urbansound8k (6 GB), cifar10 (0.2 GB) or common_voice"),
    ],
    /,
    *,
    out: Annotated[Folder, arg(help="folder for the unpacked data set")] = Path("data"),
    release: Annotated[
        str | None, arg(metavar="ID", help="of common_voice: the id of a release at Mozilla Data Collective")
    ] = None,
) -> None:
    """Fetch a public data set; started again, it goes on where it was stopped."""
    from schurgan.data.download import download as fetch

    home, source = fetch(name, out, release=release)
    if source.skipped:
        print(f"{counted(len(source.skipped), 'file')} not used; the first, {': '.join(source.skipped[0])}")
    print(f"{counted(len(source.items()), 'item')} in {home}; `schurgan prepare {name} {home} --out DIR` is next")


_Prepared = Annotated[Positional[Path], arg(metavar="DIR", help="folder of the shards")]


def data_verify(folder: _Prepared, /) -> None:
    """Read every byte of prepared shards and name what is wrong; exit status 2 if anything is."""
    from schurgan.core.progress import Bar
    from schurgan.data.manifest import Manifest
    from schurgan.data.verify import verify

    sizes = [file.bytes for file in Manifest.load(folder).files()]
    with Bar("verify", round(sum(sizes) / 1e6), "MB") as bar:
        problems = verify(folder, lambda done, total: bar.update(round(done / 1e6)))
    for problem in problems:
        say(problem)
    if problems:
        found = f"{folder}: {counted(len(problems), 'problem')} found"
        raise SchurganError(f"{found}; copy the folder again, or prepare the data again with --overwrite")
    print(f"{folder}: {counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB, all as they were written")


def data_export(
    folder: _Prepared,
    /,
    *,
    out: Annotated[Folder, arg(help="new folder for the tar files")],
    clips_per_tar: Annotated[int, arg(help="clips a file")] = 1000,
    audio: Annotated[bool, arg(help="the recordings too")] = False,
) -> None:
    """Prepared shards as tar files that the webdataset library reads."""
    check_counts(clips_per_tar=clips_per_tar)
    from schurgan.core.progress import Bar
    from schurgan.data.export import export_webdataset
    from schurgan.data.shards import Shards

    with Bar("export", unit="clips") as bar:
        paths = export_webdataset(Shards(folder), out, clips_per_tar=clips_per_tar, keep_audio=audio, progress=bar)
    print(f"{counted(len(paths), 'tar file')} in {out}")
