"""CIFAR-10 in both layouts, and pickles that hold more than data."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from layouts import CIFAR10_CLASSES, cifar10, cifar10_batch, cifar10_binary

from schurgan.core.errors import SchurganError
from schurgan.data.sources import open_source
from schurgan.data.sources.cifar10 import load_pickle


def expected(number: int, count: int = 4) -> tuple[np.ndarray, list[str]]:
    images, labels = cifar10_batch(number, count)
    return images.reshape(-1, 3, 32, 32), [CIFAR10_CLASSES[label] for label in labels]


def check(source) -> None:
    """Every batch is a fold, with its images to the byte and its classes."""
    assert source.classes() == tuple(CIFAR10_CLASSES)
    for fold in range(1, 7):
        items = [item for item in source.items() if item.fold == fold]
        images, labels = expected(fold)
        assert [item.label for item in items] == labels
        assert np.stack([source.load_image(item).numpy() for item in items]).tobytes() == images.tobytes()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("keys", [bytes, str])
def test_the_batches_of_every_protocol_are_read_to_the_byte(tmp_path, protocol, keys):
    check(open_source("cifar10", cifar10(tmp_path / "x", protocol, keys)))


@pytest.mark.parametrize(
    ("make", "inner"), [(cifar10, "cifar-10-batches-py"), (cifar10_binary, "cifar-10-batches-bin")]
)
def test_both_layouts_are_found_where_they_were_unpacked_and_are_one_data_set(tmp_path, make, inner):
    make(tmp_path / "data" / inner)
    source = open_source("cifar10", tmp_path / "data")
    check(source)
    assert source.val_folds == (6,)
    other = open_source("cifar10", cifar10(tmp_path / "other"))
    assert source.describe() == other.describe()
    assert source.items() == other.items()


def test_per_class_takes_the_first_so_many_of_every_class_of_each_batch(tmp_path):
    root = cifar10(tmp_path / "x", count=20)
    everything, some = open_source("cifar10", root), open_source("cifar10", root, per_class=1)
    first = {(item.fold, item.label): item for item in reversed(everything.items())}
    assert some.items() == sorted(first.values(), key=lambda item: item.origin.replace("test", "z"))
    assert 2 * len(some.items()) == 2 * some.describe()["items"] == len(everything.items())
    assert some.describe() != everything.describe()
    with pytest.raises(SchurganError, match="per_class 0: a whole number"):
        open_source("cifar10", root, per_class=0)


def python2_batch(number: int) -> bytes:
    """A batch as Python 2's pickler wrote the official ones: texts are its str, which protocol 2 has codes for."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    images, labels = cifar10_batch(number)
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85" + text(b"b") + b"\x87R("
    shape = struct.pack("<BBBH", 75, len(labels), 77, 3072) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array += b"K\x01" + shape + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x01(" + text(b"data") + array + text(b"labels") + listed + b"u."


def test_pickles_of_python_2_are_read_as_the_standard_library_reads_them(tmp_path):
    for number in range(1, 7):
        data = python2_batch(number)
        batch = pickle.loads(data, encoding="bytes")
        assert batch[b"data"].tobytes() == cifar10_batch(number)[0].tobytes()  # the test's own pickle is right
        name = f"data_batch_{number}" if number < 6 else "test_batch"
        (tmp_path / name).write_bytes(data)
    check(open_source("cifar10", tmp_path))


def test_damaged_and_missing_batches_are_skipped_and_the_others_are_used(tmp_path):
    home = cifar10(tmp_path / "x")
    whole = (home / "data_batch_2").read_bytes()
    (home / "data_batch_2").write_bytes(whole[: len(whole) // 2])
    (home / "data_batch_3").unlink()
    (home / "data_batch_4").write_bytes(b"not a pickle")
    (home / "data_batch_5").write_bytes(pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [1, 2]}))
    source = open_source("cifar10", home)
    assert {item.fold for item in source.items()} == {1, 6}
    reasons = dict(source.skipped)
    assert set(reasons) == {"data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"}
    assert reasons["data_batch_3"] == "no such file"
    assert reasons["data_batch_5"] == "its data is not one image of CIFAR-10 for each of its 2 labels"
    images, _ = expected(6)
    last = [item for item in source.items() if item.fold == 6][-1]
    assert source.load_image(last).numpy().tobytes() == images[-1].tobytes()


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({b"data": np.zeros((2, 3072), np.int64), b"labels": [1, 2]}, "its data is not one image"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, "a class number that is none of 0 to 9"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "2"]}, "a class number that is none of 0 to 9"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 2]}, "a batch without its data and labels"),
        ({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, 'an array of "f8" where integers are needed'),
        ([1, 2, 3], "a batch without its data and labels"),
    ],
)
def test_a_pickle_of_something_else_is_told(tmp_path, batch, told):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(SchurganError, match="no batch can be read") as caught:
        open_source("cifar10", tmp_path)
    assert told in str(caught.value)


