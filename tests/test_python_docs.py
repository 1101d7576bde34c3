"""The programs of docs/python.md run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
PROGRAMS = re.findall(r"^## (\d+\. .*?)\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, in which the first program has run."""
    folder = tmp_path_factory.mktemp("programs")
    shutil.copytree(recordings, folder / "clips")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        run(*PROGRAMS[0])
    return folder


def run(title: str, program: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "schurgan.training.loop.count_cores", lambda: 1
        )  # networks of this size gain nothing by threads that wait
        exec(compile(program, f"docs/python.md, {title}", "exec"), {"__name__": "__main__"})


def test_there_are_ten():
    assert [title.partition(".")[0] for title, _ in PROGRAMS] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_a_program_runs_as_it_stands(workplace, monkeypatch, title, program):
    monkeypatch.chdir(workplace)
    run(title, program)


def test_the_programs_leave_what_they_promise(workplace):
    assert (workplace / "runs" / "clips" / "generator.safetensors").exists()
