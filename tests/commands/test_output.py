"""Where the command line says things: consoles of few letters, streams that are full or closed, narrow terminals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from schurgan.commands import model
from schurgan.commands.main import main
from schurgan.core.errors import Interrupted
from schurgan.core.progress import Bar
from schurgan.core.terminal import say
from schurgan.evaluation.table import print_evaluation


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that says something with letters that few consoles have."""

    def presets() -> None:
        """Say a line."""
        print("Δ² below ε")

    monkeypatch.setattr(model, "presets", presets)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_a_console_that_lacks_a_letter_shows_another(monkeypatch, encoding, errors):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, errors))
    main_ends(["presets"], 0)
    assert shown.getvalue().decode(encoding).strip() in ("?? below ?", "?² below ?")


def main_ends(arguments: list[str], status: int) -> None:
    ended: object = 0
    try:
        main(arguments)
    except SystemExit as stop:
        ended = stop.code
    assert ended == status


@pytest.fixture
def gone() -> Iterator[io.TextIOWrapper]:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", 1)
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@pytest.fixture
def full() -> Iterator[io.TextIOWrapper]:
    """A file on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", 1)
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


def test_a_closed_pipe_ends_the_command_silently_as_sigpipe_would(monkeypatch, capsys, gone):
    monkeypatch.setattr(sys, "stdout", gone)
    main_ends(["presets"], 141)
    gone.flush()  # at exit
    assert capsys.readouterr().err == ""


def test_a_full_disk_under_standard_output_is_one_sentence(monkeypatch, capsys, full):
    monkeypatch.setattr(sys, "stdout", full)
    main_ends(["--help"], 2)
    full.flush()  # at exit
    assert capsys.readouterr().err == "schurgan: standard output: No space left on device\n"


def test_a_closed_standard_output_is_nobody_s_fault(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    main_ends(["presets"], 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["gone", "full", "closed", "ascii"])
def test_no_work_ends_because_nobody_takes_its_messages(monkeypatch, request, stream):
    streams = {"closed": lambda: None, "ascii": lambda: io.TextIOWrapper(io.BytesIO(), "ascii", "strict")}
    monkeypatch.setattr(sys, "stderr", streams[stream]() if stream in streams else request.getfixturevalue(stream))
    with Bar("Δ² of images", 2) as bar:
        bar.print("ε above the bar")
        bar.update(2, "Δ² 3")
    say("α is odd")
    main_ends(["nonsense"], 2)
    if sys.stderr is not None:
        sys.stderr.flush()  # at exit
    if stream == "ascii":
        assert b"schurgan: ? is odd" in sys.stderr.buffer.getvalue()


class Closing(io.StringIO):
    """A pipe whose reader goes away when the table comes."""

    def write(self, text: str) -> int:
        if "generated" in text:
            raise BrokenPipeError
        return len(text)


def test_a_table_of_scores_that_nobody_reads_is_a_closed_pipe_and_no_end_of_the_program(monkeypatch):
    protocol = {"run": "run", "step": 1, "runs": 1, "n_fake": 2, "n_real": 2, "n_held_out": 0, "truncation": None}
    protocol |= {"batch_norm": "standing", "held_out": None}
    protocol |= {"extractor": "pixels", "extractor_digest": "", "extractor_accuracy": None}
    monkeypatch.setattr(sys, "stdout", Closing())
    with pytest.raises(BrokenPipeError):
        print_evaluation(SimpleNamespace(protocol=SimpleNamespace(**protocol), scores={}, notes=()))


def test_a_name_that_the_system_has_no_letters_for_is_one_sentence(call, monkeypatch):
    def unprintable() -> None:
        """Do nothing."""
        "sounds/bücher".encode("ascii")

    monkeypatch.setattr(model, "presets", unprintable)
    said = call("presets")
    assert said.status == 2
    assert said.err.startswith('schurgan: "sounds/bücher": ascii')


def test_an_error_of_the_file_system_that_nothing_else_caught_is_one_sentence(call, monkeypatch, tmp_path):
    def missing() -> None:
        """Do nothing."""
        (tmp_path / "none").read_bytes()

    monkeypatch.setattr(model, "presets", missing)
    assert call("presets").err == f"schurgan: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.parametrize("columns", [1, 5])
def test_help_ends_at_any_width(call, monkeypatch, columns):
    def late(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setenv("COLUMNS", str(columns))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        for name in ["status"]:
            assert call(*name.split(), "--help").status == 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("told", ["stopped after step 3", ""])
def test_a_stop_is_status_1_and_one_of_several_processes_tells_of_it(call, monkeypatch, told):
    def stopped() -> None:
        """Do nothing."""
        raise Interrupted(told)

    monkeypatch.setattr(model, "presets", stopped)
    said = call("presets")
    assert said.status == 1
    assert said.err == (f"schurgan: {told}\n" if told else "")
