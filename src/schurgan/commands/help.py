"""What `--help` says of a command: one screen of what most calls need, and all of it for `--help-all`."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

import schurgan
from schurgan.commands.parsing import REQUIRED, Option, read_doc, read_options, usage

_NARROW, _WIDE = 60, 100
"""Columns: below the first, texts stand under their options; lines of more than the second are hard to read."""
_INDENT = 26


def help_text(command: Callable[..., Any], name: str, everything: bool = False) -> str:
    """The help of a command, laid out for the terminal.

    Its first screen has the options that are required or marked COMMON, and those of a command that marks none.
    """
    options, sections = read_options(command), read_doc(command)
    options.sort(key=lambda option: (not option.positional, option.default is not REQUIRED, option.group != ""))
    marked = any(option.common and option.default is not REQUIRED for option in options)
    shown = options if everything or not marked else [each for each in options if each.common or each.positional]
    width = _columns()
    lines = [*_wrap(f"usage: {usage(options, name)}", width, "       "), "", *_wrap(sections[""], width)]
    if "Example" in sections:
        lines += ["", *textwrap.indent(textwrap.dedent(sections["Example"]).strip(), "  ").splitlines()]
    for group, members in groupby(shown, key=lambda option: option.group if everything else ""):
        lines += ["", *_wrap(group, width)] if group else [""]
        lines += [line for option in members for line in _entry(_head(option), _text(option), width, _INDENT)]
    if "Note" in sections:
        lines += ["", *(line for note in sections["Note"].splitlines() for line in _wrap(note.strip(), width))]
    if len(shown) < len(options):
        more = f"`schurgan {name} --help-all` shows {len(options) - len(shown)} more options."
        lines += ["", *_wrap(more, width)]
    return "\n".join(lines)


def list_commands(texts: Mapping[str, str], call: str) -> str:
    """What each command does, a line each, under how one is called: "schurgan COMMAND"."""
    width, about = _columns(), (schurgan.__doc__ or "").strip()
    lines = [f"usage: {call} ...", "", *_wrap(about, width), ""]
    for name, text in texts.items():
        lines += _entry(name, text, width, max(map(len, texts)) + 4)
    return "\n".join([*lines, "", *_wrap(f"`{call} --help` shows how it is used, --help-all all its options.", width)])


def _columns() -> int:
    return max(min(shutil.get_terminal_size().columns, _WIDE), 1)


def _entry(head: str, text: str, width: int, indent: int) -> list[str]:
    """A name, and beside it what it is: or below it, where the name is long or the terminal narrow."""
    if width < _NARROW:
        return [*_wrap(head, width, "    ", "  "), *_wrap(text, width, "      ", "      ")]
    if len(head) > indent - 4:
        return [f"  {head}", *_wrap(text, width, " " * indent, " " * indent)]
    return _wrap(text, width, " " * indent, f"  {head:<{indent - 2}}")


def _head(option: Option) -> str:
    """--train.steps INT, or --model.[no-]spectral-norm-d of a switch that is on and can be turned off."""
    if option.positional:
        return option.metavar
    group, dot, last = option.name.removeprefix("--").rpartition(".")
    return f"--{group}{dot}{'[no-]' if option.default is True else ''}{last} {option.metavar}".rstrip()


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
        notes.append(f"default: {_value(option.default)}")
    return option.help + (f" [{'; '.join(notes)}]" if notes else "")


def show_options(options: Mapping[str, object]) -> list[str]:
    """Options as a call gives them: "--train.steps 4000", "--model.no-spectral-norm-d"."""
    shown = []
    for name, value in options.items():
        group, dot, last = name.replace("_", "-").rpartition(".")
        text = "" if isinstance(value, bool) else f" {_value(value)}"
        shown.append(f"--{group}{dot}{'no-' if value is False else ''}{last}{text}")
    return shown


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_value, value))
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _wrap(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    room = max(width, len(indent) + 1, len(first) + 1)
    return textwrap.wrap(text, room, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
