"""A trial of a study from its options to its scores: train, take the best state before a collapse, evaluate."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from schurgan.core.distributed import World, join
from schurgan.core.documents import Unreadable, parse, read_bytes, write_sealed
from schurgan.core.errors import Interrupted, SchurganError, one_line, writing
from schurgan.core.files import lock
from schurgan.core.launch import find_placement
from schurgan.data.shards import Shards
from schurgan.evaluation.evaluate import evaluate
from schurgan.evaluation.metric_table import title
from schurgan.evaluation.scores import Evaluation
from schurgan.runs.config import Config, flatten
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import HealthRecord, Records
from schurgan.studies.study import Trial
from schurgan.training import resume, train
from schurgan.training.artifacts import Artifacts
from schurgan.training.build import build_trainer, choose_codec
from schurgan.training.checkpoint import Checkpoints, read

_FREE = {"data", "preset"} | {
    f"train.{name}" for name in ("threads", "device", "prefetch", "tensorboard", "compile", "sample_every")
}
"""Options that may differ from those of the run: its numbers are the same up to rounding."""
_LONGEST = 4 * 3600.0  # seconds that processes wait for the one that trains a classifier


def run_trial(trial: Trial) -> Outcome:
    """Train and score a trial. Its finished parts are kept, and a finished trial is not touched.

    Every process of torchrun calls this together. A collapse is an outcome, and so is whatever else ends the run, as
    "failed" with its reason.

    Raises:
        Interrupted: the run was asked to stop, and has saved its state.
        SchurganError: the folder holds a run of other options.
    """
    device = trial.config.train.device
    with ExitStack() as held:
        if is_main():  # a killed study may have left a process that is still saving its state
            with writing(trial.folder):
                held.enter_context(lock(trial.folder, wait=True))
        with join(device) as world:
            finished = finished_outcome(trial)
            known = world.broadcast_object(finished and vars(finished))
            started = world.broadcast_object(RunFolder(trial.folder).config.exists())
        if known is not None:
            return Outcome(**known)
        outcome = _train(trial, started)
        with join(device, timeout=_LONGEST) as world:
            outcome = Outcome(**world.broadcast_object(vars(outcome)))
            if outcome.state != "failed":
                outcome = _score(trial, outcome, world)
            if world.is_main:
                outcome.save(trial.folder)
        return outcome


def finished_outcome(trial: Trial) -> Outcome | None:
    """What became of the trial; None where that is not known yet or a failure, which is tried again."""
    outcome = read_outcome(trial.folder)
    return None if outcome is None or outcome.state == "failed" else outcome


def check_same(trial: Trial) -> None:
    """Raises SchurganError where the trial's folder holds a run of other options."""
    path = RunFolder(trial.folder).config
    if not path.exists():
        return
    there, here = (flatten(config.model_dump(mode="json")) for config in (Config.load(path), trial.config))
    for name in here:
        if name not in _FREE and here[name] != there[name]:
            other = f"holds a run with {name.replace('_', '-')} {there[name]}, the study has {here[name]}"
            raise SchurganError(f"{trial.folder}: {other}; choose another `out`")


def _train(trial: Trial, started: bool) -> Outcome:
    """Raises Interrupted."""
    folder = RunFolder(trial.folder)
    try:
        if started:
            resume(folder.path, trial.config.data)
        else:
            train(trial.config, folder.path)
    except Interrupted:
        raise
    except SchurganError as error:
        outcome = judge(folder.read_records())
        # A number that is not finite ends a run as a collapse, and its files say so.
        return outcome if outcome.state == "collapsed" and "not finite" in outcome.reason.lower() else _failed(error)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        return _failed(error)
    checkpoint = Checkpoints(folder.path).load()
    return judge(folder.read_records(), checkpoint.state["watch"]["monitor"] if checkpoint else None)


def _score(trial: Trial, outcome: Outcome, world: World) -> Outcome:
    steps: list[int | None] = [None]
    try:
        world.check(lambda: steps.append(_take_best(trial.folder, outcome)))
        step = world.broadcast_object(steps[-1])
        if step is None:
            return replace(outcome, reason=f"{outcome.reason} Nothing was saved before it.".strip())
        evaluate(
            trial.folder,
            extractor=trial.extractor,
            images=trial.images,
            runs=trial.runs,
            data=trial.config.data,
            world=world,
        )
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        return _failed(error)
    return replace(outcome, scored_step=step)


def _failed(error: BaseException) -> Outcome:
    return Outcome("failed", reason=one_line(error))


