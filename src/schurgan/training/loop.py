"""What a run does from its first step to its last: train, look at itself, go back, save, end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from schurgan.core.distributed import World
from schurgan.core.errors import Interrupted, SchurganError, is_out_of_memory, writing
from schurgan.core.files import clear_leftovers
from schurgan.core.launch import count_cores
from schurgan.core.progress import Bar
from schurgan.data.dataset import LabelledImages
from schurgan.data.loader import Batches, Prefetch
from schurgan.data.shards import describe_empty, describe_split, split
from schurgan.runs.config import FREE, Config
from schurgan.runs.folder import RunFolder, from_here
from schurgan.runs.records import Event, HealthRecord
from schurgan.runs.sidecar import Change, Identity, changed_options, check_kept
from schurgan.training.artifacts import Artifacts
from schurgan.training.build import Parts, build_trainer, choose_codec
from schurgan.training.checkpoint import Checkpoint, Checkpoints, read
from schurgan.training.logger import Logger
from schurgan.training.nan_finder import find_nan
from schurgan.training.recovery import Action, decide, describe_changes, gentler
from schurgan.training.trainer import Metrics, Trainer
from schurgan.training.watcher import Watcher

STOP: Literal["stop"] = "stop"
"""What a callback returns to end the run."""


class Callback:
    """What a run calls, on every process; a subclass overrides what it needs.

    Each method may return `STOP`: the run then saves its state and its generator, and ends; it can be resumed.
    """

    def on_step(self, step: int, metrics: Metrics, trainer: Trainer) -> object:
        """After a step: its metrics are scalars on the device, and reading one waits for it."""

    def on_evaluation(self, step: int, scores: dict[str, Any], trainer: Trainer) -> object:
        """After an evaluation of the run's health, with what it measured."""

    def on_checkpoint(self, step: int, path: Path, trainer: Trainer) -> object:
        """After the state was saved as `path`."""


