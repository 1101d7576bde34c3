from __future__ import annotations

import os
import pickle
import random
import shutil
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_states import IDENTITY, collapsed, files, flip, loaded_step, names, saved, state

from schurgan.core.documents import write_sealed
from schurgan.core.errors import SchurganError
from schurgan.core.files import sha256
from schurgan.runs.sidecar import CheckpointRecord, Identity, sidecar_path
from schurgan.training.checkpoint import Checkpoints, read

# What comes back


def test_the_newest_state_comes_back_bit_for_bit_with_what_is_known_of_it(tmp_path):
    checkpoints = saved(tmp_path, 3)
    checkpoints.save(state(12), 12, IDENTITY, attempt=2, score=31.5, healthy=False)
    found = checkpoints.load()
    assert found is not None
    assert found.record == CheckpointRecord(step=12, attempt=2, score=31.5, healthy=False, identity=IDENTITY)
    assert torch.equal(found.state["network"]["weight"], state(12)["network"]["weight"])
    assert found.state["rows"][0]["loss"].item() == 0.5


def test_everything_that_may_be_saved_comes_back_as_it_was(tmp_path):
    rng = torch.get_rng_state()
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    plain = {"a": [None, True, -3, 2**70, 0.1, float("inf"), "ü\n", b"\0"], 7: (1, [2, {}]), "o": OrderedDict(x=1)}
    tensors = [torch.tensor([1, 2], dtype=kind) for kind in (torch.bfloat16, torch.int64, torch.complex64, torch.bool)]
    whole = {"plain": plain, "tensors": tensors, "net": layer.state_dict(), "opt": optimizer.state_dict(), "rng": rng}
    back = read(Checkpoints(tmp_path).save(whole, 1, IDENTITY)).state
    assert back["plain"] == plain
    assert isinstance(back["plain"][7], tuple)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(back["tensors"], tensors, strict=True))
    again = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    again.load_state_dict(back["net"])
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), layer.state_dict().values(), strict=True))
    assert torch.equal(back["opt"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert torch.equal(back["rng"], rng)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (
            {"monitor": {"window": [1.0, {2, 3}]}},
            r"state\['monitor'\]\['window'\]\[1\]: builtins.set given, a tensor, ",
        ),
        ({"mean": np.float64(1)}, r"state\['mean'\]: numpy.float64 given"),
        ({"path": Path("x")}, r"state\['path'\]: pathlib.* given"),
        ({"weight": torch.nn.Parameter(torch.ones(1))}, r"state\['weight'\]: torch.nn.parameter.Parameter given"),
        (
            {"weight": torch.ones(2).to_sparse()},
            r"state\['weight'\]: a dense tensor is needed, this one is torch.spars",
        ),
        ({"weight": torch.ones(2, device="meta")}, r"a dense tensor is needed, this one is torch.strided on meta"),
        ({"counts": {(1, 2): 3}}, r"state\['counts'\]: keys are str or int, \(1, 2\) is tuple"),
    ],
)
def test_what_could_not_be_read_back_is_refused_by_its_key_before_anything_is_written(tmp_path, bad, sentence):
    checkpoints = saved(tmp_path, 3)
    with pytest.raises(ValueError, match=sentence):
        checkpoints.save(bad, 6, IDENTITY)
    assert names(checkpoints) == ["step-00000003.pt"]


@pytest.mark.parametrize("options", [{"x": float("nan")}, {"x": object()}])
def test_an_identity_that_a_file_cannot_hold_is_refused_and_leaves_nothing(tmp_path, options):
    checkpoints = saved(tmp_path, 3)
    with pytest.raises(ValueError, match="identity: "):
        checkpoints.save(state(6), 6, Identity(options=options, data=""))
    assert files(checkpoints) == ["step-00000003.json", "step-00000003.pt"]


def test_a_long_identity_can_be_read_back(tmp_path):
    identity = Identity(options={"x": "y" * 200_000}, data="")
    assert read(Checkpoints(tmp_path).save(state(3), 3, identity)).record.identity == identity


def test_the_state_is_a_plain_file_of_torch(tmp_path):
    path = saved(tmp_path, 3).paths()[0]
    assert torch.load(path, weights_only=True)["step"] == 3


def test_the_same_state_gives_the_same_bytes(tmp_path):
    one, other = saved(tmp_path / "one", 3), saved(tmp_path / "other", 3)
    for kind in ("*.pt", "*.json"):
        (a,), (b,) = one.folder.glob(kind), other.folder.glob(kind)
        assert a.read_bytes() == b.read_bytes()


