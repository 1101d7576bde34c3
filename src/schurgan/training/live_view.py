"""A run while it trains: a live display on a terminal, a line now and then in a log, and never a reason to end."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from schurgan.core.progress import Display
from schurgan.core.terminal import duration, rate
from schurgan.runs.messages import (
    Tone,
    event_counts,
    event_sentence,
    figures,
    health_sentence,
    short_figures,
    tone_of,
    verdict_of,
)
from schurgan.runs.records import Event, HealthRecord, Row

_STYLES: dict[Tone, str] = {"bad": "bold red", "warn": "yellow", "good": "green", "plain": ""}


class LiveView(Display):
    """`with LiveView(total, start) as view: view.step(1); view.row(row); view.health(row); view.event(row)`.

    A step costs a comparison or two: a thread of its own draws the display.
    """

    def __init__(self, total: int, start: int = 0, *, quiet: bool = False) -> None:
        super().__init__("train", quiet=quiet)
        self.total, self._step = total, start
        self._done = 0  # steps made by this process, which after a rollback are more than the step says
        self._row = Row(start)
        self._health: HealthRecord | None = None
        self._events: list[Event] = []

    def step(self, step: int) -> None:
        """Show that a step is done; after a rollback it is a smaller one than before."""
        self._done += max(0, step - self._step)
        self._step, self._unsaid = step, True

    def row(self, row: Row) -> None:
        """Show means since the row before."""
        self._row = row

    def health(self, record: HealthRecord) -> None:
        """Show an evaluation; in a log, where its verdict is not the one before."""
        before, self._health = self._health, record
        if self._live is None and (before is None or verdict_of(before) != verdict_of(record)):
            self.print(health_sentence(record), _STYLES[verdict_of(record)[1]])

    def event(self, event: Event) -> None:
        """Show an event: a line that stays above the display, or in the log."""
        self._events.append(event)
        if self._live is None:
            self.log()  # how far the run had come when it happened
        self.print(event_sentence(event), _STYLES[tone_of(event)])

    def inner_began(self, inner: Display) -> None:
        """Show what is done beside the steps; after the last one a log has a line of each at once."""
        super().inner_began(inner)
        if self._live is None and self._step == self.total:
            self.tick()

    def fraction(self) -> float:
        """Share of the steps that are done."""
        return self._step / self.total

    def line(self) -> str:
        """The step, the rate since the start, evaluations and checkpoints included, and the time left at that rate."""
        took = time.monotonic() - self.began
        parts = [f"{self._step}/{self.total}"]
        if self._done and took > 0:
            left = (self.total - self._step) * took / self._done
            ended = "" if self.inner else f"in {duration(took)}"
            parts += [rate(self._done / took), f"{duration(left)} left" if left else ended]
        return "  ".join(filter(None, (*parts, "" if self._live else short_figures(self._row))))

    def picture(self) -> RenderableType:
        """The bar over the figures of the last row."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, text in figures(self._row).items():
            table.add_row(name, Text(text))
        if self._health is not None:
            table.add_row("health", Text(health_sentence(self._health), _STYLES[verdict_of(self._health)[1]]))
        if counts := event_counts(self._events):
            table.add_row("events", Text(counts))
        return Group(super().picture(), table)
