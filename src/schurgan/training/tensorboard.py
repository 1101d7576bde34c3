"""What metrics.jsonl holds, and the sample grids, for TensorBoard: one of its runs for each attempt."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schurgan.core.errors import UserError
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import event_sentence, number


class TensorBoard:
    """RUN/tensorboard/attempt-0, attempt-1, ...: after a rollback the steps come again, as curves of their own.

    `start` is the step and `attempt` the attempt that the run goes on from: what was written after it is dropped.
    Raises UserError when the package is missing. A disk that refuses ends the writing with a warning, never the run.
    """

    def __init__(self, run: str | Path, start: int = 0, attempt: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            missing = "the package tensorboard is missing"
            raise UserError(f"--train.tensorboard: {missing}; `pip install schurgan[tensorboard]` brings it") from None
        self._make: Callable[..., Any] = SummaryWriter
        self._folder, self._attempt = RunFolder(run).tensorboard, attempt
        self._writer: Any = None
        self._failed = False
        self._try(lambda: self._open(start + 1))

    def row(self, row: Mapping[str, Any]) -> None:
        """Scalars train/loss_d, ..., and singular_values/generator.stem, ..."""
        self._try(lambda: self._scalars("train", row, row))

    def health(self, row: Mapping[str, Any]) -> None:
        """Scalars health/frechet, ..."""
        self._try(lambda: self._scalars("health", row, row["health"]))

    def event(self, event: Mapping[str, Any]) -> None:
        """The event's sentence as a text."""
        self._try(lambda: self._of(event).add_text("events", event_sentence(event), event["step"]))

    def samples(self, path: str | Path, step: int) -> None:
        """A sample grid that was saved as `path`."""

        def add() -> None:
            with Image.open(path) as drawn:
                self._writer.add_image("samples", np.asarray(drawn.convert("RGB")), step, dataformats="HWC")

        self._try(add)

    def close(self) -> None:
        """Write what is still waiting."""
        self._try(lambda: self._writer.close())
        self._failed = True

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, purge: int | None) -> None:
        self._writer = self._make(str(self._folder / f"attempt-{self._attempt}"), purge_step=purge)

    def _of(self, line: Mapping[str, Any]) -> Any:
        """The writer of the attempt that `line` belongs to."""
        attempt = int(line.get("attempt", self._attempt))
        if attempt != self._attempt:
            self._writer.close()
            self._attempt = attempt
            self._open(None)
        return self._writer

    def _scalars(self, group: str, line: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        writer, step = self._of(line), line["step"]
        for name, value in values.items():
            if isinstance(value, Mapping):
                for inner, each in value.items():
                    if (plain := number(each)) is not None:
                        writer.add_scalar(f"{name}/{inner}", plain, step)
            elif name not in ("step", "attempt") and (plain := number(value)) is not None:
                writer.add_scalar(f"{group}/{name}", plain, step)

    def _try(self, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed = True
            reason = error.strerror or error
            warnings.warn(f"{self._folder}: no longer written ({reason}); the run goes on", stacklevel=3)
