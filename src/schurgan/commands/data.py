"""The commands that make, fetch and check data sets. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from schurgan.commands.parsing import Folder, check_counts, check_rate
from schurgan.core.errors import UserError, say

Scale = Literal["log", "linear", "log_real"]
TransformName = Literal["wavelet", "stft"]
Frame = Literal["paper", "native"]


def prepare(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    root: Annotated[Positional[Path | None], arg(metavar="[ROOT]")] = None,
    /,
    *,
    out: Folder,
    size: int = 0,
    scale: Scale = "log",
    transform: TransformName = "wavelet",
    frame: Frame = "paper",
    images: Literal["colour", "grey"] = "colour",
    augment_pitch: bool = False,
    seconds: float | None = None,
    sample_rate: int = 16000,
    subset: str | None = None,
    per_class: int | None = None,
    kind: Literal["audio", "images"] | None = None,
    table: Annotated[Path | None, arg(metavar="FILE")] = None,
    by: str | None = None,
    locales: str | None = None,
    split: str | None = None,
    max_seconds: float | None = None,
    clips: int | None = None,
    seed: int | None = None,
    dtype: Literal["uint8", "float16", "float32"] | None = None,
    shard_clips: int = 1024,
    audio: bool = True,
    workers: int | None = None,
    cluster: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> None:
    """Recordings to shards of spectrogram images, on all cores; started again, it does what is missing.

    Args:
        source: folder (a folder a class, any audio or images), esc50, urbansound8k, common_voice or cifar10 (their
            official layouts), or soundscape (made by the program)
        root: where the recordings are
        out: folder for the shards and manifest.json
        size: rows and columns of an image, 8 to 1024; 0 is 64, but for square pictures up to 128 x 128 their own
        scale: magnitude scale of the images
        transform: wavelet (complex Morlet) or stft
        frame: 50 ms frames resized to the columns (paper), or one frame a column (native)
        images: of a source of pictures, how they are kept
        augment_pitch: add copies of recordings of 2 s or less, at 0.75, 0.9, 1.15 and 1.5 times their pitch
        seconds: length of a clip, longer ones are cut and shorter ones padded; 5, for soundscape 2
        sample_rate: Hz
        subset: of esc50: esc10
        per_class: clips a class, of soundscape; of cifar10 the first so many images a class of each batch
        kind: of folder: images where both are there, or audio
        table: of folder: a CSV file with the columns path, label and, where wanted, fold, instead of a folder a class
        by: of common_voice: classes by locale (the default), sentence, gender, age or accents
        locales: of common_voice: languages with commas between them, as en,de; all that are there by default
        split: of common_voice: its tables, validated by default; of train,dev,test they are folds 1, 2 and 3
        max_seconds: of common_voice: longer clips are left out
        clips: of common_voice: how many are drawn, 100000 by default
        seed: of soundscape, and of the draw from common_voice
        dtype: how pixels are stored; uint8 for the log scales and float16 for the linear one by default
        shard_clips: clips a shard
        audio: keep the recordings in the shards, which phases can be borrowed from
        workers: processes, all cores by default
        cluster: address of a Dask scheduler whose workers do the work, such as tcp://10.0.0.7:8786
        strict: stop at the first recording that cannot be used instead of listing it
        overwrite: replace shards of other data or options in the folder
    """
    from schurgan.data.sources import open_source

    given = {
        "subset": subset,
        "per_class": per_class,
        "kind": kind,
        "table": table,
        "by": by,
        "locales": locales,
        "split": split,
        "max_seconds": max_seconds,
        "clips": clips,
        "seed": seed,
        "seconds": seconds if source == "soundscape" else None,
    }
    opened = open_source(source, root, **{name: value for name, value in given.items() if value is not None})
    length = seconds if seconds is not None else 2.0 if source == "soundscape" else 5.0
    if not 0.05 <= length <= 600:
        raise UserError(f"--seconds: {length:g} given, 0.05 to 600 is needed")
    check_rate(sample_rate)
    check_counts(shard_clips=shard_clips, workers=workers)

    from schurgan.audio import Spectrogram
    from schurgan.core.progress import Bar
    from schurgan.data import prepare as run
    from schurgan.data import summary
    from schurgan.data.codec import Codec, ImageCodec, native_size
    from schurgan.data.work import PITCHES

    pictures = opened.kind == "images"
    encoder: Codec
    try:
        if pictures:
            encoder = ImageCodec(size or native_size(opened, 64), 3 if images == "colour" else 1)
        else:
            encoder = Spectrogram(
                transform,
                size or 64,
                scale,
                frame=frame,
                channels=1,
                sample_rate=sample_rate,
                n_samples=round(length * sample_rate),
            )
        with Bar("prepare", len(opened.items()), "clips") as bar:
            manifest = run(
                opened,
                out,
                encoder,
                dtype=dtype,
                shard_clips=shard_clips,
                keep_audio=audio,
                pitches=PITCHES if augment_pitch else (),
                workers=workers,
                cluster=cluster,
                strict=strict,
                overwrite=overwrite,
                progress=lambda done, total, heard: bar.update(done, "" if pictures else f"{heard:.0f} s of sound"),
            )
    except ValueError as error:
        raise UserError(f"prepare: {error}") from None
    print("\n".join(summary(manifest)))
    print(f"{len(manifest)} clips in {out}")


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
