from __future__ import annotations

import pytest

from schurgan.core.errors import harmless, say


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),  # an escape of one character
        ("dog\rcat\x08", r"dog\rcat\x08"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns the direction of what follows
        ("\udcff", r"\udcff"),  # a byte of a file's name that is no UTF-8
        ("Glöckchen 鐘 👩‍🎤\tα\n", "Glöckchen 鐘 👩‍🎤\tα\n"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out_and_the_rest_is_as_it_was(given, shown):
    assert harmless(given) == shown


def test_what_is_said_on_a_terminal_holds_no_escape(capsys):
    say("run/\x1b[31m: no such\nrun")
    assert capsys.readouterr().err == "schurgan: run/\\x1b[31m: no such run\n"
