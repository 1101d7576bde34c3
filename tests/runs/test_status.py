from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from schurgan.core.errors import SchurganError
from schurgan.runs.messages import counted, event_sentence, figures, file_size, health_sentence
from schurgan.runs.records import Event, HealthRecord, Row
from schurgan.runs.sidecar import Identity
from schurgan.runs.status import read_status, status_lines
from schurgan.training.checkpoint import Checkpoints

NOW = 1_800_000_000.0
ROW = {
    "attempt": 0,
    "loss_d": 0.8,
    "loss_g": -0.25,
    "accuracy_d": 0.73,
    "ddfn_ema_gap": 12.3,
    "ddfn_epsilon": 37.16,
    "ddfn_standard_error": 5.0,
    "singular_values": {"generator.stem": 1.2},
    "steps_per_second": 2.0,
}
HEALTH = {
    "step": 400,
    "attempt": 0,
    "health": {"frechet": 12.3, "frechet_ema": 9.8, "variety": 0.93, "verdict": "healthy"},
}


def make(run: Path, lines: list[dict], silent: float = 3.0, steps: int = 1000) -> Path:
    """A run whose last line is `silent` seconds old."""
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"preset": "x", "train": {"steps": steps, "log_every": 25}}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("metrics.jsonl", "config.yaml"):
        os.utime(run / name, (NOW - silent, NOW - silent))
    return run


def event(kind: str, step: int, **more: object) -> dict:
    return {"step": step, "event": kind} | more


def rows(*steps: int, **more: object) -> list[dict]:
    return [ROW | {"step": step} | more for step in steps]


def state(run: Path) -> str:
    return read_status(run, NOW).state


def test_a_running_run_says_how_far_it_is_how_fast_and_how_long_still(tmp_path):
    run = make(tmp_path / "run", [*rows(375, 400), HEALTH])
    lines = status_lines(run, NOW)
    assert lines == [
        f"run         {run}",
        "state       running, last line 3 s ago",
        "step        400 of 1000 (40%), 2.00 steps/s, 5 min left",
        "loss        D 0.800  G -0.250",
        "D right     73%",
        "DDFN gap    +12.3, inside ±37.2, noise of a batch ±10.0",
        "health      healthy at step 400: variety 0.93 (1: as real), "
        "Fréchet distance 12.3, averaged generator 9.8 (0: as real)",
    ]


def test_the_rate_is_steps_over_the_time_that_they_took(tmp_path):
    lines = [*rows(25, steps_per_second=1.0), *rows(50, steps_per_second=4.0)]
    # 25 steps in 25 s and 25 in 6.25 s; no rate of another attempt counts
    assert read_status(make(tmp_path / "a", lines), NOW).steps_per_second == pytest.approx(50 / 31.25)
    lines += rows(30, attempt=1, steps_per_second=8.0)
    status = read_status(make(tmp_path / "b", lines), NOW)
    assert (status.step, status.attempt, status.steps_per_second) == (30, 1, 8.0)
    assert status.seconds_left == pytest.approx(970 / 8)


@pytest.mark.parametrize(
    ("lines", "silent", "expected"),
    [
        ([], 5, "starting"),
        ([], 700, "silent"),
        (rows(25), 100, "running"),
        (rows(25), 700, "silent"),
        (rows(25, steps_per_second=0.1), 700, "running"),  # 250 s between lines
        ([*rows(500), event("stopped", 510, to=300)], 700, "stopped"),
        ([*rows(500), event("interrupted", 510)], 5, "interrupted"),
        ([*rows(500), event("interrupted", 510), event("resumed", 500)], 5, "running"),
        ([*rows(500), event("interrupted", 510), *rows(525)], 5, "running"),
        ([*rows(1000), event("finished", 1000)], 9e5, "finished"),
        (rows(1000), 9e5, "finished"),  # of a version without events
        ([*rows(500), event("collapsed", 500)], 700, "silent"),
        ([event("not_finite", 3)], 1, "running"),
    ],
)
def test_what_state_a_run_is_in(tmp_path, lines, silent, expected):
    assert state(make(tmp_path / "run", lines, silent)) == expected


def test_a_silent_run_asks_whether_it_is_dead_and_says_how_to_go_on(tmp_path):
    run = make(tmp_path / "run", rows(25), 12 * 60)
    assert (
        status_lines(run, NOW)[1] == f"state       no line for 12 min: dead? If it is, `schurgan resume {run}` goes on"
    )
    assert "left" not in status_lines(run, NOW)[2]


