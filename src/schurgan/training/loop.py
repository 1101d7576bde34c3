"""A run from its first step to its last: a folder that says all about itself and can be taken up where it stopped.

RUN/config.yaml, metrics.jsonl, generator.safetensors, checkpoints/step-*.pt, samples/step-*.png and */CLASS-000.wav
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.config import Config
from schurgan.data.images import ImageCodec, open_transform
from schurgan.data.loader import Batches, Prefetch
from schurgan.data.shards import Shards
from schurgan.errors import Interrupted, UserError, writing
from schurgan.files import atomic_write
from schurgan.networks import standing_statistics, unconstrained_state
from schurgan.normality import departure_counters, reset_departure_counters
from schurgan.pictures import grid, save_png
from schurgan.progress import Bar
from schurgan.sampling import GENERATOR, Card, Model, build
from schurgan.training.build import build_augmentation, build_ladder
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.step import Metrics, Trainer

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
_GRID_COLUMNS = 6
_CHANGEABLE = {
    "steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_checkpoints",
    "threads",
    "prefetch",
    "device",
}
"""Options of training that may be another when a run is taken up again: its states stay what they are."""


def train(config: Config, run: str | Path) -> Path:
    """A new run in folder `run`. Raises UserError when there is one already, or something does not fit."""
    run = Path(run)
    if (run / CONFIG).exists():
        raise UserError(f"{run}: holds a run already; continue it by `schurgan resume {run}`, or choose another --out")
    if config.data is not None:  # absolute, so that the run can be taken up from any folder
        config = config.model_copy(update={"data": config.data.resolve()})
    job = _Run(config, run)
    job.begin()
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            config.save(run / CONFIG)
        except OSError:
            with suppress(OSError):
                run.rmdir()  # unless something is in it
            raise
    return job.go()


def resume(run: str | Path, data: str | Path | None = None) -> Path:
    """Continue the run in folder `run` from its newest checkpoint, exactly as if it had never stopped.

    data: where the shards are now, if they were moved. A finished run is left as it is.
    """
    run = Path(run)
    if not (run / CONFIG).exists():
        raise UserError(f"{run}: no run here (no {CONFIG}); start one by `schurgan train`")
    config = Config.load(run / CONFIG)
    if data is not None:
        config = config.model_copy(update={"data": Path(data).resolve()})
    job = _Run(config, run)
    job.take_up()
    return job.go()


class _Run:
    def __init__(self, config: Config, run: Path) -> None:
        self.config, self.run = config, run
        if config.data is None:
            raise UserError("--data: missing, the folder that `schurgan prepare` made is needed")
        torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
        self.device = choose_device(config.train.device)
        shards = Shards(config.data)
        self.shards = shards.select(exclude_folds=config.train.exclude_folds) if config.train.exclude_folds else shards
        self.transform = _transform(config, shards)
        try:
            augment = build_augmentation(config.regularize, **_kind(self.transform))
            self.trainer = Trainer(config, len(shards.classes), self.device, augment)
        except ValueError as error:
            raise UserError(f"options do not fit: {error}") from None
        self.batches = Batches(self.shards, config.train.batch_size, config.train.seed, balanced=config.train.balanced)
        self.checkpoints = Checkpoints(run, config.train.keep_checkpoints)
        options = [config.model, config.ddfn, config.regularize, config.train]
        known = [self.shards.fingerprint, *(each.model_dump(mode="json", exclude=_CHANGEABLE) for each in options)]
        self.identity = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        self.metrics = _Log(run / METRICS)

    def begin(self) -> None:
        """The state before the first step. Raises UserError when the data cannot be trained on."""
        try:
            self.trainer.ddfn.fit_real((self._paint(images), labels) for images, labels in self.shards.batches(64))
        except ValueError as error:
            raise UserError(f"{self.shards.folder}: {error}") from None

    def take_up(self) -> None:
        """The state of the newest checkpoint, or before the first step where there is none yet."""
        for left in (*self.run.glob(".*.partial"), *self.run.glob("*/.*.partial")):  # by a kill in the midst of writing
            left.unlink(missing_ok=True)
        state = self.checkpoints.load(self.identity)
        if state is None:
            self.begin()
        else:
            self.trainer.load_state_dict(state)
            self.metrics.rows, self.metrics.mended = state["log"], state["mended"]

    def go(self) -> Path:
        """Train to the last step; nothing is touched when all is done."""
        train, trainer = self.config.train, self.trainer
        if trainer.step >= train.steps and (self.run / GENERATOR).exists() and self._grid().exists():
            return self.run
        with writing(self.run, f"; go on by `schurgan resume {self.run}`"):
            ahead = Prefetch(
                self.batches,
                ahead=train.prefetch * train.d_steps,
                pin=self.device.type == "cuda",
                then=self._paint,
            )
            with ahead as self.ready, _stop_requests() as stop, Bar("train", train.steps, start=trainer.step) as bar:
                self.metrics.truncate(trainer.step)
                reset_departure_counters()  # of what fitting the real images took
                while trainer.step < train.steps:
                    self._advance(bar)
                    if stop and trainer.step < train.steps:
                        self._save_checkpoint()
                        raise Interrupted(f"stopped after step {trainer.step}; go on by `schurgan resume {self.run}`")
            self._finish()
        return self.run

    def _advance(self, bar: Bar) -> None:
        """One step, and what is due after it."""
        train, trainer = self.config.train, self.trainer
        first = trainer.step * train.d_steps
        batches = [self._load(first + i) for i in range(train.d_steps)]
        self.metrics.add(trainer.run_step(batches))
        step = trainer.step
        if step % train.log_every == 0 or step == train.steps:
            row = self.metrics.flush(step, trainer, train.batch_size)
            if bad := [name for name, value in row.items() if value is None]:
                what = f"{bad[0]} is not a finite number after step {step}"
                raise UserError(f"{self.run}: {what}; start again with lower learning rates")
            bar.update(step, f"D {row['loss_d']:.3f}  G {row['loss_g']:.3f}  DDFN gap {row['ddfn_ema_gap']:+.1f}")
        if step % train.sample_every == 0 and step < train.steps:
            self._show(self._model())
        if step % train.checkpoint_every == 0 or step == train.steps:
            self._save_checkpoint()

    def _load(self, number: int) -> tuple[Tensor, Tensor]:
        images, labels = self.ready.batch(number)
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _paint(self, images: Tensor) -> Tensor:
        return self.transform.paint(images) if isinstance(self.transform, Spectrogram) else images

    def _save_checkpoint(self) -> None:
        state = self.trainer.state_dict() | {"log": self.metrics.rows, "mended": self.metrics.count_mended()}
        self.checkpoints.save(state, self.trainer.step, self.identity)
        self._model().save(self.run / GENERATOR)

    def _finish(self) -> None:
        model = self._model()
        model.save(self.run / GENERATOR)
        self._show(model)

    def _model(self) -> Model:
        """A copy of the averaged generator, its constraints taken into the weights, with its own batch statistics."""
        average, manifest = self.trainer.average, self.shards.manifest
        card = Card(
            ladder=asdict(average.ladder),
            width=average.width,
            channels=average.channels,
            latent=self.trainer.latent.kind,
            latent_variance=self.trainer.latent.variance,
            classes=self.shards.classes,
            transform=self.transform.config,
            references=manifest.references,
            data=str(self.config.data) if self.config.data else None,
            step=self.trainer.step,
        )
        generator = build(card)
        generator.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator.load_state_dict(unconstrained_state(average))
        noise = torch.Generator().manual_seed(self.config.train.seed)
        standing_statistics(generator, self.trainer.latent, generator=noise)
        return Model(generator, card)

    def _grid(self) -> Path:
        return self.run / "samples" / f"step-{self.trainer.step:08d}.png"

    def _show(self, model: Model) -> None:
        """The first sound of each class, then a grid of images with the same noise every time, a row a class."""
        path = self._grid()
        path.parent.mkdir(exist_ok=True)
        rows, seed = [], self.config.train.seed
        for number, label in enumerate(model.classes):
            rows.append(list(model.images(torch.full((_GRID_COLUMNS,), number), seed=seed)))
            model.sample(label, 1, seed=seed).save(path.with_suffix(""))
        save_png(grid(rows, scale=max(1, 64 // model.transform.size), photo=model.pictures), path)


class _Log:
    """metrics.jsonl: one JSON object each `log_every` steps, means over those steps. Tensors are read only there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Since the last line; part of the state, so that the next line is the same.
        self.rows: list[Metrics] = []
        self.mended: dict[str, int] = {}
        self._since = time.monotonic()

    def truncate(self, step: int) -> None:
        """Drop what was logged after `step`, and a line that a kill cut in half."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)

    def add(self, row: Metrics) -> None:
        self.rows.append(row)

    def count_mended(self) -> dict[str, int]:
        """Departures that had to be mended since the last line, see `departure_counters`; waits for an accelerator."""
        self.mended = {name: self.mended.get(name, 0) + count for name, count in departure_counters().items()}
        reset_departure_counters()
        return self.mended

    def flush(self, step: int, trainer: Trainer, batch_size: int) -> dict[str, Any]:
        means = {
            name: torch.stack([row[name].double().cpu() for row in self.rows]).mean().item() for name in self.rows[0]
        }
        row: dict[str, Any] = {"step": step}
        row |= {name: value if math.isfinite(value) else None for name, value in means.items()}
        ddfn = trainer.ddfn
        row["ddfn_real"] = ddfn.real_average().item()
        row["ddfn_epsilon"] = ddfn.band().mean().item()
        row["ddfn_standard_error"] = ddfn.standard_error(batch_size).item()
        row |= {f"departures_{name}": count for name, count in self.count_mended().items()}
        self.mended = {}
        row["singular_values"] = trainer.singular_values()
        now = time.monotonic()
        row["steps_per_second"] = len(self.rows) / max(now - self._since, 1e-9)
        self.rows, self._since = [], now
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, but for a line that a kill cut in half; none where there is no file."""
    rows = []
    if path.exists():
        for line in path.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                int(row["step"])
                rows.append(row)
    return rows


