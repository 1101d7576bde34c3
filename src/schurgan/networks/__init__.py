"""Generator and discriminator, shaped by architectures; no training.

generator = Generator.from_preset("small-32", classes=10)
latent = Latent(generator.latent_dim)
images = generator(latent.sample(8), torch.arange(8))  # (8, 3, 32, 32) in [−1, 1]
"""

from __future__ import annotations

from schurgan.networks.architectures import ARCHITECTURES, IMAGE, Architecture, Stage, customise, find_architecture
from schurgan.networks.costs import Costs, step_costs
from schurgan.networks.discriminator import Discriminator
from schurgan.networks.export import export_generator
from schurgan.networks.generator import Generator, layer_maps, standing_statistics
from schurgan.networks.latent import Latent
from schurgan.networks.layers import SelfAttention, plain_attention
from schurgan.networks.spectral import (
    SpectralClamp,
    SpectralNorm,
    apply_spectral_clamp,
    apply_spectral_norm,
    leading_singular_values,
    unconstrained_state,
)

__all__ = [
    "ARCHITECTURES",
    "IMAGE",
    "Architecture",
    "Costs",
    "Discriminator",
    "Generator",
    "Latent",
    "SelfAttention",
    "SpectralClamp",
    "SpectralNorm",
    "Stage",
    "apply_spectral_clamp",
    "apply_spectral_norm",
    "customise",
    "export_generator",
    "find_architecture",
    "layer_maps",
    "leading_singular_values",
    "plain_attention",
    "standing_statistics",
    "step_costs",
    "unconstrained_state",
]
