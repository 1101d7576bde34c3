"""What tests of data sets share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Server, tar
from layouts import SMALL, checksums, cifar10, write_clips

from schurgan.data import prepare
from schurgan.data.sources.folder import open_folder


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive of CIFAR-10 as its authors pack it, of random pixels: 150 KB that do not shrink."""
    folder = cifar10(tmp_path_factory.mktemp("cifar") / "made", count=8)
    (folder / "._readme.html").write_text("litter of a file manager")
    return tar(folder, "cifar-10-batches-py")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), {"bell": 24, "drum": 30, "horn": 26})


@pytest.fixture(scope="session")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of what one process makes of the clips, five shards of 16, without a break."""
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(open_folder(clips), out, SMALL, shard_clips=16, workers=1)
    return checksums(out)
