"""The command line: the table of commands, and the call of one.

A command's module is imported when the command is called: `schurgan --help` imports neither torch nor the parser.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO, cast

from schurgan.core.errors import Interrupted, SchurganError, Undecided, did_you_mean, enough_memory
from schurgan.core.terminal import Guarded, HarmlessStream, say, say_more
from schurgan.version import __version__

COMMANDS = {
    "init": ("init", "Look at a folder of clips; write what `go` shall do with it."),
    "go": ("go", "Prepare, train, sample and report, as that file says."),
    "download": ("data", "Fetch a public data set."),
    "prepare folder": ("data", "Make shards of your own recordings or images."),
    "prepare esc50": ("data", "Make shards of ESC-50 or ESC-10."),
    "prepare urbansound8k": ("data", "Make shards of UrbanSound8K."),
    "prepare common_voice": ("data", "Make shards of Mozilla Common Voice."),
    "prepare cifar10": ("data", "Make shards of CIFAR-10."),
    "prepare soundscape": ("data", "Make shards of sounds that the program makes itself."),
    "data verify": ("data", "Read every byte of shards and name what is missing or damaged."),
    "data export": ("data", "Write shards as tar files that the webdataset library reads."),
    "train": ("run", "Train a GAN on shards, into the folder of a run."),
    "resume": ("run", "Continue a run exactly as if it had never stopped."),
    "status": ("run", "Show how a run is doing: step, time left, losses, events."),
    "sample": ("model", "Make sounds with a trained model, a WAV file and picture each."),
    "reconstruct": ("model", "Rebuild recordings from their images: what of them survives?"),
    "report": ("run", "Write a page of real and generated sounds, curves and scores."),
    "animate": ("run", "Write a film of a run's sample grids."),
    "evaluate": ("evaluate", "Score a run, each score beside what real images reach."),
    "compare": ("evaluate", "Put the scores of several runs into one table."),
    "sweep": ("evaluate", "Score a run at several truncations: fidelity against variety."),
    "study": ("study", "Train, score and lay out a table or figure of the paper."),
    "export": ("model", "Write a generator to a file that runs without this program."),
    "presets": ("model", "List the presets, and what a step of each architecture costs."),
    "demo": ("demo", "Make sounds, train on them and write a page, in a few minutes."),
    "doctor": ("doctor", "Print what is installed and what this machine has."),
}
"""Module and summary of each command. Its function has its name, with _ for the space of one of two words."""
_HELP = {"-h", "--help", "--help-all"}

_SLOW = 2.0  # seconds
_WITHOUT_TORCH = ("animate", "presets", "status")


def find_command(name: str, arguments: list[str]) -> Callable[..., Any]:
    """Import the function of a command.

    The defaults of `train` are those of the preset that its arguments name, those of `resume` those of the run.
    """
    module = importlib.import_module(f"schurgan.commands.{COMMANDS[name][0]}")
    if name == "train":
        from schurgan.commands.parsing import value_of
        from schurgan.runs.config import Config

        preset, file = (value_of(arguments, option) for option in ("--preset", "--config"))
        return module.train_command(Config.from_preset(preset, file), file)
    if name == "resume":
        from schurgan.runs.config import Config
        from schurgan.runs.folder import RunFolder

        if kept := [argument for argument in arguments if argument.startswith(("--model.", "--preset"))]:
            raise SchurganError(f"{kept[0].partition('=')[0]}: a run keeps its own; leave it out, or train a new run")
        runs = (RunFolder(argument) for argument in arguments if not argument.startswith("-"))
        run = next((run for run in runs if run.config.is_file()), None)
        return module.resume_command(Config() if run is None else run.read_config())
    return getattr(module, name.replace(" ", "_"))


def command_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Find the name of the command and its own arguments. Raises SchurganError when there is no such command."""
    for words in (2, 1):
        if (name := " ".join(arguments[:words])) in COMMANDS:
            return name, list(arguments[words:])
    first, group = arguments[0], _group(arguments[0])
    if group and (len(arguments) == 1 or arguments[1].startswith("-")):
        raise SchurganError(
            f"{first}: one word more is needed, as in {', '.join(f'`schurgan {name}`' for name in group)}"
        )
    if first == "prepare" and os.path.exists(arguments[1]):
        command = shlex.join(["schurgan", "prepare", "folder", *arguments[1:]])
        raise SchurganError(f'"{arguments[1]}": a path, and the kind of its source is needed before it: `{command}`')
    known = [name.partition(" ")[2] for name in group] or [*COMMANDS, *(name.partition(" ")[0] for name in COMMANDS)]
    lists = f"`schurgan {first + ' ' if group else ''}--help` lists them"
    near = did_you_mean(arguments[1] if group else first, known) or f"; {lists}"
    raise SchurganError(f'"{" ".join(arguments[: 1 + bool(group)])}": no such command{near}')


