"""Means of a step's metrics over many steps, kept on the device: reading one at each step would make it wait."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Means:
    """`add(metrics)` each step, `take()` now and then: means of what came since, as plain numbers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total: Tensor | None = None
        self.count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Scalars on one device, under the same names each time."""
        values = torch.stack([value.float() for value in metrics.values()]).double()
        if self.total is None:
            self.names, self.total = list(metrics), torch.zeros_like(values)
        self.total = self.total.to(values.device) + values
        self.count += 1

    def take(self) -> dict[str, float | None]:
        """The means, None where one is not finite; waits for the device. Starts afresh; nothing came: {}."""
        if self.total is None:
            return {}
        means = (self.total / self.count).tolist()
        self.total, self.count = None, 0
        return {name: mean if math.isfinite(mean) else None for name, mean in zip(self.names, means, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"names": self.names, "total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.names, self.total, self.count = list(state["names"]), state["total"], int(state["count"])
