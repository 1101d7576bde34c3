"""Files that a reader never sees half of, folders that one process at a time writes, and nothing but plain files.

Every file that the program writes is opened here: `atomic_write` for a whole file, `open_regular` to add to one.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shlex
import socket
import stat
import sys
import time
import unicodedata
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, overload

from schurgan.core.errors import SchurganError
from schurgan.core.terminal import harmless, say

_LEFTOVER = re.compile(r"\..+\.\d+\.partial")
_NAME_BYTES = 80  # of a class in a file's name: with a number, a suffix and the name of a part it stays far below 255
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())  # lock files that this thread holds


@overload
def open_regular(path: str | Path) -> BufferedReader: ...


@overload
def open_regular(path: str | Path, mode: str, **options: Any) -> IO[Any]: ...


def open_regular(path: str | Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """`open`, for regular files alone: a FIFO or a device would hang, or never end.

    To write, links are not followed: one in a folder from elsewhere could name any file of the user.

    Raises:
        OSError: as `open` does, or for what is no regular file; its `strerror` says so.
    """

    def opener(name: str, flags: int) -> int:
        links = os.O_NOFOLLOW if flags & (os.O_WRONLY | os.O_RDWR) else 0
        try:
            descriptor = os.open(name, flags | links | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP and os.path.islink(name):
                raise OSError(errno.ELOOP, "a symbolic link, which is not written through", name) from None
            if error.errno == errno.ENXIO:
                raise OSError(errno.ENXIO, "not a regular file", name) from None
            raise
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind):
            os.close(descriptor)
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            raise OSError(errno.EINVAL, "not a regular file", name)
        return descriptor

    return open(path, mode, opener=opener, **options)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit fsync it and rename it to `path`, else remove it.

    Readers see the old file or the new one. Raises OSError as the file system does (full disk, no permission),
    with nothing left behind. The temporary file of a process that was killed is for `clear_leftovers`.
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    file, partial = _create_partial(path, mode.replace("w", "x"), encoding=encoding, newline=newline)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
    sync_folder(path.parent)


def _create_partial(path: Path, mode: str, **options: Any) -> tuple[IO[Any], Path]:
    """A new file whose name nobody knew before, locked for as long as it is open."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.randbits(64)}.partial")
        file = open_regular(partial, mode, **options)
        _flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, partial
        file.close()  # removed by another process between its making and its locking


def clear_leftovers(folder: Path, *, deep: bool = False) -> None:
    """Remove the temporary files of killed writers, known by their names and by that nobody holds their locks."""
    for path in folder.glob("**/.*.partial" if deep else ".*.partial"):
        if _LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError), open_regular(path, "r+b") as file:
                if _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink()


@contextlib.contextmanager
def lock(path: str | Path, *, beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Let one process at a time write `path`, and remove what killed ones left half-written in its folder.

    The lock is an flock on the file `.lock` in the folder, which is made where it is missing. The system frees it when
    the process ends, however it ends. A thread that holds it may take it again. A file system without such locks is
    warned of, and the work goes on.

    Args:
        path: a folder; with `beside` a file or folder that the work is to bring about, and `.NAME.lock` is beside it.
        beside: whether what is locked must not be there yet, or is no folder.
        wait: wait for the other process instead of raising.

    Raises:
        SchurganError: another process or thread holds it.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    file = path.with_name(f".{path.name}.lock") if beside else path / ".lock"
    key = os.path.realpath(file)
    if key in _held.get():
        yield
        return
    made = [folder for folder in file.parents if not folder.exists()]
    locked = _take(file, path, wait)
    token = _held.set(_held.get() | {key})
    try:
        clear_leftovers(file.parent)
        yield
    finally:
        _held.reset(token)
        with contextlib.suppress(OSError):
            file.unlink()
            for folder in made:
                folder.rmdir()  # unless something is in it
        locked.close()


def lock_holder(folder: str | Path) -> str:
    """The process that holds the lock of a folder, in words; "" where none does."""
    with (
        contextlib.suppress(OSError),
        open_regular(Path(folder) / ".lock", "r", encoding="utf-8", errors="replace") as file,
    ):
        try:
            _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return harmless(file.read(300)).strip() or "another process"
    return ""


def _take(file: Path, path: Path, wait: bool) -> IO[str]:
    """The open file, locked, with this process's name in it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = open_regular(file, "a+", encoding="utf-8", errors="replace")
        except FileNotFoundError:  # the process that made the folder has just removed it
            continue
        try:
            if not _flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB):
                warnings.warn(
                    f"{path}: its file system has no locks; see to it that no other process writes here", stacklevel=5
                )
        except BlockingIOError:
            opened.seek(0)
            used = f"{path}: in use by {harmless(opened.read(300)).strip() or 'another process'}"
            if not wait:
                opened.close()
                raise SchurganError(f"{used}; wait until it has ended, or choose another folder") from None
            say(f"{used}; waiting for it")
            _flock(opened, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened.fileno()), os.lstat(file)):
                break
        opened.close()  # the process that held it has removed it
    command = shlex.join(sys.orig_argv or sys.argv)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {socket.gethostname()} since {since} ({command[:200]})\n")
        opened.flush()
    return opened


def _flock(file: IO[Any], operation: int) -> bool:
    """Whether the file system has locks. Raises BlockingIOError where another process has this one."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def sync_folder(folder: str | Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be opened)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: object) -> None:
    """`value` as indented UTF-8 JSON, written atomically. NaN and infinity raise ValueError: they are not JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(label: str) -> str:
    """The name under which files of a class are written, without suffix: at most 80 bytes, the same in every run.

    Letters with their marks, digits, pictographs, spaces, "-" and "_" are kept, in normal form C; anything else becomes
    "_". Whatever differs from the label after that, or by case alone from another label's name, gets "~" and six
    characters of the label's SHA-256: no two labels share a file, also where the file system ignores case.
    """
    composed = unicodedata.normalize("NFC", label)
    kept = "".join(
        c if c in " -_" or unicodedata.category(c)[0] in "LMN" or unicodedata.category(c) == "So" else "_"
        for c in composed
    ).strip(" -")
    folded = unicodedata.normalize("NFC", kept.casefold())
    if kept and kept == folded == label and len(kept.encode()) <= _NAME_BYTES:
        return kept
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()
    tag = "~" + base64.b32encode(digest)[:6].decode().lower()
    return (kept or "class").encode()[: _NAME_BYTES - len(tag)].decode(errors="ignore").rstrip() + tag
