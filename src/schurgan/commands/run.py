"""The commands that train a run, resume it and look at it."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from schurgan.commands.help import show_options
from schurgan.commands.parsing import Folder, arg
from schurgan.core.terminal import COMMON, say
from schurgan.runs.config import Config
from schurgan.runs.presets import preset_list

Run = Annotated[Path, arg(metavar="RUN")]


def train_command(default: Config, file: str | None = None) -> Callable[..., None]:
    """`train` with the options of the chosen preset and file as its defaults, which its help shows."""

    def train(
        config: Config = default,
        *,
        out: Folder,
        config_file: Annotated[Path | None, COMMON, arg(name="config", metavar="FILE")] = None,
    ) -> None:
        """Train a GAN on prepared shards, into the folder of a run.

        Example:
            schurgan train --data data/clips --out runs/clips
            schurgan train --data data/clips --out runs/clips --preset small-64

        Args:
            config: options of the run
            out: folder of the run
            config_file: YAML file of options that override the preset's
        """
        from schurgan.training import train as run

        print(f"trained: {run(config, out)}")

    notes = (
        f"Presets: {preset_list()}; `schurgan presets` says what each is for.",
        f"{default.preset}{f' with {file}' if file else ''} sets {' '.join(show_options(default.changes()))}",
        "--steps is --train.steps, and so is every name that one group alone has.",
    )
    train.__doc__ = "\n    ".join([f"{inspect.cleandoc(train.__doc__ or '')}\n\nNote:", *notes])
    return train


def resume_command(default: Config) -> Callable[..., None]:
    """`resume` with the options of the run as its defaults."""

    def resume(run: Run, /, config: Annotated[Config, arg(without=("preset", "model"))] = default) -> None:
        """Continue a run from its newest checkpoint: exactly as if it had never stopped, or on with other options.

        Example:
            schurgan resume runs/clips
            schurgan resume runs/clips --train.steps 8000

        Args:
            run: folder of the run
            config: options from here on, which are those of the run where they are not given

        Note:
            `schurgan resume RUN --help` shows the values of that run, which keeps its networks and what is held out.
        """
        from schurgan.runs.status import read_status
        from schurgan.training import resume as resume_run

        before = read_status(run).state if config == default else "running"
        print(f"trained: {resume_run(run, config=config)}")
        if before in ("finished", "stopped"):
            had = f"all {default.train.steps} steps were made" if before == "finished" else "it had stopped itself"
            longer = f"`schurgan resume {shlex.quote(str(run))} --train.steps {2 * default.train.steps}`"
            say(f"{run}: {had} before; another option makes it go on, as in {longer}")

    return resume


def status(run: Run, /, *, json: bool = False) -> None:
    """Show how a run is doing, from another terminal: step, rate, time left, losses, health, events, checkpoints.

    Example:
        schurgan status runs/clips

    Args:
        run: folder of the run
        json: print one JSON object
    """
    from schurgan.runs.status import read_status, status_lines

    print(read_status(run).as_json() if json else "\n".join(status_lines(run)))


def report(run: Run, /) -> None:
    """Write a page to open: real and generated sounds side by side, curves, events, and a classifier's verdict.

    Example:
        schurgan report runs/clips

    Args:
        run: folder of a run
    """
    from schurgan.report.page import write_report

    print(f"report: {write_report(run)}")


def animate(run: Run, /, *, out: Annotated[Path | None, arg(metavar="FILE")] = None, fps: float = 6.0) -> None:
    """Make a film of a run's sample grids: how the sounds of the same noise change while it learns.

    Example:
        schurgan animate runs/clips --out learning.mp4

    Args:
        run: folder of a run
        out: a .gif, or a .mp4 where ffmpeg is installed; RUN/samples.gif by default
        fps: frames a second
    """
    from schurgan.report.animation import animate as film

    print(f"film: {film(run, out, fps)}")
