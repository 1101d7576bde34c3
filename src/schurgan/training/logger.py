"""The log of a run: lines of metrics.jsonl, the live view, TensorBoard."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from schurgan.core.errors import SchurganError, writing
from schurgan.normality import DDFN, departure_counters, reset_departure_counters
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import event_sentence
from schurgan.runs.records import Event, HealthRecord, MetricsFile, Record, Row
from schurgan.training.live_view import LiveView
from schurgan.training.trainer import Metrics, Trainer


class Means:
    """Means of a step's metrics over many steps, summed on the device: a read at each step would wait for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total: Tensor | None = None
        self.count = 0

    def add(self, metrics: Metrics) -> None:
        """Add scalars on one device, under the same names each time."""
        values = torch.stack([value.float() for value in metrics.values()]).double()
        if self.total is None:
            self.names, self.total = list(metrics), torch.zeros_like(values)
        self.total = self.total.to(values.device) + values
        self.count += 1

    def take(self) -> dict[str, float | None]:
        """Return the means and start afresh: None where one is not finite, {} where nothing was added."""
        if self.total is None:
            return {}
        means = (self.total / self.count).tolist()
        self.total, self.count = None, 0
        return {name: mean if math.isfinite(mean) else None for name, mean in zip(self.names, means, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {"names": self.names, "total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these sums."""
        self.names, self.total, self.count = list(state["names"]), state["total"], int(state["count"])


class TensorBoard:
    """Scalars, events and sample grids in RUN/tensorboard/attempt-0, attempt-1, ...

    Steps come again after a rollback, so each attempt has curves of its own. What was written after the step `start` is
    dropped. A disk that refuses a write ends the writing with a warning, never the run.

    Raises:
        SchurganError: the package tensorboard is missing.
    """

    def __init__(self, run: str | Path, start: int = 0, attempt: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            missing = "the package tensorboard is missing"
            raise SchurganError(
                f"--train.tensorboard: {missing}; `pip install schurgan[tensorboard]` brings it"
            ) from None
        self._make: Callable[..., Any] = SummaryWriter
        self._folder, self._attempt = RunFolder(run).tensorboard, attempt
        self._failed = False
        self._try(lambda: self._open(start + 1))

    def row(self, row: Row) -> None:
        """Write scalars train/loss_d, ..., and singular_values/generator.stem, ..."""
        self._add_scalars("train", row, row.values)

    def health(self, record: HealthRecord) -> None:
        """Write scalars health/frechet, ..., and singular_values/generator.stem, ..."""
        self._add_scalars("health", record, record.scores)

    def event(self, event: Event) -> None:
        """Write the event's sentence as a text."""
        self._try(lambda: self._writer_for(event.attempt).add_text("events", event_sentence(event), event.step))

    def samples(self, path: Path, step: int) -> None:
        """Write the sample grid saved as `path`."""

        def add() -> None:
            with Image.open(path) as image:
                self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

        self._try(add)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *error: object) -> None:
        self._try(lambda: self._writer.close())
        self._failed = True

    def _open(self, purge_step: int | None = None) -> None:
        self._writer = self._make(str(self._folder / f"attempt-{self._attempt}"), purge_step=purge_step)

    def _writer_for(self, attempt: int) -> Any:
        if attempt != self._attempt:
            self._writer.close()
            self._attempt = attempt
            self._open()
        return self._writer

    def _add_scalars(self, group: str, record: Row | HealthRecord, values: Mapping[str, float | None]) -> None:
        def add() -> None:
            for name, scalars in ((group, values), ("singular_values", record.singular_values)):
                for key, scalar in scalars.items():
                    if scalar is not None:
                        self._writer_for(record.attempt).add_scalar(f"{name}/{key}", float(scalar), record.step)

        self._try(add)

    def _try(self, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed = True
            reason = error.strerror or error
            warnings.warn(f"{self._folder}: no longer written ({reason}); the run goes on", stacklevel=3)


class Logger:
    """Writes a run's log: `with logger.open(...):`, then `add` each step, `log` now and then, `health` and `event`.

    All processes but the main one are `quiet`: they write and show nothing, and keep means, which are in the state.
    """

    def __init__(self, run: Path, *, quiet: bool, tensorboard: bool) -> None:
        self.run, self.quiet = run, quiet
        self.file = MetricsFile(RunFolder(run).metrics)
        self.means = Means()
        self._departures: dict[str, int] = {}  # counted since the last row, see `departure_counters`
        self._kept_size = 0  # bytes of the file that belong to the state
        self._unwritten: list[Record] = []
        self._with_tensorboard = tensorboard and not quiet
        self._tensorboard: TensorBoard | None = None

    @contextmanager
    def open(self, total: int, start: int, attempt: int) -> Iterator[None]:
        """Open all logs for steps `start` to `total`; cut off the lines that were written after the state was saved."""
        with ExitStack() as logs:
            self._view = logs.enter_context(LiveView(total, start, quiet=self.quiet))
            if self._with_tensorboard:
                self._tensorboard = logs.enter_context(TensorBoard(self.run, start, attempt))
            if not self.quiet:
                with writing(self.file.path):
                    self.file.truncate(self._kept_size)
            reset_departure_counters()  # of what fitting the real images took
            self._row_time = time.monotonic()
            yield

    def add(self, step: int, metrics: Metrics) -> None:
        """Add the metrics of step number `step` to the means."""
        self.means.add(metrics)
        self._view.step(step)

    def log(self, trainer: Trainer, attempt: int) -> None:
        """Write a row of means since the last one; waits for an accelerator."""
        count = self.means.count
        row: dict[str, Any] = {"step": trainer.global_step, "attempt": attempt, **self.means.take()}
        if isinstance(ddfn := trainer.conditions.get("ddfn"), DDFN):
            row["ddfn_real"] = ddfn.real_average().item()
            row["ddfn_epsilon"] = ddfn.band().mean().item()
            row["ddfn_standard_error"] = ddfn.standard_error(trainer.batch_size).item()
            row |= {f"ddfn_interpolation_{name}": value for name, value in ddfn.interpolation.items()}
        row |= {f"departures_{name}": number for name, number in self._count_departures().items()}
        self._departures = {}
        row["singular_values"] = trainer.singular_values()
        now = time.monotonic()
        row["steps_per_second"] = count / max(now - self._row_time, 1e-9)
        self._row_time = now
        if not self.quiet:
            self._write("row", Row.parse(row))

    def health(self, record: HealthRecord) -> None:
        """Write an evaluation of the run's health."""
        if not self.quiet:
            self._write("health", record)

    def event(self, event: Event) -> None:
        """Write an event with the time at which it happened."""
        if not self.quiet:
            self._write("event", replace(event, time=time.time()))

    def samples(self, path: Path, step: int) -> None:
        """Show the sample grid saved as `path`."""
        if self._tensorboard is not None:
            self._tensorboard.samples(path, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the means and counts since the last row, and how much of the file belongs to this state."""
        return {"means": self.means.state_dict(), "mended": self._count_departures(), "size": self.file.size}

    def load_state_dict(self, state: dict[str, Any], *, going_back: bool = False) -> None:
        """Go on from a state; `going_back` keeps the lines after it, which tell how the run collapsed."""
        self.means.load_state_dict(state["means"])
        self._departures = dict(state["mended"])
        if not going_back:
            self._kept_size = int(state["size"])

    def keep_lines(self) -> None:
        """Keep all lines when the logs are opened, also those after the state."""
        self._kept_size = self.file.size

    def reset(self) -> None:
        """Go back to the state before the first step, but keep the file."""
        self.means, self._departures = Means(), {}

    def _write(self, kind: str, record: Record) -> None:
        """Show a record and append it to the file. A line that a full disk refuses waits in memory for the next one."""
        for log in filter(None, (self._view, self._tensorboard)):
            getattr(log, kind)(record)
        self._unwritten.append(record)
        try:
            while self._unwritten:
                self.file.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if len(self._unwritten) == 1:
                why = f"{self.file.path}: cannot be written ({error.strerror or error})"
                warnings.warn(f"{why}; the run goes on and keeps its lines in memory", stacklevel=3)

    def _count_departures(self) -> dict[str, int]:
        """How many departures took a fallback since the last row; waits for an accelerator."""
        counters = departure_counters()
        self._departures = {name: self._departures.get(name, 0) + count for name, count in counters.items()}
        reset_departure_counters()
        return self._departures
