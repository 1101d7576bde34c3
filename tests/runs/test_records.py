from __future__ import annotations

import errno
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from schurgan.core.errors import SchurganError
from schurgan.runs.records import Event, HealthRecord, MetricsFile, Row, read_records

ROW = Row(25, 0, {"loss_d": 0.5}, {"generator.stem": 1.2})
EVENT = Event(30, "warning", reason="a\u2028b\u0085c", time=1.5)
COLLAPSED = Event(60, "collapsed", 1, "why", 2.5, to=20, onset=40, extreme=55, best_step=30)
HEALTH = HealthRecord(
    50, 0, {"frechet": 3.0, "variety": None}, "healthy", ("a", "b"), "a loss", {"generator.stem": 1.2}
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_lines_read_back_by_kind_and_in_order(path):
    file = MetricsFile(path)
    for record in (ROW, EVENT, HEALTH, replace(ROW, step=75), COLLAPSED):
        file.append(record)
    assert read_records(path) == ([ROW, replace(ROW, step=75)], [HEALTH], [EVENT, COLLAPSED])
    assert path.read_bytes().count(b"\n") == 5  # a reason never breaks its line


def test_lines_of_the_versions_before_are_read(path):
    path.write_text(
        '{"step": 1, "attempt": 0, "loss_d": 0.5, "departures_mended": 3, "singular_values": {"generator.stem": 1.5}}\n'
        '{"step": 2, "loss_d": null}\n'
        '{"step": 2, "attempt": 1, "health": {"frechet": 2.5, "gap": null, "singular_values": {"a": 2.0}, '
        '"not_finite": "a loss", "verdict": "warning", "reasons": ["a", "b"]}}\n'
        '{"step": 2, "health": {"frechet": 2.5}}\n'
        '{"step": 3, "event": "stopped", "attempt": 1, "to": null, "reason": "", "time": 5.5}\n'
        '{"step": 4, "event": "collapsed", "onset": 3, "extreme": null, "best_step": 1, "reason": "x"}\n'
    )
    assert read_records(path) == (
        [Row(1, 0, {"loss_d": 0.5, "departures_mended": 3}, {"generator.stem": 1.5}), Row(2, 0, {"loss_d": None})],
        [
            HealthRecord(2, 1, {"frechet": 2.5, "gap": None}, "warning", ("a", "b"), "a loss", {"a": 2.0}),
            HealthRecord(2, 0, {"frechet": 2.5}),
        ],
        [Event(3, "stopped", 1, time=5.5), Event(4, "collapsed", onset=3, best_step=1, reason="x")],
    )


def test_values_of_another_kind_are_left_out_or_none(path):
    path.write_text(
        '{"step": 1, "loss_d": "much", "loss_g": true, "a": [1], "b": 1e999, "c": ' + "9" * 400 + "}\n"
        '{"step": 1, "event": "warning", "reason": ["a", 5], "time": "now", "to": 1.5, "onset": -1}\n'
    )
    assert read_records(path) == ([Row(1, 0, {"b": None, "c": None})], [], [Event(1, "warning", reason="a; 5")])


def test_numbers_that_are_not_finite_are_null_wherever_they_stand(path):
    MetricsFile(path).append(Row(1, 0, {"a": float("nan"), "b": 1.0}, {"c": float("inf"), "d": -float("inf")}))
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"step": 1, "attempt": 0, "a": None, "b": 1.0, "singular_values": {"c": None, "d": None}}


def test_what_json_cannot_hold_is_refused_and_not_written(path):
    with pytest.raises(TypeError):
        MetricsFile(path).append(Row(1, values={"a": {1, 2}}))  # type: ignore[dict-item]
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


@pytest.mark.parametrize("lost", [5, 1000])
def test_a_file_that_lost_its_end_keeps_its_whole_lines_with_a_warning(path, lost):
    file = MetricsFile(path)
    file.append(ROW)
    one = path.read_bytes()
    file.append(EVENT)
    size = file.size
    os.truncate(path, max(0, size - lost))
    with pytest.warns(UserWarning, match="changed since the checkpoint was saved; its first [01] lines"):
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
    assert records.rows == [Row(3, values={"loss_d": None})]
    assert records.health == records.events == []


def test_a_reader_beside_a_writer_sees_whole_lines_only(path):
    text = b"".join(json.dumps(record.as_line()).encode() + b"\n" for record in (ROW, EVENT))
    first = text.index(b"\n")
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        rows, health, events = read_records(path)
        assert (len(rows), len(health), len(events)) == (cut >= first, 0, cut == len(text) - 1)


def test_no_line_is_written_or_cut_through_a_link_and_a_fifo_is_an_error(tmp_path, path):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    path.symlink_to(victim)
    for write in (lambda: MetricsFile(path).append(ROW), lambda: MetricsFile(path).truncate(0)):
        with pytest.raises(OSError, match="link"):
            write()
    assert victim.read_text() == "precious\n"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SchurganError, match="not a regular file"):
        read_records(path)


def test_no_file_is_no_lines_and_a_folder_in_its_place_is_an_error(tmp_path, path):
    assert read_records(path) == ([], [], [])
    with pytest.raises(SchurganError, match=str(tmp_path)):
        read_records(tmp_path)
