"""Number formats of a run, and steps that are left out when a number is not finite; neither waits for the device.

precision = Precision("bf16", device)
with precision.switches():                       # around the whole run
    with precision.autocast():                   # around the forward pass of a network, not around losses
        scores = precision.scores(discriminator(images, labels))
    loss = hinge.generator(scores)
    scale.apply(loss).backward()                 # a LossScale of each optimiser's own; None but for "fp16"
    outcome = guarded_step(optimizer, [loss], scale)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from schurgan.core.distributed import current_world

Format = Literal["fp32", "tf32", "bf16", "fp16"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the networks of a run compute on `device`. Weights, optimisers, losses and scores stay in float32.

    fp32   float32 throughout: a GPU's convolutions too, for which torch takes TF32 otherwise
    tf32   products of matrices and convolutions with 10 bits of mantissa on a GPU that can; on a CPU the same as fp32
    bf16   autocast to bfloat16: float32's range, 8 bits
    fp16   autocast to float16: 11 bits, and so small a range that losses need a `LossScale`

    Raises ValueError for another name.
    """

    def __init__(self, name: Format, device: torch.device) -> None:
        if name not in get_args(Format):
            raise ValueError(f'precision: "{name}" given, one of {", ".join(get_args(Format))} is needed')
        self.name, self.device = name, device

    def autocast(self) -> AbstractContextManager[object]:
        """Around a network's forward pass; without effect in float32."""
        half = _HALF.get(self.name)
        return torch.autocast(self.device.type, dtype=half, enabled=half is not None)

    def scores(self, scores: Tensor) -> Tensor:
        """D's scores in float32 or better: what losses and their means are taken of."""
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def loss_scale(self) -> LossScale | None:
        """A new one for "fp16", which each optimiser needs for itself; None for the formats that need none."""
        return LossScale().to(self.device) if self.name == "fp16" else None

    @contextmanager
    def switches(self) -> Iterator[None]:
        """Inside, torch's own switches for TF32 are as the format says; after it, as they were before."""
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        try:
            matmul.allow_tf32 = cudnn.allow_tf32 = self.name != "fp32"
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before

    def __repr__(self) -> str:
        return f'Precision("{self.name}", {self.device})'


class LossScale(nn.Module):
    """A factor on a loss that keeps its gradients above what float16 rounds to 0 (Micikevicius et al. 2018).

    Halved at each step whose gradients are not finite, doubled after `interval` steps that were. All of it stays on the
    device, and in the state_dict. As `torch.amp.GradScaler`, but that it can share its verdict with losses and other
    processes (`guarded_step`), and that its state may be saved without waiting for the device.
    """

    value: Tensor
    streak: Tensor

    def __init__(self, start: float = 2.0**16, interval: int = 2000) -> None:
        super().__init__()
        if not 0 < start < float("inf") or interval < 1:
            raise ValueError(f"start {start}, interval {interval}: numbers above 0 are needed")
        self.interval = interval
        self.register_buffer("value", torch.tensor(float(start)))
        self.register_buffer("streak", torch.tensor(0))

    def apply(self, loss: Tensor) -> Tensor:  # type: ignore[override]
        return loss * self.value

    def update(self, skipped: Tensor) -> None:
        bad = skipped > 0
        streak = torch.where(bad, 0, self.streak + 1)
        grown = streak >= self.interval
        self.value.copy_(torch.where(bad, self.value / 2, torch.where(grown, self.value * 2, self.value)))
        self.streak.copy_(torch.where(grown, 0, streak))


class Outcome(NamedTuple):
    """Of a guarded step: scalars on the device. `norm` is the gradient's, without a loss scale, finite or not."""

    skipped: Tensor
    norm: Tensor


@torch.no_grad()
def guarded_step(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], scale: LossScale | None = None) -> Outcome:
    """`optimizer.step()`, left out where a loss or the gradients' norm is not finite; on all processes if on one.

    optimizer  one with fused=True: its kernel reads on the device whether to do anything. A step left out changes no
               weight, no moment and no count of steps; what else a step changes (moving averages, running statistics)
               is the caller's
    losses     scalars, what the gradients are of and whatever else must be finite
    scale      the factor that the gradients have; it is updated

    `skipped` is 1.0 for a step left out, else 0.0. With several processes the gradients are taken to be shared already.
    A norm above 1e19, whose square float32 cannot hold, counts as not finite. Raises ValueError for an optimiser that
    is not fused, and where no parameter has a gradient.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ValueError(f"optimizer: {type(optimizer).__name__} is not fused, fused=True is needed to guard its steps")
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        raise ValueError("optimizer: none of its parameters has a gradient; a backward pass is needed first")
    norm = torch.nn.utils.get_total_norm(gradients)
    numbers = torch.stack([norm, *(loss.detach().to(norm).sum() for loss in losses)])
    skipped = current_world().max_over(1 - numbers.isfinite().all().to(torch.float32))
    factor = None if scale is None else scale.value.clone()
    # Attributes that torch's own GradScaler sets, and every fused kernel reads.
    optimizer.found_inf, optimizer.grad_scale = skipped, factor  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    if scale is None or factor is None:
        return Outcome(skipped, norm)
    scale.update(skipped)
    return Outcome(skipped, norm / factor)


def first_not_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, None where all are finite. Waits for the device."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    named = [(name, tensor.detach()) for name, tensor in pairs if tensor.numel()]
    flags = [tensor.isfinite().all().cpu() for _, tensor in named]
    return next((name for (name, _), finite in zip(named, flags, strict=True) if not finite), None)
