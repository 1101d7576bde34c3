"""One look for everything that takes time: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from schurgan.core.terminal import Guarded, harmless

LOG_SECONDS = 15.0
"""Between lines where there is no terminal."""


class Bar:
    """`with Bar("train", total) as bar: bar.update(done, "loss 0.3")`, on standard error while that takes it."""

    def __init__(self, what: str, total: int, unit: str = "it", start: int = 0) -> None:
        self.what, self.total, self.unit, self.start = what, total, unit, start
        self._console = Console(file=cast(IO[str], Guarded(sys.stderr)), highlight=False)
        self._began = self._logged = time.monotonic()
        self._bar: Progress | None = None
        self._line = ""  # of a log, not yet printed
        if self._console.is_terminal:
            columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"))
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False))
            self._bar = Progress(*columns, *times, console=self._console)
            self._task = self._bar.add_task(what, total=total, completed=start, text="")

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with `text` behind the rate."""
        now = time.monotonic()
        rate = (done - self.start) / max(now - self._began, 1e-9)
        line = f"{rate:.2f} {self.unit}/s  {text}" if rate < 10 else f"{rate:.0f} {self.unit}/s  {text}"
        if self._bar:
            self._bar.update(self._task, completed=done, text=line)
            return
        left = (self.total - done) / rate if rate > 0 else 0.0
        self._line = f"{self.what} {done}/{self.total}  {line}  {left:.0f} s left"
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._log()

    def print(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(harmless(text), markup=False, soft_wrap=True)

    def _log(self) -> None:
        if self._line:
            self.print(self._line)
        self._line = ""

    def __enter__(self) -> Bar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:  # an error says what there is to say
            self._log()


class Meter:
    """A bar that appears with the first call: `with Meter("real images") as meter: meter(done, total)`.

    Args:
        what: what takes time.
        unit: of what is counted.
        quiet: show nothing, as in every process but the main one.
    """

    def __init__(self, what: str, unit: str = "it", quiet: bool = False) -> None:
        self._what, self._unit, self._quiet = what, unit, quiet
        self._bar: Bar | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._quiet:
            return
        if self._bar is None:
            self._bar = Bar(self._what, total, self._unit).__enter__()
        self._bar.update(done)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
