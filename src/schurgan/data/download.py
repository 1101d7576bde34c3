"""Public data sets from where their authors keep them: fetched, checked, unpacked, and put in place whole or not.

The standard library does the fetching: pooch and its like do not go on with a partial file of gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from schurgan.core.errors import SchurganError, did_you_mean, one_line, writing
from schurgan.core.files import lock, open_regular, sync_folder
from schurgan.core.progress import Bar
from schurgan.data.sources import Source, open_source
from schurgan.data.unpack import BLOCK, MB, DamagedArchive, unpack
from schurgan.version import __version__

STALLED = 1024  # bytes in `Patience.stall` seconds below which a server counts as stalled
BUSY = (408, 425, 429, 500, 502, 503, 504)  # statuses of a server that may answer otherwise in a moment


@dataclass(frozen=True)
class Remote:
    """An archive of a data set."""

    url: str
    size: int  # in bytes, roughly
    md5: str | None  # None where its authors publish none and its bytes may change
    folder: str  # that it is unpacked to
    inside: str | None  # pattern of the folder inside it that holds the data; None for all of it


REMOTES = {
    # GitHub makes its archives anew from time to time, with other bytes: no checksum of one can hold. The address names
    # a commit, so the content cannot change, and the ZIP's own checksum of every file is checked as it is unpacked.
    "esc50": Remote(
        "https://github.com/karolpiczak/ESC-50/archive/33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6.zip",
        646 * MB,
        None,
        "ESC-50-master",
        "ESC-50-*",
    ),
    "urbansound8k": Remote(
        "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
        6_023 * MB,
        "9aa69802bbf37fb986f71ec1483a196e",
        "UrbanSound8K",
        "UrbanSound8K",
    ),
    "cifar10": Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        170 * MB,
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        "cifar-10-batches-py",
    ),
}
_HOW = (
    "common_voice: given to those who agree to its terms, at https://mozilladatacollective.com; do so, make an API "
    "key there, then `pip install datacollective`, set MDC_API_KEY to the key and call this with --release and the id "
    "at the end of the data set's address, or unpack a release yourself, which `schurgan prepare common_voice` reads"
)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    stall: float = 60.0  # seconds without a byte
    tries: int = 5  # in a row that bring less than 1 MB
    pause: float = 1.0  # seconds before the second try, doubled before each later one


def download(
    name: str,
    out: str | Path,
    *,
    release: str | None = None,
    patience: Patience | None = None,
    remotes: dict[str, Remote] = REMOTES,
) -> tuple[Path, Source]:
    """Fetch a public data set, or go on with what an earlier call fetched of it.

    A folder that is there already is left alone. The archive is checked, unpacked beside its place, opened as a source,
    and renamed into place last, so whatever stops this leaves no folder or a whole one; then the archive is removed.

    Args:
        name: a data set in `remotes`, or "common_voice", which Mozilla's own client fetches.
        out: folder that the data set's folder is put in.
        release: id of a data set at Mozilla Data Collective, for "common_voice".
        patience: how long to wait for the server.
        remotes: archives by the names of their sources.

    Returns:
        The unpacked folder and the source in it.
    """
    out = Path(out).expanduser()
    if name != "common_voice" and name not in remotes:
        known = [*remotes, "common_voice"]
        raise SchurganError(f'"{name}": no such download{did_you_mean(name, known) or "; one of " + ", ".join(known)}')
    if (release is not None) != (name == "common_voice"):
        raise SchurganError(_HOW if release is None else f"{name}: has no releases; they are common_voice's")
    remote = remotes.get(name) or Remote("", 0, None, f"common_voice-{release}", None)
    if Path(remote.folder).name != remote.folder:
        raise SchurganError(f"common_voice: {release} given, an id without slashes is needed")
    final = out / remote.folder
    with writing(final, "; what came so far is kept, and the same command goes on with it"), lock(final, beside=True):
        if not final.exists():
            archive = _fetch(remote, out, patience or Patience()) if not release else _client(release, out)
            try:
                unpack(archive, final, remote.inside, partial(open_source, name))
            except SchurganError as error:
                archive.unlink()
                anew = ", the same command fetches it anew" * isinstance(error, DamagedArchive)
                raise SchurganError(f"{error}; the archive was removed{anew}") from None
            archive.unlink()
        return final, open_source(name, final)


def _client(release: str, out: Path) -> Path:
    """The archive of a release of Common Voice, by Mozilla's client, which resumes and checks it itself."""
    try:
        from datacollective import download_dataset  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SchurganError(_HOW) from None
    try:
        return Path(download_dataset(release, download_directory=str(out)))
    except Exception as error:  # of another project, which documents a dozen kinds of them
        reason = f"Mozilla's client could not fetch {release} ({one_line(error)})"
        raise SchurganError(f"common_voice: {reason}; {_HOW}") from None


