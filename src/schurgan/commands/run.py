"""The commands that train a run, resume it and look at it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from schurgan.commands.help import show_options
from schurgan.commands.parsing import Folder, arg
from schurgan.core.terminal import COMMON
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
            config_file: YAML file of options; those of the command line come before it, the preset's after it
        """
        from schurgan.training import train as run

        print(f"trained: {run(config, out)}")

    notes = (
        f"Presets: {preset_list()}; `schurgan presets` says what each is for.",
        f"{default.preset}{f' with {file}' if file else ''} sets {show_options(default.changes())}.",
        "--steps is --train.steps, and so is every name that one group alone has.",
    )
    train.__doc__ = "\n    ".join([f"{inspect.cleandoc(train.__doc__ or '')}\n\nNote:", *notes])
    return train


def resume(
    run: Run,
    /,
    *,
    data: Folder | None = None,
    allow: Annotated[tuple[str, ...], arg(metavar="OPTION ...")] = (),
) -> None:
    """Continue a run from its newest checkpoint, exactly as if it had never stopped.

    Example:
        schurgan resume runs/clips

    Args:
        run: folder of the run
        data: where its shards are now, if they were moved
        allow: options in RUN/config.yaml that may differ from those of the checkpoint, such as train.lr-g
    """
    from schurgan.training import resume as resume_run

    print(f"trained: {resume_run(run, data, allow)}")


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
