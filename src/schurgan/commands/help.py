"""What `--help` says of a command: one screen of what most calls need, and all of it for `--help-all`."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

from schurgan.commands.parsing import REQUIRED, Option, read_doc, read_options, usage

_NARROW, _WIDE = 60, 100
"""Columns: below the first, texts stand under their options; lines of more than the second are hard to read."""
_INDENT = 24


def help_text(command: Callable[..., Any], name: str, everything: bool = False) -> str:
    """The help of a command, laid out for the terminal.

    Its first screen has the options that are required or marked COMMON, and those of a command that marks none.
    """
    options, sections = read_options(command), read_doc(command)
    options.sort(key=lambda option: (not option.positional, option.default is not REQUIRED, option.group != ""))
    marked = any(option.common and option.default is not REQUIRED for option in options)
    shown = options if everything or not marked else [each for each in options if each.common or each.positional]
    width = max(min(shutil.get_terminal_size().columns, _WIDE), 1)
    lines = [*_wrap(f"usage: {usage(options, name)}", width, "       "), "", *_wrap(sections[""], width)]
    if "Example" in sections:
        lines += ["", *textwrap.indent(textwrap.dedent(sections["Example"]).strip(), "  ").splitlines()]
    for group, members in groupby(shown, key=lambda option: option.group if everything else ""):
        lines += ["", *_wrap(group, width)] if group else [""]
        lines += [line for option in members for line in _lines(option, width)]
    for note in sections.get("Note", "").splitlines():
        lines += ["", *_wrap(note.strip(), width)]
    if len(shown) < len(options):
        more = f"`schurgan {name} --help-all` shows {len(options) - len(shown)} more options."
        lines += ["", *_wrap(more, width)]
    return "\n".join(lines)


def _lines(option: Option, width: int) -> Iterator[str]:
    head = f"  {option.name if option.default is not True else _either(option.name)} {option.metavar}".rstrip()
    if option.positional:
        head = f"  {option.metavar}"
    text = _text(option)
    if width < _NARROW:
        yield from [*_wrap(head, width, "    "), *_wrap(text, width, "      ", "      ")]
    elif len(head) <= _INDENT - 2:
        yield from _wrap(text, width, " " * _INDENT, f"{head:<{_INDENT}}")
    else:
        yield from [head, *_wrap(text, width, " " * _INDENT, " " * _INDENT)]


def _either(name: str) -> str:
    """--model.[no-]spectral-norm-d: a switch that is on can be turned off."""
    group, dot, last = name.removeprefix("--").rpartition(".")
    return f"--{group}{dot}[no-]{last}"


def _text(option: Option) -> str:
    """What an option is, what it may be, and what it is by default."""
    notes = []
    if get_origin(option.kind) is Literal:
        choices = [*map(str, get_args(option.kind))]
        if not set(choices) <= set(re.findall(r"[\w-]+", option.help)):
            notes.append(f"{', '.join(choices[:-1])} or {choices[-1]}")
    if option.default is REQUIRED and not option.positional:
        notes.append("required")
    elif option.default is True:
        notes.append("default: on")
    elif option.default is not False and option.default not in (REQUIRED, None, (), ""):
        notes.append(f"default: {show_value(option.default)}")
    return option.help + (f" ({'; '.join(notes)})" if notes else "")


def show_options(options: Mapping[str, object]) -> str:
    """Options and their values in a line: "model.width 8, train.steps 4000"."""
    return ", ".join(f"{name.replace('_', '-')} {show_value(value)}" for name, value in options.items())


def show_value(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple | list):
        return " ".join(map(show_value, value))
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _wrap(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    room = max(width, len(indent) + 1, len(first) + 1)
    return textwrap.wrap(text, room, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
