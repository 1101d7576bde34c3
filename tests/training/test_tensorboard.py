from __future__ import annotations

import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schurgan.core.errors import SchurganError
from schurgan.runs.records import Event, HealthRecord, Row
from schurgan.training.logger import TensorBoard

ROW = Row(25, values={"loss_d": 0.5, "loss_g": None}, singular_values={"generator.stem": 1.2})
HEALTH = HealthRecord(50, scores={"frechet": 3.0}, verdict="healthy", singular_values={"a": 2.0})
EVENT = Event(60, "warning", reason="D leads")


class Writer:
    """Notes what is written, in the place of the package's own."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step, self.calls, self.closed = Path(folder), purge_step, [], False
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: self.calls.append((name, *arguments))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    made = type("Noting", (Writer,), {"made": []})
    module.SummaryWriter = made
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made.made


def test_rows_evaluations_events_and_grids_are_written_under_their_steps(writers, tmp_path):
    Image.new("RGB", (4, 6), "red").save(tmp_path / "grid.png")
    with TensorBoard(tmp_path) as board:
        board.row(ROW)
        board.health(HEALTH)
        board.event(EVENT)
        board.samples(tmp_path / "grid.png", 70)
    (writer,) = writers
    assert writer.folder == tmp_path / "tensorboard" / "attempt-0"
    assert writer.closed
    *plain, (name, tag, pixels, step) = writer.calls
    assert plain == [
        ("add_scalar", "train/loss_d", 0.5, 25),
        ("add_scalar", "singular_values/generator.stem", 1.2, 25),
        ("add_scalar", "health/frechet", 3.0, 50),
        ("add_scalar", "singular_values/a", 2.0, 50),
        ("add_text", "events", "step 60: warning. D leads", 60),
    ]
    assert (name, tag, step) == ("add_image", "samples", 70)
    assert pixels.shape == (6, 4, 3)
    assert (pixels == [255, 0, 0]).all()


def test_a_run_that_goes_on_drops_what_was_written_after_its_checkpoint(writers, tmp_path):
    with TensorBoard(tmp_path, start=500, attempt=2):
        pass
    assert (writers[0].folder.name, writers[0].purge_step) == ("attempt-2", 501)


def test_another_attempt_is_a_run_of_its_own(writers, tmp_path):
    board = TensorBoard(tmp_path)
    board.row(ROW)
    board.row(replace(ROW, attempt=1))
    board.event(replace(EVENT, attempt=1))
    assert [(writer.folder.name, writer.closed) for writer in writers] == [("attempt-0", True), ("attempt-1", False)]
    assert [len(writer.calls) for writer in writers] == [2, 3]


def test_a_disk_that_refuses_is_one_warning_and_then_silence(writers, tmp_path):
    board = TensorBoard(tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    writers[0].add_scalar = refuse
    with pytest.warns(UserWarning, match=r"tensorboard: .*No space left"):
        board.row(ROW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        board.row(ROW)
        board.samples(tmp_path / "none.png", 1)
        board.__exit__()
    assert writers[0].calls == []


def test_without_the_package_one_sentence_says_what_would_do(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if not installed
    with pytest.raises(SchurganError, match=r"^--train\.tensorboard: .*schurgan\[tensorboard\]"):
        TensorBoard(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_real_package_reads_back_is_what_was_given_also_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Image.fromarray(np.full((6, 4, 3), 7, np.uint8)).save(tmp_path / "grid.png")
    with TensorBoard(tmp_path) as board:
        for step in (25, 50, 75):
            board.row(replace(ROW, step=step, values={"loss_d": step / 100}))
        board.event(EVENT)
        board.samples(tmp_path / "grid.png", 50)
    with TensorBoard(tmp_path, start=50) as board:
        board.row(replace(ROW, step=75, values={"loss_d": 9.0}))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "attempt-0")).Reload()
    found = [(scalar.step, scalar.value) for scalar in events.Scalars("train/loss_d")]
    assert found == [(25, 0.25), (50, 0.5), (75, 9.0)]
    assert (events.Images("samples")[0].width, events.Images("samples")[0].height) == (4, 6)
    assert "events/text_summary" not in events.Tags()["scalars"]
