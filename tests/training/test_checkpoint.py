from __future__ import annotations

import os
import pickle
import random
import warnings
from pathlib import Path

import pytest
import torch

from schurgan.errors import UserError
from schurgan.training.checkpoint import FORMAT, Checkpoints, read

IDENTITY = "this run"


def state(step: int) -> dict[str, object]:
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(step))
    return {"step": step, "network": {"weight": weights}, "rows": [{"loss": torch.tensor(0.5)}]}


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(state(step), step, IDENTITY)
    return checkpoints


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    loaded = saved(tmp_path, 3, 12, 6).load(IDENTITY)
    assert loaded is not None
    assert loaded["step"] == 6  # the one saved last: what was later belonged to a future that was given up
    assert torch.equal(loaded["network"]["weight"], state(6)["network"]["weight"])
    assert loaded["rows"][0]["loss"].item() == 0.5


def test_without_a_checkpoint_there_is_no_state(tmp_path):
    assert Checkpoints(tmp_path).load(IDENTITY) is None


def test_the_newest_ones_are_kept(tmp_path):
    names = [path.name for path in saved(tmp_path, 1, 2, 3, 10, keep=2).paths()]
    assert names == ["step-00000003.pt", "step-00000010.pt"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "truncated", "cut early", "flipped"])
def test_a_damaged_newest_file_is_named_in_one_warning_and_the_one_before_it_taken(tmp_path, damage):
    checkpoints = saved(tmp_path, 3, 6)
    newest = checkpoints.paths()[-1]
    size = newest.stat().st_size
    if damage == "flipped":
        flip(newest, size // 2)
    elif isinstance(damage, str):
        os.truncate(newest, size - 1 if damage == "truncated" else size // 3)
    else:
        newest.write_bytes(damage)
    with pytest.warns(UserWarning, match=r"step-00000006.pt: damaged.* before it is used") as caught:
        loaded = checkpoints.load(IDENTITY)
    assert len(caught) == 1
    assert loaded is not None
    assert loaded["step"] == 3


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    path = saved(tmp_path, 6).paths()[0]
    whole, chance = path.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(150):
        path.write_bytes(whole)
        flip(path, chance.randrange(len(whole)), chance.randrange(8))
        try:
            content = read(path)
        except UserError:
            noticed += 1
        else:  # padding between the parts of the archive
            assert content["identity"] == IDENTITY
            assert torch.equal(content["state"]["network"]["weight"], state(6)["network"]["weight"])
    assert noticed > 130


def test_a_truncation_anywhere_is_noticed(tmp_path):
    path = saved(tmp_path, 6).paths()[0]
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            read(path)


def test_all_damaged_is_one_sentence_and_no_warning(tmp_path):
    checkpoints = saved(tmp_path, 3, 6)
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="none of 2 checkpoints can be read"):
            checkpoints.load(IDENTITY)


def test_after_a_damaged_one_the_next_save_drops_it_and_stays(tmp_path):
    checkpoints = saved(tmp_path, 3, 6, keep=1)
    checkpoints.keep = 2
    checkpoints.save(state(6), 6, IDENTITY)
    flip(checkpoints.paths()[-1], 2000)
    checkpoints.keep = 1
    checkpoints.save(state(4), 4, IDENTITY)
    assert [path.name for path in checkpoints.paths()] == ["step-00000004.pt"]


class Evil:
    """Unpickled without care, it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, archive):
    checkpoints = saved(tmp_path, 3)
    path, made = checkpoints.paths()[0], tmp_path / "made"
    content = {"format": FORMAT, "identity": IDENTITY, "state": {"step": Evil(made)}}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="none of 1 checkpoints can be read"):
        checkpoints.load(IDENTITY)
    assert not made.exists()
    torch.load(path, weights_only=False) if archive else pickle.loads(path.read_bytes())  # what would have happened
    assert made.exists()


@pytest.mark.parametrize("content", [[1], {"format": "other/1"}, {"format": FORMAT, "state": 3}, torch.zeros(2)])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "step-00000001.pt")
    with pytest.raises(UserError, match="not a checkpoint of this program's format"):
        read(tmp_path / "step-00000001.pt")


def test_a_state_of_another_run_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"step-00000003.pt: belongs to other data, networks or training"):
        saved(tmp_path, 3).load("another run")


def test_a_full_disk_keeps_the_checkpoint_before_it(tmp_path, full_disk):
    checkpoints = saved(tmp_path, 3, keep=1)
    with full_disk(), pytest.raises(OSError, match="No space left"):
        checkpoints.save(state(6), 6, IDENTITY)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000003.pt"]
    assert checkpoints.load(IDENTITY)["step"] == 3
