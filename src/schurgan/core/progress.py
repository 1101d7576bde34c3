"""One look for everything that takes time: a line that changes on a terminal, lines now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from schurgan.core.terminal import Guarded, duration, harmless, rate

_REFRESH = 4  # pictures a second
_BAR = 16  # columns
FIRST = 1.0
"""Seconds until the first line of a log; what is over by then leaves none."""
_LEAST, _MOST = 3.0, 300.0
"""Seconds between its lines: a tenth of the time that passed, within these."""
_WORTH_SAYING = 5.0
"""Seconds from which on an estimate is said before the work begins."""


_shown: list[Display] = []
"""What this process shows, the outermost first."""


def until_next_line(elapsed: float) -> float:
    """Seconds until the next line of a log: a night's log has some 150, and who watches waits for no line long."""
    return FIRST if elapsed < FIRST else min(_MOST, max(_LEAST, elapsed / 10))


class Display(ABC):
    """Shows how far something is on standard error, as long as that takes it; a subclass says what in `line`.

    On a terminal the line is drawn anew a few times a second beside a bar. In a log a thread writes it, so that a piece
    of work that takes a minute leaves nobody without a word. What is shown inside another display is part of the
    other's line.
    """

    part_left = True
    """Whether a line says the time left of what is shown inside too."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self.what, self.quiet = what, quiet
        self.began = time.monotonic()
        self.outer: Display | None = None
        self.inner: Display | None = None
        self.console = Console(
            file=cast(IO[str], Guarded(None if quiet else sys.stderr)), highlight=False, soft_wrap=True
        )
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._unsaid = False  # whether there is something new since the last line of a log

    @abstractmethod
    def line(self) -> str:
        """How far it is: what is done, the rate, the time left."""

    def brief(self) -> str:
        """How far it is, inside another display's line."""
        return self.line()

    def fraction(self) -> float | None:
        """Share that is done; None where that is not known."""
        return None

    def left(self) -> float | None:
        """Seconds left; None where that is not known."""
        return None

    def picture(self) -> RenderableType:
        """What a terminal shows: name, bar and line, as much of it as there is room for."""
        share, bar = self.fraction(), Table.grid(padding=(0, 1))
        bar.add_column(no_wrap=True)
        bar.add_column()
        room = self.console.width - len(self.what) - _BAR - 2
        bar.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, room))
        drawn = ProgressBar(1.0, share or 0.0, width=_BAR, pulse=share is None)
        bar.add_row(self.what, drawn, Text(harmless(self.line() + self._inside())))
        return bar

    def log(self) -> None:
        """Write a line into the log, where there is something to say."""
        if self._unsaid:
            self._unsaid = False
            self.print(f"{self.what} {self.line()}{self._inside()}")

    def _inside(self) -> str:
        inner = self.inner  # which another thread may end meanwhile
        if inner is None:
            return ""
        left = inner.left() if self.part_left else None
        time_left = "" if left is None else f"  {duration(left)} left"
        return f": {inner.what} {inner.brief()}{time_left}{inner._inside()}"

    def print(self, text: str, style: str = "") -> None:
        """A line above the bar."""
        if self.outer is not None:
            self.outer.print(text, style)
        else:
            self.console.print(Text(harmless(text), style), soft_wrap=True)

    def tick(self) -> None:
        """Write a line of a log because it is time for one."""
        self._unsaid = True
        self.log()

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if self.quiet:
            return self
        self.outer = _shown[-1] if _shown else None
        _shown.append(self)
        if self.outer is not None:
            self.outer.inner_began(self)
        elif self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self.picture,
                console=self.console,
                refresh_per_second=_REFRESH,
                transient=self.fraction() is None,
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # a pipe gets what is meant for it
            )
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._keep_log, daemon=True)
            self._thread.start()
        return self

    def inner_began(self, inner: Display) -> None:
        """Show what is shown inside too."""
        self.inner = inner

    def inner_ended(self, inner: Display) -> None:
        """Go on without what was shown inside."""
        self.inner = None

    def _keep_log(self) -> None:
        while not self._over.wait(until_next_line(time.monotonic() - self.began)):
            self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.quiet:
            return
        _shown.remove(self)
        if self.outer is not None:
            self.outer.inner_ended(self)
        self._over.set()
        if self._live is not None:
            self._live.stop()
        elif self._thread is not None:
            self._thread.join()
            if kind is None and time.monotonic() - self.began >= FIRST:  # an error says what there is to say
                self.log()


