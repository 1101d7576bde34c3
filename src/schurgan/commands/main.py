"""The command line: one function a command. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import schurgan
from schurgan.commands.data import (
    Frame,
    Scale,
    TransformName,
    data_export,
    data_verify,
    download,
    prepare_cifar10,
    prepare_common_voice,
    prepare_esc50,
    prepare_folder,
    prepare_soundscape,
    prepare_urbansound8k,
)
from schurgan.commands.evaluate import compare, evaluate, sweep
from schurgan.commands.parsing import Folder, check_counts, check_rate, name_options, option_names, parse, value_of
from schurgan.commands.run import animate, report, resume, status, train_command
from schurgan.commands.study import study
from schurgan.core.errors import Interrupted, UserError, did_you_mean, say, writing
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.presets import preset_names, preset_summary
from schurgan.version import __version__

PhaseName = Literal["noise", "carrier", "griffin-lim"]


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    out: Annotated[Path, arg(metavar="FILE")],
) -> None:
    """The generator of a run as a file that runs without this program: .pt2 (torch.export) or .onnx.

    Args:
        run: folder of a run, or a generator.safetensors
        out: the file; z and labels go in, images come out, in batches of any size
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise UserError(f"--out: {out} given, a name that ends in .pt2 or .onnx is needed")
    from schurgan.model import load
    from schurgan.networks import export_generator

    model = load(run)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        export_generator(model.generator, out, "pt2" if out.suffix == ".pt2" else "onnx")
    shape = f"z (batch, {model.generator.latent_dim}) and labels (batch,) below {len(model.classes)}"
    print(f"{out}: takes {shape}")