class Run:
    """One process's part of a run with these options, in this folder; the process of rank 0 writes what there is."""

    def __init__(
        self, config: Config, run: Path, images: LabelledImages, world: World, own: Parts, callbacks: Sequence[Callback]
    ) -> None:
        self.config, self.run, self.folder, self.world, self.own = config, run, RunFolder(run), world, own
        torch.set_num_threads(config.train.threads or max(1, count_cores() // world.size))
        chosen = config.train.val_folds, config.train.val_fraction
        self.training, self.held_out = split(images, *chosen)
        ends = ": learning cannot be told from copying"
        if self.held_out is not None:
            ends = ", to tell learning from copying; --train.val-fraction 0 trains on all"
        self._split = f"holds out {describe_split(images, self.held_out, *chosen)}{ends}"
        self.codec = choose_codec(config, images, own)
        self.attempt = 0
        self._build(config)
        self.watcher = Watcher(config, self.training, self.held_out, self.codec, world)
        self.artifacts = Artifacts(run, config, images, self.codec)
        self.checkpoints = Checkpoints(run, config.train.keep_checkpoints)
        self.images = images
        self.identity = Identity(
            options=config.model_dump(mode="json") | own.names(),
            data=images.fingerprint,
            classes=images.counts,
            transform=images.codec.config,
        )
        self.logger = Logger(run, quiet=not world.is_main, tensorboard=config.train.tensorboard)
        self._callbacks = callbacks
        self._stop = False  # whether a callback asked for it
        self._changes: list[Change] = []  # options that the state was not made with

    def _build(self, config: Config) -> None:
        """Build everything that an attempt's own options shape."""
        self.options, train, world = config, config.train, self.world
        self._fault = torch.zeros((), device=world.device)
        classes = len(self.training.classes)
        try:
            self.trainer = build_trainer(config, classes, world=world, codec=self.codec, own=self.own)
        except ValueError as error:
            raise SchurganError(str(error)) from None
        self.batches = Batches(
            self.training, train.batch_size, train.seed, balanced=train.balanced, rank=world.rank, world=world.size
        )

    def initialise(self) -> None:
        """Prepare the state before the first step. Raises SchurganError for data that cannot be trained on."""
        try:
            for condition in self.trainer.conditions.values():
                batches = self.training.batches(64)
                condition.fit_real((self.codec.apply_colormap(images), labels) for images, labels in batches)
        except SchurganError:
            raise
        except ValueError as error:
            raise SchurganError(f"{self.training.folder}: {error}") from None

    def restore(self) -> None:
        """Restore the newest checkpoint, else initialise.

        Raises:
            SchurganError: the state is of other data, or does not fit an option that is not what it was.
        """
        if self.world.is_main:
            clear_leftovers(self.run, deep=True)
        self.world.barrier()
        checkpoint = self.checkpoints.load()
        if checkpoint is None:
            self.initialise()
            return
        before = checkpoint.record.identity
        if before.data != self.identity.data:
            unlike = self.images.unlike(before.classes, before.transform, before.options.get("data"), before.data)
            unlike = f"not the data that {self.run} learned from ({unlike})"
            mend = "prepare it as it was, give the folder of the right one as `data`, or train a new run"
            raise SchurganError(f"{from_here(self.images.folder)}: {unlike}; {mend}")
        self._changes = changed_options(before, self.identity)
        check_kept(self._changes, self.run)
        self.attempt = checkpoint.record.attempt
        if self.attempt:
            self._build(gentler(self.config, self.attempt))
        weighty = ", ".join(str(change) for change in self._changes if change.name not in FREE)
        try:
            self._load(checkpoint.state)
        except (KeyError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            other = "networks that are not these" if self.own.names() else "another version of this program"
            what = f"does not fit {weighty}; leave that out" if weighty else f"is of {other}; resume it with those"
            raise SchurganError(f"{self.run}: its checkpoint {what}, or train a new run") from error
        step, steps = self.trainer.global_step, self.config.train.steps
        if steps < step or (weighty and steps == step):
            raise SchurganError(f"train.steps: {steps} given, {self.run} has made {step} already; give more")

    def fit(self, interrupts: list[int]) -> None:
        """Train to the last step; nothing is touched when all is done.

        Raises:
            Interrupted: `interrupts` became true, and the state is saved.
        """
        train, step = self.config.train, self.trainer.global_step
        last = self.folder.read_records().events[-1:]  # before it is cut off
        stop = last[0] if last and last[0].kind == "stopped" else None
        done = self.artifacts.complete(step, self.attempt) if step >= train.steps else stop and not self._changes
        back, to = stop is not None and self.config.health.reaction != "warn", stop and stop.to
        done, back, to = self.world.broadcast_object((bool(done), back, to))
        if done:
            return
        if back:
            self.logger.keep_lines()
        with self.trainer.precision.switches(), self.logger.open(train.steps, step, self.attempt):
            if step:
                self._event("resumed", reason=describe_changes(self._changes, self.config, self.attempt + back))
            else:
                self._event("started", reason=self._split)
                if empty := describe_empty(self.training):
                    self._event("warning", reason=empty)
            if back:
                self._react(Action("rollback", to, "the run had stopped itself, and goes on from there"))
            while self.trainer.global_step < train.steps and not self._stop:
                ahead, pin = train.prefetch * self.options.train.d_steps, self.world.device.type == "cuda"
                # Anew for each attempt, whose batches come in another order.
                with Prefetch(self.batches, ahead=ahead, pin=pin, then=self.codec.apply_colormap) as self.ready:
                    action = self._train(interrupts)
                if action is not None and self._react(action):
                    return
            if self.trainer.global_step >= train.steps:
                self._finish()
                self._event("finished")

    def _train(self, interrupts: list[int]) -> Action | None:
        """Take steps to the last one, or until a callback or the run's health asks for something."""
        train, trainer = self.config.train, self.trainer
        while trainer.global_step < train.steps:
            self._step()
            if (action := self._look()) is not None:
                return action
            step = trainer.global_step
            if self.artifacts.due(step) and step < train.steps:
                self._write("samples", self._show)
            last = step == train.steps
            interrupted = not last and self.world.any(bool(interrupts))
            stopping = interrupted or (not last and self._asked())
            if stopping:
                self._event("interrupted")  # before its length is saved with the state: what comes later is cut off
            if stopping or last or step % train.checkpoint_every == 0:
                self._call("on_checkpoint", step, self._save_checkpoint(), trainer)
                if not stopping and not last and self._asked():
                    stopping = True
                    self._event("interrupted")
                    self._save_checkpoint()
            if interrupted:
                told = f"stopped after step {step}; go on by `schurgan resume {self.run}`"
                raise Interrupted(told if self.world.is_main else "")  # all processes end, one says why
            if stopping:
                return None
        return None

    def _asked(self) -> bool:
        """Return whether a callback of any process asked to stop."""
        self._stop = self.world.any(self._stop)
        return self._stop

    def _step(self) -> None:
        """Take one step, and write a row where one is due."""
        train, trainer = self.options.train, self.trainer
        first = trainer.global_step * train.d_steps
        batches, device = map(self.ready.batch, range(first, first + train.d_steps)), self.world.device
        self._shown = [(x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in batches]
        metrics = trainer.training_step(self._shown)
        self._fault = torch.maximum(self._fault, metrics.pop("not_finite"))
        self.watcher.add(metrics)
        self.logger.add(trainer.global_step, metrics)
        if trainer.global_step % train.log_every == 0 or trainer.global_step == train.steps:
            self.logger.log(trainer, self.attempt)
        self._call("on_step", trainer.global_step, metrics, trainer)

    def _call(self, method: str, *arguments: object) -> None:
        answers = [getattr(each, method)(*arguments) for each in self._callbacks]
        self._stop = self._stop or STOP in answers

    def _look(self) -> Action | None:
        """Return what is to be done about the run's health, if anything is."""
        step, train, health = self.trainer.global_step, self.config.train, self.config.health
        # Reading a GPU's flag makes it wait; until then it leaves out by itself what is not finite.
        readable = self.world.device.type == "cpu" or step % train.log_every == 0 or step == train.steps
        if readable and self._fault.item():
            verdict = self.watcher.fault(step, self._diagnose())
        elif self.watcher.due(step):
            with Bar("health", quiet=not self.world.is_main):
                row, verdict = self.watcher.evaluate(self.trainer)
            self.logger.health(HealthRecord.parse({"step": step, "attempt": self.attempt, "health": row}))
            self._call("on_evaluation", step, row, self.trainer)
        else:
            return None
        for event in self.watcher.changes(verdict):
            self._event(**event)
        trusted = verdict.healthy_step if verdict.healthy_step is not None else -1
        steps = [step for step in self.checkpoints.healthy_steps() if step <= trusted or step == verdict.best_step]
        if health.reaction == "rollback" and self.attempt < health.max_rollbacks:
            steps = [0, *steps]  # from the start, where nothing better is left
        steps = self.world.broadcast_object(steps)
        action = decide(verdict, self.attempt, health.max_rollbacks, steps, health.reaction)
        if verdict.state == "collapsed" and action.kind == "continue" and self._fault.item():
            raise SchurganError(f"{self.run}: {verdict.reasons[0]}")  # nothing would ever change any more
        return None if action.kind == "continue" else action

    def _diagnose(self) -> str:
        """Return which number was the first that is not finite."""
        trainer = self.trainer
        real = {f"real images ({number})": images for number, (images, _) in enumerate(self._shown)}
        cause = find_nan(trainer.generator, trainer.discriminator, partial(trainer.rehearse, self._shown), real)
        cause = cause or f"a loss or a gradient was not finite before step {trainer.global_step}, and is again"
        return str(self.world.broadcast_object(cause))

    def _react(self, action: Action) -> bool:
        """Go back, or end the run with a state from before its collapse; return whether it ended."""
        reason: dict[str, Any] = {"to": action.to_step, "reason": action.reason}
        if action.kind == "stop":
            step = self.trainer.global_step
            if action.to_step:
                self._go_back(action.to_step)
            self._finish()
            self._event("stopped", step=step, **reason)
            return True
        self._event("rollback", **reason)
        self.attempt += 1
        self._go_back(action.to_step)
        self._save_checkpoint()
        if self.world.is_main:
            self.checkpoints.drop_after(self.trainer.global_step, self.attempt)
        return False

    def _go_back(self, step: int | None) -> None:
        """Restore the checkpoint of a step, or initialise, with the options of the present attempt."""
        del self.trainer  # its memory is needed for the next one
        self._build(gentler(self.config, self.attempt))
        checkpoint = self._healthy(step) if step else None
        if checkpoint is None:
            self.initialise()
            self.watcher.reset()
            self.logger.reset()
        else:
            self._load(checkpoint.state, going_back=True)

    def _healthy(self, step: int) -> Checkpoint | None:
        """Read that of `step`, of whichever attempt, since the best one is kept over all; else the one before it."""
        records = self.checkpoints.records().items()
        chosen = [path for path, record in records if record.healthy and record.step == step]
        try:
            return read(chosen[-1])
        except (IndexError, SchurganError):  # dropped, or damaged, of which a warning tells
            return self.checkpoints.load_healthy(step + 1)

    def _load(self, state: dict[str, Any], going_back: bool = False) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.watcher.load_state_dict(state["watch"])
        self.logger.load_state_dict(state["journal"], going_back=going_back)

    def _save_checkpoint(self) -> Path:
        """Save the state and the generator; a disk that refuses is an event, and the next time is another try."""
        trainer, watcher, step, attempt = self.trainer, self.watcher, self.trainer.global_step, self.attempt

        def save() -> None:
            state = {"trainer": trainer.state_dict(), "watch": watcher.state_dict()}
            state["journal"] = self.logger.state_dict()
            score, healthy, trusted, identity = watcher.score, watcher.sound(), watcher.trusted(), self.identity
            self.checkpoints.save(state, step, identity, attempt=attempt, score=score, healthy=healthy, trusted=trusted)

        with Bar("checkpoint", quiet=not self.world.is_main):
            self._write("checkpoint", save)
        self._write("generator", lambda: self.artifacts.save(trainer))
        self.world.barrier()  # nobody reads a folder that another one is still changing
        return self.checkpoints.path(step, self.attempt)

    def _write(self, what: str, write: Callable[[], object]) -> None:
        """Let the main process write something that the run can do without for a while."""
        if not self.world.is_main:
            return
        try:
            write()
        except OSError as error:
            reason = f"the {what} of step {self.trainer.global_step} cannot be written ({error.strerror or error})"
            self._event("checkpoint_failed", reason=f"{reason}; the run goes on, and tries again when the next is due")

    def _event(self, event: str, *, step: int | None = None, **about: Any) -> None:
        step = self.trainer.global_step if step is None else step
        self.logger.event(Event(step, event, self.attempt, **about))

    def _show(self) -> None:
        self.artifacts.show(self.trainer, self.attempt)
        self.logger.samples(self.folder.grid(self.trainer.global_step, self.attempt), self.trainer.global_step)

    def _finish(self) -> None:
        if self.world.is_main:
            with writing(self.run, f"; go on by `schurgan resume {self.run}`"):
                self.artifacts.save(self.trainer)
                self._show()
        self.world.barrier()
