"""Ctrl-C is heard at once; the first signal asks a run to save and stop, one that comes later stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from schurgan.core import interrupts
from schurgan.core.errors import Interrupted
from schurgan.core.interrupts import ended_by_ctrl_c, stop_requests
from schurgan.training import resume, train
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.loop import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ANSWER = "the step is finished first"


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Signals that came through to the handlers of the program around the run."""
    through: list[int] = []
    before = {number: signal.signal(number, lambda number, _: through.append(number)) for number in SIGNALS}
    yield through
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0] += 2`: two seconds later."""
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    return now


def test_a_run_whose_terminal_is_closed_saves_its_state_and_goes_on_from_there(tiny, tmp_path, caught):
    class Ask(Callback):
        def on_step(self, step, metrics, trainer):
            if step == 4:
                os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Interrupted, match="step 4"):
        train(tiny(checkpoint_every=100), tmp_path / "run", callbacks=[Ask()])
    assert [path.stem for path in Checkpoints(tmp_path / "run").paths()] == ["step-00000004"]
    assert not caught
    resume(tmp_path / "run")
    assert Checkpoints(tmp_path / "run").load().record.step == 6


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_of_either_kind_stops_at_once(first, second, caught, clock):
    with stop_requests(ANSWER) as requests:
        signal.raise_signal(first)
        assert requests == [first]
        assert not caught
        clock[0] += 1.5
        signal.raise_signal(second)
        assert caught == [second]  # as if the run caught none


def test_what_a_launcher_passes_on_right_after_its_group_got_it_is_the_same_request(caught, clock):
    with stop_requests(ANSWER) as requests:
        for number, later in zip((signal.SIGINT, signal.SIGINT, signal.SIGTERM), count(), strict=False):
            clock[0] += 0.3 * later
            signal.raise_signal(number)
        assert requests
        assert not caught


def test_ctrl_c_twice_ends_a_run_by_a_keyboard_interrupt(clock):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with stop_requests(ANSWER):
            signal.raise_signal(signal.SIGINT)
            clock[0] += 2
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_the_process_ignores_stays_ignored_as_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests(ANSWER) as requests:
            signal.raise_signal(signal.SIGHUP)
            assert not requests
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A process as that of a command, which hears Ctrl-C; with what status it would have ended."""
    ended: list[int] = []
    monkeypatch.setattr(interrupts.os, "_exit", ended.append)
    monkeypatch.setattr(interrupts, "_SOON", 0.02)
    monkeypatch.setattr(interrupts, "_SAME_REQUEST", 0.1)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield ended
    signal.signal(signal.SIGINT, before)


def until(happened) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def no_python():
    """A call that Python cannot leave: its handlers of signals do not run meanwhile."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_call_that_python_cannot_leave_is_answered_and_a_second_one_ends_the_process(command, capsys):
    with ended_by_ctrl_c(), no_python():
        signal.raise_signal(signal.SIGINT)
        until(lambda: "Ctrl-C again" in capsys.readouterr().err)
        time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        until(lambda: command)
    assert command == [130]


def test_what_a_run_says_to_ctrl_c_is_its_own_answer_and_once_for_a_launcher_that_passes_it_on(command, capsys):
    with ended_by_ctrl_c(), stop_requests(ANSWER) as requests:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        until(lambda: len(requests) == 2)
        time.sleep(0.1)
    assert capsys.readouterr().err == f"schurgan: {ANSWER}\n"
    assert not command


def test_work_that_ends_at_once_by_ctrl_c_says_nothing(command, capsys):
    with pytest.raises(KeyboardInterrupt), ended_by_ctrl_c():
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert threading.active_count() == 1 or all("_listen" not in each.name for each in threading.enumerate())


def test_a_process_that_ignores_ctrl_c_goes_on_to_do_so(command):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ended_by_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
