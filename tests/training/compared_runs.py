"""Runs compared with each other, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from schurgan.training.checkpoint import read


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its events and rates."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key != "steps_per_second"}
        for line in lines
        if "event" not in line
    ]


def state(path: Path) -> dict[str, Any]:
    """All that the next step depends on: what the record says, and the state but for the length of metrics.jsonl."""
    record, content = read(path)
    journal = {key: value for key, value in content["journal"].items() if key != "size"}
    return content | {"record": record.model_dump(exclude={"identity"}), "journal": journal}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_run(run: Path, other: Path) -> None:
    """Bit for bit but for the rates: weights, whole state, metrics, pictures and sounds; and nothing half-written."""
    assert (run / "generator.safetensors").read_bytes() == (other / "generator.safetensors").read_bytes()
    names = [path.name for path in sorted((run / "checkpoints").glob("*.pt"))]
    assert names == [path.name for path in sorted((other / "checkpoints").glob("*.pt"))]
    assert equal(state(run / "checkpoints" / names[-1]), state(other / "checkpoints" / names[-1]))
    assert rows(run) == rows(other)
    assert contents(run / "samples") == contents(other / "samples")
    assert not list(run.rglob("*.partial"))


def assert_same_state(one: Path, other: Path) -> None:
    """But for the options, of which the number of steps may be another."""
    first, second = state(one), state(other)
    assert equal({**first, "record": None}, {**second, "record": None})
