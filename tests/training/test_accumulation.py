"""A batch in parts, one after another, against the same batch at once; and steps in other formats of numbers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schurgan.data import Shards
from schurgan.networks import SpectralNorm
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.trainer import Trainer

CPU = torch.device("cpu")
FULL: dict[str, Any] = {
    "model": {"spectral_norm_g": True, "spectral_norm_d": True},
    "ddfn": {"per_class": True, "relative_epsilon": 0.0, "decay": 0.9},
    "moment_matching": {"descriptor": "gram", "decay": 0.9},
    "regularize": {
        "augment": "colour,translation,cutout",
        "r1": 1.0,
        "orthogonal_g": 1e-3,
        "orthogonal_d": 1e-3,
    },
}
"""Everything that is a mean over the images of a batch, or a function of the weights."""


@pytest.fixture
def made(tiny, shards):
    """`made(options, gradient_accumulation_steps=2)`: a trainer with these options, ready for its first step."""

    def build(options: dict[str, Any] | None = None, plain_norm: bool = False, **train: object) -> Trainer:
        config = tiny(batch_size=16, **train).model_dump()
        for part, values in (options or {}).items():
            config[part] |= values
        trainer = build_trainer(Config.model_validate(config), 8)
        if plain_norm:
            freeze_statistics(trainer.generator)
        for part in trainer.conditions.values():
            part.fit_real(Shards(shards).batches(64))
        return trainer

    return build


@pytest.fixture
def batches(shards) -> list[tuple[Tensor, Tensor]]:
    data = Shards(shards)
    chosen = [list(range(i, 48, 3)) for i in range(3)]
    return [(data.images(rows), torch.from_numpy(data.labels[rows])) for rows in chosen]


def freeze_statistics(network: nn.Module) -> None:
    """Batch norm by constants: of all layers the only one by which an image's neighbours reach it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in network.parameters()])


def vectors(network: nn.Module) -> list[Tensor]:
    return [module.u.clone() for module in network.modules() if isinstance(module, SpectralNorm)]


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_of_d_in_parts_is_that_of_the_whole_batch(made, batches, parts):
    whole, cut = made(FULL, plain_norm=True), made(FULL, plain_norm=True, gradient_accumulation_steps=parts)
    for trainer in (whole, cut):
        trainer.discriminator_step(*batches[0], 0)
    expected, got = gradients(whole.discriminator), gradients(cut.discriminator)
    size = max(value.abs().max().item() for value in expected.values())
    for name in expected:  # sums of float32 in another order
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=2e-6 * max(1.0, size), msg=name)


