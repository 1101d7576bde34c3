"""Reading a command's arguments, and saying in one sentence what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from pydantic import BaseModel
from tyro.conf import arg

from schurgan.core.errors import SchurganError, did_you_mean

Folder = Annotated[Path, arg(metavar="DIR")]
"""An option that names a folder."""

_LEAST_COLUMNS = 20
"""The parser never ends to lay its boxes out in fewer than six."""


def value_of(arguments: list[str], option: str) -> str | None:
    """The value of an option that decides how the others are read."""
    for i, argument in enumerate(arguments):
        if argument == option:
            return arguments[i + 1] if i + 1 < len(arguments) else None
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None


def parse(command: Callable[..., None], name: str, arguments: list[str]) -> Callable[[], None]:
    """`command` bound to its arguments. The parser explains itself in boxes of text: we say it in one sentence."""

    @functools.wraps(command)
    def bind(*args: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    if {"-h", "--help"} & set(arguments):
        with _columns(max(shutil.get_terminal_size().columns, _LEAST_COLUMNS)):
            return tyro.cli(bind, prog=f"schurgan {name}", args=arguments)
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit), _columns(1000):
        return tyro.cli(bind, prog=f"schurgan {name}", args=arguments)
    raise SchurganError(_sentence(printed.getvalue(), bind, name))


def option_names(command: Callable[..., Any]) -> dict[str, str]:
    """Names of a command's arguments in library code, with the options by which its user knows them.

    An option of a group is known by its full name and, where no other group has it, by its own: `train.lr_g` and
    `lr_g` are `--train.lr-g`.
    """
    names, inner = dict[str, str](), list[tuple[str, str]]()
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        shown = next((each.name for each in getattr(hint, "__metadata__", ()) if getattr(each, "name", None)), name)
        fields = _fields(getattr(hint, "__origin__", hint))
        if fields:  # the groups of a Config stand at the top
            for group, field in fields.items():
                names[group] = _option(group)
                inner += [(option, f"{group}.{option}") for option in _fields(getattr(field, "annotation", None))]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            names[name] = _option(shown)
    count = Counter(option for option, _ in inner)
    names |= {full: _option(full) for _, full in inner}
    return {option: _option(full) for option, full in inner if count[option] == 1} | names


def name_options(message: str, options: Mapping[str, str]) -> str:
    r"""A message of the library in the words of the command line.

    `batch_size: 0 given` becomes `--train.batch-size: 0 given`, and `choose another \`out\`` becomes `choose another
    \`--out\``: names at the start and names in backquotes.
    """
    start = re.match(r"[a-z][\w.]*(?=: )", message)
    if start and start[0] in options:
        message = options[start[0]] + message[start.end() :]
    return re.sub(r"`([a-z][\w.]*)`", lambda name: f"`{options.get(name[1], name[1])}`", message)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _fields(kind: Any) -> Mapping[str, Any]:
    """The fields of a pydantic model or a dataclass, none of anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields
    return {field.name: field for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    """A terminal of a width that the parser can do with, or so wide that its boxes break no word."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _sentence(box: str, command: Callable[..., Any], name: str) -> str:
    """What the parser found wrong, from its box of text: what, what was given, what would do."""
    lines = [line.strip("│╭╮╰╯ ─").strip() for line in box.splitlines()]
    text = re.sub(r"\s+", " ", " ".join(lines))
    if match := re.search(r"Unrecognized options: ([^-]\S*)", text):
        return f'"{match[1]}": one argument too many for `schurgan {name}`'
    if match := re.search(r"Unrecognized options: (-[\w.-]*)", text):
        known = set(re.findall(r"--[a-z][\w.-]*", _help(command, name)))
        return f"{match[1]}: no such option of `schurgan {name}`{did_you_mean(match[1], known)}"
    if match := re.search(r"Missing value for argument '(.*?)'\. Expected (\d+) value", text):
        return f"{match[1]}: a value is missing, {match[2]} {'is' if match[2] == '1' else 'are'} needed"
    invalid = r"Error parsing config(?:\.(\w+))?: .*? for \w+ (\w+)\S* (.*?) \[type=\w+, input_value=(.*?), input_type"
    if match := re.search(invalid, text):
        option = "-".join(".".join(part for part in match.group(1, 2) if part).split("_"))
        return f"--{option}: {match[4]} given, {match[3].removeprefix('Input should be ')} is needed"
    unread = r"Error parsing ([\w.-]+): (?:invalid literal for (int)|could not convert string to float"
    unread += r"|no type matching \{None\}\|(?:(INT)|FLOAT) could).*?'(.*?)'"
    if match := re.search(unread, text):
        return f"{match[1]}: {match[4]!r} given, a {'whole ' if match[2] or match[3] else ''}number is needed"
    if match := re.search(r"invalid choice (.*?) for argument '(.*?)'\. Expected one of \((.*?)\)", text):
        return f"{match[2]}: {match[1]} given, one of {match[3].rstrip(',')} is needed"
    required = r"(?<!\S)(--[a-z][\w-]*|[A-Z]{3,}(?: \.\.\.)?)(?= )[^()]*(?:\([^()]*\)[^()]*)*?\(required\)"
    if missing := re.findall(required, text):
        return f"{' and '.join(missing)}: missing; `schurgan {name} --help` says what is needed"
    return text


def _help(command: Callable[..., Any], name: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit), _columns(1000):
        tyro.cli(command, prog=name, args=["--help"])
    return text.getvalue()


def check_counts(**counts: int | None) -> None:
    """SchurganError naming the first option outside 1 to 65536 (None stands for a default)."""
    for name, count in counts.items():
        if count is not None and not 1 <= count <= 2**16:
            raise SchurganError(
                f"--{name.replace('_', '-')}: {count} given, a whole number from 1 to {2**16} is needed"
            )
