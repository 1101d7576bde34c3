"""Errors that are a user's to mend: one clear sentence, shown without a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path


class SchurganError(ValueError):
    """A user can mend this. The message is one sentence: what, where, what was given, what would do."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state."""


def one_line(error: object) -> str:
    """What an error says, in one line of at most 200 characters; the name of its class where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
