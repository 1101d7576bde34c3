"""The generator: noise and a class in, an image out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from schurgan.core.errors import did_you_mean
from schurgan.core.isolation import isolated
from schurgan.networks.architectures import Architecture, check_sizes, find_architecture
from schurgan.networks.latent import Latent
from schurgan.networks.layers import BATCH_NORM_EPS, Condition, GBlock, Init, attribute_set, initialise
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
    def from_preset(cls, name: str, classes: int = 10, **options: Any) -> Self:
        """The generator of a row of `ARCHITECTURES`; `options` are the constructor's."""
        return cls(find_architecture(name), classes, **options)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (B, channels, H, W) of z (B, latent_dim) and labels (B,)."""
        first, conditions = self.split(z, labels if self.shared is None else self.shared(labels))
        h = self.linear(first).unflatten(1, (-1, *self.architecture.base))
        for block, condition in zip(self.blocks, conditions, strict=True):
            h = block(h, condition)
        return torch.tanh(self.output(F.relu(self.norm(h))))

    def embeddings(self) -> list[nn.Embedding]:
        """The class embeddings, shared or each norm's own. Normalising them can cripple G (Brock et al.)."""
        return [module for module in self.modules() if isinstance(module, nn.Embedding)]

    def split(self, z: Tensor, embedded: Tensor) -> tuple[Tensor, list[Condition]]:
        """What the linear layer sees, and each block's condition, of z (B, latent_dim) and embedded labels.

        These are (B, architecture.embedding), or labels (B,) where no embedding is shared.
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


def layer_maps(network: nn.Module, layer: str, z: Tensor, labels: Tensor) -> Tensor:
    """Maps (B, C, n, n) that a layer gives when `network` is called with z and labels.

    Raises ValueError for a name that is none of `named_modules`, or of a layer that gives something else.
    """
    layers = dict(network.named_modules())
    if layer not in layers:
        raise ValueError(f'layer: "{layer}" given, the generator has no such layer{did_you_mean(layer, layers)}')
    given: list[Any] = []
    with layers[layer].register_forward_hook(lambda module, inputs, output: given.append(output)):
        network(z, labels)
    shape = tuple(given[-1].shape) if given and isinstance(given[-1], Tensor) else "nothing"
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(f'layer: "{layer}" given, square maps (B, C, n, n) are needed and it gives {shape}')
    maps: Tensor = given[-1]
    return maps


@isolated
@torch.no_grad()
def standing_statistics(
    network: Generator,
    latent: Latent,
    *,
    batches: int = 16,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Set the running statistics of every batch norm, in place, to those of images that `network` generates.

    The mean over `batches` batches of each batch's own mean and (unbiased) variance, classes at equal chance (Brock et
    al. 2019). An average of weights needs this before it samples: its running statistics belong to no network that ever
    ran. Nothing else changes. `progress` is called with the batches done and their number.
    """
    device = next(network.parameters()).device
    source = generator.device if generator is not None else device
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    # Without a momentum running statistics are cumulative averages.
    with attribute_set(network.modules(), "training", False), attribute_set(norms, "momentum", None):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for number in range(batches):
            z = latent.sample(batch_size, generator, device=device)
            labels = torch.randint(network.classes, (batch_size,), generator=generator, device=source).to(device)
            network(z, labels)
            if progress:
                progress(number + 1, batches)