def test_without_a_checkpoint_there_is_no_state_of_any_kind(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    assert checkpoints.load_healthy(before=9) is None
    assert checkpoints.records() == {}


# Damage


@pytest.mark.parametrize(
    "damage", [b"", b"not a checkpoint", "truncated", "cut early", "flipped", "no reading", "no record", "other record"]
)
def test_a_damaged_newest_file_is_named_in_one_warning_and_the_one_before_it_taken(tmp_path, damage):
    checkpoints = saved(tmp_path, 3, 6)
    newest = checkpoints.paths()[-1]
    size = newest.stat().st_size
    if damage == "no reading":
        newest.unlink()
        newest.mkdir()  # root may read every file, but no folder as one
    elif damage == "no record":
        sidecar_path(newest).unlink()
    elif damage == "other record":
        shutil.copy(sidecar_path(checkpoints.path(3)), sidecar_path(newest))
    elif damage == "flipped":
        flip(newest, size // 2)
    elif isinstance(damage, str):
        os.truncate(newest, size - 1 if damage == "truncated" else size // 3)
    else:
        newest.write_bytes(damage)
    with pytest.warns(UserWarning, match=r"step-00000006.pt: .* before it is used") as caught:
        assert loaded_step(checkpoints) == 3
    assert len(caught) == 1


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = Checkpoints(tmp_path).save(state(6, size=4), 6, IDENTITY)
    whole, chance = path.read_bytes(), random.Random(0)
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for put in (byte ^ 1 << chance.randrange(8), byte):
                os.pwrite(file.fileno(), bytes([put]), position)
                if put != byte:
                    with pytest.raises(SchurganError, match=r"step-00000006.pt: .*(damaged|checkpoint)"):
                        read(path)
    assert read(path).state["step"] == 6


def test_a_flipped_bit_in_the_record_is_noticed(tmp_path):
    path = Checkpoints(tmp_path).save(state(6, size=4), 6, IDENTITY, score=1.5)
    sidecar = sidecar_path(path)
    whole, chance = sidecar.read_bytes(), random.Random(0)
    for position, byte in enumerate(whole):
        sidecar.write_bytes(whole[:position] + bytes([byte ^ 1 << chance.randrange(8)]) + whole[position + 1 :])
        with pytest.raises(SchurganError, match=r"step-00000006"):
            read(path)


def test_a_truncation_anywhere_and_a_byte_too_many_are_noticed(tmp_path):
    path = saved(tmp_path, 6).paths()[0]
    for file in (path, sidecar_path(path)):
        whole = file.read_bytes()
        lengths = [*range(0, len(whole) - 1, len(whole) // 40), len(whole) - 2]
        for content in [*(whole[:length] for length in lengths), b"\0" + whole, whole[1:], whole + whole]:
            file.write_bytes(content)
            with pytest.raises(SchurganError, match=r"step-00000006"):
                read(path)
        file.write_bytes(whole)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(SchurganError, match="length"):
        read(path)


def test_all_damaged_is_one_sentence_and_no_warning(tmp_path):
    checkpoints = saved(tmp_path, 3, 6)
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SchurganError, match=r"none of 2 checkpoints can be read \(.*step-00000006.pt: damaged"):
            checkpoints.load()


def test_the_healthy_one_is_passed_over_when_damaged(tmp_path):
    checkpoints = collapsed(tmp_path)
    flip(checkpoints.path(40), 2000)  # amid the state: its record can be read
    with pytest.warns(UserWarning, match=r"step-00000040.pt: damaged"):
        healthy = checkpoints.load_healthy(before=99)
    assert healthy is not None
    assert healthy.state["step"] == 30


# Files that nobody vouches for


class Evil:
    """Unpickled without care, it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.made),)


def sealed(path: Path, archive: Callable[[Path], object], **facts: object) -> Path:
    """A file of this format whose checksums are right, whatever it and its sidecar hold."""
    archive(path)
    record = CheckpointRecord(step=1, identity=IDENTITY).model_dump()
    content = {"format": "schurgan-checkpoint/5", "size": path.stat().st_size, "sha256": sha256(path), "record": record}
    write_sealed(sidecar_path(path), content | facts)
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, archive):
    made, path = tmp_path / "made", tmp_path / "step-00000001.pt"
    content = {"step": Evil(made)}
    sealed(path, lambda to: torch.save(content, to) if archive else to.write_bytes(pickle.dumps(content)))
    with pytest.raises(SchurganError, match=r"step-00000001.pt: damaged, or not a checkpoint \((Unpick|BadZip)"):
        read(path)
    assert not made.exists()
    torch.load(path, weights_only=False) if archive else pickle.loads(path.read_bytes())  # what would have happened
    assert made.exists()


def test_the_files_of_these_tests_are_of_the_format_that_is_saved(tmp_path):
    assert read(sealed(tmp_path / "step-00000001.pt", lambda to: torch.save({"a": 1}, to))).state == {"a": 1}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"format": "schurgan-checkpoint/6"}, "format: 'schurgan-checkpoint/6' given, 'schurgan-checkpoint/5' or"),
        ({"record": {"step": 1}}, "is not the record of a checkpoint"),
        ({"record": {"step": -1, "identity": IDENTITY.model_dump()}}, "is not the record of a checkpoint"),
        ({"record": {"step": 1, "identity": {"options": 3, "data": ""}}}, "is not the record of a checkpoint"),
        ({"size": 10**30}, "length is wrong"),
        ({"size": 3}, "its length is wrong"),
        ({"sha256": "0" * 64}, "its checksum is wrong"),
        ({"extra": 1}, "is not the record of a checkpoint"),
    ],
)
def test_a_seal_that_says_something_else_is_one_sentence(tmp_path, facts, sentence):
    path = sealed(tmp_path / "step-00000001.pt", lambda to: torch.save({"a": 1}, to), **facts)
    with pytest.raises(SchurganError, match=sentence):
        read(path)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A state of a thousand numbers, its archive's members changed."""
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as old:
        members = {each.filename: old.read(each) for each in old.infolist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, change(name, content))


NESTED = b")" + b"\x85" * 10**6
HOSTILE = {
    "compressed": lambda to: rewritten(to, lambda name, content: content, zipfile.ZIP_DEFLATED),
    "a million tuples": lambda to: rewritten(to, lambda n, c: b"\x80\x02" + NESTED + b"." if "pkl" in n else c),
    "their hash": lambda to: rewritten(to, lambda n, c: b"\x80\x02}" + NESTED + b"Ns." if "pkl" in n else c),
    "an index of 20 MB": lambda to: rewritten(to, lambda n, c: c + bytes(20_000_000) if "pkl" in n else c),
    "repeated": lambda to: torch.save({"a": torch.zeros(1).expand(10**9, 10**6)}, to),
    "itself": lambda to: torch.save((loop := {}).update(a=[loop]) or loop, to),
    "no archive": lambda to: to.write_bytes(b"PK" + bytes(1000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_state_that_would_take_more_than_its_size_is_refused_before_it_is_read(tmp_path, name):
    path = sealed(tmp_path / "step-00000001.pt", HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(SchurganError, match=r"step-00000001.pt: damaged, or not a checkpoint"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def test_a_fifo_in_place_of_a_state_or_its_record_is_refused_at_once(tmp_path):
    path = Checkpoints(tmp_path).save(state(6, size=4), 6, IDENTITY)
    for file in (path, sidecar_path(path)):
        file.rename(file.with_name("away"))
        os.mkfifo(file)
        with pytest.raises(SchurganError, match="not a regular file"):
            read(path)
        file.with_name("away").replace(file)


def test_a_record_of_the_version_before_is_read_and_its_checksum_checked(tmp_path):
    fixture = Path(__file__).parents[1] / "fixtures" / "run"
    run = Path(shutil.copytree(fixture, tmp_path / "run"))
    (path,) = Checkpoints(run).paths()
    assert read(path).record.step == 2
    text = sidecar_path(path).read_text()
    assert '"format": "schurgan-checkpoint/4"' in text
    sidecar_path(path).write_text(text.replace('"step": 2', '"step": 3'))
    with pytest.raises(SchurganError, match="its checksum is wrong"):
        read(path)


@pytest.mark.parametrize("content", [[1], torch.zeros(2), 3])
def test_an_archive_of_something_else_is_refused(tmp_path, content):
    path = sealed(tmp_path / "step-00000001.pt", lambda to: torch.save(content, to))
    with pytest.raises(SchurganError, match="not a checkpoint"):
        read(path)


def test_a_file_of_an_earlier_format_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.folder.mkdir()
    torch.save({"format": "schurgan-checkpoint/2", "identity": "", "state": {}}, checkpoints.path(1))
    with pytest.raises(SchurganError, match=r"step-00000001.pt: .*an earlier version.*train"):
        checkpoints.load()


# Memory


def test_saving_and_verifying_hold_no_copy_of_the_state_outside_of_torch(tmp_path):
    weights = torch.zeros(4_000_000)
    checkpoints = Checkpoints(tmp_path)
    tracemalloc.start()
    try:
        path = checkpoints.save({"weights": weights}, 1, IDENTITY)
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(weights) / 4  # a copy as bytes would be 16 MB; a chunk for hashing is 1 MB
