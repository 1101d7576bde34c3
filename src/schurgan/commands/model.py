"""The commands about models: to sample, to export, to rebuild recordings from their images, to list presets.

Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import functools
import itertools
import json as json_format
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from schurgan.commands.data import Frame, Scale, TransformName
from schurgan.commands.help import show_options
from schurgan.commands.parsing import Folder, arg, check_counts
from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import lock
from schurgan.core.terminal import say
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted
from schurgan.runs.presets import preset_names, preset_summary

if TYPE_CHECKING:
    from schurgan.audio import Spectrogram

PhaseName = Literal["noise", "carrier", "griffin-lim"]
_WAVEFORMS = ("snr_db", "snr_paper_db", "power_ratio_db")
_SCORES = ("image_distance_db", *_WAVEFORMS)
"""What is printed of each sound; how alike images are comes first, for sounds of found phases differ as waveforms."""
_SHORTEST = 0.25  # seconds; shorter recordings are padded to this, so that their image has some frames


def export(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    *,
    out: Annotated[Path, arg(metavar="FILE")],
) -> None:
    """Write the generator of a run to a file that runs without this program: .pt2 (torch.export) or .onnx.

    Example:
        schurgan export runs/clips --out clips.onnx

    Args:
        run: folder of a run, or a generator.safetensors
        out: the file; it takes z and labels and returns images, in batches of any size
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise SchurganError(f"--out: {out} given, a name that ends in .pt2 or .onnx is needed")
    from schurgan.core.progress import Bar
    from schurgan.model import load
    from schurgan.networks import export_generator

    model = load(run)
    with writing(out), lock(out, beside=True), Bar("export"):
        export_generator(model.generator, out, "pt2" if out.suffix == ".pt2" else "onnx")
    shape = f"z (batch, {model.generator.latent_dim}) and labels (batch,) below {len(model.classes)}"
    print(f"{out}: takes {shape}")


def sample(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    *,
    label: Annotated[str | None, arg(name="class", metavar="NAME")] = None,
    count: int = 8,
    truncation: float | None = None,
    seed: int = 0,
    phase: PhaseName = "noise",
    refine: int | None = None,
    out: Folder | None = None,
) -> None:
    """Make sounds with a trained model: a WAV file and a picture each.

    Example:
        schurgan sample runs/clips
        schurgan sample runs/clips --class kettle --count 16 --out kettles

    Args:
        run: folder of a run, or a generator.safetensors
        label: the class to sample, every class by default
        count: sounds of each class
        truncation: variance of the noise; below 1 sounds are more typical, above 1 more varied; 1 by default
        seed: the same seed gives the same sounds
        phase: estimated from noise or by griffin-lim, or borrowed from a recording of the class (carrier)
        refine: iterations that fit the sound to its image, 32 by default
        out: folder for the files, RUN/sounds by default
    """
    from schurgan.core.progress import Bar
    from schurgan.model import load

    _check_refine(refine)
    model = load(run)
    folder = out or RunFolder(run if run.is_dir() else run.parent).sounds
    written = set[Path]()
    names = [label] if label is not None else model.classes
    with writing(folder), lock(folder), Bar("sample", count * len(names), "sound") as bar:
        for before, name in enumerate(names):

            def tell(done: int, _: int, before: int = before * count, name: str = name) -> None:
                bar.update(before + done, name)

            sounds = model.sample(name, count, truncation, seed, phase=phase, refine=refine, progress=tell)
            written.update(sounds.save(folder))
    print(f"{counted(len(written), 'picture' if model.pictures else 'sound')} in {folder}")


def _check_refine(refine: int | None) -> None:
    if refine is not None and not 0 <= refine <= 100_000:
        raise SchurganError(f"--refine: {refine} given, 0 to 100000 iterations are possible")


