"""Generator and discriminator, shaped by ladders; no training.

generator = Generator.from_preset("small-32", classes=10)
latent = Latent(generator.latent_dim)
images = generator(latent.sample(8), torch.arange(8))  # (8, 3, 32, 32) in [−1, 1]
"""

from __future__ import annotations

from schurgan.networks.attention import SelfAttention, plain_attention
from schurgan.networks.discriminator import Discriminator
from schurgan.networks.generator import Generator, standing_statistics
from schurgan.networks.ladders import IMAGE, LADDERS, Ladder, Stage, find_ladder
from schurgan.networks.latent import Latent
from schurgan.networks.spectral_norm import SpectralNorm, apply_spectral_norm

__all__ = [
    "IMAGE",
    "LADDERS",
    "Discriminator",
    "Generator",
    "Ladder",
    "Latent",
    "SelfAttention",
    "SpectralNorm",
    "Stage",
    "apply_spectral_norm",
    "find_ladder",
    "plain_attention",
    "standing_statistics",
]
