"""Errors that are a user's to mend: one clear sentence, shown without a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class SchurganError(ValueError):
    """A user can mend this. The message is one sentence: what, where, what was given, what would do."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state."""


@contextlib.contextmanager
def writing(where: str | Path, then: str = "") -> Iterator[None]:
    """Raise what the file system refuses (full disk, no permission, a file in the way) as a SchurganError on `where`.

    then: what the user may do after mending it.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output is gone: no file is to blame
    except OSError as error:
        raise SchurganError(f"{where}: cannot be written ({error.strerror or error}){then}") from None


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|ALLOC_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, the system, or torch on a CPU or a GPU says that there is no more memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


@contextlib.contextmanager
def enough_memory(lower: str) -> Iterator[None]:
    """Raise what runs out of memory as a SchurganError that says what to do: "lower `count`"."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tried = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        more = f" ({tried[1]} more were asked for)" if tried else ""
        raise SchurganError(f"out of memory{more}; {lower}") from error


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """'; did you mean "proposed-128"?' for the nearest known name, or '' when nothing is near.

    Names are compared without regard to case, marks typed in one way or another, and compatible forms of letters.
    """
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(_plain(name), name)
    near = difflib.get_close_matches(_plain(given), plain, n=1, cutoff=0.5)
    return f'; did you mean "{plain[near[0]]}"?' if near else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def harmless(text: str) -> str:
    r"""A text that a terminal shows and does not obey: controls are spelled out, an escape as \u001b.

    Names of files and classes, metrics and scores are from folders that anybody may have made. Lines and tabs stay.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # as JSON has it, which some commands print


class HarmlessStream:
    """A stream on which everything that is written is `harmless`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or what it is spelled as."""
        return self._stream.write(harmless(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(message: str) -> None:
    """One line for the user on standard error."""
    Guarded(sys.stderr).write(f"schurgan: {harmless(' '.join(message.split()))}\n")


class Guarded:
    """A stream that work outlives: once it fails all that follows is ignored; what it cannot encode becomes "?"."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write and flush."""
        self._try("write", text.encode(self.encoding, "replace").decode(self.encoding))
        self._try("flush")
        return len(text)

    def flush(self) -> None:
        """Do nothing: all is flushed."""

    def isatty(self) -> bool:
        """Whether it is a terminal that still listens."""
        return bool(self._try("isatty"))

    def _try(self, method: str, *arguments: str) -> object:
        try:
            return getattr(self._stream, method)(*arguments) if self._stream else None
        except (OSError, ValueError):
            self._stream = None
            return None
