"""Downloads from a server on this machine, which may fail in every way."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import types
from pathlib import Path
from urllib.request import Request

import pytest
from file_server import PARTIAL, QUICK, fetched, left, refusal, remotes, tar
from layouts import common_voice

from schurgan.core.errors import SchurganError
from schurgan.data import download as module
from schurgan.data.download import REMOTES, Patience, Remote, _Redirects, download

# --- servers that do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["well", "redirects", "chunks", "no length", "ignores Range"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_data_set_is_fetched_and_unpacked_and_nothing_else_is_left(server, good, tmp_path, how, checked):
    home = fetched(server, good, tmp_path / "deep" / "out", how, checked=checked)
    assert home == tmp_path / "deep" / "out" / "cifar-10-batches-py"
    assert not (home / "._readme.html").exists()


def test_what_is_there_is_not_fetched_again(server, good, tmp_path):
    fetched(server, good, tmp_path)
    asked = len(server.asked)
    fetched(server, good, tmp_path)
    assert len(server.asked) == asked


# --- servers that recover ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["truncates", "half a chunk", "stalls", "trickles", "500", "503", "429", "nonsense"])
def test_a_server_that_fails_twice_is_asked_three_times(server, good, tmp_path, how):
    fetched(server, good, tmp_path, how, times=2)
    assert len(server.asked) == 3
    came = how in ("truncates", "half a chunk", "stalls", "trickles")
    assert [wanted is not None for wanted in server.asked] == [False, came, came]  # it goes on where it was


def test_a_stopped_download_goes_on_where_it_was(server, good, tmp_path):
    (tmp_path / PARTIAL).write_bytes(good[:1000])
    fetched(server, good, tmp_path)
    assert server.asked == ["bytes=1000-"]


def test_a_partial_file_of_other_bytes_is_begun_anew(server, good, tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"x" * 1000)
    fetched(server, good, tmp_path)
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("extra", [0, 7])
def test_a_partial_file_as_long_as_the_whole_or_longer_is_checked(server, good, tmp_path, extra):
    (tmp_path / PARTIAL).write_bytes(good + bytes(extra))
    fetched(server, good, tmp_path)
    assert server.asked == ([f"bytes={len(good)}-"] if not extra else [f"bytes={len(good) + extra}-", None])


def test_a_server_that_ignores_range_begins_anew(server, good, tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"x" * 1000)
    fetched(server, good, tmp_path, "ignores Range")
    assert server.asked == ["bytes=1000-"]


def test_without_a_checksum_two_halves_are_never_put_together(server, good, tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"x" * 1000)
    fetched(server, good, tmp_path, checked=False)
    assert server.asked == [None]


# --- servers that do not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told", "requests"),
    [
        ("404", "the server answers 404 (Not Found)", 1),
        ("403", "the server answers 403 (Forbidden)", 1),
        ("410", "the server answers 410 (Gone)", 1),
        ("500", "the server answers 500 (Internal Server Error); the same command tries again", 3),
        ("stalls", "the server does not answer", 3),
        ("trickles", "the server has all but stopped sending", 3),
        ("nonsense", "the connection failed (", 3),
        ("in circles", "the server answers 302", 1),
    ],
)
def test_a_server_that_does_not_give_it_is_one_sentence(server, good, tmp_path, how, told, requests):
    assert told in refusal(server, good, tmp_path, how)
    assert how == "in circles" or len(server.asked) == requests
    assert left(tmp_path) <= {PARTIAL}


@pytest.mark.parametrize("how", ["truncates", "half a chunk"])
def test_a_server_that_always_breaks_off_is_given_up_and_its_part_is_kept(server, good, tmp_path, how):
    refusal(server, good, tmp_path, how)
    assert len(server.asked) == 3
    part = (tmp_path / PARTIAL).read_bytes()
    assert good.startswith(part)
    assert len(part) > len(good) // 2
    fetched(server, good, tmp_path)  # and the same command goes on


def test_a_corrupt_archive_is_removed(server, good, tmp_path):
    assert "is not what its authors published" in refusal(server, good, tmp_path, "corrupts")
    assert left(tmp_path) == set()


@pytest.mark.parametrize("spoil", ["corrupts", "half", "text"])
def test_an_archive_without_a_checksum_that_is_damaged_is_removed(server, good, tmp_path, spoil):
    """Without a length and a checksum, only unpacking tells."""
    data = {"corrupts": good, "half": good[: len(good) // 2], "text": b"<html>Sign in</html>"}[spoil]
    how = "corrupts" if spoil == "corrupts" else "no length"
    assert "damaged (" in refusal(server, data, tmp_path, how, checked=False)
    assert left(tmp_path) == set()


def test_no_server_at_all_is_one_sentence(server, good, tmp_path):
    server.close()
    for url, told in (
        (server.url, "Connection refused"),
        ("http://no-such-host.invalid/x.tar.gz", "connection failed"),
    ):
        with pytest.raises(SchurganError, match=told):
            download("cifar10", tmp_path, patience=QUICK, remotes=remotes(server, good, url=url))


def test_an_encrypted_address_does_not_lead_to_an_open_one():
    with pytest.raises(SchurganError, match="not encrypted"):
        _Redirects().redirect_request(
            Request("https://a.example/x"), io.BytesIO(), 302, "Found", {}, "http://a.example/"
        )
    followed = _Redirects().redirect_request(
        Request("https://a.example/x", headers={"Range": "bytes=5-"}),
        io.BytesIO(),
        302,
        "Found",
        {},
        "https://b.example/",
    )
    assert followed.get_header("Range") == "bytes=5-"


# --- the file system, and others who want the same --------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_what_came_is_kept(server, good, tmp_path, full_disk):
    with full_disk(after=0):
        assert "cannot be written (No space left on device)" in refusal(server, good, tmp_path)
    assert left(tmp_path) <= {PARTIAL}
    fetched(server, good, tmp_path)
    huge = {"cifar10": Remote(server.url, 10**18, None, "huge", "huge")}
    with pytest.raises(SchurganError, match="MB are free; 2000000000000 MB, twice the archive, are needed"):
        download("cifar10", tmp_path, remotes=huge)


def test_an_interrupt_while_unpacking_leaves_the_checked_archive_for_the_next_call(server, good, tmp_path, monkeypatch):
    server.data = good

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "open_source", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download("cifar10", tmp_path, patience=QUICK, remotes=remotes(server, good))
    assert left(tmp_path) == {"cifar-10-batches-py.tar.gz"}
    asked = len(server.asked)
    fetched(server, good, tmp_path)
    assert len(server.asked) == asked


def test_two_at_once_do_not_disturb_each_other(server, good, tmp_path):
    server.data, server.how, server.times = good, "stalls", 1
    first: list[object] = []
    slow = Patience(stall=5, tries=3, pause=0.01)
    work = threading.Thread(
        target=lambda: first.append(download("cifar10", tmp_path, patience=slow, remotes=remotes(server, good)))
    )
    work.start()
    while not server.asked:
        time.sleep(0.01)
    with pytest.raises(SchurganError, match="in use by"):
        download("cifar10", tmp_path, patience=QUICK, remotes=remotes(server, good))
    work.join()
    assert len(first) == 1
    assert left(tmp_path) == {"cifar-10-batches-py"}


def test_a_link_in_place_of_a_partial_file_or_of_the_folder_to_unpack_to_is_not_followed(server, good, tmp_path):
    server.data, victim = good, tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_bytes(b"mine")
    for name, target in ((PARTIAL, victim / "mine"), (".cifar-10-batches-py.unpacking", victim)):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(target)
        with pytest.raises(SchurganError, match="cannot be written"):
            download("cifar10", tmp_path / "data", patience=QUICK, remotes=remotes(server, good))
        (tmp_path / "data" / name).unlink()
    assert [(path.name, path.read_bytes()) for path in victim.iterdir()] == [("mine", b"mine")]


# --- names, the command, Common Voice ---------------------------------------------------------------------------------


def test_the_command_says_what_came_and_what_is_next(call, server, good, tmp_path, monkeypatch):
    server.data = good
    monkeypatch.setitem(REMOTES, "cifar10", remotes(server, good)["cifar10"])
    said = call("download", "cifar10", "--out", tmp_path)
    assert said.status == 0
    home = tmp_path / "cifar-10-batches-py"
    assert said.out == f"48 items in {home}; `schurgan prepare cifar10 {home} --out DIR` is next\n"


def test_the_command_refuses_in_one_sentence(refused, server, good, tmp_path, monkeypatch):
    server.data, server.how = good, "404"
    monkeypatch.setitem(REMOTES, "cifar10", remotes(server, good)["cifar10"])
    assert "404 (Not Found)" in refused("download", "cifar10", "--out", tmp_path)
    assert 'did you mean "cifar10"?' in refused("download", "cifar", "--out", tmp_path)
    assert "has no releases" in refused("download", "esc50", "--release", "x", "--out", tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("download", "cifar10", "--out", tmp_path / "file")


def test_the_public_addresses_are_encrypted_and_the_published_checksums_are_there():
    assert all(remote.url.startswith("https://") for remote in REMOTES.values())
    assert {name for name, remote in REMOTES.items() if remote.md5} == {"urbansound8k", "cifar10"}


def test_common_voice_without_its_client_says_how_to_get_it(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datacollective", None)
    for arguments in ((), ("--release", "abc")):
        told = refused("download", "common_voice", *arguments, "--out", tmp_path)
        assert "`pip install datacollective`, set MDC_API_KEY" in told
        assert "https://mozilladatacollective.com" in told
    assert "an id without slashes is needed" in refused(
        "download", "common_voice", "--release", "../x", "--out", tmp_path
    )


def test_common_voice_comes_through_its_client(call, refused, tmp_path, monkeypatch):
    data = tar(common_voice(tmp_path / "made" / "cv-corpus-20"), "cv-corpus-20")
    client = types.ModuleType("datacollective")

    def give(dataset: str, download_directory: str) -> Path:
        if dataset != "abc":
            raise PermissionError("Access denied. Private dataset\nrequires organization membership")
        path = Path(download_directory) / "common-voice-20.tar.gz"
        path.write_bytes(data)
        return path

    client.download_dataset = give
    monkeypatch.setitem(sys.modules, "datacollective", client)
    out = tmp_path / "out"
    said = call("download", "common_voice", "--release", "abc", "--out", out)
    assert said.status == 0, said
    assert said.out.startswith(f"6 items in {out / 'common_voice-abc'};")
    assert os.listdir(out) == ["common_voice-abc"]
    assert "Access denied" in refused("download", "common_voice", "--release", "other", "--out", out)
