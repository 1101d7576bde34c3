from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import timeit
import types
from dataclasses import replace

import pytest
from rich.console import Console

from schurgan.core import progress
from schurgan.core.progress import Bar
from schurgan.runs.records import Event, HealthRecord, Row
from schurgan.training.live_view import LiveView

ROW = Row(
    25,
    values={
        "loss_d": 0.8123,
        "loss_g": -0.25,
        "accuracy_d": 0.731,
        "ddfn_ema_gap": 12.34,
        "ddfn_epsilon": 37.16,
        "ddfn_standard_error": 5.0,
    },
)
HEALTHY = HealthRecord(400, scores={"frechet": 12.3, "frechet_ema": 9.8, "variety": 0.93}, verdict="healthy")
WORSE = HealthRecord(500, scores={"frechet": 40.0}, verdict="warning")
COLLAPSED = Event(600, "collapsed", onset=550, reason="variety fell to 0.31")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by what is added to its only entry, and no thread that waits for it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.Display, "_keep_log", lambda self: None)
    monkeypatch.setattr(progress, "FIRST", 1.0)
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal, for the view alone: pytest takes sys.stderr back between fixture and test."""
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream, stdout=None))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def seen(view: LiveView) -> str:
    """The picture as text."""
    console = Console(width=120, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(view.picture())
    return captured.get()


def test_a_line_of_a_log_has_the_step_the_rate_the_time_left_and_losses_and_one_is_the_last(clock, capsys):
    with LiveView(1000, 100) as view:
        view.row(ROW)
        clock[0] += 20
        view.step(120)
        view.tick()
        # 20 steps in 20 seconds, 880 to go
        line = "train 120/1000  1.00 steps/s  14 min left  D 0.812  G -0.250  DDFN gap +12.3\n"
        assert capsys.readouterr().err == line
        view.step(130)
    assert capsys.readouterr().err.startswith("train 130/1000")


def test_what_a_run_does_beside_its_steps_is_in_its_line_and_after_the_last_one_at_once(clock, capsys):
    with LiveView(300) as view:
        clock[0] += 4
        view.step(299)
        with Bar("samples", 10, "class") as bar:
            assert capsys.readouterr().err == ""
            clock[0] += 4
            bar.update(2)
            view.tick()
        assert capsys.readouterr().err.endswith("0 s left: samples 2/10  16 s left\n")
        view.step(300)
        with Bar("generator", 16):
            assert capsys.readouterr().err == "train 300/300  38 steps/s: generator 0/16\n"


def test_time_left_after_a_rollback_counts_every_step_that_was_made(clock, capsys):
    with LiveView(100) as view:
        for step in (10, 20, 30, 40, 10, 20):  # back to 10 and on
            clock[0] += 2
            view.step(step)
        clock[0] += 8
        view.step(20)
    # 40 steps and 10 in 20 seconds; 80 are left
    assert capsys.readouterr().err.splitlines()[-1] == "train 20/100  2.50 steps/s  32 s left"


def test_events_and_changes_of_the_verdict_are_lines_of_a_log_at_once(capsys):
    with LiveView(1000) as view:
        view.health(HEALTHY)
        view.health(replace(HEALTHY, step=450))
        view.health(WORSE)
        view.event(COLLAPSED)
        said = capsys.readouterr().err.splitlines()
    assert said == [
        "healthy at step 400: variety 0.93 (1: as real), Fréchet distance 12.3, averaged generator 9.8 (0: as real)",
        "warning at step 500: Fréchet distance 40 (0: as real)",
        "step 600: collapsed, began at step 550. Variety fell to 0.31",
    ]
    assert capsys.readouterr().err == ""  # no step was made


def test_a_reason_with_brackets_is_shown_as_it_is(capsys):
    with LiveView(1) as view:
        view.event(Event(1, "warning", reason="[red]generator[/] blocks[2]"))
    assert "[red]generator[/] blocks[2]" in capsys.readouterr().err


def test_an_error_is_not_preceded_by_a_last_line_of_progress(capsys):
    with contextlib.suppress(KeyError), LiveView(10) as view:
        view.step(1)
        raise KeyError
    assert capsys.readouterr().err == ""


def test_the_picture_shows_progress_losses_gap_with_its_band_verdict_and_events(terminal, clock):
    view = LiveView(1000, 0)
    clock[0] += 10
    view.step(100)
    view.row(ROW)
    view.health(HEALTHY)
    view.event(COLLAPSED)
    text = seen(view)
    assert re.search(r"train .* 100/1000  10 steps/s  1 min 30 s left", text)
    assert re.search(r"loss +D 0\.812  G -0\.250", text)
    assert re.search(r"D right +73%", text)
    assert re.search(r"DDFN gap +\+12\.3, inside ±37\.2, noise of a batch ±10\.0", text)
    assert (
        "healthy at step 400: variety 0.93 (1: as real), Fréchet distance 12.3, averaged generator 9.8 (0: as real)"
        in text
    )
    assert re.search(r"events +1 × collapsed", text)


def test_on_a_terminal_collapse_is_red_a_warning_yellow_and_both_stay_above_the_picture(terminal):
    with LiveView(1000) as view:
        view.event(COLLAPSED)
        view.event(Event(7, "warning", reason="D leads"))
        view.step(8)
    written = terminal.getvalue()
    assert re.search(r"\x1b\[1;31mstep 600: collapsed", written)
    assert re.search(r"\x1b\[33mstep 7: warning\. D leads", written)
    assert "8/1000" in written[written.rindex("D leads") :]
    assert written.endswith("\x1b[?25h")  # the cursor is back


def test_a_dumb_terminal_gets_lines_without_escapes(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with LiveView(10) as view:
        view.step(10)
        view.event(COLLAPSED)
    lines = terminal.getvalue().splitlines()
    assert lines[0].startswith("train 10/10")  # how far the run had come when it happened
    assert lines[1:] == ["step 600: collapsed, began at step 550. Variety fell to 0.31"]
    assert "\x1b" not in terminal.getvalue()


def test_quiet_says_nothing_at_all(terminal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with LiveView(10, quiet=True) as view:
        view.step(10)
        view.row(ROW)
        view.health(WORSE)
        view.event(COLLAPSED)
    assert terminal.getvalue() == ""


def exercise(view: LiveView) -> None:
    with view:
        view.row(ROW)
        view.health(HEALTHY)
        view.event(COLLAPSED)
        view.step(3)


@pytest.mark.parametrize("how", ["closed", "none", "terminal that was hung up", "full"])
def test_a_stream_that_fails_ends_no_run(monkeypatch, how):
    tries = []

    class Gone(Terminal):
        def write(self, text: str) -> int:
            tries.append(text)
            raise OSError(5, "Input/output error")

    class Full(io.StringIO):
        def flush(self) -> None:
            tries.append("")
            raise OSError(28, "No space left on device")

    streams = {"none": None, "terminal that was hung up": Gone(), "full": Full(), "closed": io.StringIO()}
    stream = streams[how]
    if how == "closed":
        stream.close()  # type: ignore[union-attr]
    monkeypatch.setattr(sys, "stderr", stream)
    exercise(LiveView(10))
    assert len(tries) == (how in ("full", "terminal that was hung up"))  # and not again for each line


def test_a_broken_pipe_ends_no_run(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        exercise(LiveView(10))
        monkeypatch.undo()
        with contextlib.suppress(OSError):  # what Python still holds for it
            stream.close()


def test_a_step_costs_next_to_nothing(terminal):
    with LiveView(10**9) as view:
        # Less than 20 µs even on a busy machine, where a step of training takes milliseconds.
        assert min(timeit.repeat(lambda: view.step(5), number=1000, repeat=5)) < 0.02
