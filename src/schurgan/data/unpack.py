"""Archives of data sets: their files put into place together or not at all, and nowhere else than in their folder."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from schurgan.core.errors import UserError
from schurgan.core.files import sync_folder
from schurgan.data.transfer import BLOCK, MB, Meter, one_line


def unpack(archive: Path, final: Path, inside: str | None, check: Callable[[Path], object], meter: Meter) -> None:
    """The folder `inside` (a pattern; None: everything) of a ZIP or tar archive as `final`, all of its files or none.

    `check` is called with the unpacked folder before it is put into place, and raises UserError if it does not do. An
    archive that is damaged or means harm is removed. Raises UserError for one, OSError as the file system does.
    """
    scratch = final.with_name(f".{final.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with meter("unpack", archive.stat().st_size // MB, "MB", 0) as bar:
            left = 10 * archive.stat().st_size + MB  # sound and pictures do not shrink to a tenth
            for member, size, content, position in _members(archive):
                path = PurePosixPath(member)
                if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
                    raise UserError(f'{archive}: holds "{member}", which leads out of its folder; it was removed')
                left -= size
                if left < 0:
                    raise UserError(f"{archive}: unpacks to more than ten times its size; it was removed")
                if not any(part.startswith(".") for part in path.parts):  # litter of file managers
                    target = scratch / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content() as inner, open(target, "xb") as file:
                        shutil.copyfileobj(inner, file, BLOCK)
                bar.update(position // MB)
        home = next(iter(sorted(scratch.glob(inside))), scratch) if inside else scratch
        check(home)
        os.sync()
        os.replace(home, final)
        sync_folder(final.parent)
    except UserError:
        archive.unlink()
        raise
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:
        archive.unlink()
        raise UserError(
            f"{archive}: damaged ({one_line(error)}); it was removed, the same command fetches it anew"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], Any], int]]:
    """(name, bytes, how it is opened, bytes of the archive read so far) of every file. Links are refused.

    The content alone is taken: no modes, owners, or anything else that an archive may ask for.
    """
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise UserError(f'{archive}: "{info.filename}" is a link; it was removed')
                if not info.is_dir():
                    yield info.filename, info.file_size, partial(packed.open, info), info.header_offset
    else:
        with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
            for entry in tar:
                if not (entry.isreg() or entry.isdir()):
                    raise UserError(f'{archive}: "{entry.name}" is a link or a device; it was removed')
                if entry.isreg():
                    yield entry.name, entry.size, partial(tar.extractfile, entry), raw.tell()
            while tar.fileobj is not None and tar.fileobj.read(BLOCK):
                pass  # to the end of the compressed stream, where its checksum is
