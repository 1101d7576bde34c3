"""The generator's source of chance: z, and four meanings of its truncation."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Truncation = Literal["scale", "std", "resample", "official"]


class Latent:
    """z of `dim` independent components, N(0, variance) ("normal") or U[−1, 1] ("uniform").

    The seed paper tries N(0, I), N(0, 0.02 I) and U[−1, 1]. As it writes covariances, 0.02 is a variance: a standard
    deviation of 0.14, and not DCGAN's 0.02.
    """

    def __init__(
        self, dim: int, kind: Literal["normal", "uniform"] = "normal", *, variance: float | None = None
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim: {dim} given, a whole number of 1 or more is needed")
        if kind not in ("normal", "uniform"):
            raise ValueError(f'kind: "{kind}" given, "normal" or "uniform" is needed')
        if variance is not None:
            if kind != "normal":
                raise ValueError(f"variance: {variance} given for a uniform z, only a normal z has one")
            if not (math.isfinite(variance) and variance > 0):
                raise ValueError(f"variance: {variance} given, a finite number above 0 is needed")
        self.dim = dim
        self.kind = kind
        self.variance = 1.0 if variance is None else variance

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        truncation: float | None = None,
        mode: Truncation = "scale",
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw n latents (n, dim), float32.

        Args:
            n: how many.
            generator: draws on its own device, so that a seed gives the same z everywhere; by default the global random
                numbers of `device` do.
            truncation: α of a normal z. With a `variance` of v, z is √v as large as `mode` says.
            mode: the meaning of α: "scale" N(0, α), variance α (the seed paper; also above 1); "std" N(0, α²), standard
                deviation α (BigGAN-PyTorch, which calls α a variance); "resample" N(0, 1) given |z| ≤ α; "official" α
                times N(0, 1) given |z| ≤ 2 (BigGAN's published models).
            device: where z goes.
        """
        if mode not in get_args(Truncation):
            raise ValueError(f'mode: "{mode}" given, "scale", "std", "resample" or "official" is needed')
        if truncation is not None:
            if self.kind != "normal":
                raise ValueError(f"truncation: {truncation} given for a uniform z, only a normal z can be truncated")
            if not (math.isfinite(truncation) and truncation > 0):
                raise ValueError(f"truncation: {truncation} given, a finite number above 0 is needed")

        source = generator.device if generator is not None else device
        shape = (n, self.dim)
        if self.kind == "uniform":
            z = 2 * torch.rand(shape, generator=generator, device=source, dtype=torch.float32) - 1
        else:
            alpha = 1.0 if truncation is None else truncation
            spread = {"scale": math.sqrt(alpha), "std": alpha, "resample": 1.0, "official": alpha}[mode]
            bound = None if truncation is None else {"resample": alpha, "official": 2.0}.get(mode)
            if bound is None:
                z = torch.randn(shape, generator=generator, device=source, dtype=torch.float32)
            else:
                z = truncated_normal(shape, bound, generator, source)
            z = math.sqrt(self.variance) * spread * z
        return z.to(device) if device is not None else z


def truncated_normal(
    shape: tuple[int, ...], bound: float, generator: torch.Generator | None, device: torch.device | str | None
) -> Tensor:
    """N(0, 1) given |z| ≤ bound, by inversion: z = √2 erf⁻¹(u erf(bound/√2)), u ~ U[−1, 1], none rejected."""
    u = 2 * torch.rand(shape, generator=generator, device=device, dtype=torch.float64) - 1
    z = math.sqrt(2) * torch.erfinv(u * math.erf(bound / math.sqrt(2)))
    return z.clamp(-bound, bound).float()  # the clamp is for u = −1, whose z is −∞ where erf(bound/√2) rounds to 1
