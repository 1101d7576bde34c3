from __future__ import annotations

import io
import json
import sys

import pytest

from schurgan.core.progress import Bar
from schurgan.core.terminal import harmless, say
from schurgan.runs.records import Event
from schurgan.training.live_view import LiveView


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J", r"\u001b]0;owned\u0007\u001b[2J"),
        ("\x9b31m", r"\u009b31m"),  # an escape of one character
        ("dog\rcat\x08", r"dog\u000dcat\u0008"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns the direction of what follows
        ("\udcff", r"\udcff"),  # a byte of a file's name that is no UTF-8
        ("Glöckchen 鐘 👩‍🎤\tα\n", "Glöckchen 鐘 👩‍🎤\tα\n"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out_and_the_rest_is_as_it_was(given, shown):
    assert harmless(given) == shown


def test_what_is_said_on_a_terminal_holds_no_escape(capsys):
    say("run/\x1b[31m: no such\nrun")
    assert capsys.readouterr().err == "schurgan: run/\\u001b[31m: no such run\n"


EVIL = "\x1b]0;owned\x07\x1b[2Jbad\x9b31m"


def test_escapes_in_metrics_and_names_from_elsewhere_never_reach_a_terminal(call, copied_run):
    with open(copied_run / "metrics.jsonl", "a") as file:
        print(json.dumps({"step": 6, "event": "collapsed", "reason": EVIL}), file=file)
    named = copied_run.rename(copied_run.with_name(f"run{EVIL}"))
    for command in (("status", named), ("status", named, "--json"), ("sample", named, "--class", EVIL)):
        said = call(*command)
        assert not {"\x1b", "\x07", "\x9b"} & set(said.out + said.err), command
        assert "owned" in said.out + said.err
        if "--json" in command:
            assert json.loads(said.out)["events"][-1]["reason"] == EVIL  # and a program gets what is there


def test_nor_do_those_in_what_a_bar_and_a_run_in_progress_print(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    with Bar("prepare", 2) as bar:
        bar.print(EVIL)
    with LiveView(2, 0, quiet=False) as view:
        view.event(Event(1, "warning", reason=EVIL))
    assert "owned" in shown.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(shown.getvalue())
