"""What a run does from its first step to its last: train, look at itself, go back, save, end."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schurgan.core.distributed import World
from schurgan.core.errors import Interrupted, UserError, writing
from schurgan.data.loader import Batches, Prefetch
from schurgan.data.shards import Shards, split
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import Event, HealthRecord
from schurgan.runs.sidecar import Change, Identity, changed_options, check_changes
from schurgan.training.artifacts import Artifacts
from schurgan.training.build import build_trainer, choose_codec
from schurgan.training.checkpoint import Checkpoint, Checkpoints, read
from schurgan.training.logger import Logger
from schurgan.training.nan_finder import find_nan
from schurgan.training.recovery import Action, decide, gentler
from schurgan.training.signals import stop_requests
from schurgan.training.watcher import Watcher

_CHANGEABLE = {
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.threads",
    "train.prefetch",
    "train.device",
    "train.tensorboard",
    "train.compile",
    "preset",
}
"""Options that may be others when a run is taken up again: its states stay what they are."""


class Run:
    """One process's part of a run; the one whose rank is 0 writes what there is to write."""

    def __init__(self, config: Config, run: Path, world: World) -> None:
        self.config, self.run, self.world = config, run, world
        if config.data is None:
            raise UserError("--data: missing, the folder that `schurgan prepare` made is needed")
        torch.set_num_threads(config.train.threads or max(1, (os.cpu_count() or 1) // world.size))
        self.all_shards = Shards(config.data)
        self.shards, self.held_out = split(self.all_shards, config.train.val_folds, config.train.val_fraction)
        self.codec = choose_codec(config, self.all_shards)
        self.attempt = 0
        self._build(config)
        self.watch = Watcher(config, self.shards, self.held_out, self.codec, world)
        self.products = Artifacts(run, config, self.shards, self.codec)
        self.checkpoints = Checkpoints(run, config.train.keep_checkpoints)
        self.identity = Identity(options=config.model_dump(mode="json"), data=self.all_shards.fingerprint)
        self.journal = Logger(run, quiet=not world.is_main, tensorboard=config.train.tensorboard)
        self._changes: list[Change] = []  # options that the state was not made with

    def _build(self, config: Config) -> None:
        """Everything that an attempt's own options shape."""
        self.options = config
        self._fault = torch.zeros((), device=self.world.device)
        try:
            self.trainer = build_trainer(config, len(self.shards.classes), world=self.world, codec=self.codec)
        except ValueError as error:
            raise UserError(f"options do not fit: {error}") from None
        train, world = config.train, self.world
        self.batches = Batches(
            self.shards, train.batch_size, train.seed, balanced=train.balanced, rank=world.rank, world=world.size
        )

    def paint(self, images: Tensor) -> Tensor:
        """Prepared images as the networks see them."""
        return self.codec.apply_colormap(images)

    def begin(self) -> None:
        """The state before the first step. Raises UserError when the data cannot be trained on."""
        try:
            for condition in self.trainer.conditions.values():
                condition.fit_real((self.paint(images), labels) for images, labels in self.shards.batches(64))
        except ValueError as error:
            raise UserError(f"{self.shards.folder}: {error}") from None

    def take_up(self, allow: Collection[str]) -> None:
        """The state of the newest checkpoint, or before the first step where there is none yet."""
        if self.world.is_main:
            for left in self.run.rglob(".*.partial"):  # by a kill amid writing
                left.unlink(missing_ok=True)
        self.world.barrier()
        found = self.checkpoints.load()
        if found is None:
            self.begin()
        else:
            changes = changed_options(found.record.identity, self.identity)
            self._changes = check_changes(changes, _CHANGEABLE, allow, self.run)
            self.attempt = found.record.attempt
            if self.attempt:
                self._build(gentler(self.config, self.attempt))
            try:
                self._restore(found.state)
            except (KeyError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[-1].strip()
                raise UserError(f"{self.run}: its checkpoint does not fit these options ({reason})") from None

    def go(self) -> Path:
        """Train to the last step; nothing is touched when all is done."""
        train, trainer = self.config.train, self.trainer
        if self.world.broadcast_object(self._done()):
            return self.run
        journal = self.journal.open(train.steps, trainer.global_step, self.attempt)
        with trainer.precision.switches(), stop_requests() as stop, journal:
            if trainer.global_step:
                self._event("resumed", reason="; ".join(map(str, self._changes)))
            elif empty := self._empty_classes():
                self._event("warning", reason=empty)
            while self.trainer.global_step < train.steps:
                ahead = train.prefetch * self.options.train.d_steps
                pin = self.world.device.type == "cuda"
                # Anew for each attempt, whose batches come in another order.
                with Prefetch(self.batches, ahead=ahead, pin=pin, then=self.paint) as self.ready:
                    action = self._attempt(stop)
                if action is not None and self._react(action):
                    break
            else:
                self._finish()
                self._event("finished")
        return self.run

    def _empty_classes(self) -> str:
        """Of wrong labels, what a run would not show: its scores compare with the classes that there are."""
        classes, known = self.shards.classes, {int(label) for label in self.shards.labels}
        empty = [name for number, name in enumerate(classes) if number not in known]
        said = f"{len(empty)} of {len(classes)} classes have no recording to train on ({', '.join(empty[:5])})"
        return f"{said}; look at the labels" if empty else ""

    def _attempt(self, stop: list[int]) -> Action | None:
        """Steps to the last one, or until something must be done about the run's health."""
        train, trainer = self.config.train, self.trainer
        while trainer.global_step < train.steps:
            self._advance()
            if (action := self._look()) is not None:
                return action
            step = trainer.global_step
            if step % train.sample_every == 0 and step < train.steps:
                self._write("samples", self._show)
            stopping = step < train.steps and self.world.any(bool(stop))
            if stopping:
                self._event("interrupted")  # before it is saved how long the file is: what comes later is cut off
            if stopping or step % train.checkpoint_every == 0 or step == train.steps:
                self._save_checkpoint()
            if stopping:
                raise Interrupted(f"stopped after step {step}; go on by `schurgan resume {self.run}`")
        return None

    def _advance(self) -> None:
        """One step, and its line in the metrics where one is due."""
        train, trainer = self.options.train, self.trainer
        first = trainer.global_step * train.d_steps
        self._shown = [self._load(first + i) for i in range(train.d_steps)]
        metrics = trainer.training_step(self._shown)
        self._fault = torch.maximum(self._fault, metrics.pop("not_finite"))
        self.watch.add(metrics)
        self.journal.add(trainer.global_step, metrics)
        if trainer.global_step % train.log_every == 0 or trainer.global_step == train.steps:
            self.journal.log(trainer, self.attempt)

    def _load(self, number: int) -> tuple[Tensor, Tensor]:
        images, labels = self.ready.batch(number)
        device = self.world.device
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def _look(self) -> Action | None:
        """What is to be done about the run's health, if anything is."""
        step, train = self.trainer.global_step, self.config.train
        # Reading a GPU's flag makes it wait; until then it leaves out by itself what is not finite.
        readable = self.world.device.type == "cpu" or step % train.log_every == 0 or step == train.steps
        if readable and self._fault.item():
            verdict = self.watch.fault(step, self._diagnosis())
        elif self.watch.due(step):
            row, verdict = self.watch.evaluate(self.trainer)
            self.journal.health(HealthRecord.parse({"step": step, "attempt": self.attempt, "health": row}))
        else:
            return None
        for event in self.watch.changes(verdict):
            self._event(**event)
        trusted = verdict.healthy_step if verdict.healthy_step is not None else -1
        known = [step for step in self.checkpoints.healthy_steps() if step <= trusted or step == verdict.best_step]
        health = self.config.health
        if health.reaction == "rollback" and self.attempt < health.max_rollbacks:
            known = [0, *known]  # from the start, where nothing better is left
        action = decide(
            verdict, self.attempt, health.max_rollbacks, self.world.broadcast_object(known), health.reaction
        )
        if verdict.state == "collapsed" and action.kind == "continue" and self._fault.item():
            raise UserError(f"{self.run}: {verdict.reasons[0]}")  # nothing would ever change any more
        return None if action.kind == "continue" else action

    def _diagnosis(self) -> str:
        """Which number was the first that is not finite."""
        trainer = self.trainer
        real = {f"real images ({number})": images for number, (images, _) in enumerate(self._shown)}
        step = partial(trainer.rehearse, self._shown)
        said = find_nan(trainer.generator, trainer.discriminator, step, real)
        said = said or f"a loss or a gradient was not finite before step {trainer.global_step}, and is again"
        return str(self.world.broadcast_object(said))

    def _react(self, action: Action) -> bool:
        """Go back, or end the run with a state from before its collapse: -> whether it ended."""
        ending = action.kind == "stop"
        said: dict[str, Any] = {"to": action.to_step, "reason": action.reason}
        if ending:
            step = self.trainer.global_step
            if action.to_step:
                self._go_back(action.to_step)
            self._finish()
            self._event("stopped", step=step, **said)
            return True
        self._event("rollback", **said)
        self.attempt += 1
        self._go_back(action.to_step)
        self._save_checkpoint()
        if self.world.is_main:
            self.checkpoints.drop_after(self.trainer.global_step, self.attempt)
        return False

    def _go_back(self, step: int | None) -> None:
        """The state of the checkpoint of that step, or of the start, with the options of the present attempt."""
        del self.trainer  # its memory is needed for the next one
        self._build(gentler(self.config, self.attempt))
        found = self._healthy(step) if step else None
        if found is None:
            self.begin()
            self.watch.reset()
            self.journal.reset()
        else:
            self._restore(found.state, going_back=True)

    def _healthy(self, step: int) -> Checkpoint | None:
        """That of `step`, of whichever attempt, since the best one is kept over all of them; else the one before it."""
        records = self.checkpoints.records().items()
        chosen = [path for path, record in records if record.healthy and record.step == step]
        try:
            return read(chosen[-1])
        except (IndexError, UserError):  # dropped, or damaged, which is said then
            return self.checkpoints.load_healthy(step + 1)

    def _restore(self, state: dict[str, Any], going_back: bool = False) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.watch.load_state_dict(state["watch"])
        self.journal.load_state_dict(state["journal"], going_back=going_back)

    def _save_checkpoint(self) -> None:
        """The whole state, and the generator's file; a disk that refuses is told of, and tried again next time."""
        trainer, watch = self.trainer, self.watch

        def save() -> None:
            state = {
                "trainer": trainer.state_dict(),
                "watch": watch.state_dict(),
                "journal": self.journal.state_dict(),
            }
            about: dict[str, Any] = {"attempt": self.attempt, "score": watch.score(), "healthy": watch.sound()}
            about["trusted"] = watch.trusted()
            self.checkpoints.save(state, trainer.global_step, self.identity, **about)

        self._write("checkpoint", save)
        self._write("generator", lambda: self.products.save(trainer))
        self.world.barrier()  # nobody reads a folder that another one is still changing

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
        self.journal.event(Event(step, event, self.attempt, **about))

    def _show(self) -> None:
        self.products.show(self.trainer, self.attempt)
        self.journal.samples(RunFolder(self.run).grid(self.trainer.global_step, self.attempt), self.trainer.global_step)

    def _done(self) -> bool:
        """Whether there is nothing left to do: all steps are made, or the run has ended itself under these options."""
        if self.trainer.global_step >= self.config.train.steps:
            return self.products.complete(self.trainer.global_step, self.attempt)
        events = RunFolder(self.run).read_records().events
        return bool(events) and events[-1].kind == "stopped" and not self._changes

    def _finish(self) -> None:
        """What the run was for."""
        if self.world.is_main:
            with writing(self.run, f"; go on by `schurgan resume {self.run}`"):
                self.products.save(self.trainer)
                self._show()
        self.world.barrier()
