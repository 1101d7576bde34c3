"""The generator: noise and a class in, an image out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.networks.architectures import Architecture, Resample, SkipZ, check_sizes, customise, find_architecture
from schurgan.networks.latent import Latent
from schurgan.networks.layers import BATCH_NORM_EPS, Condition, GBlock, Init, initialise
from schurgan.networks.spectral import apply_spectral_norm


class Generator(nn.Module):
    """BigGAN's generator (Brock et al. 2019), its shape given by an architecture.

    z (B, latent_dim), labels (B,) int64 below `classes`  ->  images (B, channels, *architecture.size) in [−1, 1].

    The class embedding is shared by all blocks; with its part of z (`skip_z`) it conditions their batch norms.
    Where `architecture.embedding` is 0, every gain and bias of these norms has an embedding of its own instead.
    `spectral_norm` normalises every layer but the embeddings. Weights come from torch's global random numbers:
    set `torch.manual_seed` before. Raises ValueError for sizes below 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        width: int | None = None,
        channels: int = 3,
        *,
        spectral_norm: bool = False,
        init: Init = "orthogonal",
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, width=width, channels=channels)
        self.architecture = architecture
        self.classes = classes
        self.channels = channels
        self.width = width = architecture.width if width is None else width
        self.latent_dim = architecture.latent_dim
        # What of z goes into the linear layer, and into each block's condition.
        first, later = {
            "chunks": (architecture.chunk, architecture.chunk),
            "full": (self.latent_dim, self.latent_dim),
            "none": (self.latent_dim, 0),
        }[architecture.skip_z]
        base = architecture.generator[0].cin * width
        top = architecture.generator[-1].cout * width
        self.shared = nn.Embedding(classes, architecture.embedding) if architecture.embedding else None
        first += architecture.embedding if architecture.class_in_linear else 0
        self.linear = nn.Linear(first, base * architecture.base[0] * architecture.base[1])
        self.blocks = nn.ModuleList(
            GBlock(
                s.cin * width,
                s.cout * width,
                s.scale,
                later + architecture.embedding,
                s.attention,
                classes=0 if architecture.embedding else classes,
                resample=architecture.resample,
            )
            for s in architecture.generator
        )
        self.norm = nn.BatchNorm2d(top, eps=BATCH_NORM_EPS)
        self.output = nn.Conv2d(top, channels, 3, padding=1)
        initialise(self, init)
        if spectral_norm:
            apply_spectral_norm(self, keep=self.embeddings())

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        width: int | None = None,
        classes: int = 10,
        channels: int = 3,
        spectral_norm: bool = False,
        init: Init = "orthogonal",
        base: tuple[int, int] | None = None,
        skip_z: SkipZ | None = None,
        resample: Resample | None = None,
        embedding: int | None = None,
        attention: Collection[int] | None = None,
    ) -> Self:
        """Return the generator of a row of `ARCHITECTURES`, with some of its fields changed as by `customise`.

        Raises:
            ValueError: the name is unknown, or something does not fit the row.
        """
        architecture = customise(
            find_architecture(name),
            base=base,
            skip_z=skip_z,
            resample=resample,
            embedding=embedding,
            attention_g=attention,
        )
        return cls(architecture, classes, width, channels, spectral_norm=spectral_norm, init=init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images (B, channels, H, W) of z (B, latent_dim) and labels (B,)."""
        first, conditions = self.split(z, labels if self.shared is None else self.shared(labels))
        h = self.linear(first).unflatten(1, (-1, *self.architecture.base))
        for block, condition in zip(self.blocks, conditions, strict=True):
            h = block(h, condition)
        return torch.tanh(self.output(F.relu(self.norm(h))))

    def embeddings(self) -> list[nn.Embedding]:
        """Return the class embeddings, shared or each norm's own. Normalising them can cripple G (Brock et al.)."""
        return [module for module in self.modules() if isinstance(module, nn.Embedding)]

    def split(self, z: Tensor, embedded: Tensor) -> tuple[Tensor, list[Condition]]:
        """Return what the linear layer sees, and each block's condition.

        Args:
            z: (B, latent_dim).
            embedded: (B, architecture.embedding), or labels (B,) where no embedding is shared.

        Raises:
            ValueError: z has another length.
        """
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: shape {tuple(z.shape)} given, (batch, {self.latent_dim}) is needed")
        if self.architecture.skip_z == "chunks":
            first, *later = torch.split(z, self.architecture.chunk, 1)
        else:
            first, later = z, [z if self.architecture.skip_z == "full" else z[:, :0]] * len(self.blocks)
        if self.shared is None:
            return first, [(embedded, noise) for noise in later]
        if self.architecture.class_in_linear:
            first = torch.cat([first, embedded], 1)
        return first, [torch.cat([noise, embedded], 1) for noise in later]


@torch.no_grad()
def standing_statistics(
    network: Generator,
    latent: Latent,
    *,
    batches: int = 16,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> None:
    """Set the running statistics of every batch norm, in place, to those of images that `network` generates.

    The mean over `batches` batches of each batch's own mean and (unbiased) variance, z from `latent` and classes at
    equal chance, both from `generator` (Brock et al. 2019, "standing statistics"). An average of weights needs this
    before it samples: its running statistics belong to no network that ever ran. Nothing else changes: spectral norms
    stay as they are, modes and momenta come back.
    """
    device = next(network.parameters()).device
    source = generator.device if generator is not None else device
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for _ in range(batches):
            z = latent.sample(batch_size, generator, device=device)
            labels = torch.randint(network.classes, (batch_size,), generator=generator, device=source).to(device)
            network(z, labels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
