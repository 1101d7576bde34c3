"""From a run's options to its networks, losses and constraints."""

from __future__ import annotations

from schurgan.networks import (
    Architecture,
    Discriminator,
    Generator,
    Latent,
    apply_spectral_clamp,
    apply_spectral_norm,
    customise,
    find_architecture,
)
from schurgan.normality.moments import MomentMatching
from schurgan.runs.options import ModelOptions, MomentMatchingOptions, RegularizeOptions
from schurgan.training.augment import DiffAugment
from schurgan.training.losses import LOSSES, Loss
from schurgan.training.penalties import R1, R2, GradientPenalty, Penalty


def build_architecture(model: ModelOptions) -> Architecture:
    """The row that is named, with what the options change. Raises ValueError for what does not fit it."""
    return customise(
        find_architecture(model.architecture),
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
        clamp = {"limit": model.clamp_limit, "k": model.clamp_g, "iterations": model.spectral_iterations}
        apply_spectral_clamp(network, keep=network.embeddings(), **clamp)  # type: ignore[arg-type]
    return network


def build_discriminator(model: ModelOptions, classes: int) -> Discriminator:
    """D with its constraint. Raises ValueError as `build_architecture` does."""
    architecture = build_architecture(model)
    width = model.width_d or model.width
    network = Discriminator(architecture, classes, width, model.channels, spectral_norm=False, init=model.init)
    if model.spectral_norm_d:
        apply_spectral_norm(network, iterations=model.spectral_iterations)
    return network


def build_moment_matching(options: MomentMatchingOptions, classes: int) -> MomentMatching | None:
    """The condition beside DDFN, if there is one. Raises ValueError for options that do not fit each other."""
    if options.descriptor == "none":
        return None
    return MomentMatching(classes=classes, **options.model_dump())


def build_latent(model: ModelOptions, generator: Generator) -> Latent:
    """z of the generator's length. Raises ValueError for a variance of a uniform z."""
    return Latent(generator.latent_dim, model.latent, variance=model.latent_variance)


def build_loss(name: str, options: RegularizeOptions) -> Loss:
    """The adversarial loss of that name. Raises ValueError where it needs a gradient penalty that has no weight."""
    loss = LOSSES[name]
    if loss.lipschitz and not options.gradient_penalty:
        raise ValueError(f'gradient_penalty: 0 given, the loss "{name}" needs one, 10 is usual')
    return loss


def build_penalties(options: RegularizeOptions) -> list[Penalty]:
    """The gradient penalties on D that have a weight."""
    every = options.penalty_every
    all_of_them = (GradientPenalty(options.gradient_penalty, every), R1(options.r1, every), R2(options.r2, every))
    return [penalty for penalty in all_of_them if penalty.weight]


def build_augmentation(options: RegularizeOptions, images: str = "log", **kind: object) -> DiffAugment:
    """DiffAugment for images of that kind, which may change nothing. Raises ValueError for an unknown policy."""
    return DiffAugment(options.augment, options.augment_strength, images=images, **kind)  # type: ignore[arg-type]
