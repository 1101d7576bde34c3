from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import pytest

from schurgan.runs.metrics_file import MetricsFile, read_events, read_health, read_metrics, read_records

ROW = {"step": 25, "attempt": 0, "loss_d": 0.5, "singular_values": {"generator.stem": 1.2}}
EVENT = {"step": 30, "event": "warning", "reason": "a\u2028b\u0085c", "time": 1.5}
HEALTH = {"step": 50, "attempt": 0, "health": {"frechet": 3.0, "verdict": "healthy"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_lines_read_back_by_kind_and_in_order(path):
    file = MetricsFile(path)
    for line in (ROW, EVENT, HEALTH, ROW | {"step": 75}):
        file.append(line)
    assert read_metrics(path) == [ROW, ROW | {"step": 75}]
    assert read_events(path) == [EVENT]
    assert read_health(path) == [HEALTH]
    assert path.read_bytes().count(b"\n") == 4  # a reason never breaks its line


def test_numbers_that_are_not_finite_are_null_wherever_they_stand(path):
    deep = {"step": 1, "a": float("nan"), "b": {"c": [1.0, float("inf")]}, "d": (-float("inf"), True, None)}
    MetricsFile(path).append(deep)
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"step": 1, "a": None, "b": {"c": [1.0, None]}, "d": [None, True, None]}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"loss": 1.0}, "step"),
        ({"step": 1.0}, "step"),
        ({"step": True}, "step"),
        ({"step": 1, "a": {"b": [0, {1, 2}]}}, r"a\.b\[1\]: set"),
    ],
)
def test_what_is_no_line_is_refused_by_name_and_not_written(path, line, named):
    with pytest.raises(ValueError, match=named):
        MetricsFile(path).append(line)
    assert not path.exists()


def test_a_run_that_goes_on_from_its_checkpoint_has_each_line_once_whatever_was_written_after_it(path):
    file = MetricsFile(path)
    assert file.size == 0
    file.append(ROW)
    file.append(EVENT)
    size, kept = file.size, path.read_bytes()
    assert size == len(kept)
    file.append(HEALTH)
    with open(path, "ab") as other:
        other.write(b'{"step": 60, "lo')  # a kill
    MetricsFile(path).truncate(size)
    assert path.read_bytes() == kept
    file.append(HEALTH)
    assert [len(kind) for kind in read_records(path)] == [1, 1, 1]


def test_cutting_to_nothing_empties_the_file_or_leaves_none(path):
    MetricsFile(path).truncate(0)
    assert not path.exists()
    MetricsFile(path).append(ROW)
    MetricsFile(path).truncate(0)
    assert path.read_bytes() == b""
    with pytest.raises(ValueError, match="-1 given"):
        MetricsFile(path).truncate(-1)


@pytest.mark.parametrize("lost", [5, 1000])
def test_a_file_that_lost_its_end_keeps_its_whole_lines_with_a_warning(path, lost):
    file = MetricsFile(path)
    file.append(ROW)
    one = path.read_bytes()
    file.append(EVENT)
    size = file.size
    os.truncate(path, max(0, size - lost))
    with pytest.warns(UserWarning, match=f"not those that the checkpoint knew; the lines up to byte {len(one)}|byte 0"):
        file.truncate(size)
    assert path.read_bytes() == (one if lost == 5 else b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file.truncate(path.stat().st_size)


def test_a_disk_that_fills_in_the_midst_of_a_line_leaves_the_file_as_it_was(path, monkeypatch):
    file = MetricsFile(path)
    file.append(ROW)
    before = path.read_bytes()

    class Full:
        """As a file whose disk takes ten bytes more."""

        def __init__(self, real):
            self.real = real

        def write(self, text):
            return self.real.write(text[:10])

        def fileno(self):
            return self.real.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.real.close()

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", lambda *a, real=open, **k: Full(real(*a, **k)))
        with pytest.raises(OSError) as refused:
            file.append(ROW)
    assert refused.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


def test_a_reader_passes_over_half_lines_and_what_is_no_line_of_ours(path):
    strange = [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"loss": 1}',
        b'{"step": "1"}',
        b'{"step": 1e3}',
        b'{"step": -1}',
        b'{"step": 1, "attempt": null}',
        b'{"step": ' + b"9" * 400 + b"}",
        b'{"step": 1, "event": 5}',
        b'{"step": 1, "health": "good"}',
        b"[" * 100_000,
        b'{"step": 3, "loss_d": NaN}',
        b'{"step": 4, "lo',
    ]
    path.write_bytes(b"\n".join(strange))
    records = read_records(path)
    assert records.rows == [{"step": 3, "loss_d": None}]
    assert records.health == records.events == []


def test_a_reader_beside_a_writer_sees_whole_lines_only(path):
    text = json.dumps(ROW).encode() + b"\n" + json.dumps(EVENT).encode() + b"\n"
    first = text.index(b"\n")
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        rows, health, events = read_records(path)
        assert (len(rows), len(health), len(events)) == (cut >= first, 0, cut == len(text) - 1)


def test_no_file_is_no_lines_and_a_folder_in_its_place_is_an_error(tmp_path, path):
    assert read_records(path) == ([], [], [])
    with pytest.raises(OSError):
        read_records(tmp_path)
