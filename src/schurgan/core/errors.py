"""Errors that are a user's to mend: one clear sentence, shown without a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class SchurganError(ValueError):
    """A user can mend this. The message is one sentence: what, where, what was given, what would do."""


class Choice(NamedTuple):
    """One of several things that may be meant, and the value of an option that says so."""

    text: str
    option: str
    value: str


class Undecided(SchurganError):
    """A user can mend this by choosing: `question`, the `choices`, and what else would do."""

    def __init__(self, question: str, choices: Sequence[Choice], otherwise: str) -> None:
        self.question, self.choices, self.otherwise = question, tuple(choices), otherwise
        listed = (f'`{choice.option}` "{choice.value}" takes {choice.text}' for choice in choices)
        super().__init__("; ".join((question, *listed, otherwise)))


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state; without a text where another process tells of it."""


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
    """'; did you mean "proposed-128"?' for the nearest known names, at most three, or '' when nothing is near.

    Near is a name of the same letters, whatever their case, form and the marks between them; else one with so few slips
    that it is likely meant, one for each four letters; else one that has the given words within, or begins with them.
    """
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(_plain(name), name)
    typed = _plain(given)
    slips = {name: _slips(typed, name) for name in difflib.get_close_matches(typed, plain, n=8, cutoff=0.6)}
    slips = {name: count for name, count in slips.items() if count <= len(_apart(typed, name)) // 4 or count <= 1}
    near = [name for name in slips if slips[name] == min(slips.values())] if len(typed) >= 3 or typed in plain else []
    if not near:
        near = [name for name in plain if f"-{typed}-" in f"-{name}-" or _begins(typed, name) or _begins(name, typed)]
    if not 1 <= len(near) <= 3 or not typed:
        return ""
    meant = " or ".join(f'"{plain[name]}"' for name in near)
    return f"; did you mean {meant}?"


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\s._-]+", "-", text).strip("-")


def _apart(typed: str, name: str) -> str:
    """What was typed without the words that the name begins with too: "epochs" of "train-epochs" for "train-eps"."""
    words, others = typed.split("-"), name.split("-")
    same = next((i for i, (word, other) in enumerate(zip(words, others, strict=False)) if word != other), 0)
    return "-".join(words[same:])


def _begins(short: str, long: str) -> bool:
    """Whether a name is another's beginning, and a good part of it."""
    return len(short) >= 3 and 2 * len(short) >= len(long) and long.startswith(short)


def _slips(typed: str, name: str) -> int:
    """Letters left out, added, replaced or exchanged with their neighbour.

    Another first letter counts two, and so does a digit more or less: nobody slips from 32 to 128.
    """
    rows = [[j + (j > 0) for j in range(len(name) + 1)]]
    for i, letter in enumerate(typed):
        row = [i + 2]
        for j, meant in enumerate(name):
            replaced = rows[i][j] + (letter != meant) * (2 if i == j == 0 else 1)
            row.append(min(rows[i][j + 1] + 1 + letter.isdigit(), row[j] + 1 + meant.isdigit(), replaced))
            if i and j and (letter, typed[i - 1]) == (name[j - 1], meant):
                row[-1] = min(row[-1], rows[i - 1][j - 1] + 1)
        rows.append(row)
    return rows[-1][-1]
