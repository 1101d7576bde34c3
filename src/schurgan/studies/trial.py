"""A trial of a study from its options to its scores: train, take the best state before a collapse, evaluate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from schurgan.core.distributed import World, join
from schurgan.core.errors import Interrupted, UserError, writing
from schurgan.core.files import write_json
from schurgan.core.launch import find_placement
from schurgan.data.shards import Shards, split
from schurgan.evaluation.evaluate import evaluate
from schurgan.evaluation.metric_table import title
from schurgan.evaluation.scores import Evaluation
from schurgan.runs.config import Config, flatten
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import HealthRecord, Records
from schurgan.runs.sidecar import CheckpointRecord
from schurgan.studies.study import Trial
from schurgan.training import resume, train
from schurgan.training.artifacts import Artifacts
from schurgan.training.build import build_trainer, choose_codec
from schurgan.training.checkpoint import Checkpoints, read

_FREE = {"data", "preset", *(f"train.{name}" for name in ("threads", "device", "prefetch", "tensorboard", "compile"))}
"""Options that a run may have been made with otherwise: its numbers are the same up to rounding."""
_LONGEST = 4 * 3600.0  # seconds that processes wait for the one that trains a classifier


def run_trial(trial: Trial) -> Outcome:
    """Train and score a trial. Its finished parts are kept, and a finished trial is not touched.

    Every process of torchrun calls this together. A collapse is an outcome, and so is whatever else ends the run, as
    "failed" with its reason.

    Raises:
        Interrupted: the run was asked to stop, and has saved its state.
        UserError: the folder holds a run of other options.
    """
    device = trial.config.train.device
    with _alone(trial.folder):
        with join(device) as world:
            known = world.broadcast_object(_finished(trial))
            started = world.broadcast_object(RunFolder(trial.folder).config.exists())
        if known is not None:
            return Outcome(**known)
        outcome = _train(trial, started)
        with join(device, timeout=_LONGEST) as world:
            outcome = Outcome(**world.broadcast_object(vars(outcome)))
            if outcome.state != "failed":
                outcome = _score(trial, outcome, world)
            if world.is_main:
                trial.folder.mkdir(parents=True, exist_ok=True)
                outcome.save(trial.folder)
        return outcome


def check_same(trial: Trial) -> None:
    """Raises UserError where the trial's folder holds a run of other options."""
    path = RunFolder(trial.folder).config
    if not path.exists():
        return
    there, here = (_flat(config) for config in (Config.load(path), trial.config))
    if odd := [name for name in here if here[name] != there[name]]:
        name = odd[0].replace("_", "-")
        other = f"holds a run with {name} {there[odd[0]]}, the study has {here[odd[0]]}"
        raise UserError(f"{trial.folder}: {other}; choose another `out`")


def _finished(trial: Trial) -> dict[str, object] | None:
    known = read_outcome(trial.folder)
    return None if known is None or known.state == "failed" else vars(known)


def _train(trial: Trial, started: bool) -> Outcome:
    """Raises Interrupted."""
    try:
        if started:
            resume(trial.folder, trial.config.data)
        else:
            train(trial.config, trial.folder)
    except Interrupted:
        raise
    except UserError as error:
        outcome = judge(RunFolder(trial.folder).read_records())
        # A number that is not finite ends a run as a collapse, and its files say so.
        return outcome if outcome.state == "collapsed" and "not finite" in outcome.reason.lower() else _failed(error)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        return _failed(error)
    return judge(RunFolder(trial.folder).read_records(), _monitor(trial.folder))