def choose_device(name: str) -> torch.device:
    """The device called so; "auto" takes a GPU where there is one. Raises UserError for a device that is not there."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        needed = '"cpu", "cuda" or "auto" is needed'
        raise UserError(f'--train.device: "{name}" given, no such device here; {needed}') from None
    return device


def _transform(config: Config, shards: Shards) -> Spectrogram | ImageCodec:
    """The shards' transform with the run's channels. Raises UserError when the ladder makes images of another size."""
    try:
        ladder = build_ladder(config.model)
    except ValueError as error:
        raise UserError(f"--model.ladder {config.model.ladder}: {error}") from None
    channels, colormap = config.model.channels, config.model.colormap
    try:
        transform = open_transform(shards.manifest.transform)
        if isinstance(transform, Spectrogram):
            transform = Spectrogram(**(transform.config | {"channels": channels, "colormap": colormap}))
    except ValueError as error:
        raise UserError(f"--model: {error}") from None
    if isinstance(transform, ImageCodec) and (colormap or channels != transform.channels):
        given = f"--model.colormap {colormap}" if colormap else f"--model.channels: {channels}"
        raise UserError(f"{given} given, {shards.folder} holds pictures of {transform.channels} channels as they are")
    if ladder.size != shards.shape[1:]:
        made = f"{ladder.size[0]}x{ladder.size[1]}"
        held = f"{shards.shape[1]}x{shards.shape[2]}"
        raise UserError(
            f'--model.ladder: "{config.model.ladder}" makes images of {made}, {shards.folder} holds {held};'
            f" prepare with --size {ladder.size[0]} or choose another ladder"
        )
    return transform


def _kind(transform: Spectrogram | ImageCodec) -> dict[str, Any]:
    """What DiffAugment must know of the images."""
    if isinstance(transform, ImageCodec):
        return {"images": "photo"}
    if transform.colormap is None:
        return {"images": transform.scale, "floor_db": transform.floor_db}
    silence = transform.paint(torch.full((1, 1, 1, 1), -1.0))
    return {"images": "colormap", "floor": silence.flatten().tolist()}


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that becomes true when SIGINT or SIGTERM asks the run to stop; a second one stops it at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals go elsewhere
        before = {}
    try:
        yield asked
    finally:
        for stopping, handler in before.items():
            signal.signal(stopping, handler)
