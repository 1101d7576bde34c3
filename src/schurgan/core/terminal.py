"""Text for a terminal: what it would obey is spelled out, and work outlives the stream that nobody reads."""

from __future__ import annotations

import re
import sys
from typing import IO, Any, TextIO

COMMON = "common"
"""Marks an option for the first screen of its command's help, which leaves the others out: Annotated[int, COMMON]."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def duration(seconds: float) -> str:
    """Time as "45 s", "2 min 10 s", "12 min", "3 h 20 min" or "2 d 4 h": two units at most, rounded down."""
    seconds = int(max(0.0, seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60} s".removesuffix(" 0 s")
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 172800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min".removesuffix(" 0 min")
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def plural(noun: str) -> str:
    """A noun for many: "clips", "classes"; symbols of units as they are."""
    return noun if noun.isupper() else f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"


def rate(speed: float, unit: str = "step") -> str:
    """Units a second, and seconds a unit where they take long: "12 steps/s", "0.35 steps/s", "20 s a step"."""
    if speed < 0.1:
        return f"{duration(1 / speed)} a {unit}" if speed > 0 else ""
    return f"{speed:.{2 if speed < 10 else 0}f} {plural(unit)}/s"


def say(message: str) -> None:
    """One line for the user on standard error."""
    Guarded(sys.stderr).write(f"schurgan: {harmless(' '.join(message.split()))}\n")


def say_more(*lines: str) -> None:
    """Lines that belong to what was said, as they stand."""
    for line in lines:
        Guarded(sys.stderr).write(harmless(re.sub(r"[\r\n]", " ", line)) + "\n")


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