def test_events_are_sentences_the_last_five_and_how_many_were_before(tmp_path):
    many = [event("warning", step, reason="D leads") for step in range(1, 8)]
    many += [event("resumed", 8), event("collapsed", 9, onset=4, reason="variety 0.3"), event("rollback", 9, to=2)]
    lines = status_lines(make(tmp_path / "run", [*rows(25), *many]), NOW)
    shown = [line for line in lines if line.startswith("event")]
    assert shown[-2:] == [
        "event       step 9: collapsed, began at step 4. Variety 0.3",
        "event       step 9: rolled back, on with the state of step 2",
    ]
    assert len(shown) == 5
    assert "            and 4 events before" in lines


def test_checkpoints_are_listed_oldest_attempt_first_with_sizes_and_what_they_are_kept_for(tmp_path):
    run = make(tmp_path / "run", rows(25))
    saved = Checkpoints(run, keep=2)
    identity = Identity(options={}, data="0" * 64)
    for step, score, healthy in ((100, 5.0, True), (200, 3.0, True), (300, 9.0, False), (400, 8.0, False)):
        saved.save({"a": step}, step, identity, score=score, healthy=healthy)
    saved.save({"a": 0}, 250, identity, attempt=1, score=None, healthy=False)
    (run / "checkpoints" / "step-00000001.pt").write_bytes(b"damaged")
    (run / "checkpoints" / ".step-00000002.pt.99.partial").write_bytes(b"")
    found = {file.name: file.roles for file in read_status(run, NOW).checkpoints}
    assert found == {
        "step-00000001.pt": (),
        "step-00000200.pt": ("best", "last healthy"),
        "step-00000400.pt": (),
        "step-00000250-a1.pt": ("newest",),
    }
    assert "checkpoint  step-00000001.pt  7 B" in status_lines(run, NOW)


def test_the_json_says_the_same_and_is_strict(tmp_path):
    run = make(tmp_path / "run", [*rows(400), HEALTH, event("warning", 10, reason="é")])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-00000400.pt").write_bytes(b"12345")
    said = json.loads(read_status(run, NOW).as_json(), parse_constant=lambda name: pytest.fail(name))
    assert (said["state"], said["step"], said["steps"], said["seconds_left"]) == ("running", 400, 1000, 300.0)
    assert said["health"] == HEALTH | {"health": HEALTH["health"] | {"reasons": []}}
    assert "singular_values" not in said["row"]
    assert said["events"] == [event("warning", 10, attempt=0, reason="é")]
    assert said["checkpoints"][0] | {"roles": ["newest"]} == said["checkpoints"][0]
    assert said["checkpoints"][0]["bytes"] == 5


@pytest.mark.parametrize(
    "config",
    ["", "train: 5", "train: {steps: 0}", "train: {steps: x}", "{", "train: {steps: 5, log_every: null}", "\xff"],
)
def test_what_is_no_run_is_one_sentence(tmp_path, config):
    with pytest.raises(SchurganError, match="none: no such file or folder"):
        read_status(tmp_path / "none")
    with pytest.raises(SchurganError, match="an empty folder, not a run"):
        read_status(tmp_path)
    (tmp_path / "config.yaml").write_bytes(config.encode("latin-1"))
    with pytest.raises(SchurganError, match=r"config.yaml: not the options of a run"):
        read_status(tmp_path)


def test_nothing_is_written_and_torch_is_not_loaded(tmp_path):
    run = make(tmp_path / "run", [*rows(400), HEALTH])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code = f"import sys; from schurgan.runs.status import status_lines; status_lines({str(run)!r})"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_960, "100 kB"), (999_600, "1.0 MB"), (3_440_000_000, "3.4 GB")],
)
def test_file_sizes_have_two_or_three_digits(count, text):
    assert file_size(count) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "no classes"), (1, "1 class"), (2, "2 classes"), (1200, "1200 classes")]
)
def test_a_number_stands_with_its_noun_in_the_form_that_fits(number, text):
    assert counted(number, "class") == text


def test_sentences_leave_out_what_a_line_does_not_say():
    assert event_sentence(Event(1, "something_new")) == "step 1: something new"
    assert event_sentence(Event(1, "warning", reason="a\nb; c")) == "step 1: warning. A b; c"
    assert health_sentence(HealthRecord(5, scores={"frechet": None})) == "no verdict at step 5"
    assert figures(Row(1)) == {}
    assert figures(Row(1, values={"ddfn_gap": -50.0, "ddfn_epsilon": 37.2})) == {"DDFN gap": "-50.0, outside ±37.2"}
    assert figures(Row(1, values={"loss_d": None, "accuracy_d": None})) == {}
