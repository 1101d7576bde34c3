"""Worker processes in programs that were not made for any, and sources that cannot travel to one."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from layouts import SMALL, Faulty, checksums

from schurgan.core.errors import SchurganError
from schurgan.data import prepare, workers

SCRIPT = """
from pathlib import Path
from layouts import SMALL, Faulty, open_folder, wait_for_workers
from schurgan.data import prepare

class Mine(Faulty):
    pass

def run(source, out):
    prepare(source, out, SMALL, shard_clips=16, workers=2, progress=wait_for_workers)

print("started")
run(open_folder(Path({clips!r})), "out")
try:
    run(Mine(Path({clips!r})), "other")
except ValueError as error:
    print(error)
"""


def test_a_script_on_standard_input_without_a_guard_beside_a_random_py_has_workers(clips, tmp_path, undisturbed):
    (tmp_path / "random.py").write_text("open('executed', 'w')")
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-"],
        cwd=tmp_path,
        input=SCRIPT.format(clips=str(clips)),
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    started, refused = done.stdout.splitlines()
    assert started == "started"
    assert refused.startswith("source: its class is defined on standard input")
    assert checksums(tmp_path / "out") == undisturbed
    assert not (tmp_path / "executed").exists()


@dataclass(frozen=True)
class Mine(Faulty):
    """As if it were of the script that was started."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of `__main__`, in which `Mine` is; what a worker makes of it is forgotten."""
    main = types.ModuleType("__main__")
    main.__file__, main.Mine = str(tmp_path / "script.py"), Mine
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    monkeypatch.setattr(Mine, "__module__", "__main__")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(workers, "_loading", False)
    (tmp_path / "script.py").touch()
    return tmp_path / "script.py"


def test_a_worker_reads_a_class_from_the_script_and_does_not_do_what_a_guard_is_around(script, clips):
    message = workers._start_message(Mine(clips).load)
    sys.modules["__main__"].__file__ = "worker"
    script.write_text("from layouts import Faulty\nclass Mine(Faulty): there = True\nassert __name__ != '__main__'")
    assert workers._load(*message).__self__.there


def test_a_script_that_would_start_all_over_in_a_worker_is_told_what_it_lacks(script, clips):
    message = workers._start_message(Mine(clips).load)
    sys.modules["__main__"].__file__ = "worker"
    script.write_text(f"import schurgan\nschurgan.prepare({str(clips)!r}, out={str(script.parent / 'out')!r})")
    with pytest.raises(SchurganError, match=r"the script has no `if __name__ == .*`workers`"):
        workers._load(*message)
    assert not (script.parent / "out").exists()


def test_the_path_and_the_memory_are_not_blamed_for_a_source_that_cannot_travel(clips, tmp_path):
    class Local(Faulty):
        """Of a class that no other process could find."""

    with pytest.raises(SchurganError, match=r"source: cannot be sent to worker processes .*Local"):
        prepare(Local(clips), tmp_path, SMALL, shard_clips=16, workers=2)


def test_a_worker_that_cannot_load_the_source_says_why(monkeypatch, capfd):
    answers = []
    monkeypatch.setattr(workers.pickle, "dumps", lambda answer: answers.append(answer) or b"")
    monkeypatch.setattr(workers.pickle, "load", lambda file: ({}, b"cno_such_module\nSource\n."))
    monkeypatch.setattr(workers.sys, "stdin", types.SimpleNamespace(buffer=None))
    monkeypatch.setattr(workers.sys, "stdout", sys.stdout)
    workers.serve()
    ((good, error),) = answers
    assert not good
    assert "worker processes cannot load the source: No module named 'no_such_module'" in str(error)
