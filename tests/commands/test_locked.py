"""Two at a time in one folder: every command that writes says who is there, and touches nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import schurgan
from schurgan.core.errors import SchurganError
from schurgan.core.files import lock


@contextmanager
def held_by_another(path: Path, beside: bool) -> Iterator[None]:
    """Another thread holds the lock, which is to this one as another process is."""
    other, held = ThreadPoolExecutor(1), lock(path, beside=beside)
    other.submit(held.__enter__).result()
    yield
    other.submit(held.__exit__, None, None, None).result()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "locked", "beside"),
    [
        ("train --data {shards} --out {here}/new", "new", False),
        ("resume {run}", "run", False),
        ("evaluate {run} --quick", "run/evaluation", False),
        ("sweep {run} --quick", "run/evaluation", False),
        ("report {run}", "run/report.html", True),
        ("animate {run}", "run/samples.gif", True),
        ("animate {run} --out {here}/film.gif", "film.gif", True),
        ("sample {run} --count 1", "run/sounds", False),
        ("sample {run} --count 1 --out {here}/kit", "kit", False),
        ("export {run} --out {here}/g.pt2", "g.pt2", True),
        ("reconstruct {recordings}/bell/0.wav --out {here}/rebuilt", "rebuilt", False),
        ("prepare folder {recordings} --out {here}/data", "data", False),
        ("data export {shards} --out {here}/tars", "tars", True),
        ("download cifar10 --out {here}", "cifar-10-batches-py", True),
        ("demo --out {here}/demo", "demo", False),
        ("go {here}/schurgan.yaml", "made", False),
    ],
)
def test_a_command_whose_place_another_process_writes_names_it_and_changes_nothing(
    arguments, locked, beside, call, copied_run, shards, recordings, tmp_path
):
    (tmp_path / "schurgan.yaml").write_text(f"out: made\nprepare: {{root: {recordings}}}\n")
    words = arguments.format(run=copied_run, shards=shards, recordings=recordings, here=tmp_path)
    with held_by_another(tmp_path / locked, beside):
        before = files(tmp_path)
        said = call(*words.split(" "))
        assert files(tmp_path) == before
    assert said.status == 2
    assert f"{tmp_path / locked}: " in said.err
    assert f"process {os.getpid()} " in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("write", "locked"),
    [
        (lambda run, data, here: schurgan.resume(run), "run"),
        (lambda run, data, here: schurgan.train(data, out=here / "new", preset="small-32"), "new"),
        (lambda run, data, here: schurgan.evaluate(run, images=8, runs=1), "run/evaluation"),
        (lambda run, data, here: schurgan.load(run).sample("siren").save(here / "kit"), "kit"),
    ],
)
def test_python_is_told_too(
    write: Callable[[Path, Path, Path], object], locked: str, copied_run: Path, shards: Path, tmp_path: Path
):
    with (
        held_by_another(tmp_path / locked, False),
        pytest.raises(SchurganError, match=f"{locked}: .*process {os.getpid()} "),
    ):
        write(copied_run, shards, tmp_path)


def test_a_run_that_trains_may_be_evaluated_and_listened_to_meanwhile(call, copied_run):
    with held_by_another(copied_run, False):
        said = call("sample", copied_run, "--count", 1, "--class", "siren")
    assert said.status == 0, said.err
    assert not list(copied_run.rglob("*.lock"))


def test_the_next_command_removes_what_killed_ones_left_half_written(call, copied_run, tmp_path):
    folders = {"sounds": "sample --count 1 --class siren", "evaluation": "evaluate --images 8 --runs 1 --quick"}
    for name, command in folders.items():
        (copied_run / name).mkdir()
        left = copied_run / name / ".siren-000.wav.4711.partial"
        left.write_bytes(b"half")
        word, *options = command.split(" ")
        assert call(word, copied_run, *options).status == 0
        assert not left.exists()
