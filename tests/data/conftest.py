"""What tests of data sets share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from file_server import Server, tar
from layouts import cifar10


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
