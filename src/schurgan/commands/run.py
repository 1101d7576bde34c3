"""The commands that train a run, resume it and look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from schurgan.commands.parsing import Folder
from schurgan.runs.config import Config

Run = Annotated[Positional[Path], arg(metavar="RUN")]


def train_command(default: Config) -> Callable[..., None]:
    """`train` with the options of the chosen preset as its defaults."""

    def train(
        config: Annotated[Config, arg(name="")] = default,
        *,
        out: Folder,
        config_file: Annotated[Path | None, arg(name="config", metavar="FILE")] = None,
    ) -> None:
        """Train a GAN on prepared shards. The run is a folder that describes itself.

        Args:
            config: options of the run
            out: folder of the run
            config_file: YAML of options, between the preset and the command line
        """
        from schurgan.training import train as run

        print(f"trained: {run(config, out)}")

    return train


def resume(
    run: Run,
    /,
    *,
    data: Folder | None = None,
    allow: Annotated[tuple[str, ...], arg(metavar="OPTION ...")] = (),
) -> None:
    """Continue a run from its newest checkpoint, exactly as if it had never stopped.

    Args:
        run: folder of the run
        data: where its shards are now, if they were moved
        allow: options in RUN/config.yaml that may differ from those of the checkpoint, such as train.lr-g
    """
    from schurgan.training import resume as resume_run

    print(f"trained: {resume_run(run, data, allow)}")


def status(run: Run, /, *, json: bool = False) -> None:
    """Show how a run is doing, from another terminal: step, rate, time left, losses, health, events, checkpoints.

    Args:
        run: folder of the run
        json: print one JSON object
    """
    from schurgan.runs.status import read_status, status_lines

    print(read_status(run).as_json() if json else "\n".join(status_lines(run)))


def report(run: Run, /) -> None:
    """A page to open: real and generated sounds side by side, curves, events, and a classifier's verdict.

    Args:
        run: folder of a run
    """
    from schurgan.report.page import write_report

    print(f"report: {write_report(run)}")


def animate(run: Run, /, *, out: Annotated[Path | None, arg(metavar="FILE")] = None, fps: float = 6.0) -> None:
    """A film of a run's sample grids: how the sounds of the same noise change while it learns.

    Args:
        run: folder of a run
        out: a .gif, or a .mp4 where ffmpeg is installed; RUN/samples.gif by default
        fps: frames a second
    """
    from schurgan.report.animation import animate as film

    print(f"film: {film(run, out, fps)}")