@pytest.mark.parametrize("parts", [2, 4])
def test_steps_in_parts_are_those_of_the_whole_batch_where_no_batch_norm_looks_at_a_part(made, batches, parts):
    """Adam divides by the gradient's size, and would make a rounding error of a gradient of 0 a whole step: eps."""
    whole, cut = (
        made(FULL, plain_norm=True, gradient_accumulation_steps=k, eps=1e-3, d_steps=2, lr_g=1e-3, lr_d=1e-3)
        for k in (1, parts)
    )
    for step in range(3):
        expected, got = (t.training_step([batches[step], batches[(step + 1) % 3]]) for t in (whole, cut))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    for network in ("generator", "discriminator", "generator_ema"):
        a, b = weights(getattr(whole, network)), weights(getattr(cut, network))
        assert (a - b).abs().max() <= 1e-5, network
    condition = cut.conditions["moment_matching"].state_dict()
    for name, value in whole.conditions["moment_matching"].state_dict().items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(condition[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_spectral_norm_moves_on_as_often_in_a_step_of_parts_as_in_one_of_a_whole_batch(made, batches, parts):
    """With learning rates of nearly 0 the weights stay, so that u tells how many power iterations there were."""
    still = {"lr_g": 1e-12, "lr_d": 1e-12}
    # Of an orthogonal weight every vector is a singular one.
    options = FULL | {"model": FULL["model"] | {"init": "normal"}}
    whole, cut = made(options, **still), made(options, gradient_accumulation_steps=parts, **still)
    before = vectors(whole.discriminator)
    for trainer in (whole, cut):
        trainer.training_step(batches[:1])
    for network in ("generator", "discriminator"):
        for a, b in zip(vectors(getattr(whole, network)), vectors(getattr(cut, network)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    moved = zip(before, vectors(whole.discriminator), strict=True)
    assert any((a - b).abs().max() > 1e-3 for a, b in moved)  # so that the equality above says something


def test_the_condition_observes_the_images_of_all_parts_once_a_step_of_d(made, batches, monkeypatch):
    trainer, seen = made(FULL, gradient_accumulation_steps=4, d_steps=2), []
    condition = trainer.conditions["moment_matching"]
    observe = condition.observe
    monkeypatch.setattr(condition, "observe", lambda fake, y: seen.append(len(fake)) or observe(fake, y))
    trainer.training_step(batches[:2])
    assert seen == [16, 16]


def test_with_batch_norm_parts_are_normalised_by_themselves_and_the_step_stays_near(made, batches):
    """What the docs say is not the same: G's statistics are of 8 images instead of 16."""
    whole, cut = made(), made(gradient_accumulation_steps=2)
    a, b = (trainer.training_step(batches[:1]) for trainer in (whole, cut))
    assert not torch.equal(a["loss_g"], b["loss_g"])
    assert abs(a["loss_g"].item() - b["loss_g"].item()) < 0.2
    moved = (weights(whole.generator) - weights(cut.generator)).abs().max()
    assert 0 < moved <= 2.1e-3  # a step of Adam is at most the learning rate, 1e-3, here perhaps in two directions


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("steps", [1, 2])
def test_every_format_trains_a_few_steps_and_carries_its_state(made, batches, precision, steps):
    trainer = made(FULL, precision=precision, gradient_accumulation_steps=steps)
    before = weights(trainer.generator), weights(trainer.discriminator)
    for step in range(4):
        with trainer.precision.switches():
            metrics = trainer.training_step([batches[step % 3]])
        assert all(math.isfinite(value.item()) for value in metrics.values())
        assert metrics["not_finite"] == 0
    assert not torch.equal(before[0], weights(trainer.generator))
    assert not torch.equal(before[1], weights(trainer.discriminator))
    assert weights(trainer.generator).dtype == torch.float32
    state = trainer.state_dict()
    assert ("scale_g" in state, "scale_d" in state) == ((precision == "fp16"),) * 2
    again = made(FULL, precision=precision, gradient_accumulation_steps=steps)
    again.load_state_dict(copy.deepcopy(state))  # Adam would go on with the same tensors
    for one in (trainer, again):
        one.training_step(batches[:1])
    assert torch.equal(weights(trainer.generator), weights(again.generator))
    if precision == "fp16":
        assert torch.equal(trainer.g.scale.value, again.g.scale.value)
        assert torch.equal(trainer.d.scale.streak, again.d.scale.streak)


def test_half_precision_stays_near_single_precision_in_a_step_of_d(made, batches):
    single = made(FULL).discriminator_step(*batches[0], 0)
    for precision, error in (("fp16", 2e-3), ("bf16", 2e-2)):  # a few units of 11 and 8 bits of mantissa
        half = made(FULL, precision=precision).discriminator_step(*batches[0], 0)
        for name in ("loss_d", "score_real", "score_fake"):
            assert 0 < abs(half[name] - single[name]) < error * 4, (precision, name)


def test_a_scale_of_the_loss_that_is_too_large_is_halved_and_is_no_fault(made, batches):
    trainer = made(FULL, precision="fp16")
    trainer.d.scale.value.fill_(2.0**30)  # times any gradient, more than 65504
    before = weights(trainer.discriminator)
    metrics = trainer.discriminator_step(*batches[0], 0)
    assert metrics["not_finite"] == 0
    assert trainer.d.scale.value == 2.0**29
    assert torch.equal(weights(trainer.discriminator), before)  # the step was left out


@pytest.mark.slow
def test_compiled_networks_take_the_same_step_up_to_rounding(made, batches):
    plain, compiled = made(FULL), made(FULL, compile=True)
    for trainer in (plain, compiled):
        trainer.training_step(batches[:1])
    for network in ("generator", "discriminator"):
        a, b = weights(getattr(plain, network)), weights(getattr(compiled, network))
        # Where a gradient is 0 up to rounding, Adam's step has the full learning rate in either direction.
        assert (a - b).abs().max() <= 2.1e-3
        assert (a - b).abs().median() <= 1e-6