def _group(word: str) -> list[str]:
    """The commands of two words that begin with this one."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Exit status 0, 1 (a run stopped as asked), 2 with one sentence on standard error, 130 after Ctrl-C, or 141 where the
    reader of a pipe went away.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _ready_streams()
    handler = signal.getsignal(signal.SIGINT)
    try:
        if handler is signal.default_int_handler:
            with contextlib.suppress(ValueError):  # another thread than the main one
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # which ends imports at once, without a traceback
        with warnings.catch_warnings(), redirect_stdout(cast(TextIO, HarmlessStream(sys.stdout))):
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            try:
                _run(arguments)
            finally:
                sys.stdout.flush()  # or a closed pipe would be noticed at exit only, where nobody can catch it
    except Undecided as error:
        say(error.question)
        for text, option, value in error.choices:
            say_more(f"  {text}", f"    {shlex.join(['schurgan', *arguments, option, value])}")
        say(error.otherwise)
        sys.exit(2)
    except SchurganError as error:
        say(str(error))
        sys.exit(2)
    except Interrupted as stop:
        if str(stop):  # "" where another process says it
            say(str(stop))
        sys.exit(1)
    except UnicodeEncodeError as error:  # of a file's name: streams write "?"
        say(
            f'"{error.object}": {error.encoding}, this system\'s code for names of files, has no such letters; '
            "PYTHONUTF8=1 would do"
        )
        sys.exit(2)
    except BrokenPipeError:
        _silence(sys.stdout)
        sys.exit(141)
    except OSError as error:  # a file's name is in it, unless it is of standard output
        if error.filename is None:
            _silence(sys.stdout)
        say(f"{error.filename or 'standard output'}: {error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            _silence(sys.stderr)
        if handler is signal.default_int_handler:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, handler)


def _ready_streams() -> None:
    """What a stream cannot encode becomes "?", and one that is closed leads nowhere."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else the next file that is opened would become standard output
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper) and (stream.errors, stream.encoding) != ("surrogateescape", "utf-8"):
            with contextlib.suppress(OSError):  # of a flush that fails
                stream.reconfigure(errors="replace")


def _silence(stream: TextIO) -> None:
    """Say nothing more to a stream that fails, also not at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["--version"]:
        print(f"schurgan {__version__}")
        return
    if not arguments:
        arguments = ["--help"]
    if arguments[0] in _HELP:
        print(_usage())
        return
    if _group(arguments[0]) and _HELP & set(arguments[1:2]):
        print(_usage(arguments[0]))
        return
    name, rest = command_of(arguments)
    command = find_command(name, rest)
    from schurgan.commands.help import help_text
    from schurgan.commands.parsing import name_options, option_names, parse
    from schurgan.core.interrupts import ended_by_ctrl_c

    if asked := _HELP & set(rest):
        print(help_text(command, name, "--help-all" in asked))
        return
    try:
        with enough_memory("other programs that are ended give some back"):
            run = parse(command, name, rest)
            if name not in _WITHOUT_TORCH:
                _import_torch()
            with ended_by_ctrl_c():
                run()
    except Undecided as error:
        names = option_names(command)
        if any(choice.option not in names for choice in error.choices):
            raise SchurganError(name_options(str(error), names)) from error
        choices = [choice._replace(option=names[choice.option]) for choice in error.choices]
        raise Undecided(error.question, choices, name_options(error.otherwise, names)) from error
    except SchurganError as error:
        raise SchurganError(name_options(str(error), option_names(command))) from error


def _import_torch() -> None:
    """Import what takes seconds, with a word about it: on a terminal for so long, in a log where it takes long."""
    if "torch" in sys.modules:
        return
    slow = threading.Timer(_SLOW, say, ["loading PyTorch"])
    slow.daemon = True
    if terminal := sys.stderr.isatty():
        Guarded(sys.stderr).write("loading PyTorch ...\r")
    else:
        slow.start()
    importlib.import_module("torch")
    slow.cancel()
    if terminal:
        Guarded(sys.stderr).write("\x1b[2K")


def _usage(group: str = "") -> str:
    """The commands, a line each; those of `prepare` together, unless they are asked for."""
    from schurgan.commands.help import list_commands

    sources = _group("prepare")
    about = f"Make shards of a SOURCE: {', '.join(name.partition(' ')[2] for name in sources)}."
    texts = {name: text for name, (_, text) in COMMANDS.items()}
    if group:
        texts = {name: texts[name] for name in _group(group)}
        return list_commands(texts, f"schurgan {group} {'SOURCE' if group == 'prepare' else 'COMMAND'}")
    texts = {"prepare SOURCE" if name in sources else name: text for name, text in texts.items()}
    return list_commands(texts | {"prepare SOURCE": about}, "schurgan COMMAND")
