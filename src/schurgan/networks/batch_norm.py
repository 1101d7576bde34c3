"""Batch norm whose batch is that of all processes together.

generator = convert_batch_norm(generator)   # before it is wrapped for several processes
with local_statistics(generator):           # what one process alone does in training mode, such as evaluation
    ...

With a batch of 8 on each of 64 GPUs, plain batch norm normalises by 64 noisy statistics of 8 images, and the running
ones of the processes drift apart. Here they are those of the 512 images, the same on every process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from schurgan.core.distributed import current_world
from schurgan.networks.layers import attribute_set

Network = TypeVar("Network", bound=nn.Module)


class CrossReplicaBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes of torch.distributed, which may differ in length.

    It runs on any device (`nn.SyncBatchNorm` refuses a CPU), keeps the memory format, and counts in float32 or better.
    Every process must call it equally often: the statistics meet once in the forward pass, and their gradients once in
    the backward pass. With one process, in eval mode and within `local_statistics` it is `nn.BatchNorm2d`, bit for bit.

    The gradient is that of the sum of the processes' losses; a wrapper that averages gradients over the processes makes
    it that of their mean, and gathers those of `weight` and `bias`. There is no second derivative.
    """

    local = False

    def forward(self, input: Tensor) -> Tensor:
        if not (self._uses_batch() and current_world().size > 1):
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count, one, zero = Statistics.apply(input, self.eps)  # type: ignore[no-untyped-call]
        if self.training and self.track_running_stats:
            self._track(mean, variance, count)
        if self.weight is not None:
            one, zero = self.weight * one, self.weight * zero
        if self.bias is not None:
            zero = zero + self.bias
        return F.batch_norm(input, mean, variance, one, zero, False, 0.0, self.eps)

    def _uses_batch(self) -> bool:
        return not self.local and (self.training or self.running_mean is None)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        if self.momentum is None:  # a cumulative average, without reading the counter from the device
            share = self.num_batches_tracked.to(self.running_mean.dtype).reciprocal()
        else:
            share = torch.as_tensor(self.momentum, dtype=self.running_mean.dtype, device=mean.device)
        unbiased = (variance * (count / (count - 1))).to(self.running_var.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased, share)


class Statistics(torch.autograd.Function):
    """x (B, C, H, W)  ->  mean (C,), biased variance (C,), count (), of all processes' x; ones (C,) and zeros (C,).

    Normalising by the mean and the variance as if they were constants is left to the fused kernel, y = x̂ · one + zero.
    That kernel's gradients of `one` and `zero` are Σ x̂ ∂y and Σ ∂y, all that is needed for the part of the gradient
    that reaches x through the statistics: −(Σ ∂y + x̂ Σ x̂ ∂y) / (n σ), both sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = global_moments(x)
        ctx.save_for_backward(x, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return mean, variance, count, torch.ones_like(mean), torch.zeros_like(mean)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _mean: Tensor, _variance: Tensor, _count: Tensor, by_one: Tensor, by_zero: Tensor
    ) -> tuple[Tensor, None]:
        x, mean, variance, count = ctx.saved_tensors
        sums = current_world().sum_over(torch.stack([by_one, by_zero]))
        scale = (variance + ctx.eps).rsqrt()
        by_one, by_zero = sums / count.to(sums.dtype)
        slope = -by_one * scale.square()
        constant = -by_zero * scale - slope * mean
        return torch.addcmul(constant[:, None, None], x, slope[:, None, None]).to(x.dtype), None


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and count () of each channel of all processes' x (B, C, H, W).

    In float32 or better. Merged from each process's own centred moments (Chan et al. 1983), in the order of their
    ranks: no difference of large sums, and the same bits on every process.
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (torch.zeros(x.shape[1], dtype=precise, device=x.device) for _ in range(2))
    # Its running statistics of momentum 1 are the batch's own. On a CPU ten times faster than torch.var_mean, and half
    # types are summed in float32 without a copy.
    F.batch_norm(x.detach(), mean, variance, training=True, momentum=1.0)
    size = x.numel() // x.shape[1]
    own = torch.stack([mean, variance * (size - 1), torch.full_like(mean, size)]).double()
    means, squares, counts = current_world().stack(own).transpose(0, 1)
    count = counts.sum(0)
    whole = (counts * means).sum(0) / count
    deviations = squares.sum(0) + (counts * (means - whole).square()).sum(0)
    return whole.to(precise), (deviations / count).to(precise), count[0]


def convert_batch_norm(network: Network) -> Network:
    """Turn every `nn.BatchNorm2d` of `network` into a `CrossReplicaBatchNorm2d`, in place, and return `network`.

    The modules stay the objects they were, so optimisers and states of before still fit.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CrossReplicaBatchNorm2d
    return network


def local_statistics(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, each process normalises by its own batch alone, and may run `network` as often as it likes."""
    return attribute_set((m for m in network.modules() if isinstance(m, CrossReplicaBatchNorm2d)), "local", True)