def sample(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
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
    """Make sounds: a WAV file and a picture each.

    Args:
        run: folder of a run, or a generator.safetensors
        label: which class, all of them by default
        count: sounds a class
        truncation: variance of the noise: under 1 more typical, above 1 more varied
        seed: the same seed gives the same sounds
        phase: found from noise, by Griffin-Lim, or started from a recording of the class (carrier)
        refine: iterations of fitting sound to image, 32 by default
        out: folder for the files, RUN/sounds by default
    """
    from schurgan.model import load

    _check_refine(refine)
    model = load(run)
    folder = out or RunFolder(run if run.is_dir() else run.parent).sounds
    labels = [label] if label is not None else list(model.classes)
    for name in labels:
        sounds = model.sample(name, count, truncation, seed, phase=phase, refine=refine)
        with writing(folder):
            sounds.save(folder)
    print(f"{count * len(labels)} {'pictures' if model.pictures else 'sounds'} in {folder}")


def _check_refine(refine: int | None) -> None:
    if refine is not None and refine < 0:
        raise UserError(f"--refine: {refine} given, 0 or more iterations are needed")


def reconstruct(
    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ...")],
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
    """Recording to image to recording: what of a sound survives, heard and measured.

    Args:
        files: recordings, any format
        out: folder for the rebuilt WAV files and pictures of the images
        size: rows and columns of the image
        scale: magnitude scale of the image
        transform: wavelet (complex Morlet) or stft
        frame: 50 ms frames resized to the columns (paper), or one frame a column (native)
        phase: the recording's own (carrier), or found from noise or by Griffin-Lim
        refine: iterations of fitting; 0 with the recording's own phase, else 32
        seconds: longer recordings are cut to this length
        sample_rate: Hz
        json: print one JSON object a file
    """
    from schurgan.commands.reconstruct import reconstruct as rebuild

    check_rate(sample_rate)
    _check_refine(refine)
    settings = {"transform": transform, "size": size, "scale": scale, "frame": frame, "sample_rate": sample_rate}
    rebuild(files, out, settings, phase=phase, refine=refine, seconds=seconds, as_json=json)


def presets(*, batch_size: int = 32, width: int | None = None, classes: int = 10, channels: int = 3) -> None:
    """List the presets of `train`, and what a step of training each architecture costs.

    Args:
        batch_size: images a step
        width: channels of a multiple of 1, each architecture's own by default
        classes: classes of sounds
        channels: channels of an image
    """
    check_counts(batch_size=batch_size, width=width, classes=classes, channels=channels)
    space = max(map(len, preset_names()))
    print("\n".join(f"{name:<{space}}  {preset_summary(name)}" for name in preset_names()), flush=True)

    from schurgan.networks.costs import cost_table

    print()
    for line in cost_table(width=width, classes=classes, channels=channels, batch_size=batch_size):
        print(line, flush=True)


def demo(*, out: Folder = Path("runs/demo")) -> None:
    """The whole way in a few minutes: make soundscapes, train on them, sample every class, write a page.

    Args:
        out: folder of the run
    """
    from schurgan.commands.demo import run_demo

    run_demo(out)


def doctor() -> None:
    """What is installed, and what this machine has."""
    from schurgan.commands.doctor import diagnosis

    print("\n".join(diagnosis()))


COMMANDS: dict[str, Callable[..., Any]] = {
    "download": download,
    "prepare folder": prepare_folder,
    "prepare esc50": prepare_esc50,
    "prepare urbansound8k": prepare_urbansound8k,
    "prepare common_voice": prepare_common_voice,
    "prepare cifar10": prepare_cifar10,
    "prepare soundscape": prepare_soundscape,
    "data verify": data_verify,
    "data export": data_export,
    "train": train_command(Config()),
    "resume": resume,
    "status": status,
    "sample": sample,
    "reconstruct": reconstruct,
    "report": report,
    "animate": animate,
    "evaluate": evaluate,
    "compare": compare,
    "sweep": sweep,
    "study": study,
    "export": export,
    "presets": presets,
    "demo": demo,
    "doctor": doctor,
}
"""By name: a word, or two where several commands share the first."""


def command_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command that `arguments` call, and its own arguments. UserError when there is no such command."""
    for words in (2, 1):
        if (name := " ".join(arguments[:words])) in COMMANDS:
            return name, list(arguments[words:])
    first, group = arguments[0], _group(arguments[0])
    if group and (len(arguments) == 1 or arguments[1].startswith("-")):
        raise UserError(f"{first}: one word more is needed, as in {', '.join(f'`schurgan {name}`' for name in group)}")
    known = [name.partition(" ")[2] for name in group] or [*COMMANDS, *(name.partition(" ")[0] for name in COMMANDS)]
    near = did_you_mean(arguments[1] if group else first, known) or f"; there are {', '.join(group or COMMANDS)}"
    raise UserError(f'"{" ".join(arguments[: 1 + bool(group)])}": no such command{near}')


def _group(word: str) -> list[str]:
    """The commands of two words that begin with this one."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status 0, 1 (a run stopped as asked), or 2 with one sentence on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            try:
                _run(arguments)
            finally:
                sys.stdout.flush()  # or a closed pipe would be noticed at exit only, where nobody can catch it
    except UserError as error:
        say(str(error))
        sys.exit(2)
    except Interrupted as stop:
        say(str(stop))
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe went away; say nothing more to it, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["--version"]:
        print(f"schurgan {__version__}")
        return
    if not arguments:
        arguments = ["--help"]
    if arguments[0] in ("-h", "--help"):
        print(_usage(COMMANDS))
        return
    if (group := _group(arguments[0])) and arguments[1:2] in (["-h"], ["--help"]):
        print(_usage(group))
        return
    name, rest = command_of(arguments)
    command = COMMANDS[name]
    if name == "train":
        command = train_command(Config.from_preset(value_of(rest, "--preset"), value_of(rest, "--config")))
    try:
        parse(command, name, rest)()
    except UserError as error:
        raise UserError(name_options(str(error), option_names(command))) from error


def _usage(names: Iterable[str]) -> str:
    """The commands, a line each. Short of building every command's parser: a newcomer's first call is quick."""
    texts = {name: (COMMANDS[name].__doc__ or "").strip().splitlines()[0] for name in names}
    if len(texts) == len(COMMANDS):
        sources = _group("prepare")
        about = f"Recordings or images to shards, by SOURCE: {', '.join(name.partition(' ')[2] for name in sources)}."
        texts = {"prepare SOURCE" if name in sources else name: text for name, text in texts.items()}
        texts["prepare SOURCE"] = about
    lines = ["usage: schurgan COMMAND ...", "", (schurgan.__doc__ or "").strip(), ""]
    lines += [f"  {name:<{max(map(len, texts)) + 2}}{text}" for name, text in texts.items()]
    return "\n".join([*lines, "", "`schurgan COMMAND --help` lists a command's options with their units and defaults."])
