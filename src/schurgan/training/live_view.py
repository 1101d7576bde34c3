"""A run while it trains: a live display on a terminal, a line now and then in a log, and never a reason to end."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from schurgan.core.progress import LOG_SECONDS
from schurgan.core.terminal import Guarded, harmless
from schurgan.runs.messages import (
    Tone,
    duration,
    event_counts,
    event_sentence,
    figures,
    health_sentence,
    rate,
    short_figures,
    tone_of,
    verdict_of,
)
from schurgan.runs.records import Event, HealthRecord, Row

_REFRESH = 4  # displays a second
_STYLES: dict[Tone, str] = {"bad": "bold red", "warn": "yellow", "good": "green", "plain": ""}


class LiveView:
    """`with LiveView(total, start) as view: view.step(1); view.row(row); view.health(row); view.event(row)`.

    A step costs a comparison or two: a thread of its own draws the display, a few times a second, on standard error.
    A stream that is closed, full, or a broken pipe is given up silently.
    """

    def __init__(self, total: int, start: int = 0, *, quiet: bool = False) -> None:
        self.total, self._step = total, start
        self._done = 0  # steps made by this process, which after a rollback are more than the step says
        self._row = Row(start)
        self._health: HealthRecord | None = None
        self._events: list[Event] = []
        self._console = Console(file=cast(IO[str], Guarded(None if quiet else sys.stderr)), highlight=False)
        self._began = self._logged = time.monotonic()
        self._unlogged = False
        self._live: Live | None = None
        if not quiet and self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (TextColumn("train"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"))
            times = (TimeElapsedColumn(), TextColumn("left {task.fields[left]}"))
            self._progress = Progress(*columns, *times, console=self._console, auto_refresh=False)
            self._task = self._progress.add_task("train", total=total, completed=start, text="", left="")
            self._live = Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=_REFRESH,
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # a pipe gets what is meant for it
            )

    def step(self, step: int) -> None:
        """Show that a step is done; after a rollback it is a smaller one than before."""
        self._done += max(0, step - self._step)
        self._step = step
        if self._live is None:
            self._unlogged = True
            if (now := time.monotonic()) - self._logged >= LOG_SECONDS:
                self._logged = now
                self._log()

    def row(self, row: Row) -> None:
        """Show means since the row before."""
        self._row = row

    def health(self, record: HealthRecord) -> None:
        """Show an evaluation; in a log, where its verdict is not the one before."""
        before, self._health = self._health, record
        if self._live is None and (before is None or verdict_of(before) != verdict_of(record)):
            self._print(health_sentence(record), verdict_of(record)[1])

    def event(self, event: Event) -> None:
        """Show an event: a line that stays above the display, or in the log."""
        self._events.append(event)
        if self._live is None:
            self._log()  # how far the run had come when it happened
        self._print(event_sentence(event), tone_of(event))

    def _print(self, text: str, tone: Tone) -> None:
        self._console.print(Text(harmless(text), _STYLES[tone]), soft_wrap=True)

    def _log(self) -> None:
        if self._unlogged:
            self._unlogged = False
            speed, left = self._speed()
            texts = (f"train {self._step}/{self.total}", speed, short_figures(self._row), f"{left} left")
            self._print("  ".join(filter(None, texts)), "plain")

    def _speed(self) -> tuple[str, str]:
        """The rate since the start, evaluations and checkpoints included, and the time left at that rate."""
        speed = self._done / max(time.monotonic() - self._began, 1e-9)
        return rate(speed), duration((self.total - self._step) / speed) if speed > 0 else "?"

    def _picture(self) -> RenderableType:
        speed, left = self._speed()
        self._progress.update(self._task, completed=self._step, text=f"{self._step}/{self.total}  {speed}", left=left)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, text in figures(self._row).items():
            table.add_row(name, Text(text))
        if self._health is not None:
            table.add_row("health", Text(health_sentence(self._health), _STYLES[verdict_of(self._health)[1]]))
        if counts := event_counts(self._events):
            table.add_row("events", Text(counts))
        return Group(self._progress.get_renderable(), table)

    def __enter__(self) -> LiveView:
        self._began = self._logged = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None:  # an error says what there is to say
            self._log()