def test_folders_of_another_kind_and_files_of_odd_lengths_are_told(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3074))
    with pytest.raises(SchurganError, match="no whole number of images"):
        open_source("cifar10", tmp_path)
    (tmp_path / "data_batch_1.bin").rename(tmp_path / "data.bin")
    with pytest.raises(SchurganError, match=r"no data_batch_1 or data_batch_1\.bin in it"):
        open_source("cifar10", tmp_path)


# --- pickles that mean harm -------------------------------------------------------------------------------------------

CALLED: list[str] = []


class Runs:
    """Unpickled, it calls `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def touch(path: Path) -> str:
    return f"touch '{path}'"


def harm(path: Path) -> dict[str, bytes]:
    """Pickles each of which makes the file `path` when the standard library reads it."""
    command = touch(path)
    hidden = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [1], b"filenames": [Runs(os.system, command)]}
    call = pickle.dumps(Runs(os.system, command), protocol=0)
    return {
        "system": pickle.dumps(Runs(os.system, command)),
        "exec": pickle.dumps(Runs(exec, f"import os; os.system({command!r})")),
        "popen": pickle.dumps(Runs(subprocess.call, ["touch", str(path)])),
        "in a batch": pickle.dumps(hidden, protocol=2),
        "INST": f"(S'{command.replace(chr(39), '')}'\nios\nsystem\n.".encode(),
        "OBJ": b"(cos\nsystem\nX" + struct.pack("<i", len(command)) + command.encode() + b"o.",
        "protocol 0": call,
        "after a good one": b"0".join([pickle.dumps(1, protocol=0)[:-1], call]),
    }


HARM = list(harm(Path("x")))


@pytest.mark.parametrize("kind", HARM)
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch"])
def test_a_malicious_pickle_runs_nothing(tmp_path, kind, name):
    home, made = cifar10(tmp_path / "x"), tmp_path / "made"
    data = harm(made)[kind]
    pickle.loads(data)
    assert made.exists()  # it means harm
    made.unlink()
    (home / name).write_bytes(data)
    source = open_source("cifar10", home)
    assert not made.exists()
    assert [origin for origin, _ in source.skipped] == [name]
    assert len(source.items()) == 5 * 4


def deep(code: bytes, times: int = 200_000) -> bytes:
    return b"\x80\x02)" + code * times


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02r\xff\xff\xff\xff.",  # a place of the memo so far off that the list of places takes 64 GB
        deep(b"\x85") + b"}" + b"s.",
        b"\x80\x02}" + deep(b"\x85")[2:] + b"K\x01s.",  # a key whose hash overflows the C stack
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        b"\x80\x02cnumpy\ndtype\nU\x02O8\x85R.",
        b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01I99999999999\n\x85NNNtb.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x02K\x01}b.",
        b"\x80\x02cos\nsystem\n}b.",
        b"e.", b"0.", b"u.", b"R.", b"b.", b".", b"", b"\x82\x01.", b"P1\n.", b"N",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R.",
    ],
)  # fmt: skip
def test_a_pickle_that_would_fill_memory_or_break_the_machine_is_refused(data):
    with pytest.raises(ValueError) as caught:
        load_pickle(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", {}),  # the standard library's memo would take 32 GB
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.", {}),  # a frame of 4 EB
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"}.", None),  # a bytearray of 1 TB, which is filled with zeros
        (b"\x80\x02" + b"](" * 100_000 + b"}.", {}),
        (b"\x80\x02}" + b"q\x01h\x01" * 100_000 + b".", {}),
    ],
    ids=["memo", "frame", "bytearray", "marks", "copies"],
)
def test_sizes_that_a_pickle_only_claims_are_not_believed(data, value):
    tracemalloc.start()
    try:
        with contextlib.nullcontext() if value is not None else pytest.raises(ValueError, match="damaged"):
            assert load_pickle(data) == value
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_damaged_pickles_of_every_protocol_are_read_or_refused():
    """2,000 of them: cut, flipped and spliced anywhere."""
    batch = {b"data": np.arange(30, dtype=np.uint8).reshape(2, 15), b"labels": [1, 2], "names": ["a", None, True, 1.5]}
    rng = np.random.default_rng(0)
    read = 0
    for number in range(2_000):
        data = bytearray(pickle.dumps(batch, protocol=number % 6))
        kind, where = int(rng.integers(0, 3)), int(rng.integers(0, len(data)))
        if kind == 0:
            data = data[:where]
        elif kind == 1:
            data[where] = int(rng.integers(0, 256))
        else:
            data[where:where] = data[int(rng.integers(0, len(data))) :][:20]
        try:
            value = load_pickle(bytes(data))
        except ValueError:
            continue
        read += 1
        assert isinstance(value, dict | list | tuple | str | bytes | int | float | np.ndarray | None)
    assert 0 < read < 1_500


def test_data_of_every_protocol_is_what_the_standard_library_reads():
    array = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    value = {
        "a": [1, -5, 2**70, 1.5, None, True, "ü", b"\xff", (1, (2, 3, 4, 5)), {}],
        7: array,
        "f": np.asfortranarray(array),
    }
    for protocol in range(6):
        data = pickle.dumps(value, protocol=protocol)
        read, known = load_pickle(data), pickle.loads(data)
        assert read["a"] == known["a"]
        for key in (7, "f"):
            assert read[key].dtype.newbyteorder("=") == known[key].dtype.newbyteorder("=")
            np.testing.assert_array_equal(read[key], known[key])
    out = io.StringIO()
    pickletools.dis(python2_batch(1), out)  # the pickle of Python 2 that the tests make is a well-formed one
    assert "SHORT_BINSTRING" in out.getvalue()


@pytest.mark.skipif("SCHURGAN_CIFAR10" not in os.environ, reason="SCHURGAN_CIFAR10 names no copy of CIFAR-10")
def test_the_real_cifar10_is_read_to_the_byte():
    """The variable names cifar-10-batches-py. The standard library reads its pickles here: they must be trusted."""
    root = Path(os.environ["SCHURGAN_CIFAR10"])
    source = open_source("cifar10", root)
    assert source.skipped == ()
    assert len(source.items()) == 60_000
    names = pickle.loads((root / "batches.meta").read_bytes(), encoding="bytes")[b"label_names"]
    assert [name.decode() for name in names] == list(source.classes())
    for fold in range(1, 7):
        name = f"data_batch_{fold}" if fold < 6 else "test_batch"
        batch = pickle.loads((root / name).read_bytes(), encoding="bytes")
        items = [item for item in source.items() if item.fold == fold]
        assert [source.classes().index(item.label) for item in items] == batch[b"labels"]
        images = np.stack([source.load_image(item).numpy() for item in items])
        assert images.tobytes() == batch[b"data"].tobytes()
