"""From a run's options to its networks, losses and constraints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.core.isolation import seed_alone
from schurgan.data.codec import Codec
from schurgan.data.dataset import LabelledImages
from schurgan.networks import (
    Architecture,
    Discriminator,
    Generator,
    Latent,
    apply_spectral_clamp,
    apply_spectral_norm,
    customise,
    find_architecture,
    layer_maps,
)
from schurgan.normality import DDFN, Condition, MomentMatching
from schurgan.runs.config import Config
from schurgan.runs.options import ModelOptions, RegularizeOptions
from schurgan.training.augment import DiffAugment
from schurgan.training.losses import LOSSES, Loss
from schurgan.training.regularizers import R1, R2, GradientPenalty, LeCam, OrthogonalRegularizer, Regularizer
from schurgan.training.trainer import Trainer

Network = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Parts:
    """A user's own objects, in place of those that the options name; regularisers are added to theirs.

    For the networks see `schurgan.train`.
    """

    generator: Network | None = None
    discriminator: Network | None = None
    loss: Loss | None = None
    regularizers: Sequence[Regularizer] = ()

    def names(self) -> dict[str, str]:
        """Return what the run was trained with, by class: another one must not go on with its states."""
        parts: dict[str, object] = {"generator": self.generator, "discriminator": self.discriminator, "loss": self.loss}
        parts |= {f"regularizers.{number}": each for number, each in enumerate(self.regularizers)}
        return {
            f"own.{name}": getattr(part, "__qualname__", type(part).__qualname__)
            for name, part in parts.items()
            if part
        }


def build_trainer(
    config: Config, classes: int, *, world: World | None = None, codec: Codec | None = None, own: Parts | None = None
) -> Trainer:
    """Build a trainer with the parts that the options name.

    Args:
        config: options of the run.
        classes: number of classes.
        world: the processes that train together, and this one's device.
        codec: what made the images, which decides what DiffAugment does to them; by default "log" spectrograms.
        own: parts in place of those of the options.

    Raises:
        ValueError: options do not fit each other.
    """
    train, model, own, world = config.train, config.model, own or Parts(), world or World()
    seed_alone(train.seed, world.device)
    generator = fresh(own.generator) if own.generator else build_generator(model, classes)
    if config.health.layer:
        check_layer(generator, config.health.layer)
    discriminator = fresh(own.discriminator) if own.discriminator else build_discriminator(model, classes)
    loss = own.loss or LOSSES[train.loss]
    if loss.lipschitz and not own.loss and not config.regularize.gradient_penalty:
        raise ValueError(f'gradient_penalty: 0 given, the loss "{train.loss}" needs one, 10 is usual')

    def adam(network: nn.Module, lr: float) -> torch.optim.Adam:
        network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Fused, as a step that can be left out without waiting for the device.
        return torch.optim.Adam(network.parameters(), lr, betas=train.betas, eps=train.eps, fused=True)

    return Trainer(
        generator,
        discriminator,
        loss=loss,
        regularizers=[*build_regularizers(config.regularize), *copy.deepcopy(own.regularizers)],
        conditions=build_conditions(config, classes),
        augment=build_augmentation(config.regularize, codec),
        optimizers=(adam(generator, train.lr_g), adam(discriminator, train.lr_d)),
        latent=Latent(cast(int, generator.latent_dim), model.latent, variance=model.latent_variance),
        ema_decay=train.ema_decay,
        seed=train.seed,
        batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        precision=train.precision,
        compile=train.compile,
        world=world,
    )


def fresh(network: Network) -> nn.Module:
    """A network as it was given, also for the second trainer of a run that goes back."""
    return copy.deepcopy(network) if isinstance(network, nn.Module) else network()


@torch.no_grad()
def check_layer(generator: nn.Module, layer: str) -> None:
    """Raise ValueError where a layer gives no maps; the generator and the global random numbers stay as they are."""
    device = next(generator.parameters()).device
    z, labels = torch.zeros(2, cast(int, generator.latent_dim)), torch.zeros(2, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        layer_maps(copy.deepcopy(generator).eval(), layer, z.to(device), labels.to(device))


def build_architecture(model: ModelOptions) -> Architecture:
    """The row that is named, with what the options change. Raises ValueError for what does not fit it."""
    return customise(
        find_architecture(model.architecture),
        embedding=model.embedding,
        skip_z=model.skip_z,
        resample=model.resample,
        attention_g=model.attention_g,
        attention_d=model.attention_d,
    )


def build_generator(model: ModelOptions, classes: int) -> Generator:
    """G with its constraint. Raises ValueError for options that do not fit each other."""
    if model.clamp_g and model.spectral_norm_g:
        raise ValueError(f"clamp_g: {model.clamp_g} given beside spectral_norm_g, one of the two is needed")
    network = Generator(build_architecture(model), classes, model.width, model.channels, init=model.init)
    if model.spectral_norm_g:
        apply_spectral_norm(network, network.embeddings(), iterations=model.spectral_iterations)
    elif model.clamp_g:
        keep, iterations = network.embeddings(), model.spectral_iterations
        apply_spectral_clamp(network, limit=model.clamp_limit, k=model.clamp_g, keep=keep, iterations=iterations)
    return network


def build_discriminator(model: ModelOptions, classes: int) -> Discriminator:
    """D with its constraint. Raises ValueError as `build_architecture` does."""
    architecture = build_architecture(model)
    width = model.width_d or model.width
    network = Discriminator(architecture, classes, width, model.channels, spectral_norm=False, init=model.init)
    if model.spectral_norm_d:
        apply_spectral_norm(network, iterations=model.spectral_iterations)
    return network


def build_conditions(config: Config, classes: int) -> dict[str, Condition]:
    """The conditions on G by name. DDFN of weight 0 is one too: its gap is logged."""
    conditions: dict[str, Condition] = {"ddfn": DDFN(**config.ddfn.model_dump())}
    if config.moment_matching.descriptor != "none":
        conditions["moment_matching"] = MomentMatching(classes=classes, **config.moment_matching.model_dump())
    return conditions


def build_regularizers(options: RegularizeOptions) -> list[Regularizer]:
    """The regularisers that have a weight."""
    every = options.penalty_every
    choices: list[tuple[float, Callable[[float], Regularizer]]] = [
        (options.orthogonal_d, lambda w: OrthogonalRegularizer(w, options.orthogonal_kind, "discriminator")),
        (options.orthogonal_g, lambda w: OrthogonalRegularizer(w, options.orthogonal_kind, "generator")),
        (options.lecam, lambda w: LeCam(w, start=options.lecam_start)),
        (options.gradient_penalty, lambda w: GradientPenalty(w, every)),
        (options.r1, lambda w: R1(w, every)),
        (options.r2, lambda w: R2(w, every)),
    ]
    return [build(weight) for weight, build in choices if weight]


def build_augmentation(options: RegularizeOptions, codec: Codec | None = None) -> DiffAugment:
    """DiffAugment for the images of `codec`, which may change nothing. Raises ValueError for an unknown policy."""
    kind: dict[str, Any] = {}
    if codec is not None and codec.colormap is None:
        kind = {"images": codec.scale, "floor_db": codec.floor_db}
    elif codec is not None:
        silence = codec.apply_colormap(torch.full((1, 1, 1, 1), -1.0))
        kind = {"images": "colormap", "floor": silence.flatten().tolist()}
    return DiffAugment(options.augment, options.augment_strength, **kind)


def choose_codec(config: Config, images: LabelledImages, own: Parts | None = None) -> Codec:
    """The data's codec with the channels and the colour map of the options.

    Raises:
        SchurganError: G makes images of another size, or the images cannot have such channels.
    """
    try:
        architecture = build_architecture(config.model)
    except ValueError as error:
        raise SchurganError(f"model.architecture: {config.model.architecture} given, {error}") from None
    try:
        codec = images.codec.recolored(config.model.channels, config.model.colormap)
    except ValueError as error:
        raise SchurganError(f"model.{error} ({images.folder})") from None
    if architecture.size != images.shape[1:] and not (own and own.generator and own.discriminator):
        (rows, columns), (height, width) = architecture.size, images.shape[1:]
        raise SchurganError(
            f'model.architecture: "{config.model.architecture}" makes images of {rows}x{columns}, {images.folder} holds'
            f" {height}x{width}; prepare with size {rows} or choose another architecture"
        )
    return codec
