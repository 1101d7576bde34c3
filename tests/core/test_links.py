"""Nothing is written through a link, and nothing is opened to write but by `core.files`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import schurgan
from schurgan.core.errors import SchurganError
from schurgan.studies.runner import TrialProcess
from schurgan.studies.study import load_study

SOURCE = Path(schurgan.__file__).parent
WRITERS = {"write_text", "write_bytes", "touch", "mknod", "symlink_to", "hardlink_to", "copyfile", "copy", "copy2"}
OWNERS = {"Path", "path", "file", "shutil", "os", "folder", "out"}  # whose `copy` and the like make files


def opened_to_write(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that may make or change a file by its path."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        texts = [node.value for node in [*call.args, *keywords.values()] if isinstance(node, ast.Constant)]
        if name in WRITERS and (name.startswith(("write", "touch", "mk")) or owner.split(".")[-1] in OWNERS):
            yield call.lineno
        elif name in ("open", "FileIO", "NamedTemporaryFile", "mkstemp") and "fileobj" not in keywords:
            if owner == "os":
                if ast.unparse(call.args[0]) != "os.devnull":
                    yield call.lineno
            elif name in ("NamedTemporaryFile", "mkstemp") or any(
                isinstance(text, str) and set(text) <= set("rwxabt+") and set(text) & set("wxa+") for text in texts
            ):
                yield call.lineno


def test_every_file_that_is_written_is_opened_in_one_place():
    found = {
        f"{path.relative_to(SOURCE)}:{line}"
        for path in SOURCE.rglob("*.py")
        for line in opened_to_write(ast.parse(path.read_text("utf-8")))
        if path != SOURCE / "core" / "files.py"
    }
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "path.open('r+b')",
        "path.write_text('')",
        "path.touch()",
        "os.open(path, os.O_WRONLY)",
        "shutil.copyfile(a, b)",
        "tempfile.NamedTemporaryFile()",
    ],
)
def test_that_search_finds_what_it_is_for(code):
    assert list(opened_to_write(ast.parse(code))) == [1]


@pytest.mark.parametrize("code", ["open(path)", "open(path, 'rb')", "os.open(os.devnull, os.O_WRONLY)", "x.copy()"])
def test_that_search_passes_over_what_only_reads(code):
    assert not list(opened_to_write(ast.parse(code)))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine\n" * 100)
    return path


def test_metrics_that_are_a_link_stop_resume_and_train_with_a_sentence(call, copied_run, victim, tiny, tmp_path):
    (copied_run / "samples" / "step-00000006.png").unlink()  # there is something left to do
    for run, arguments in ((copied_run, ("resume", copied_run)), (tmp_path / "new", ("train", "--out"))):
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").unlink(missing_ok=True)
        (run / "metrics.jsonl").symlink_to(victim)
        if run.name == "new":
            tiny().save(tmp_path / "options.yaml")
            arguments = ("train", "--config", tmp_path / "options.yaml", "--out", run)
        said = call(*arguments)
        assert said.status == 2
        assert "metrics.jsonl: cannot be written (a symbolic link" in said.err
        assert victim.read_text() == "mine\n" * 100


def test_the_log_of_a_trial_is_no_link(victim, tmp_path):
    trial = load_study("table1").trials("laptop", 1, {}, tmp_path)[0]
    (tmp_path / "trial.log").symlink_to(victim)
    with pytest.raises(SchurganError, match=r"trial.log: cannot be written \(a symbolic link"):
        TrialProcess()(replace(trial, folder=tmp_path))
    assert victim.read_text() == "mine\n" * 100
