from __future__ import annotations

import contextlib
import io
import itertools
import threading

import pytest

from schurgan.core import progress
from schurgan.core.progress import Bar, Stages, until_next_line
from schurgan.core.terminal import duration, rate


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by what is added to its only entry, and no thread that waits for it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.Display, "_keep_log", lambda self: None)
    monkeypatch.setattr(progress, "FIRST", 1.0)
    return now


@pytest.mark.parametrize(("seconds", "said"), [(0.5, ""), (5, "train 10/10  2.00 steps/s  in 5 s  loss 0.3\n")])
def test_in_a_log_what_took_over_a_second_says_so_at_its_end(clock, capsys, seconds, said):
    with Bar("train", 10) as bar:
        clock[0] += seconds
        bar.update(10, "loss 0.3")
    assert capsys.readouterr().err == said


def test_a_line_of_a_log_has_the_rate_and_the_time_left_in_words(clock, capsys):
    with Bar("train", 1000, start=100) as bar:
        clock[0] += 20
        bar.update(120)
        bar.tick()
        assert capsys.readouterr().err == "train 120/1000  1.00 steps/s  14 min left\n"
        clock[0] += 680
        bar.update(800)
        bar.tick()
    assert capsys.readouterr().err == "train 800/1000  1.00 steps/s  3 min 20 s left\n"


def test_what_has_no_units_says_for_how_long_it_has_been_at_work(clock, capsys):
    with Bar("export") as bar:
        clock[0] += 70
        bar.tick()
    assert capsys.readouterr().err == "export for 1 min 10 s\n"


def test_lines_of_a_log_come_soon_and_then_ever_more_seldom(clock):
    times, now = [], 0.0
    while now < 8 * 3600:
        now += until_next_line(now)
        times.append(now)
    assert times[:4] == [1, 4, 7, 10]
    assert max(b - a for a, b in itertools.pairwise(times)) <= 300
    assert len(times) < 200


def test_a_thread_writes_the_lines_while_a_piece_of_work_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "until_next_line", lambda elapsed: 0.005)
    said = threading.Event()
    monkeypatch.setattr(Bar, "print", lambda self, text, style="": said.set())
    with Bar("export"):
        assert said.wait(10)


def test_an_error_is_not_preceded_by_a_last_line_of_progress(clock, capsys):
    with contextlib.suppress(ValueError), Bar("prepare", 1) as bar:
        bar.update(1)
        raise ValueError
    assert capsys.readouterr().err == ""


def test_nothing_done_is_nothing_said(capsys):
    with Bar("prepare", 1):
        pass
    assert capsys.readouterr().err == ""


def test_parts_say_first_how_long_they_will_take_and_are_one_bar(clock, capsys):
    with Stages("evaluate", lambda: {"classifier": 40.0, "sounds": 60.0, "cached": 0.0}) as parts:
        assert capsys.readouterr().err == "evaluate: about 1 min 40 s (classifier 40 s, sounds 1 min)\n"
        with Bar("classifier") as bar:
            clock[0] += 10
            bar(100, 400)
            parts.tick()
            # as fast as was thought
            assert capsys.readouterr().err == ("evaluate 10%  1 min 30 s left: classifier 100/400\n")
        clock[0] += 70  # twice as slow as was thought
        with Bar("sounds") as bar:
            assert parts.line() == "41%  1 min 53 s left"
        with Bar("not in the plan") as bar:
            bar(1, 2)
            assert parts.line() == "100%  0 s left"  # and is not done
    assert capsys.readouterr().err == "evaluate done in 1 min 20 s\n"


def test_the_share_that_is_over_never_falls_when_a_part_turns_out_to_be_slower(clock):
    with Stages("report", lambda: {"sounds": 50.0, "page": 50.0}) as parts:
        with Bar("sounds"):
            clock[0] += 50
        assert parts.fraction() == pytest.approx(0.5)
        with Bar("page", 100) as bar:
            clock[0] += 1
            bar.update(1)
            assert parts.left() == pytest.approx(99)
            assert parts.fraction() == pytest.approx(0.5)


def test_the_runs_of_one_kind_are_one_figure_of_the_estimate(clock, capsys):
    with Stages("sweep", lambda: {"images, 1 of 2": 40.0, "images, 2 of 2": 40.0}):
        assert capsys.readouterr().err == "sweep: about 1 min 20 s (images 1 min 20 s)\n"


def test_the_parts_of_an_estimate_add_up_to_it(clock, capsys):
    with Stages("report", lambda: {"classifier": 3.6, "sounds": 3.6}):
        assert capsys.readouterr().err == "report: about 8 s (classifier 4 s, sounds 4 s)\n"


def test_the_time_left_counts_down_while_a_unit_takes_long(clock):
    with Bar("sounds", 10) as bar:
        clock[0] += 20
        bar.update(1)
        assert bar.left() == pytest.approx(180)
        clock[0] += 15
        assert bar.left() == pytest.approx(165)


def test_an_error_while_parts_are_planned_leaves_no_display_behind(clock):
    def plan():
        raise ValueError

    with contextlib.suppress(ValueError), Stages("evaluate", plan):
        pass
    assert not progress._shown


def test_a_bar_inside_another_display_draws_none_of_its_own(clock, capsys):
    with Bar("train", 10) as outer:
        with Bar("samples", 3) as inner:
            inner.update(3)
            inner.print("above both")
        assert capsys.readouterr().err == "above both\n"
        assert outer.inner is None


def test_a_terminal_of_eighty_columns_shows_what_how_much_and_the_time_left(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress.sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with Bar("prepare", 400, "clip") as bar:
        clock[0] += 10
        bar.update(100, "500 s of sound")
        assert bar._live is not None
        bar._live.refresh()
    assert "100/400" in stream.getvalue()
    assert "30 s left" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (59.9, "59 s"),
        (130, "2 min 10 s"),
        (120, "2 min"),
        (3599, "59 min"),
        (7199, "1 h 59 min"),
        (12_000, "3 h 20 min"),
        (190_000, "2 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("speed", "text"), [(12.3, "12 steps/s"), (0.35, "0.35 steps/s"), (0.05, "20 s a step"), (0, "")]
)
def test_a_rate_is_of_a_second_or_of_a_unit(speed, text):
    assert rate(speed) == text
