"""What tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from watched_runs import HEALTH

from schurgan.runs.config import Config


@pytest.fixture
def watched(tiny: Callable[..., Config]) -> Callable[..., Config]:
    """`watched({"reaction": "stop"}, steps=4)`: options of a run that looks at its health every two steps."""

    def build(health: dict[str, Any] | None = None, **training: object) -> Config:
        values = {"steps": 18, "log_every": 2, "checkpoint_every": 2, "keep_checkpoints": 20, "sample_every": 0}
        config = tiny(**(values | training))
        return config.model_copy(update={"health": config.health.model_copy(update=HEALTH | (health or {}))})

    return build