def _take_best(run: Path, outcome: Outcome) -> int | None:
    """Write the generator of the best checkpoint before the onset, of all where there is none: -> its step.

    The paper scores each model by a checkpoint before its collapse. The same is done for a run that did not collapse,
    or the two would be chosen by different rules. None where nothing was saved in time.
    """
    records = Checkpoints(run).records()
    saved = [(path, r) for path, r in records.items() if outcome.onset is None or r.step < outcome.onset]
    if not saved:
        return None
    # The newest where none has a score.
    path, _ = min(saved, key=lambda each: (math.inf if each[1].score is None else each[1].score, -each[1].step))
    config = RunFolder(run).read_config()
    assert config.data is not None
    shards = Shards(config.data)
    trainer = build_trainer(config, len(shards.classes))
    trainer.load_state_dict(read(path).state["trainer"])
    Artifacts(run, config, shards, choose_codec(config, shards)).save(trainer)
    return trainer.global_step


def is_main() -> bool:
    """Whether this is the first process of its launcher, or has none."""
    placement = find_placement(os.environ)
    return placement is None or placement.rank == 0


@dataclass(frozen=True)
class Outcome:
    """A collapse is a result like any other. "failed" is a run that something else ended: it is tried again."""

    __pydantic_config__ = ConfigDict(extra="forbid")
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
    format: Literal["schurgan-outcome/1"] = "schurgan-outcome/1"

    def save(self, run: Path) -> None:
        """Write RUN/outcome.json atomically, sealed by its checksum."""
        run.mkdir(parents=True, exist_ok=True)
        write_sealed(RunFolder(run).outcome, asdict(self))


def read_outcome(run: Path) -> Outcome | None:
    """None where there is none yet. Raises SchurganError for a damaged file."""
    path = RunFolder(run).outcome
    try:
        return parse(Outcome, read_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, Unreadable) as error:
        raise SchurganError(
            f"{path}: not what became of a run ({error}); remove it, and the run is scored anew"
        ) from None


def judge(records: Records, monitor: Mapping[str, Any] | None = None) -> Outcome:
    """The outcome that a run's records and the last state of its monitor, where it has one, tell of.

    The first collapse counts, also where the run recovered from it: that is the paper's "initial" one.
    """
    collapses = [event for event in records.events if event.kind == "collapsed"]
    known = [value for each in records.health if (value := each.scores.get("frechet_ema")) is not None]
    end = records.health[-1].scores if records.health else {}
    last, best = end.get("frechet_ema"), min(known, default=None)
    outcome = Outcome("finished", worse=last / best if last is not None and best else None, variety=end.get("variety"))
    if not collapses:
        return replace(outcome, best_step=_best_step(records.health))
    first = collapses[0]
    onset = first.step if first.onset is None else first.onset
    extremes = [*(event.extreme for event in collapses), (monitor or {}).get("extreme")]
    return replace(
        outcome,
        state="collapsed",
        reason=first.reason,
        onset=onset,
        extreme=min((step for step in extremes if step is not None), default=None),
        best_step=_best_step([each for each in records.health if each.step < onset]),
    )


def _best_step(evaluations: Sequence[HealthRecord]) -> int | None:
    """The first step of the lowest Fréchet distance, of the averaged generator where it was taken."""
    scored = []
    for scores, step in ((each.scores, each.step) for each in evaluations):
        values = (scores.get("frechet_ema"), scores.get("frechet"))
        scored += [(value, step) for value in values if value is not None][:1]
    return min(scored)[1] if scored else None


STEPS = {"best_step": "best before onset", "onset": "onset", "extreme": "extreme onset"}
ENDS = {"worse": "FID at the end / best", "end_variety": "variety at the end"}


@dataclass(frozen=True)
class Result:
    """What a trial gave: scores where it was scored."""

    trial: Trial
    outcome: Outcome
    evaluation: Evaluation | None

    def value(self, column: str) -> float | None:
        """The trial's value in a column of the table, None where it is not known."""
        if column in STEPS or column in ENDS:
            known = getattr(self.outcome, column.removeprefix("end_"))
            return None if known is None else float(known)
        score = self.evaluation.scores.get(column) if self.evaluation else None
        return score.value if score else None


def read_results(trials: Sequence[Trial]) -> list[Result]:
    """Results of the trials that have an outcome. Raises SchurganError for damaged files."""
    results = []
    for trial in trials:
        if outcome := read_outcome(trial.folder):
            scored = outcome.scored_step is not None
            results.append(Result(trial, outcome, Evaluation.load(RunFolder(trial.folder).scores) if scored else None))
    return results


def name_column(column: str) -> str:
    """The heading of a table's column."""
    return STEPS.get(column) or ENDS.get(column) or title(column)
