import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import schurgan
from schurgan.core.errors import SchurganError
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder, wrong_place

SOURCE = Path(schurgan.__file__).parent
PATHS = [path for path in vars(RunFolder("run")).values() if path != Path("run")]
FILES = {path.name for path in PATHS if path.suffix}
FOLDERS = {path.name for path in PATHS} - FILES


def spelled_names(path: Path) -> Iterator[str]:
    """File names of a run in the code of a file, and its folders' names where they are joined to a path."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = node.value
            yield from (name for name in FILES if text == name or text.endswith(("/" + name, " " + name)))
            yield from (name for name in FOLDERS if id(node) in joined and name == text.strip("/"))
            yield from ["step-"] * text.startswith(("step-{", "step-0", "step-*"))
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield from ["step-"] * str(node.values[0].value).endswith("step-")


def test_no_other_file_spells_a_name_of_the_run_folder():
    spelled = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in spelled_names(path)
        if path != SOURCE / "runs" / "folder.py"
    }
    assert not spelled
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "step-"} <= set(spelled_names(SOURCE / "runs" / "folder.py"))


def test_step_files_sort_by_attempt_and_step_and_strange_files_are_left_out(tmp_path):
    run = RunFolder(tmp_path)
    paths = [run.checkpoint(500), run.checkpoint(1000), run.checkpoint(100_000_000), run.checkpoint(500, 1)]
    run.checkpoints.mkdir()
    for path in [*reversed(paths), run.checkpoints / "step-5.pt", run.checkpoints / "step-00000005-a0.pt"]:
        path.touch()
    (run.checkpoints / ".step-00000005.pt.77.partial").touch()
    assert [file.path for file in run.checkpoint_files()] == paths
    assert [(file.attempt, file.step) for file in run.checkpoint_files()] == [
        (0, 500),
        (0, 1000),
        (0, 100_000_000),
        (1, 500),
    ]
    assert run.grids() == []


def test_a_folder_without_options_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SchurganError, match=str(path)):
            RunFolder(path).read_config()
    Config().save(RunFolder(tmp_path).config)
    assert RunFolder(tmp_path).read_config() == Config()
    assert RunFolder(tmp_path).read_records() == ([], [], [])


@pytest.mark.parametrize(("name", "what"), [("x.AAC", "recordings"), ("x.voc", "recordings"), ("x.pgm", "pictures")])
def test_whatever_prepare_reads_is_known_in_a_wrong_place_too(tmp_path, name, what):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / name).touch()
    assert f"{what} that are not prepared yet" in str(wrong_place(tmp_path / "clips", "run"))
