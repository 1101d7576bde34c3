from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from schurgan.data import Shards
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def batches(shards) -> list[tuple[Tensor, Tensor]]:
    data = Shards(shards)
    return [(data.images(range(i, 48, 6)), torch.from_numpy(data.labels[i:48:6])) for i in range(4)]


@pytest.fixture
def trainer(tiny: Callable[..., Config], shards) -> Callable[..., Trainer]:
    def build(weight: float = 1.0, **train: object) -> Trainer:
        config = tiny(**train)
        config = config.model_copy(
            update={"ddfn": config.ddfn.model_copy(update={"weight": weight, "relative_epsilon": 0.0})}
        )
        made = build_trainer(config, 8)
        made.conditions["ddfn"].fit_real(Shards(shards).batches(64))
        return made

    return build


def weights(network: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_phase_of_d_moves_d_and_gives_g_no_gradient(trainer, batches):
    made = trainer()
    g, d = weights(made.generator), weights(made.discriminator)
    made.discriminator_step(*batches[0], 0)
    assert all(parameter.grad is None for parameter in made.generator.parameters())
    assert same(g, weights(made.generator))
    assert not same(d, weights(made.discriminator))


def test_the_phase_of_g_moves_g_and_gives_d_no_gradient(trainer, batches):
    made = trainer()
    g, d = weights(made.generator), weights(made.discriminator)
    made.generator_step(*batches[0])
    assert all(parameter.grad is None for parameter in made.discriminator.parameters())
    assert same(d, weights(made.discriminator))
    assert not same(g, weights(made.generator))
    assert all(parameter.requires_grad for parameter in made.discriminator.parameters())


def test_ddfn_alone_reaches_every_layer_of_g_and_nothing_of_d(trainer, batches):
    made = trainer()
    labels = batches[0][1]
    fake = made.generator(made.latent.sample(8, torch.Generator().manual_seed(0)), labels)
    penalty, stats = made.conditions["ddfn"](fake, labels)
    assert stats.active  # ε is 0: there is something to learn
    penalty.backward()
    gradients = {name: parameter.grad for name, parameter in made.generator.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradients[name].abs().sum() > 0 for name in ("output.weight", "linear.weight", "shared.weight"))
    assert all(parameter.grad is None for parameter in made.discriminator.parameters())


def test_the_weight_of_ddfn_changes_g_and_not_the_first_phase_of_d(trainer, batches):
    without, with_ = trainer(weight=0.0), trainer(weight=10.0)
    for made in (without, with_):
        made.training_step(batches[:1])
    assert same(weights(without.discriminator), weights(with_.discriminator))
    assert not same(weights(without.generator), weights(with_.generator))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trainer, batches):
    one, again, other = trainer(), trainer(), trainer(seed=1)
    for made in (one, again, other):
        made.training_step(batches[:1])
        if made is again:
            torch.rand(3)  # global random numbers between steps play no part
        made.training_step(batches[1:2])
    assert same(weights(one.generator), weights(again.generator))
    assert same(weights(one.discriminator), weights(again.discriminator))
    assert not same(weights(one.generator), weights(other.generator))


def test_the_noise_of_a_step_depends_on_its_number(trainer, batches):
    early, late = trainer(), trainer()
    late.global_step = 5
    assert not same_metric(early.training_step(batches[:1]), late.training_step(batches[:1]), "score_fake")


def same_metric(one: dict[str, Tensor], other: dict[str, Tensor], name: str) -> bool:
    return torch.equal(one[name], other[name])


def test_two_steps_of_d_use_both_batches_before_g_moves(trainer, batches, monkeypatch):
    made = trainer(d_steps=2)
    seen: list[str | Tensor] = []
    d_step, g_step = made.discriminator_step, made.generator_step
    monkeypatch.setattr(made, "discriminator_step", lambda *given: seen.append(given[0]) or d_step(*given))
    monkeypatch.setattr(made, "generator_step", lambda *given: seen.append("generator") or g_step(*given))
    made.training_step(batches[:2])
    assert torch.equal(seen[0], batches[0][0])
    assert torch.equal(seen[1], batches[1][0])
    assert seen[2:] == ["generator"]
    assert made.global_step == 1


def test_the_average_follows_g_by_the_warmed_up_decay(trainer, batches):
    made = trainer(ema_decay=0.2)
    average = weights(made.generator_ema)
    assert not any(parameter.requires_grad for parameter in made.generator_ema.parameters())
    for step in range(3):
        made.training_step(batches[step : step + 1])
        decay = min(0.2, (1 + step) / (10 + step))
        average = [torch.lerp(a, g, 1 - decay) for a, g in zip(average, weights(made.generator), strict=True)]
    got = zip(weights(made.generator_ema), average, strict=True)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in got)
    buffers = zip(made.generator_ema.buffers(), made.generator.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


def test_every_metric_of_several_steps_is_a_finite_scalar(trainer, batches):
    made = trainer(d_steps=2)
    for _ in range(4):
        metrics = made.training_step(batches[:2])
        assert all(value.shape == () and math.isfinite(value.item()) for value in metrics.values())
    names = {"loss_d", "constraint_d", "score_real", "score_fake", "accuracy_d", "not_finite"}
    names |= {"loss_g", "constraint_g", "gradient_g"}
    names |= {"ddfn", "ddfn_gap", "ddfn_ema_gap", "ddfn_batch_mean", "ddfn_active"}
    assert set(metrics) == names
    assert 0 <= metrics["accuracy_d"].item() <= 1
    assert not any(value.requires_grad for value in metrics.values())


def test_a_state_carried_over_continues_to_the_same_weights(trainer, batches):
    straight, first, second = trainer(), trainer(), trainer(seed=0, steps=9)
    for i in range(4):
        straight.training_step(batches[i : i + 1])
    for i in range(2):
        first.training_step(batches[i : i + 1])
    second.load_state_dict(first.state_dict())
    assert second.global_step == 2
    for i in range(2, 4):
        second.training_step(batches[i : i + 1])
    for name in ("generator", "discriminator", "generator_ema"):
        assert same(weights(getattr(straight, name)), weights(getattr(second, name)))
    assert torch.equal(straight.conditions["ddfn"].ema, second.conditions["ddfn"].ema)
