"""One file over HTTP, however often the connection breaks: what is there already is not fetched again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from schurgan.core.errors import UserError
from schurgan.version import __version__

MB = 1_000_000
BLOCK = 2**18
CRAWL = 1024
"""Bytes in `Patience.stall` seconds under which a server is taken as stalled."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may be other ones in a moment."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for. stall: seconds without a byte. tries: in a row that bring less than 1 MB.

    pause: seconds before the second try, twice as many before each one after it.
    """

    stall: float = 60.0
    tries: int = 5
    pause: float = 1.0


class Updates(Protocol):
    """What a meter opens."""

    def update(self, done: int, text: str = "") -> None: ...


Meter = Callable[[str, int, str, int], AbstractContextManager[Updates]]
"""Opens what shows progress: (what, total, unit, where it starts)."""


class Silent(contextlib.nullcontext[Any]):
    """Shows nothing."""

    def __init__(self, *_: object) -> None:
        super().__init__(self)

    def update(self, done: int, text: str = "") -> None: ...


class _Broken(Exception):
    """A transfer ended early; another try may bring the rest."""


def one_line(said: object) -> str:
    """What others say, fit for a sentence."""
    return " ".join(str(said).split())[:200]


def empty(file: IO[bytes]) -> None:
    """Begin a file anew."""
    file.seek(0)
    file.truncate()


def transfer(url: str, file: IO[bytes], size: int, meter: Meter, patience: Patience) -> None:
    """Append to `file` what it lacks of what is at `url`, `size` bytes in all or about, in as many tries as bring any.

    Raises UserError when the server does not give it; OSError when the file system does not take it.
    """
    opener, failures = build_opener(_Redirects), 0
    with meter("download", size // MB, "MB", file.tell() // MB) as bar:
        while True:
            start = file.tell()
            try:
                _get(opener, url, file, bar, patience)
                file.flush()
                os.fsync(file.fileno())
                return
            except _Broken as broken:
                failures = failures + 1 if file.tell() < start + MB else 1
                if failures >= patience.tries:
                    raise UserError(f"{url}: {broken}; the same command tries again later") from None
                bar.update(file.tell() // MB, f"{broken}; trying again")
                time.sleep(patience.pause * 2 ** (failures - 1))


def _get(opener: OpenerDirector, url: str, file: IO[bytes], bar: Updates, patience: Patience) -> None:
    """One request for what is missing. _Broken where another may bring more, UserError where none will."""
    start = file.tell()
    headers = {"User-Agent": f"schurgan/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        reply = opener.open(Request(url, headers=headers), timeout=patience.stall)
    except HTTPError as error:
        if error.code == 416 and start:  # as long as the file or longer: the checksum tells
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                return
            empty(file)
            raise _Broken("the server has a shorter file") from None
        said = f"the server answers {error.code} ({one_line(error.reason)})"
        raise _Broken(said) if error.code in BUSY else UserError(f"{url}: {said}") from None
    except (OSError, HTTPException) as error:
        raise _Broken(_reason(error)) from None
    with reply:
        if start and (reply.status != 206 or f"bytes {start}-" not in reply.headers.get("Content-Range", "")):
            empty(file)  # the server begins at the beginning
        length = reply.headers.get("Content-Length", "")
        expected = file.tell() + int(length) if length.isdecimal() else None
        since, before = time.monotonic(), file.tell()
        while True:
            try:
                block = reply.read1(BLOCK)
            except (OSError, HTTPException) as error:
                raise _Broken(_reason(error)) from None
            if not block:
                break
            file.write(block)
            bar.update(file.tell() // MB)
            if time.monotonic() - since > patience.stall:
                if file.tell() - before < CRAWL:
                    raise _Broken("the server has all but stopped sending")
                since, before = time.monotonic(), file.tell()
    if expected is not None and file.tell() < expected:
        raise _Broken(f"cut off after {file.tell()} of {expected} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the connection failed ({one_line(said)})"


class _Redirects(HTTPRedirectHandler):
    """Follows a redirection, but not from an encrypted address to an open one."""

    def redirect_request(
        self, request: Request, reply: IO[bytes], code: int, said: str, headers: HTTPMessage, address: str
    ) -> Request | None:
        if request.type == "https" and not address.lower().startswith("https:"):
            raise UserError(f"{request.full_url}: leads to {address}, which is not encrypted")
        return super().redirect_request(request, reply, code, said, headers, address)
