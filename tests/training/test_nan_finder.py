from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from schurgan.networks import Discriminator, Generator
from schurgan.training.nan_finder import find_nan


class Step:
    """A step of both networks on a batch, with places where a test can break it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = Generator.from_preset("small-16", width=4, classes=3, channels=1)
        self.discriminator = Discriminator.from_preset("small-16", width=4, classes=3, channels=1)
        self.images = torch.rand(6, 1, 16, 16) * 2 - 1
        self.labels = torch.tensor([0, 1, 2, 0, 1, 2])
        self.spoil_d: Callable[[Tensor], Tensor] = lambda loss: loss
        self.spoil_g: Callable[[Tensor], Tensor] = lambda loss: loss

    def run(self) -> dict[str, Tensor]:
        z = torch.randn(6, self.generator.latent_dim)
        with torch.no_grad():
            fake = self.generator(z, self.labels)
        real, made = self.discriminator(torch.cat([self.images, fake]), self.labels.repeat(2)).chunk(2)
        loss_d = self.spoil_d((1 - real).relu().mean() + (1 + made).relu().mean())
        loss_d.backward()
        self.discriminator.requires_grad_(False)
        loss_g = self.spoil_g(-self.discriminator(self.generator(z, self.labels), self.labels).mean())
        loss_g.backward()
        self.discriminator.requires_grad_(True)
        return {"loss_d": loss_d, "loss_g": loss_g}

    def sentence(self) -> str:
        found = self.diagnose()
        assert found is not None
        return found

    def diagnose(self) -> str | None:
        return find_nan(self.generator, self.discriminator, self.run, {"real images": self.images})


@pytest.fixture
def step() -> Step:
    return Step()


def test_a_step_in_which_all_is_finite_has_no_such_tensor(step):
    assert step.diagnose() is None


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "inf")])
def test_a_weight_is_named(step, value, kind):
    with torch.no_grad():
        step.generator.output.weight[0, 1, 2, 0] = value
    assert f"generator.output.weight held {kind}" in step.sentence()


def test_a_buffer_is_named(step):
    step.generator.norm.running_var[1] = math.nan
    assert "generator.norm.running_var held NaN" in step.sentence()


def test_a_batch_is_named_with_its_row(step):
    step.images[4, 0, 3, 3] = math.nan
    sentence = step.sentence()
    assert sentence.startswith("real images held NaN")
    assert sentence.endswith("row 4")


def overflow(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * 1e30 * 1e30  # over the largest float32, 3.4e38


def test_an_activation_that_overflows_is_named_by_its_layer_and_not_by_those_it_spoils(step):
    step.generator.blocks[0].register_forward_hook(overflow)
    sentence = step.sentence()
    assert sentence.startswith("generator.blocks.0 gave ")
    assert "(its input was finite, at most " in sentence


def test_a_layer_inside_the_discriminator_is_named_with_the_rows_that_it_spoils(step):
    def spoil(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([output[:-1], output[-1:] / 0])

    step.discriminator.blocks[0].register_forward_hook(spoil)
    sentence = step.sentence()
    assert sentence.startswith("discriminator.blocks.0 gave ")
    assert sentence.endswith("in 1 of 12 rows, first in row 11")


def test_what_a_module_makes_between_its_parts_is_told_from_what_its_parts_give():
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) / 0)

    torch.manual_seed(0)
    generator, discriminator = Between(), nn.Linear(2, 1)

    def run() -> dict[str, Tensor]:
        loss = discriminator(generator(torch.ones(1, 2))).sum()
        loss.backward()
        return {"loss": loss}

    sentence = find_nan(generator, discriminator, run, {})
    assert sentence is not None
    assert sentence.startswith("generator.two was given inf first (all before it was finite)")


@pytest.mark.parametrize("name", ["loss_d", "loss_g"])
def test_a_loss_is_named(step, name):
    setattr(step, f"spoil_{name[-1]}", lambda loss: loss + (loss.detach() * 0).log())
    assert step.sentence().startswith(f"{name} was inf")


def root_of_zero(loss: Tensor) -> Tensor:
    """The same value; its gradient is 0 · ∞."""
    return loss + (loss * 0).sqrt()


def test_a_gradient_that_is_not_finite_though_all_values_are_is_named_where_it_first_shows(step):
    step.spoil_d = root_of_zero
    assert "gradient at the output of the discriminator was NaN" in step.sentence()


class _SpoilsGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.inf


def test_a_gradient_that_one_layer_spoils_is_named_before_that_layer(step):
    step.generator.norm.register_forward_hook(lambda module, args, output: _SpoilsGradient.apply(output))
    sentence = step.sentence()
    assert sentence.startswith("the gradient ")
    assert "generator.norm" in sentence
    assert "discriminator" not in sentence


def test_a_gradient_of_one_weight_alone_is_named(step):
    step.discriminator.linear.bias.register_hook(lambda gradient: gradient * math.nan)
    assert "gradient of discriminator.linear.bias was NaN" in step.sentence()


def test_a_solver_that_refuses_what_came_before_does_not_hide_it(step):
    def refuse(loss: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("the input matrix contains NaN")

    step.spoil_d = refuse
    assert "_LinAlgError" in step.sentence()
    step.generator.output.register_forward_hook(lambda module, args, output: output * math.nan)
    sentence = step.sentence()
    assert sentence.startswith("generator.output gave NaN first")


def test_networks_gradients_modes_and_random_numbers_come_back_as_they_were(step):
    step.run()
    step.generator.norm.eval()
    step.discriminator.linear.bias.requires_grad_(False)
    networks = (step.generator, step.discriminator)
    states = [copy.deepcopy(network.state_dict()) for network in networks]
    gradients = [None if p.grad is None else p.grad.clone() for network in networks for p in network.parameters()]
    modes = [module.training for network in networks for module in network.modules()]
    random = torch.random.get_rng_state()
    step.spoil_g = root_of_zero
    assert step.diagnose() is not None
    for network, state in zip(networks, states, strict=True):
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    now = [p.grad for network in networks for p in network.parameters()]
    assert all(b is None if a is None else torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert [module.training for network in networks for module in network.modules()] == modes
    assert not step.discriminator.linear.bias.requires_grad
    assert torch.equal(random, torch.random.get_rng_state())
