"""Text for a terminal: what it would obey is spelled out, and work outlives the stream that nobody reads."""

from __future__ import annotations

import re
import sys
from typing import IO, Any, TextIO

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
