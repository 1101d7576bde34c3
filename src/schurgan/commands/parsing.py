"""Reading a command's arguments, and saying in one sentence what is wrong with them."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from schurgan.core.errors import UserError, did_you_mean

Folder = Annotated[Path, arg(metavar="DIR")]
"""An option that names a folder."""


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
        return tyro.cli(bind, prog=f"schurgan {name}", args=arguments)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit), _wide():
        return tyro.cli(bind, prog=f"schurgan {name}", args=arguments)
    raise UserError(_sentence(said.getvalue(), bind, name))


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """A terminal so wide that the parser's boxes break no word."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
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
    if found := re.search(r"Unrecognized options: ([^-]\S*)", text):
        return f'"{found[1]}": one argument too many for `schurgan {name}`'
    if found := re.search(r"Unrecognized options: (-[\w.-]*)", text):
        known = set(re.findall(r"--[a-z][\w.-]*", _help(command, name)))
        return f"{found[1]}: no such option of `schurgan {name}`{did_you_mean(found[1], known)}"
    if found := re.search(r"Missing value for argument '(.*?)'\. Expected (\d+) value", text):
        return f"{found[1]}: a value is missing, {found[2]} {'is' if found[2] == '1' else 'are'} needed"
    invalid = r"Error parsing config(?:\.(\w+))?: .*? for \w+ (\w+)\S* (.*?) \[type=\w+, input_value=(.*?), input_type"
    if found := re.search(invalid, text):
        option = "-".join(".".join(part for part in found.group(1, 2) if part).split("_"))
        return f"--{option}: {found[4]} given, {found[3].removeprefix('Input should be ')} is needed"
    unread = r"Error parsing ([\w.-]+): (?:invalid literal for (int)|could not convert string to (float)).*?: '(.*?)'"
    if found := re.search(unread, text):
        return f"{found[1]}: {found[4]!r} given, a {'whole ' if found[2] else ''}number is needed"
    union = r"Error parsing ([\w.-]+): no type matching \{None\}\|(INT|FLOAT) could be instantiated from \['(.*?)'\]"
    if found := re.search(union, text):
        return f"{found[1]}: {found[3]!r} given, a {'whole ' * (found[2] == 'INT')}number is needed"
    if found := re.search(r"invalid choice (.*?) for argument '(.*?)'\. Expected one of \((.*?)\)", text):
        return f"{found[2]}: {found[1]} given, one of {found[3].rstrip(',')} is needed"
    required = r"(?<!\S)(--[a-z][\w-]*|[A-Z]{3,}(?: \.\.\.)?)(?= )[^()]*(?:\([^()]*\)[^()]*)*?\(required\)"
    if missing := re.findall(required, text):
        return f"{' and '.join(missing)}: missing; `schurgan {name} --help` says what is needed"
    return text


def _help(command: Callable[..., Any], name: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit), _wide():
        tyro.cli(command, prog=name, args=["--help"])
    return text.getvalue()


def check_rate(sample_rate: int) -> None:
    """UserError for a sample rate (Hz) that no recording has."""
    if not 1000 <= sample_rate <= 384000:
        raise UserError(f"--sample-rate: {sample_rate} given, 1000 to 384000 Hz is needed")


def check_counts(**counts: int | None) -> None:
    """UserError naming the first option below 1 (None stands for a default)."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"--{name.replace('_', '-')}: {count} given, a whole number of 1 or more is needed")
