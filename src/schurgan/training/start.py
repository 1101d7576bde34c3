"""A run is a folder that says all about itself: begun by `train`, taken up where it stopped by `resume`.""" ""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from schurgan.core.distributed import World, join
from schurgan.core.errors import UserError, writing
from schurgan.core.launch import restarted
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training.run import Run


def train(config: Config, run: str | Path) -> Path:
    """A new run in folder `run`. Raises UserError when there is one already, or something does not fit.

    Called by every process of torchrun, which train it together. Started again by torchrun after one of them was lost,
    it goes on from the newest checkpoint.
    """
    run = Path(run)
    with join(config.train.device) as world:
        if restarted() and RunFolder(run).config.exists():
            return _resume(run, world, None, ())
        world.check(lambda: _refuse_existing(run))
        if config.data is not None:  # absolute, so that the run can be taken up from any folder
            config = config.model_copy(update={"data": config.data.resolve()})
        job = Run(config, run, world)
        job.begin()
        world.check(lambda: _found(run, config))
        return job.go()


def resume(run: str | Path, data: str | Path | None = None, allow: Collection[str] = ()) -> Path:
    """Continue the run in folder `run` from its newest checkpoint, exactly as if it had never stopped.

    data: where the shards are now, if they were moved. allow: names of options that may be others in config.yaml than
    they were, such as "train.lr-g". A finished run is left as it is.
    """
    run = Path(run)
    with join(RunFolder(run).read_config().train.device) as world:
        return _resume(run, world, data, allow)


def _resume(run: Path, world: World, data: str | Path | None, allow: Collection[str]) -> Path:
    config = RunFolder(run).read_config()
    if data is not None:
        config = config.model_copy(update={"data": Path(data).resolve()})
    job = Run(config, run, world)
    job.take_up(allow)
    return job.go()


def _refuse_existing(run: Path) -> None:
    if RunFolder(run).config.exists():
        raise UserError(f"{run}: holds a run already; continue it by `schurgan resume {run}`, or choose another --out")


def _found(run: Path, config: Config) -> None:
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            config.save(RunFolder(run).config)
        except OSError:
            with suppress(OSError):
                run.rmdir()  # unless something is in it
            raise