class Bar(Display):
    """`with Bar("train", total) as bar: bar.update(done, "loss 0.3")`, or `bar(done, total)` where no total is known.

    Args:
        what: what takes time.
        total: units of it; None until the first call, and for what has no units.
        unit: of what is counted.
        start: units that were done before.
        quiet: show nothing, as in every process but the main one.
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "step", start: int = 0, *, quiet: bool = False
    ) -> None:
        super().__init__(what, quiet=quiet)
        self.total, self.unit, self.start, self.done, self.text = total, unit, start, start, ""
        self._step, self._updated = 0, self.began  # units of the last update, and when it came

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with `text` behind the rate."""
        if done > self.done:
            self._step, self._updated = done - self.done, time.monotonic()
        self.done, self.text, self._unsaid = done, text, True

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.total = total
        self.update(done)

    def fraction(self) -> float | None:
        """Share that is done; None where no total is known."""
        return self.done / self.total if self.total else None

    def left(self) -> float | None:
        """Seconds left at the rate so far; they count down while the next update is not yet due."""
        made, now = self.done - self.start, time.monotonic()
        if not self.total or made <= 0:
            return None
        a_unit, waited = (self._updated - self.began) / made, now - self._updated
        if waited <= a_unit * self._step:
            return a_unit * (self.total - self.done) - waited
        return (now - self.began) * (self.total - self.done) / made

    def brief(self) -> str:
        """How much is done, or for how long it has been at work."""
        if self.total is None:
            return f"for {duration(time.monotonic() - self.began)}"
        return f"{self.done}/{self.total}"

    def line(self) -> str:
        """How much is done, how fast, and the time left."""
        took = time.monotonic() - self.began
        if self.total is None:
            return self.brief()
        parts = [self.brief()]
        if self.done > self.start:
            parts.append(rate((self.done - self.start) / max(took, 1e-9), self.unit))
        if self.done >= self.total:
            parts.append(f"in {duration(took)}")
        elif (left := self.left()) is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join(filter(None, [*parts, self.text]))


class Stages(Display):
    """One bar over the parts of something long, which are displays of their own: those inside it of these names.

    `with Stages("evaluate", lambda: {"classifier": 40.0, "sounds": 90.0}): ...` says first how long it will take.

    Args:
        what: what takes time.
        plan: finds out about how many seconds each part will take; 0 where that was done before.
        quiet: show nothing, and plan nothing.
    """

    part_left = False

    def __init__(self, what: str, plan: Callable[[], Mapping[str, float]], *, quiet: bool = False) -> None:
        super().__init__(what, quiet=quiet)
        self._plan, self._waiting = plan, dict[str, float]()
        self._seconds = self._planned = self._part_began = self._share = 0.0
        self._done = False

    def __enter__(self) -> Self:
        super().__enter__()
        if self.quiet:
            return self
        try:
            self._waiting = dict(self._plan())
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        self._seconds, self._planned = sum(self._waiting.values()), time.monotonic()
        if self._seconds >= _WORTH_SAYING:
            kinds = Counter[str]()
            for name, seconds in self._waiting.items():
                kinds[name.partition(",")[0]] += round(seconds)  # all runs of generated images together
            parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in kinds.items() if seconds)
            self.print(f"{self.what}: about {duration(kinds.total())} ({parts})")
        return self

    def inner_began(self, inner: Display) -> None:
        """Begin a part."""
        super().inner_began(inner)
        self._part_began = time.monotonic()

    def inner_ended(self, inner: Display) -> None:
        """Count a part as done."""
        super().inner_ended(inner)
        self._waiting.pop(inner.what, None)
        self._unsaid = True

    def left(self) -> float:
        """Seconds left: of the part at work at its rate so far, of the others as those before kept to the plan."""
        inner, now = self.inner, time.monotonic()
        planned = self._waiting.get(inner.what, 0.0) if inner else 0.0
        others = sum(self._waiting.values()) - planned
        here = min(planned, now - self._part_began)  # as if the part kept to the plan, until it does not
        pace = (now - self._planned + _WORTH_SAYING) / (self._seconds - others - planned + here + _WORTH_SAYING)
        left = inner.left() if inner else None
        return (max(0.0, planned - here) * pace if left is None else left) + others * pace

    def fraction(self) -> float | None:
        """Share of the time that is over; it stands still where more time turns out to be left than before."""
        took = time.monotonic() - self._planned
        if self._done:
            return 1.0
        if not self._seconds or not took:
            return None
        self._share = max(self._share, took / (took + self.left()))
        return self._share

    def line(self) -> str:
        """The share that is done, and the time left."""
        took = duration(time.monotonic() - self.began)
        if not self._seconds:
            return f"for {took}"
        return f"done in {took}" if self._done else f"{self.fraction() or 0:.0%}  {duration(self.left())} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done = kind is None
        super().__exit__(kind, error, trace)
