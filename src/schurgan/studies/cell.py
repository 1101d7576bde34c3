"""A cell of a study from its options to its scores: train, take the best state before a collapse, evaluate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from schurgan.core.distributed import World, join
from schurgan.core.errors import Interrupted, UserError, writing
from schurgan.core.launch import find_placement
from schurgan.data.shards import Shards, split
from schurgan.evaluation.evaluate import evaluate
from schurgan.runs.config import Config, flatten
from schurgan.runs.folder import RunFolder
from schurgan.runs.sidecar import CheckpointRecord
from schurgan.studies.outcome import Outcome, judge, read_outcome
from schurgan.studies.study import Cell
from schurgan.training import resume, train
from schurgan.training.artifacts import Artifacts
from schurgan.training.build import build_trainer, choose_codec
from schurgan.training.checkpoint import Checkpoints, read

_FREE = {"data", "preset", *(f"train.{name}" for name in ("threads", "device", "prefetch", "tensorboard", "compile"))}
"""Options that a run may have been made with otherwise: its numbers are the same up to rounding."""
_LONGEST = 4 * 3600.0  # seconds that processes wait for the one that trains a classifier


def run_cell(cell: Cell) -> Outcome:
    """Train and score; what is there already is kept, and a finished cell is not touched. By every process of torchrun.

    A collapse is an outcome, and so is whatever else ends the run, as "failed" with its reason; but not `Interrupted`.
    Raises UserError where the folder holds a run of other options.
    """
    device = cell.config.train.device
    with _alone(cell.folder):
        with join(device) as world:
            known = world.broadcast_object(_finished(cell))
            started = world.broadcast_object(RunFolder(cell.folder).config.exists())
        if known is not None:
            return Outcome(**known)
        outcome = _train(cell, started)
        with join(device, timeout=_LONGEST) as world:
            outcome = Outcome(**world.broadcast_object(vars(outcome)))
            if outcome.state != "failed":
                outcome = _score(cell, outcome, world)
            if world.is_main:
                cell.folder.mkdir(parents=True, exist_ok=True)
                outcome.save(cell.folder)
        return outcome


def check_same(cell: Cell) -> None:
    """Raises UserError where the cell's folder holds a run of other options."""
    path = RunFolder(cell.folder).config
    if not path.exists():
        return
    there, here = (_flat(config) for config in (Config.load(path), cell.config))
    if odd := [name for name in here if here[name] != there[name]]:
        name = odd[0].replace("_", "-")
        other = f"holds a run with {name} {there[odd[0]]}, the study has {here[odd[0]]}"
        raise UserError(f"{cell.folder}: {other}; choose another --out")


def _finished(cell: Cell) -> dict[str, object] | None:
    known = read_outcome(cell.folder)
    return None if known is None or known.state == "failed" else vars(known)


def _train(cell: Cell, started: bool) -> Outcome:
    """Raises Interrupted."""
    try:
        if started:
            resume(cell.folder, cell.config.data)
        else:
            train(cell.config, cell.folder)
    except Interrupted:
        raise
    except UserError as error:
        outcome = judge(RunFolder(cell.folder).read_records())
        # A number that is not finite ends a run as a collapse, and its files say so.
        return outcome if outcome.state == "collapsed" and "not finite" in outcome.reason.lower() else _failed(error)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        return _failed(error)
    return judge(RunFolder(cell.folder).read_records(), _monitor(cell.folder))


def _score(cell: Cell, outcome: Outcome, world: World) -> Outcome:
    taken: list[int | None] = []
    try:
        world.check(lambda: taken.append(_take_best(cell.folder, outcome)))
        step = world.broadcast_object(taken[0] if world.is_main else None)
        if step is None:
            return replace(outcome, reason=f"{outcome.reason} Nothing was saved before it.".strip())
        evaluate(
            cell.folder,
            extractor=cell.scoring.extractor,
            images=cell.scoring.images,
            runs=cell.scoring.runs,
            data=cell.config.data,
            world=world,
        )
    except (UserError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return _failed(error)
    return replace(outcome, scored_step=step)


def _failed(error: BaseException) -> Outcome:
    lines = str(error).splitlines() or [type(error).__name__]
    return Outcome("failed", reason=lines[0][:300])


def _monitor(run: Path) -> dict[str, object] | None:
    found = Checkpoints(run).load()
    return found.state["watch"]["monitor"] if found is not None else None


def _take_best(run: Path, outcome: Outcome) -> int | None:
    """Write the generator of the best checkpoint before the onset, of all where there is none: -> its step.

    The paper scores each model by a checkpoint before its collapse. The same is done for a run that did not collapse,
    or the two would be chosen by different rules. None where nothing was saved in time.
    """
    records = Checkpoints(run).records()
    chosen = [path for path, r in records.items() if outcome.onset is None or r.step < outcome.onset]
    if not chosen:
        return None
    path = min(chosen, key=lambda each: _rank(records[each]))
    config = RunFolder(run).read_config()
    assert config.data is not None
    everything = Shards(config.data)
    shards, _ = split(everything, config.train.val_folds, config.train.val_fraction)
    codec = choose_codec(config, everything)
    trainer = build_trainer(config, len(shards.classes))
    trainer.load_state_dict(read(path).state["trainer"])
    Artifacts(run, config, shards, codec).save(trainer)
    return trainer.global_step


def _rank(record: CheckpointRecord) -> tuple[float, int]:
    """Best score first; where none was taken, the newest."""
    return (float("inf") if record.score is None else record.score, -record.step)


def _flat(config: Config) -> dict[str, object]:
    return {name: value for name, value in flatten(config.model_dump(mode="json")).items() if name not in _FREE}


def _is_main() -> bool:
    placement = find_placement(os.environ)
    return placement is None or placement.rank == 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works on the cell: a killed study may have left one that is just saving its state."""
    if not _is_main():
        yield
        return
    import fcntl

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with open(RunFolder(folder).lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
