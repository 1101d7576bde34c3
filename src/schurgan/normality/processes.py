"""What several processes of torch.distributed have to add up; in a single one, what it has."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def over_processes(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both summed over all processes of torch.distributed, and how many processes there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums, counts, 1
    both = torch.stack([sums, counts])
    dist.all_reduce(both)
    return both[0], both[1], dist.get_world_size()


class Total:
    """Sums and maxima over the processes, if there are several."""

    def __init__(self, everywhere: bool, device: torch.device) -> None:
        self.everywhere = everywhere and dist.is_available() and dist.is_initialized()
        self.device = device

    def sum(self, value: Tensor) -> Tensor:
        return self._reduce(value, dist.ReduceOp.SUM) if self.everywhere else value

    def max(self, value: Tensor) -> Tensor:
        return self._reduce(value, dist.ReduceOp.MAX) if self.everywhere else value

    def _reduce(self, value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        value = value.to(self.device)
        dist.all_reduce(value, operation)
        return value.cpu()
