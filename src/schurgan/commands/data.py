"""The commands that make, fetch and check data sets. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from schurgan.commands.parsing import Folder, arg, check_counts, name_options
from schurgan.core.errors import SchurganError
from schurgan.core.terminal import COMMON, say
from schurgan.runs.messages import counted

Scale = Literal["log", "linear", "log_real"]
TransformName = Literal["wavelet", "stft"]
Frame = Literal["paper", "native"]
Dtype = Literal["uint8", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """Where the shards go, and how they are made."""

    out: Annotated[Folder, arg(help="folder for the shards and manifest.json")]
    size: Annotated[int | None, COMMON, arg(help="rows and columns of an image, 8 to 1024; 64 by default")] = None
    overwrite: Annotated[bool, COMMON, arg(help="replace shards of other data or options in the folder")] = False
    strict: Annotated[bool, arg(help="stop at the first file that cannot be used instead of listing it")] = False
    dtype: Annotated[Dtype | None, arg(help="how pixels are stored: uint8 (default), float16 or float32")] = None
    shard_clips: Annotated[int, arg(help="clips in a shard")] = 1024
    workers: Annotated[int | None, arg(help="processes at work, one for each core by default")] = None
    cluster: Annotated[
        str | None,
        arg(metavar="ADDRESS", help="a Dask scheduler whose workers do the work, such as tcp://10.0.0.7:8786"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SoundOptions(ShardOptions):
    """How recordings become images."""

    seconds: Annotated[
        float | None,
        COMMON,
        arg(help="length of a clip in seconds: longer ones are cut, shorter ones padded with silence; 5 by default"),
    ] = None
    sample_rate: Annotated[int, COMMON, arg(help="samples a second, in Hz")] = 16000
    augment_pitch: Annotated[
        bool, COMMON, arg(help="add copies of recordings of 2 s or less at 0.75, 0.9, 1.15 and 1.5 times their pitch")
    ] = False
    scale: Annotated[Scale, arg(help="magnitude scale of the images")] = "log"
    dtype: Annotated[
        Dtype | None,
        arg(help="how pixels are stored: uint8, float16 or float32; by default uint8, for a linear scale float16"),
    ] = None
    transform: Annotated[TransformName, arg(help="wavelet (complex Morlet) or stft")] = "wavelet"
    frame: Annotated[Frame, arg(help="50 ms frames resized to the columns (paper), or one frame a column (native)")] = (
        "paper"
    )
    audio: Annotated[bool, arg(help="keep the recordings in the shards, to compare with and borrow phases of")] = True


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ShardOptions):
    """How pictures are kept."""

    size: Annotated[
        int | None, COMMON, arg(help="rows and columns of an image, 8 to 1024; those of the pictures by default")
    ] = None
    images: Annotated[Literal["colour", "grey"], COMMON, arg(help="colour or grey")] = "colour"


@dataclass(frozen=True, kw_only=True)
class FolderOptions(SoundOptions, PictureOptions):
    """How recordings become images, and how pictures are kept."""

    size: Annotated[
        int | None,
        COMMON,
        arg(help="rows and columns of an image, 8 to 1024; 64 by default, of square pictures up to 128 their own"),
    ] = None
    images: Annotated[Literal["colour", "grey"], arg(help="pictures in colour or grey")] = "colour"


@dataclass(frozen=True, kw_only=True)
class SoundscapeOptions(SoundOptions):
    """How sounds of any length become images."""

    seconds: Annotated[float | None, COMMON, arg(help="length of a clip in seconds; 2 by default")] = None


_Unpacked = Annotated[Path, arg(metavar="ROOT", help="folder of the unpacked data set")]


def prepare_folder(
    root: Annotated[
        Path,
        arg(
            metavar="ROOT",
            help="folder of recordings or pictures, best one folder for each class; or a ZIP or TAR file",
        ),
    ],
    /,
    options: FolderOptions,
    *,
    kind: Annotated[
        Literal["audio", "images"] | None,
        COMMON,
        arg(help="which files to take where both are there: audio (default) or images"),
    ] = None,
    table: Annotated[
        Path | None,
        COMMON,
        arg(metavar="FILE", help="a CSV file of path, label and, where wanted, fold, instead of folders"),
    ] = None,
    class_from: Annotated[
        str | None,
        COMMON,
        arg(
            metavar="HOW",
            help="what a class is: the top or the leaf folders, the name of a file or its first word, none where all "
            "are one, or a regular expression whose group finds it in a path; by default what is evident",
        ),
    ] = None,
) -> None:
    """Make shards of SOURCE folder, your own recordings or images; started again, it does what is missing.

    Example:
        schurgan prepare folder clips --out data/clips
        schurgan prepare folder packs --out data/packs --seconds 2 --class-from leaf
    """
    _prepare("folder", root, {"kind": kind, "table": table, "class_from": class_from}, options)


def prepare_esc50(
    root: _Unpacked,
    /,
    options: SoundOptions,
    *,
    subset: Annotated[str, COMMON, arg(help="all, or esc10, its 400 recordings in 10 classes")] = "all",
) -> None:
    """Make shards of SOURCE esc50, ESC-50's 2,000 recordings in 50 classes.

    Example:
        schurgan prepare esc50 data/ESC-50-master --out data/esc50
        schurgan prepare esc50 data/ESC-50-master --out data/esc10 --subset esc10
    """
    _prepare("esc50", root, {"subset": subset}, options)


def prepare_urbansound8k(root: _Unpacked, /, options: SoundOptions) -> None:
    """Make shards of SOURCE urbansound8k, UrbanSound8K's 8,732 recordings in 10 classes.

    Example:
        schurgan prepare urbansound8k data/UrbanSound8K --out data/urban --seconds 4
    """
    _prepare("urbansound8k", root, {}, options)


def prepare_common_voice(
    root: Annotated[Path, arg(metavar="ROOT", help="the release, or the folder of one of its languages")],
    /,
    options: SoundOptions,
    *,
    by: Annotated[str, COMMON, arg(help="what a class is: locale, sentence, gender, age or accents")] = "locale",
    locales: Annotated[
        str | None, COMMON, arg(metavar="CODES", help="languages, as en,de; all that are there by default")
    ] = None,
    split: Annotated[
        str, arg(metavar="TABLES", help="its tables, with commas between; train,dev,test become folds 1, 2 and 3")
    ] = "validated",
    max_seconds: Annotated[float | None, COMMON, arg(help="longer clips are left out")] = None,
    clips: Annotated[int, COMMON, arg(help="how many clips are drawn, at most")] = 100_000,
    seed: Annotated[int, arg(help="other seeds draw other clips")] = 0,
) -> None:
    """Make shards of SOURCE common_voice, spoken sentences of a release of Common Voice.

    Example:
        schurgan prepare common_voice data/cv-corpus --out data/voices --locales en,de
        schurgan prepare common_voice data/cv-corpus/en --out data/ages --by age
    """
    own = {"by": by, "locales": locales, "split": split, "max_seconds": max_seconds, "clips": clips, "seed": seed}
    _prepare("common_voice", root, own, options)


def prepare_cifar10(
    root: _Unpacked,
    /,
    options: PictureOptions,
    *,
    per_class: Annotated[
        int | None, COMMON, arg(help="images of each class that are taken of each batch; all by default")
    ] = None,
) -> None:
    """Make shards of SOURCE cifar10, CIFAR-10's 60,000 images in 10 classes.

    Example:
        schurgan prepare cifar10 data/cifar-10-batches-py --out data/cifar10
    """
    _prepare("cifar10", root, {"per_class": per_class}, options)


def prepare_soundscape(
    options: SoundscapeOptions,
    *,
    per_class: Annotated[int, COMMON, arg(help="clips of each class")] = 150,
    seed: Annotated[int, COMMON, arg(help="other seeds make other clips")] = 0,
) -> None:
    """Make shards of SOURCE soundscape, eight classes of sounds that the program makes itself.

    Example:
        schurgan prepare soundscape --out data/soundscape
    """
    _prepare("soundscape", None, {"per_class": per_class, "seed": seed, "seconds": options.seconds}, options)


def _prepare(name: str, root: Path | None, own: Mapping[str, object], options: ShardOptions) -> None:
    """Prepare source `name`, of options of its `own`; those of recordings are the defaults for sources of pictures."""
    from schurgan.core.progress import Bar
    from schurgan.data import prepare, summary
    from schurgan.data.codec import codec_for
    from schurgan.data.prepare import PITCHES
    from schurgan.data.sources import open_source

    sounds = options if isinstance(options, SoundOptions) else SoundOptions(out=options.out)
    source = open_source(name, root, **{option: value for option, value in own.items() if value is not None})
    if said := getattr(source, "said", ""):
        print(name_options(said, {"class_from": "--class-from", "table": "--table"}), flush=True)
    try:
        codec = codec_for(
            source,
            options.size or 0,
            grey=isinstance(options, PictureOptions) and options.images == "grey",
            seconds=sounds.seconds,
            sample_rate=sounds.sample_rate,
            transform=sounds.transform,
            scale=sounds.scale,
            frame=sounds.frame,
        )
        with Bar("prepare", len(source.items()), "clip") as bar:
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
        raise SchurganError(str(error)) from None
    print("\n".join(summary(manifest)))
    print(f"{counted(len(manifest), 'image' if manifest.kind == 'images' else 'clip')} in {options.out}")


def download(
    name: Annotated[
        str,
        arg(metavar="NAME", help="esc50 (0.6 GB), urbansound8k (6 GB), cifar10 (0.2 GB) or common_voice"),
    ],
    /,
    *,
    out: Annotated[Folder, arg(help="folder for the unpacked data set")] = Path("data"),
    release: Annotated[
        str | None, arg(metavar="ID", help="of common_voice: the id of a release at Mozilla Data Collective")
    ] = None,
) -> None:
    """Fetch a public data set; started again, it goes on where it was stopped.

    Example:
        schurgan download esc50
    """
    from schurgan.data.download import download as fetch

    home, source = fetch(name, out, release=release)
    if source.skipped:
        print(f"{counted(len(source.skipped), 'file')} not used; the first, {': '.join(source.skipped[0])}")
    print(f"{counted(len(source.items()), 'item')} in {home}; `schurgan prepare {name} {home} --out DIR` is next")


_Prepared = Annotated[Path, arg(metavar="DIR", help="folder of the shards")]


def data_verify(folder: _Prepared, /) -> None:
    """Read every byte of prepared shards and name what is wrong; exit status 2 if anything is.

    Example:
        schurgan data verify data/clips
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
        found = f"{folder}: {counted(len(problems), 'problem')} found"
        raise SchurganError(f"{found}; copy the folder again, or prepare the data again with --overwrite")
    print(f"{folder}: {counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB, all as they were written")


def data_export(
    folder: _Prepared,
    /,
    *,
    out: Annotated[Folder, arg(help="new folder for the tar files")],
    clips_per_tar: Annotated[int, arg(help="clips in a file")] = 1000,
    audio: Annotated[bool, arg(help="write the recordings too")] = False,
) -> None:
    """Write prepared shards as tar files that the webdataset library reads.

    Example:
        schurgan data export data/clips --out tars
    """
    check_counts(clips_per_tar=clips_per_tar)
    from schurgan.core.progress import Bar
    from schurgan.data.export import export_webdataset
    from schurgan.data.shards import Shards

    with Bar("export", unit="clip") as bar:
        paths = export_webdataset(Shards(folder), out, clips_per_tar=clips_per_tar, keep_audio=audio, progress=bar)
    print(f"{counted(len(paths), 'tar file')} in {out}")
