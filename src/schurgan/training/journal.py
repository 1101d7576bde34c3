"""What a run says of itself: lines of metrics.jsonl, the live view, TensorBoard."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from schurgan.normality import departure_counters, reset_departure_counters
from schurgan.runs.folder import RunFolder
from schurgan.runs.metrics_file import MetricsFile
from schurgan.training.live_view import View
from schurgan.training.means import Means
from schurgan.training.tensorboard import TensorBoard
from schurgan.training.trainer import Metrics, Trainer

Kind = Literal["row", "health", "event"]


class Journal:
    """`with journal.open(...):` each step `add`, now and then `log`, and `note` for all else that is worth a line.

    quiet: nothing is written or shown, by all processes but the main one; means are kept all the same, as the state is
    everybody's.
    """

    def __init__(self, run: Path, *, quiet: bool, tensorboard: bool) -> None:
        self.run, self.quiet = run, quiet
        self.file = MetricsFile(RunFolder(run).metrics)
        self.means = Means()
        self.mended: dict[str, int] = {}
        self._known = 0  # bytes of the file that belong to the state
        self._unwritten: list[dict[str, Any]] = []
        self._tensorboard = tensorboard and not quiet
        self._watchers: list[View | TensorBoard] = []
        self._since = time.monotonic()

    def open(self, total: int, start: int, attempt: int) -> Journal:
        """From step `start` of `total` on. What was written after the state was saved comes again, and is cut off.

        Raises UserError where TensorBoard is asked for and not installed.
        """
        self._exits = ExitStack()
        self._view = self._exits.enter_context(View(total, start, quiet=self.quiet))
        self._watchers = [self._view]
        if self._tensorboard:
            self._watchers.append(self._exits.enter_context(TensorBoard(self.run, start, attempt)))
        if not self.quiet:
            self.file.truncate(self._known)
        reset_departure_counters()  # of what fitting the real images took
        self._since = time.monotonic()
        return self

    def add(self, step: int, metrics: Metrics) -> None:
        """What step number `step` gave."""
        self.means.add(metrics)
        self._view.step(step)

    def log(self, trainer: Trainer, attempt: int) -> None:
        """A line of means since the last one; waits for an accelerator."""
        ddfn, count = trainer.ddfn, self.means.count
        row: dict[str, Any] = {"step": trainer.step, "attempt": attempt}
        row |= self.means.take()
        row["ddfn_real"] = ddfn.real_average().item()
        row["ddfn_epsilon"] = ddfn.band().mean().item()
        row["ddfn_standard_error"] = ddfn.standard_error(trainer.config.train.batch_size).item()
        row |= {f"departures_{name}": number for name, number in self._count_mended().items()}
        self.mended = {}
        row["singular_values"] = trainer.singular_values()
        now = time.monotonic()
        row["steps_per_second"] = count / max(now - self._since, 1e-9)
        self._since = now
        self.note(row)

    def note(self, line: dict[str, Any]) -> None:
        """A line for the file and for who looks on. What a full disk refuses waits in memory for the next one."""
        if self.quiet:
            return
        kind: Kind = "event" if "event" in line else "health" if "health" in line else "row"
        if kind == "event":
            line |= {"time": time.time()}
        for watcher in self._watchers:
            getattr(watcher, kind)(line)
        self._unwritten.append(line)
        try:
            while self._unwritten:
                self.file.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if len(self._unwritten) == 1:
                why = f"{self.file.path}: cannot be written ({error.strerror or error})"
                warnings.warn(f"{why}; the run goes on and keeps its lines in memory", stacklevel=2)

    def samples(self, path: Path, step: int) -> None:
        """A grid of samples was saved as `path`."""
        for watcher in self._watchers:
            if isinstance(watcher, TensorBoard):
                watcher.samples(path, step)

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means.state_dict(), "mended": self._count_mended(), "size": self.file.size}

    def load_state_dict(self, state: dict[str, Any], *, going_back: bool = False) -> None:
        """Go on from there; `going_back`, what came after stays in the file: it is how the run collapsed."""
        self.means.load_state_dict(state["means"])
        self.mended = dict(state["mended"])
        if not going_back:
            self._known = int(state["size"])

    def forget(self) -> None:
        """As before the first step, but for the file."""
        self.means, self.mended = Means(), {}

    def _count_mended(self) -> dict[str, int]:
        """Departures that had to be mended since the last line, see `departure_counters`; waits for an accelerator."""
        self.mended = {name: self.mended.get(name, 0) + count for name, count in departure_counters().items()}
        reset_departure_counters()
        return self.mended

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)
