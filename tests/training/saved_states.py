"""States and checkpoints for the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from schurgan.runs.sidecar import Identity
from schurgan.training.checkpoint import Checkpoints

IDENTITY = Identity(options={"train": {"lr_g": 0.001}, "model": {"attention_g": [8, 16]}}, data="0123abcd")


def state(step: int, size: int = 64) -> dict[str, Any]:
    weights = torch.randn(size, size, generator=torch.Generator().manual_seed(step))
    return {"step": step, "network": {"weight": weights}, "rows": [{"loss": torch.tensor(0.5)}]}


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(state(step), step, IDENTITY)
    return checkpoints


def loaded_step(checkpoints: Checkpoints) -> int:
    """Of the newest state, which must be whole."""
    found = checkpoints.load()
    assert found is not None
    assert found.record.step == found.state["step"]
    assert torch.equal(found.state["network"]["weight"], state(found.record.step)["network"]["weight"])
    return found.record.step


def names(checkpoints: Checkpoints) -> list[str]:
    return [path.name for path in checkpoints.paths()]


def files(checkpoints: Checkpoints) -> list[str]:
    """Everything in the folder of the checkpoints."""
    return sorted(path.name for path in checkpoints.folder.iterdir())


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def collapsed(folder: Path) -> Checkpoints:
    """Healthy to step 30, whose onset was 35; best at step 50."""
    checkpoints = Checkpoints(folder, keep=9)
    for step, score in [(10, 9.0), (20, 8.0), (30, 7.0), (40, 6.0), (50, 5.0), (60, 99.0)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=step < 50)
    return checkpoints