def reconstruct(
    files: Annotated[tuple[Path, ...], arg(metavar="FILE ...")],
    /,
    *,
    out: Folder,
    size: int = 128,
    scale: Scale = "log",
    transform: TransformName = "wavelet",
    frame: Frame = "paper",
    phase: PhaseName = "carrier",
    refine: int | None = None,
    seconds: float = 5.0,
    sample_rate: int = 16000,
    json: bool = False,
) -> None:
    """Rebuild recordings from their images, to hear and to measure what of a sound survives.

    Example:
        schurgan reconstruct clips/kettle/*.wav --out rebuilt --size 64

    Args:
        files: recordings, any format
        out: folder for the rebuilt WAV files and pictures of the images
        size: rows and columns of the image
        scale: magnitude scale of the image
        transform: wavelet (complex Morlet) or stft
        frame: 50 ms frames resized to the columns (paper), or one frame a column (native)
        phase: the recording's own (carrier), or estimated from noise or by griffin-lim
        refine: iterations that fit the sound to its image; by default 0 with the recording's own phase, else 32
        seconds: length to which longer recordings are cut, in seconds
        sample_rate: samples a second, in Hz
        json: print one JSON object for each file
    """
    if not 1000 <= sample_rate <= 384000:
        raise SchurganError(f"--sample-rate: {sample_rate} given, 1000 to 384000 Hz is needed")
    _check_refine(refine)
    if not files:
        raise SchurganError("FILE: missing; one recording or more is needed")
    if not _SHORTEST <= seconds <= 600:
        raise SchurganError(f"--seconds: {seconds:g} given, {_SHORTEST:g} to 600 is needed")
    import torch

    from schurgan.audio import AudioError, Spectrogram
    from schurgan.core.distributed import World
    from schurgan.core.isolation import own_settings
    from schurgan.core.progress import Bar
    from schurgan.evaluation.metric_table import ABOUT

    @functools.cache
    def spectrogram(n_samples: int) -> Spectrogram:
        options: dict[str, Any] = {"frame": frame, "sample_rate": sample_rate, "n_samples": n_samples}
        return Spectrogram(transform, size, scale, channels=1, **options)

    longest = round(seconds * sample_rate)
    try:
        spectrogram(longest)
    except ValueError as error:
        raise SchurganError(str(error)) from None
    rebuilt, names = 0, set[str]()
    with World().lock(out), own_settings(), Bar("reconstruct", len(files), "recording") as bar:
        torch.set_num_threads(1)  # short FFTs: more threads would wait for each other
        for number, file in enumerate(files):
            bar.update(number)
            numbered = (f"{file.stem}-{count}" for count in itertools.count(2))
            name = next(name for name in itertools.chain([file.stem], numbered) if name.casefold() not in names)
            names.add(name.casefold())  # some file systems ignore case
            try:
                scores = _rebuild(file, out / name, spectrogram, longest, phase, refine)
            except AudioError as error:
                if len(files) == 1:
                    raise SchurganError(str(error)) from None
                say(str(error))
                continue
            rebuilt += 1
            texts = (f"{key} {scores[key]:.2f}" for key in _SCORES if scores[key] is not None)
            print(json_format.dumps(scores) if json else "  ".join((str(file), *texts)), flush=True)
        bar.update(len(files))
    if not rebuilt:
        raise SchurganError(f"none of {counted(len(files), 'recording')} can be used")
    if not json:
        print("\n".join(f"{name}: {ABOUT[name]}" for name in _SCORES if name in ABOUT))
        print(f"{counted(rebuilt, 'sound')} in {out}")


def _rebuild(
    file: Path,
    target: Path,
    spectrogram: Callable[[int], Spectrogram],
    longest: int,
    phase: PhaseName,
    refine: int | None,
) -> dict[str, Any]:
    """Write TARGET.wav (rebuilt), TARGET.original.wav (mono, resampled, peak 1) and TARGET.png; return the scores."""
    from schurgan import audio
    from schurgan.audio.pictures import picture, save_png
    from schurgan.evaluation.score_sounds import consistency

    rate, size = spectrogram(longest).sample_rate, spectrogram(longest).size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.AudioWarning)
        samples, _ = audio.read_loudest(file, longest, rate)
    n = min(max(len(samples), math.ceil(_SHORTEST * rate), size), longest)
    clip, _, notes = audio.fit_clip(samples, n, rate)
    try:
        codec = spectrogram(n)
    except ValueError as error:
        raise audio.AudioError(f"{file}: too short for this transform ({error})") from None
    image, aux = codec.encode(clip[None])
    rebuilt = codec.decode(image, aux, phase=phase, refine=refine)[0]
    wav, original, png = (target.with_name(target.name + end) for end in (".wav", ".original.wav", ".png"))
    with warnings.catch_warnings(), writing(target.parent):
        warnings.simplefilter("ignore", audio.AudioWarning)  # a rebuilt peak may pass full scale by a hair
        audio.write_audio(wav, rebuilt, rate)
        audio.write_audio(original, clip, rate)
        save_png(picture(image[0], max(1, 256 // size)), png)
    values = {"image_distance_db": consistency(codec, image, rebuilt[None]).median or math.nan}
    values |= {name: float(getattr(audio, name)(clip, rebuilt)) for name in _WAVEFORMS}
    return {
        "file": str(file),
        **{name: round(value, 4) if math.isfinite(value) else None for name, value in values.items()},
        "seconds": n / rate,
        "notes": [str(note.message) for note in caught if issubclass(note.category, audio.AudioWarning)] + notes,
        "wav": str(wav),
    }


def presets(
    name: Annotated[str | None, arg(metavar="NAME")] = None,
    /,
    *,
    batch_size: int = 32,
    width: int | None = None,
    classes: int = 10,
    channels: int = 3,
) -> None:
    """List the presets of `train`, and what a training step of each architecture costs; or what one preset sets.

    Example:
        schurgan presets
        schurgan presets small-64

    Args:
        name: the preset whose options are listed
        batch_size: images in a step
        width: channels of the narrowest layer, each architecture's own by default
        classes: number of classes
        channels: channels of an image
    """
    if name is not None:
        from schurgan.runs.config import Config

        print("\n  ".join([f"{name}: {preset_summary(name)}", *show_options(Config.from_preset(name).changes())]))
        return
    check_counts(batch_size=batch_size, width=width, classes=classes, channels=channels)
    space = max(map(len, preset_names()))
    print("\n".join(f"{name:<{space}}  {preset_summary(name)}" for name in preset_names()), flush=True)

    from schurgan.networks.costs import cost_table

    print()
    for line in cost_table(width=width, classes=classes, channels=channels, batch_size=batch_size):
        print(line, flush=True)
