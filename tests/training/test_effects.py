"""Each option that acts on a step, from `Config` to the weights: what it promises happens, and in that direction."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schurgan.data import Shards
from schurgan.networks.spectral import raw_weight, weighted_layers
from schurgan.normality import departure_from_normality
from schurgan.normality.descriptors import DESCRIPTORS
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.trainer import Trainer

Batch = tuple[Tensor, Tensor]
Build = Callable[..., Trainer]


@pytest.fixture(scope="module")
def real(shards) -> Batch:
    """All 48 images, and their classes."""
    data = Shards(shards)
    return data.images(range(len(data))), torch.from_numpy(data.labels)


@pytest.fixture
def build(real: Batch) -> Build:
    """`build(images, regularize={"r1": 1})`: a trainer fitted to these images, without constraints but those named."""

    def make(images: Tensor = real[0], **groups: dict[str, Any]) -> Trainer:
        model = {"architecture": "small-16", "width": 2, "spectral_norm_d": False}
        options = {"model": model, "ddfn": {"weight": 0.0}, "train": {"batch_size": 8}}
        named = {name: options.get(name, {}) | group for name, group in groups.items()}
        trainer = build_trainer(Config.model_validate(options | named), 8)
        for condition in trainer.conditions.values():
            condition.fit_real([(images, real[1])])
        return trainer

    return make


@pytest.fixture
def step(real: Batch) -> Callable[..., dict[str, float]]:
    """`step(trainer, d_steps=2)`: the next step, on images of each class."""

    def take(trainer: Trainer, d_steps: int = 1) -> dict[str, float]:
        first = trainer.global_step * d_steps
        batches = [(real[0][i % 6 :: 6], real[1][i % 6 :: 6]) for i in range(first, first + d_steps)]
        return {name: value.item() for name, value in trainer.training_step(batches).items()}

    return take


@torch.no_grad()
def generated(trainer: Trainer) -> Tensor:
    """Images of the classes of `real` and of the same z each time, by G's weights as they are."""
    network, noise = copy.deepcopy(trainer.generator).train(), torch.Generator().manual_seed(9)
    images: Tensor = network(trainer.latent.sample(48, noise), torch.arange(48) // 6)
    return images


def calls_of(network: nn.Module) -> list[tuple[Tensor, ...]]:
    """What a network is given from now on."""
    calls: list[tuple[Tensor, ...]] = []
    network.register_forward_pre_hook(lambda _, given: calls.append(tuple(each.detach().clone() for each in given)))
    return calls


def departure(images: Tensor) -> float:
    return departure_from_normality((images + 1) / 2, "exact").mean().item()


@pytest.mark.parametrize("target", ["quiet", "loud"])
@pytest.mark.parametrize(
    "options",
    [
        *({"estimator": name} for name in ("exact", "hybrid", "perron", "asymmetry", "moments")),
        {"penalty": "quadratic"},
        {"penalty": "augmented"},
        {"scaling": "signed"},
        {"per_class": True},
        {"constraint": "image"},
        {"exact_subset": 2},
        {"every": 2},
    ],
    ids=lambda options: "-".join(map(str, *options.items())),
)
def test_ddfn_moves_the_generators_mean_departure_towards_the_real_one(build, step, real, options, target):
    # Below and far above the generator's.
    images = (real[0] + 1) / 10 - 1 if target == "quiet" else torch.where(real[0] > real[0].median(), 1.0, -1.0)
    trainer = build(images, ddfn={"weight": 1000.0, "relative_epsilon": 0.0, **options})
    before = departure(generated(trainer))
    assert (before > departure(images)) == (target == "quiet")
    step(trainer)
    moved = departure(generated(trainer)) - before
    assert (-moved if target == "quiet" else moved) > 0.05  # without DDFN a step changes it by 0.015


def test_ddfn_pulls_outside_its_band_alone(build, step):
    def moved(**ddfn: float) -> Tensor:
        trainer = build(ddfn=ddfn)
        step(trainer)
        return weights(trainer.generator)

    none = moved(weight=0.0)
    assert torch.equal(none, moved(weight=1.0, epsilon=1e6))
    assert torch.equal(none, moved(weight=1.0, relative_epsilon=0.99))
    assert not torch.equal(none, moved(weight=1.0, epsilon=0.0))
    assert not torch.equal(none, moved(weight=1.0, relative_epsilon=0.0))


def weights(*networks: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for network in networks for parameter in network.parameters()])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in DESCRIPTORS),
        ("gram", {"per_class": False}),
        ("gram", {"spread": False}),
        ("gram", {"balance": False}),
        ("gram", {"balance": False, "spread": False, "penalty": "hinge"}),
    ],
    ids=str,
)
def test_moment_matching_moves_the_generators_moments_towards_the_real_ones(build, step, real, name, options):
    describe = DESCRIPTORS[name]
    images = 1 - 0.75 * (1 - real[0])  # brighter, while D's images pull the generator's down
    target = describe((images + 1) / 2).mean(0)

    def left(weight: float) -> float:
        """Return which part of the distance two steps leave."""
        trainer, distances = build(images, moment_matching={"descriptor": name, "weight": weight, **options}), []
        for _ in range(3):
            distances.append((describe((generated(trainer) + 1) / 2).mean(0) - target).norm().item())
            step(trainer)
        return distances[2] / distances[0]

    assert left(0.0) > 0.985
    assert left(500.0) < 0.975


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_gradient_penalties_bring_ds_slope_to_where_they_want_it(build, step, real, name):
    def slope(weight: float) -> float:
        trainer = build(regularize={name: weight}, train={"lr_d": 0.01})
        step(trainer, d_steps=8)
        share = {"r1": 1.0, "r2": 0.0, "gradient_penalty": 0.5}[name]
        images = torch.lerp(generated(trainer), real[0], share).requires_grad_()
        (gradient,) = torch.autograd.grad(trainer.discriminator(images, real[1]).sum(), images)
        return gradient.flatten(1).norm(dim=1).mean().item()

    free, held = slope(0.0), slope(10.0)
    if name == "gradient_penalty":  # towards 1
        assert free < held < 1
    else:  # towards 0
        assert held < 0.6 * free


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_a_lazy_penalty_comes_every_third_step_of_d_and_three_times_as_strong(build, step, name):
    def penalties(every: int, d_steps: int = 1) -> list[float]:
        trainer = build(regularize={name: 1.0, "penalty_every": every}, train={"lr_d": 1e-9})
        return [step(trainer, d_steps)["constraint_d"] for _ in range(4)]

    each, third, doubled = penalties(1), penalties(3), penalties(3, d_steps=2)
    assert min(each) > 0
    assert third[:3] == [pytest.approx(3 * each[0]), 0, 0]
    assert third[3] > 0
    assert [value > 0 for value in doubled] == [False, True, False, False]  # of D steps 1, 3, 5 and 7


