"""Archives of data sets that are damaged or mean harm."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from file_server import QUICK, fetched, left, refusal, tar
from layouts import cifar10, esc50, urbansound8k

from schurgan.core.errors import SchurganError
from schurgan.data.download import REMOTES, Remote, download


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"harm"):
    def add(packed: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        packed.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

    return add


def many(packed: tarfile.TarFile) -> None:
    for number in range(3000):
        entry(f"cifar-10-batches-py/{number}", data=b"")(packed)


def long_header(packed: tarfile.TarFile) -> None:
    """A header of 2 GB for the name of the next file, which shrinks to a thousandth."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 2**31
    packed.fileobj.write(info.tobuf() + bytes(4096))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (many, "more than ten times its size"),
        (long_header, "a header of 2147483648 bytes"),
        (entry("../outside"), "outside"),
        (entry("cifar-10-batches-py/../../outside"), "outside"),
        (entry("cifar-10-batches-py/link", tarfile.SYMTYPE, "/etc"), "link"),
        (entry("cifar-10-batches-py/hard", tarfile.LNKTYPE, "../../outside"), "link"),
        (entry("cifar-10-batches-py/pipe", tarfile.FIFOTYPE), "pipe"),
        (entry("cifar-10-batches-py/bomb", data=bytes(30_000_000)), "more than ten times its size"),
    ],
)
def test_an_archive_that_means_harm_writes_nothing(server, tmp_path, extra, told):
    data = tar(cifar10(tmp_path / "made", count=1), "cifar-10-batches-py", extra)
    out = tmp_path / "out"
    assert told in refusal(server, data, out)
    assert left(tmp_path) == {"made"}


@pytest.mark.parametrize("name", ["{}/outside", "..\\outside"])
def test_a_name_that_would_lead_out_elsewhere_is_a_plain_name_in_the_scratch_folder(server, tmp_path, name):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    data = tar(cifar10(tmp_path / "made", count=8), "cifar-10-batches-py", entry(name.format(outside)))
    fetched(server, data, tmp_path / "out")
    assert left(outside) == set()
    assert left(tmp_path) == {"made", "out", "elsewhere"}


def zipped(entries: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK if name == link else stat.S_IFREG) << 16
            packed.writestr(info, content)
    return buffer.getvalue()


def esc50_zip(folder: Path) -> dict[str, bytes]:
    made = esc50(folder)
    return {f"ESC-50-33c8/{path.relative_to(made)}": path.read_bytes() for path in made.rglob("*") if path.is_file()}


def test_a_zip_is_unpacked_under_the_usual_name_and_its_checksums_count(server, tmp_path, renamed_and_synced):
    server.data = zipped(esc50_zip(tmp_path / "made"))
    official = REMOTES["esc50"]
    remote = {"esc50": Remote(server.url[: -len("tar.gz")] + "zip", 9, None, official.folder, official.inside)}
    home, source = download("esc50", tmp_path / "out", patience=QUICK, remotes=remote)
    assert home == tmp_path / "out" / "ESC-50-master"
    assert renamed_and_synced(home)
    assert len(source.items()) == 4
    wave = server.data.index(b"RIFF") + 100
    server.data = server.data[:wave] + b"\0\1\2\3" + server.data[wave + 4 :]
    with pytest.raises(SchurganError, match=r"damaged \(Bad CRC-32"):
        download("esc50", tmp_path / "other", patience=QUICK, remotes=remote)
    harm = esc50_zip(tmp_path / "again") | {"ESC-50-33c8/x": b"/etc/passwd", "../y": b"", "/z": b""}
    server.data = zipped(harm, link="ESC-50-33c8/x")
    home, _ = download("esc50", tmp_path / "third", patience=QUICK, remotes=remote)
    assert not (home / "x").is_symlink()
    assert left(tmp_path / "third") == {"ESC-50-master"}
    assert left(tmp_path) == {"made", "again", "out", "third"}


def test_an_archive_of_another_data_set_is_not_put_into_place(server, tmp_path):
    data = tar(urbansound8k(tmp_path / "made"), "UrbanSound8K")
    assert "the folder that CIFAR-10 unpacks to is needed" in refusal(server, data, tmp_path / "out")
    assert left(tmp_path) == {"made"}