def _score(trial: Trial, outcome: Outcome, world: World) -> Outcome:
    taken: list[int | None] = []
    try:
        world.check(lambda: taken.append(_take_best(trial.folder, outcome)))
        step = world.broadcast_object(taken[0] if world.is_main else None)
        if step is None:
            return replace(outcome, reason=f"{outcome.reason} Nothing was saved before it.".strip())
        evaluate(
            trial.folder,
            extractor=trial.scoring.extractor,
            images=trial.scoring.images,
            runs=trial.scoring.runs,
            data=trial.config.data,
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
    """Wait until no other process works on the trial: a killed study may have left one that is saving its state."""
    if not _is_main():
        yield
        return
    import fcntl

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with open(RunFolder(folder).lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_FORMAT = "schurgan-outcome/1"


@dataclass(frozen=True)
class Outcome:
    """A collapse is a result like any other. "failed" is a run that something else ended: it is tried again."""

    state: Literal["finished", "collapsed", "failed"]
    reason: str = ""
    """Of a collapse or a failure."""
    onset: int | None = None
    """Step at which the first collapse began."""
    extreme: int | None = None
    """Step from which it was past recovery."""
    best_step: int | None = None
    """Step of the best Fréchet distance before it."""
    scored_step: int | None = None
    """Step of the generator that was scored; None where none was."""
    worse: float | None = None
    """Fréchet distance of the averaged generator at the end over its best: what the collapse cost."""
    variety: float | None = None
    """Mean distance of generated images within a class at the end, as a share of the real images'."""

    def save(self, run: Path) -> None:
        """Atomically."""
        write_json(RunFolder(run).outcome, {"format": _FORMAT} | asdict(self))


def read_outcome(run: Path) -> Outcome | None:
    """None where there is none yet. Raises UserError for a file of something else."""
    path = RunFolder(run).outcome
    try:
        known = json.loads(path.read_text("utf-8"))
        if known.pop("format") != _FORMAT:
            raise ValueError("of another format")
        return Outcome(**known)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not what became of a run ({error}); remove it, and the run is scored anew") from None


def judge(records: Records, monitor: dict[str, Any] | None = None) -> Outcome:
    """What the lines of a run's metrics say; `monitor` is the state of its monitor at the end, where it has one.

    The first collapse counts, also where the run recovered from it: that is the paper's "initial" one.
    """
    collapses = [event for event in records.events if event.kind == "collapsed"]
    known = [value for each in records.health if (value := each.scores.get("frechet_ema")) is not None]
    end = records.health[-1].scores if records.health else {}
    last, best = end.get("frechet_ema"), min(known, default=None)
    shared: dict[str, Any] = {
        "worse": last / best if last is not None and best else None,
        "variety": end.get("variety"),
    }
    if not collapses:
        return Outcome("finished", best_step=_best_step(records.health), **shared)
    first = collapses[0]
    onset = first.step if first.onset is None else first.onset
    extremes = [event.extreme for event in collapses if event.extreme is not None]
    at_end = (monitor or {}).get("extreme")
    return Outcome(
        "collapsed",
        reason=first.reason,
        onset=onset,
        extreme=min([*extremes, *([] if at_end is None else [at_end])], default=None),
        best_step=_best_step([each for each in records.health if each.step < onset]),
        **shared,
    )


def _best_step(evaluations: Sequence[HealthRecord]) -> int | None:
    scored = [(value, each.step) for each in evaluations if (value := _frechet(each)) is not None]
    return min(scored)[1] if scored else None


def _frechet(evaluation: HealthRecord) -> float | None:
    value = evaluation.scores.get("frechet_ema")
    return evaluation.scores.get("frechet") if value is None else value


STEPS = {"best_step": "best before onset", "onset": "onset", "extreme": "extreme onset"}
ENDS = {"worse": "FID at the end / best", "end_variety": "variety at the end"}


@dataclass(frozen=True)
class Result:
    """What a trial gave: scores where it was scored."""

    trial: Trial
    outcome: Outcome
    evaluation: Evaluation | None

    def value(self, column: str) -> float | None:
        """Of a column, None where it is not known."""
        if column in STEPS:
            return _float(getattr(self.outcome, column))
        if column == "worse":
            return self.outcome.worse
        if column == "end_variety":
            return self.outcome.variety
        score = self.evaluation.scores.get(column) if self.evaluation else None
        return score.value if score else None


def read_results(trials: Sequence[Trial]) -> list[Result]:
    """Of the trials that have an outcome. Raises UserError for damaged files."""
    results = []
    for trial in trials:
        outcome = read_outcome(trial.folder)
        if outcome is not None:
            scored = outcome.scored_step is not None
            results.append(Result(trial, outcome, Evaluation.load(RunFolder(trial.folder).scores) if scored else None))
    return results


def name_column(column: str) -> str:
    """The heading of a table's column."""
    return STEPS.get(column) or ENDS.get(column) or title(column)


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