def test_lecam_holds_ds_scores_of_real_and_generated_images_together(build, step):
    def apart(weight: float) -> float:
        trainer = build(regularize={"lecam": weight, "lecam_start": 0}, train={"lr_d": 0.003})
        scores = step(trainer, d_steps=24)
        return scores["score_real"] - scores["score_fake"]

    assert 0 < apart(10.0) < 0.5 * apart(0.0)


def test_lecam_is_switched_on_after_its_start(build, step):
    trainer = build(regularize={"lecam": 1.0, "lecam_start": 3})
    assert [step(trainer)["constraint_d"] > 0 for _ in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize("kind", ["relaxed", "full"])
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_orthogonal_regularisation_makes_the_filters_of_its_network_more_orthogonal(build, step, network, kind):
    def distance(weight: float) -> float:
        trainer = build(
            model={"init": "normal"}, regularize={f"orthogonal_{network[0]}": weight, "orthogonal_kind": kind}
        )
        for _ in range(2):
            step(trainer)
        layers = weighted_layers(getattr(trainer, network)).values()
        grams = [
            w @ w.mT for layer in layers if not isinstance(layer, nn.Embedding) for w in [raw_weight(layer).flatten(1)]
        ]
        unlike = [gram - (gram.diagonal().diag() if kind == "relaxed" else torch.eye(len(gram))) for gram in grams]
        return sum(each.square().sum().item() for each in unlike)

    assert distance(10.0) < distance(0.0) * (0.9 if kind == "relaxed" else 0.999)  # "full": by Adam's first steps


@pytest.mark.parametrize("policy", ["colour", "translation", "cutout"])
def test_the_strength_of_augmentation_says_how_much_the_images_that_d_sees_are_changed(build, step, real, policy):
    def change(strength: float) -> float:
        trainer = build(regularize={"augment": policy, "augment_strength": strength})
        seen = calls_of(trainer.discriminator)
        step(trainer)
        return (seen[0][0][:8] - real[0][::6]).abs().mean().item()

    assert change(0.0) == 0
    assert 0 < change(0.4) < 0.75 * change(1.0)


def test_g_is_judged_through_the_augmentation_too(build, step):
    trainer = build(regularize={"augment": "cutout"})
    seen, made = calls_of(trainer.discriminator), []
    trainer.generator.register_forward_hook(lambda *given: made.append(given[-1].detach()))
    step(trainer)
    changed = (seen[-1][0] != made[-1]).flatten(1).any(1)
    assert changed.all()
    assert (seen[-1][0][made[-1] != seen[-1][0]] == -1).all()


def test_every_phase_of_every_step_has_noise_of_its_own(build, step):
    trainer = build(regularize={"augment": "colour"})
    seen, shown = calls_of(trainer.generator), calls_of(trainer.discriminator)
    for _ in range(2):
        step(trainer, d_steps=2)
    z = [given[0] for given in seen]
    assert len(z) == 6  # two of D and one of G in each step
    assert all(not torch.equal(one, other) for i, one in enumerate(z) for other in z[:i])
    draws = [images[:8].sum((1, 2, 3)) for images, _ in shown]
    assert all(not torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])


def test_the_augmentation_of_two_d_steps_on_the_same_images_differs(build, real):
    trainer = build(regularize={"augment": "translation"}, train={"lr_d": 1e-9})
    shown = calls_of(trainer.discriminator)
    trainer.training_step([(real[0][::6], real[1][::6])] * 2)
    assert not torch.equal(shown[0][0][:8], shown[1][0][:8])


@pytest.mark.parametrize("parts", [1, 2])
def test_gradient_g_is_the_rms_norm_of_each_images_gradient_of_its_own_loss(build, step, parts):
    trainer = build(train={"gradient_accumulation_steps": parts})
    seen = calls_of(trainer.discriminator)
    logged = step(trainer)["gradient_g"]
    squares = []
    for images, labels in seen[-parts:]:
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            image = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(trainer.discriminator(image, label).sum(), image)
            squares.append(gradient.square().sum().item())
    assert len(squares) == 8
    assert logged == pytest.approx(math.sqrt(sum(squares) / 8), rel=1e-4)


def test_the_width_of_d_is_its_own_where_it_is_given(build):
    def widths(**model: int) -> tuple[int, int]:
        trainer = build(model=model)
        return weights(trainer.generator).numel(), weights(trainer.discriminator).numel()

    assert widths(width=2, width_d=6) == (widths(width=2)[0], widths(width=6)[1])
    assert widths(width=2, width_d=6)[1] > widths(width=2)[1]
