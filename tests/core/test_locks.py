from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schurgan.core import files
from schurgan.core.errors import SchurganError
from schurgan.core.files import atomic_write, clear_leftovers, lock, open_regular, write_json


@pytest.mark.parametrize("mode", ["ab", "wb", "r+b", "xb"])
def test_a_link_is_never_written_through(tmp_path, mode):
    victim, link = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_bytes(b"mine")
    link.symlink_to(victim)
    with pytest.raises(OSError, match=r"link|exists"):
        open_regular(link, mode)
    assert victim.read_bytes() == b"mine"
    assert open_regular(link).read() == b"mine"  # reading one's own data through links is fine


@pytest.mark.parametrize("mode", ["rb", "ab", "r+b"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link to a device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind, mode):
    path = tmp_path / "state.pt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"regular|link|directory"):
        open_regular(path, mode)


def test_a_whole_file_takes_the_place_of_a_link_and_leaves_its_target(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "scores.json"
    victim.write_bytes(b"mine")
    link.symlink_to(victim)
    write_json(link, {})
    assert victim.read_bytes() == b"mine"
    assert not link.is_symlink()


def in_another_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Python that runs `program` after the imports, and is ready when it has said so."""
    text = "import os, signal, sys, time\nfrom schurgan.core.files import atomic_write, lock\n" + program
    process = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


HOLDER = "with lock(sys.argv[1]):\n    print('ready', flush=True)\n    time.sleep(60)\n"


def test_a_locked_folder_names_the_process_that_holds_it_until_a_kill_frees_it(tmp_path):
    folder = tmp_path / "run"
    process = in_another_process(HOLDER, folder)
    with pytest.raises(SchurganError) as caught, lock(folder):
        raise AssertionError("two at a time")
    assert str(folder) in str(caught.value)
    assert f"process {process.pid} " in str(caught.value)
    assert "python" in str(caught.value)
    assert time.strftime("%Y-%m-%d") in str(caught.value)
    process.kill()
    process.communicate()
    with lock(folder):
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_that_the_lock_made_is_gone_when_nothing_was_put_there(tmp_path):
    with lock(tmp_path / "runs" / "one"):
        assert (tmp_path / "runs" / "one").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_lock_is_had_when_the_other_process_has_ended(tmp_path, capsys):
    holder = HOLDER.replace("60", "0.3")
    process = in_another_process(holder, tmp_path)
    with lock(tmp_path, wait=True):
        assert process.wait(5) == 0
    process.communicate()
    assert f"process {process.pid} " in capsys.readouterr().err


def test_a_thread_takes_its_own_lock_again_and_another_thread_does_not(tmp_path):
    def from_another_thread() -> None:
        with pytest.raises(SchurganError, match=f"process {os.getpid()} "), lock(tmp_path):
            raise AssertionError("two at a time")

    with lock(tmp_path), lock(tmp_path):
        thread = ThreadPoolExecutor(1)
        thread.submit(from_another_thread).result()
    thread.submit(lambda: lock(tmp_path).__enter__()).result()


def test_a_lock_beside_lets_other_names_in_the_folder_be(tmp_path):
    with lock(tmp_path / "esc50", beside=True), lock(tmp_path / "cifar10", beside=True):
        assert not (tmp_path / "esc50").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_is_refused_and_its_target_is_as_it_was(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(OSError, match="a symbolic link"), lock(tmp_path / "run"):
        pass
    assert victim.read_text() == "mine"


def test_a_file_system_without_locks_is_warned_of_and_the_work_goes_on(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    (leftover := tmp_path / ".file.4711.partial").touch()
    with pytest.warns(UserWarning, match="no locks"), lock(tmp_path):
        write_json(tmp_path / "file", {})
    assert leftover.exists()  # nobody can tell whether its writer lives


def test_who_takes_a_folder_removes_what_killed_writers_left_there_but_no_living_ones(tmp_path):
    dead = in_another_process(
        "with atomic_write(sys.argv[1]) as file:\n    print('ready', flush=True)\n    os.kill(os.getpid(), 9)\n",
        tmp_path / "dead.wav",
    )
    assert dead.wait(5) == -signal.SIGKILL
    dead.communicate()
    (tmp_path / ".old.png.4711.partial").write_bytes(b"of the version before")
    (tmp_path / ".mine.partial").write_bytes(b"somebody's own")
    assert len(list(tmp_path.glob(".dead.wav.*.partial"))) == 1
    with atomic_write(tmp_path / "living.wav") as file:
        with lock(tmp_path):
            left = sorted(path.name for path in tmp_path.glob(".*.partial"))
        file.write(b"sound")
    assert [name.split(".")[1] for name in left] == ["living", "mine"]
    assert (tmp_path / "living.wav").read_bytes() == b"sound"


def test_leftovers_that_are_links_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".file.1.partial").symlink_to(victim)
    clear_leftovers(tmp_path)
    assert victim.read_bytes() == b"mine"