def _fetch(remote: Remote, out: Path, patience: Patience) -> Path:
    """The whole archive, its checksum right. What is there under its final name was checked before."""
    archive = out / (remote.folder + (".zip" if remote.url.endswith(".zip") else ".tar.gz"))
    if archive.exists():
        return archive
    unfinished = archive.with_name(f".{archive.name}.partial")
    free, needed = shutil.disk_usage(out).free // MB, 2 * remote.size // MB
    if free < needed:
        raise SchurganError(f"{out}: {free} MB are free; {needed} MB, twice the archive, are needed")
    with open_regular(unfinished, "ab") as file:
        if remote.md5 is None:
            _empty(file)  # nothing would tell whether two halves belong together
        resumed = file.tell() > 0
        _transfer(remote, file, patience)
        if resumed and not _is_right(remote, unfinished):
            _empty(file)  # the half that was there may be to blame
            _transfer(remote, file, patience)
    if not _is_right(remote, unfinished):
        unfinished.unlink()
        raise SchurganError(
            f"{remote.url}: what came is not what its authors published, by its checksum; it was removed"
        )
    os.replace(unfinished, archive)
    sync_folder(out)
    return archive


def _is_right(remote: Remote, path: Path) -> bool:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return remote.md5 in (None, digest)


class _Broken(Exception):
    """A transfer ended early; another try may bring the rest."""


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _transfer(remote: Remote, file: IO[bytes], patience: Patience) -> None:
    """Append to `file` what it lacks of the archive, in as many tries as bring any."""
    failures = 0
    with Bar("download", remote.size // MB, "MB", file.tell() // MB) as bar:
        while True:
            start = file.tell()
            try:
                _request(remote.url, file, bar, patience)
                file.flush()
                os.fsync(file.fileno())
                return
            except _Broken as broken:
                failures = failures + 1 if file.tell() < start + MB else 1
                if failures >= patience.tries:
                    raise SchurganError(f"{remote.url}: {broken}; the same command tries again later") from None
                bar.update(file.tell() // MB, f"{broken}; trying again")
                time.sleep(patience.pause * 2 ** (failures - 1))


def _request(url: str, file: IO[bytes], bar: Bar, patience: Patience) -> None:
    """One request for what is missing. _Broken where another may bring more, SchurganError where none will."""
    start = file.tell()
    headers = {"User-Agent": f"schurgan/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        reply = build_opener(_Redirects).open(Request(url, headers=headers), timeout=patience.stall)
    except HTTPError as error:
        if error.code == 416 and start:  # as long as the file or longer: the checksum tells
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                return
            _empty(file)
            raise _Broken("the server has a shorter file") from None
        status = f"the server answers {error.code} ({one_line(error.reason)})"
        raise _Broken(status) if error.code in BUSY else SchurganError(f"{url}: {status}") from None
    except (OSError, HTTPException) as error:
        raise _Broken(_reason(error)) from None
    with reply:
        if start and (reply.status != 206 or f"bytes {start}-" not in reply.headers.get("Content-Range", "")):
            _empty(file)  # the server begins at the beginning
        length = reply.headers.get("Content-Length", "")
        expected = file.tell() + int(length) if length.isdecimal() else 0
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
                if file.tell() - before < STALLED:
                    raise _Broken("the server has all but stopped sending")
                since, before = time.monotonic(), file.tell()
    if file.tell() < expected:
        raise _Broken(f"cut off after {file.tell() // MB} of {expected // MB} MB")


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    return f"the connection failed ({one_line(getattr(error, 'strerror', None) or error)})"


class _Redirects(HTTPRedirectHandler):
    """Follows a redirection, but not from an encrypted address to an open one."""

    def redirect_request(
        self, request: Request, reply: IO[bytes], code: int, message: str, headers: HTTPMessage, address: str
    ) -> Request | None:
        if request.type == "https" and not address.lower().startswith("https:"):
            raise SchurganError(f"{request.full_url}: leads to {address}, which is not encrypted")
        return super().redirect_request(request, reply, code, message, headers, address)
