from __future__ import annotations

import contextlib

import pytest

from schurgan.core import progress
from schurgan.core.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by what is added to its only entry."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_quick_task_is_one_line_at_its_end(clock, capsys):
    with Bar("train", 10) as bar:
        for done in range(1, 11):
            clock[0] += 0.5
            bar.update(done, "loss 0.3")
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "train 10/10  2.00 it/s  loss 0.3  0 s left\n"


def test_a_slow_task_is_a_line_every_fifteen_seconds_with_the_time_left(clock, capsys):
    with Bar("train", 1000, start=100) as bar:
        for done in range(110, 160, 10):
            clock[0] += 10
            bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["120/1000", "140/1000", "150/1000"]
    assert lines[0].endswith("880 s left")  # one a second since it went on at 100


def test_an_error_is_not_preceded_by_a_last_line_of_progress(clock, capsys):
    with contextlib.suppress(ValueError), Bar("prepare", 1) as bar:
        bar.update(1)
        raise ValueError
    assert capsys.readouterr().err == ""


def test_nothing_done_is_nothing_said(capsys):
    with Bar("prepare", 1):
        pass
    assert capsys.readouterr().err == ""
