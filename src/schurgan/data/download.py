"""Public data sets from where their authors keep them: fetched, checked, unpacked, and put in place whole or not.

The standard library does the fetching. What it takes beyond one request is going on with a partial file of gigabytes,
which pooch and its like do not do; the checksum and the rename that they would do are a line each.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from schurgan.core.errors import UserError, did_you_mean, writing
from schurgan.core.files import sync_folder
from schurgan.data.sources import Source, open_source
from schurgan.data.transfer import MB, Meter, Patience, Silent, empty, one_line, transfer
from schurgan.data.unpack import unpack


@dataclass(frozen=True)
class Remote:
    """An archive. size: its bytes, about. md5: of the archive, None where its authors publish none and it may change.

    folder: what it is unpacked to. inside: the folder with the data inside the archive, as a pattern.
    """

    url: str
    size: int
    md5: str | None
    folder: str
    inside: str | None

    @property
    def archive(self) -> str:
        return self.folder + (".zip" if self.url.endswith(".zip") else ".tar.gz")


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


def download(
    name: str,
    out: str | Path,
    *,
    release: str | None = None,
    meter: Meter = Silent,
    patience: Patience | None = None,
    remotes: dict[str, Remote] = REMOTES,
) -> tuple[Path, Source]:
    """Have the data set `name` in a folder in `out`, and return that folder and the source in it.

    What is there already is left alone. A partial download is continued where the server allows it, or begun anew. The
    archive is checked, unpacked beside its place, opened as a source, and renamed into place last, so whatever stops
    this leaves no folder or a whole one; then the archive is removed. `release` is Common Voice's alone: the id of a
    data set at Mozilla Data Collective, whose own client then fetches it.

    Raises UserError, one sentence, for unknown names, servers that do not give the file, archives that are not what
    they should be or lead out of their folder, full disks, and a second download into the same folder at once.
    """
    out = Path(out).expanduser()
    if name != "common_voice" and name not in remotes:
        known = [*remotes, "common_voice"]
        raise UserError(f'"{name}": no such download{did_you_mean(name, known) or "; one of " + ", ".join(known)}')
    if (release is not None) != (name == "common_voice"):
        raise UserError(_HOW if release is None else f"{name}: has no releases; they are common_voice's")
    remote = remotes.get(name) or Remote("", 0, None, f"common_voice-{release}", None)
    if Path(remote.folder).name != remote.folder:
        raise UserError(f"common_voice: {release} given, an id without slashes is needed")
    final = out / remote.folder
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with writing(final, "; what came so far is kept, and the same command goes on with it"), _alone(final):
        if not final.exists():
            if release is not None:
                archive = _fetch_common_voice(release, out)
            else:
                archive = out / remote.archive
                _fetch(remote, archive, meter, patience or Patience())
            unpack(archive, final, remote.inside, partial(open_source, name), meter)
            archive.unlink()
        return final, open_source(name, final)


_HOW = (
    "common_voice: given to those who agree to its terms, at https://mozilladatacollective.com; do so, make an API "
    "key there, then `pip install datacollective`, set MDC_API_KEY to the key and call this with --release and the id "
    "at the end of the data set's address, or unpack a release yourself, which `schurgan prepare common_voice` reads"
)


def _fetch_common_voice(release: str, out: Path) -> Path:
    """The archive of a release, by Mozilla's client, which resumes and checks it itself."""
    try:
        from datacollective import download_dataset  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError(_HOW) from None
    try:
        return Path(download_dataset(release, download_directory=str(out)))
    except Exception as error:  # of another project, which documents a dozen kinds of them
        raise UserError(
            f"common_voice: Mozilla's client could not fetch {release} ({one_line(error)}); {_HOW}"
        ) from None


@contextlib.contextmanager
def _alone(final: Path) -> Iterator[None]:
    """Only one process at a time works on `final`; the system frees the lock of one that was killed."""
    path = final.with_name(f".{final.name}.lock")
    with open(path, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{final}: another process is downloading it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _fetch(remote: Remote, archive: Path, meter: Meter, patience: Patience) -> None:
    """The whole archive at its place, its checksum right. What is there under its final name was once checked."""
    if archive.exists():
        return
    unfinished = archive.with_name(f".{archive.name}.partial")
    free = shutil.disk_usage(archive.parent).free
    if free < 2 * remote.size:
        raise UserError(
            f"{archive.parent}: {free // MB} MB are free; {2 * remote.size // MB} MB, twice the archive, are needed"
        )
    with open(unfinished, "ab") as file:
        if remote.md5 is None:
            empty(file)  # nothing would tell whether two halves belong together
        resumed = file.tell() > 0
        transfer(remote.url, file, remote.size, meter, patience)
        if resumed and not _is_right(remote, unfinished):
            empty(file)  # the half that was there may be to blame
            transfer(remote.url, file, remote.size, meter, patience)
    if not _is_right(remote, unfinished):
        unfinished.unlink()
        raise UserError(f"{remote.url}: what came is not what its authors published (MD5 {remote.md5}); it was removed")
    os.replace(unfinished, archive)
    sync_folder(archive.parent)


def _is_right(remote: Remote, path: Path) -> bool:
    if remote.md5 is None:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == remote.md5
