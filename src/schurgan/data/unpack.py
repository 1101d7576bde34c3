"""Archives, unpacked whole or not at all: no links, no way out of the folder, and no more than their size promises."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from schurgan.core.errors import SchurganError, one_line, writing
from schurgan.core.files import atomic_write, lock, open_regular, sync_folder
from schurgan.core.progress import Bar

MB = 1_000_000
ENTRY = 4096  # bytes that a file takes on a disk beside its content
BLOCK = 2**18
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
OTHER_ARCHIVES = (".rar", ".7z", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz")
MARK = ".schurgan-archive.json"
"""In a folder that `unpacked` made: size and time of the archive."""


class DamagedArchive(SchurganError):
    """An archive that cannot be unpacked to its end."""


def unpacked(archive: Path) -> Path:
    """The folder beside an archive, NAME.unpacked, that holds its files; made unless it is there from an earlier call.

    Raises:
        SchurganError: the archive is damaged, means harm, or unpacks to a hundred times its size; or a folder of that
            name is not ours.
    """
    suffix = next((each for each in ARCHIVES if archive.name.lower().endswith(each)), None)
    if suffix is None:
        raise SchurganError(f"{archive}: archives of this kind are not read, {', '.join(ARCHIVES)} are; unpack it")
    final = archive.with_name(f"{archive.name[: -len(suffix)]}.unpacked")
    status = archive.stat()
    mark = json.dumps({"bytes": status.st_size, "time": status.st_mtime_ns})
    with writing(final), lock(final, beside=True):
        if os.path.lexists(final):
            if final.is_symlink() or not (final / MARK).is_file():
                raise SchurganError(f"{final}: is in the way of what {archive.name} unpacks to; rename it")
            if (final / MARK).read_text("utf-8") == mark:
                return final
            shutil.rmtree(final)  # of the archive as it was before

        def note(home: Path) -> None:
            with atomic_write(home / MARK, "w") as file:
                file.write(mark)

        unpack(archive, final, None, note, times=100)
    return final


def unpack(archive: Path, final: Path, inside: str | None, check: Callable[[Path], object], *, times: int = 10) -> None:
    """Unpack the folder `inside` (a pattern; None: everything) of an archive to `final`, once `check` has opened it.

    Raises:
        SchurganError: the archive holds anything but files inside the folder, or more than `times` its size.
        DamagedArchive: it cannot be read to its end.
    """
    scratch = final.with_name(f".{final.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()  # which it must not be already: through a link files would go elsewhere
    damaged = tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError
    try:
        with Bar("unpack", archive.stat().st_size // MB, "MB") as bar:
            left = times * archive.stat().st_size + MB  # sound and pictures do not shrink to a tenth
            for name, size, extract, position in _members(archive):
                left -= size + ENTRY
                if left < 0:
                    raise SchurganError(f"{archive}: unpacks to more than {_TIMES[times]} times its size")
                parts = name.split("/")
                if parts[0] != "__MACOSX" and not any(part.startswith(".") and part != ".." for part in parts):
                    extract(path=scratch)  # not what file managers leave
                bar.update(position // MB)
        home = next(iter(sorted(scratch.glob(inside))), scratch) if inside else scratch
        check(home)
        os.sync()
        os.replace(home, final)
        sync_folder(final.parent)
    except SchurganError:
        raise
    except damaged as error:
        raise DamagedArchive(f"{archive}: damaged ({one_line(error)})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


_TIMES = {10: "ten", 100: "a hundred"}


class _Blocks:
    """Of an archive a header or a block is read at once; a header of gigabytes is not."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MB:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[..., Any], int]]:
    """(name, bytes, what extracts it to a path, bytes of the archive read so far) of every file."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as packed:  # its extract() makes no links, and drops ".." and a leading "/"
            for info in packed.infolist():
                yield info.filename, info.file_size, partial(packed.extract, info), info.header_offset
        return
    with open_regular(archive) as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(IO[bytes], _Blocks(gzip.GzipFile(fileobj=raw) if compressed else raw))
        yield from _of_tar(archive, file, raw)


def _of_tar(archive: Path, file: IO[bytes], raw: IO[bytes]) -> Iterator[tuple[str, int, Callable[..., Any], int]]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        # Python has that filter since 3.11.4; what it refuses is refused here, and a link, which led around it.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        for entry in tar:
            if not (entry.isfile() or entry.isdir()):
                raise SchurganError(f'{archive}: "{entry.name}" is a link or a device')
            if ".." in PurePosixPath(entry.name).parts:
                raise tarfile.ReadError(f'"{entry.name}" leads outside')
            entry.name = entry.name.lstrip("/")
            yield entry.name, entry.size, partial(tar.extract, entry, set_attrs=False), raw.tell()
        while tar.fileobj is not None and tar.fileobj.read(BLOCK):
            pass  # to the end of the compressed stream, where its checksum is
