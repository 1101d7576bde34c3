"""Gradient penalties against closed forms and finite differences in float64, and on the project's discriminator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from schurgan.networks import Discriminator, SelfAttention, SpectralNorm, apply_spectral_norm, plain_attention
from schurgan.training.regularizers import (
    R1,
    R2,
    DiscriminatorPhase,
    GradientPenalty,
    Penalty,
    gradients_of_gradients,
)

KINDS = (GradientPenalty, R1, R2)
LABELS = torch.tensor([0, 2, 1])


class Linear(nn.Module):
    """D(x, y) = e_y · x: its gradient at any image is e_y."""

    def __init__(self, pixels: int = 8) -> None:
        super().__init__()
        self.e = nn.Parameter(torch.randn(3, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (self.e[labels] * x.flatten(1)).sum(1)


class Bowl(nn.Module):
    """D(x, y) = a/2 ‖x‖²: its gradient is a x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.a / 2 * x.flatten(1).square().sum(1)


class Small(nn.Module):
    """Smooth and small, with what a discriminator is made of: convolutions, a projection, spectral normalisation."""

    def __init__(self, normalised: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, stride=2)
        self.linear, self.embedding = nn.Linear(3, 1), nn.Embedding(3, 3)
        self.to(dtype)
        if normalised:
            apply_spectral_norm(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = torch.tanh(self.second(nn.functional.softplus(self.first(x)))).sum((2, 3))
        return self.linear(h).squeeze(1) + (self.embedding(labels) * h).sum(1)


def images(seed: int, shape: tuple[int, ...] = (3, 2, 4, 5), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


REAL, FAKE = images(1), images(2)
FLAT_REAL, FLAT_FAKE = images(3, (3, 1, 2, 4)), images(4, (3, 1, 2, 4))


def call(penalty: Penalty, network: nn.Module, real=REAL, fake=FAKE, labels=LABELS, step=0, seed=5) -> Tensor:
    none, noise = torch.empty(0), torch.Generator().manual_seed(seed)
    return penalty.discriminator(DiscriminatorPhase(network, real, fake, labels, none, none, step, noise))


def gradients(value: Tensor, network: nn.Module) -> list[Tensor]:
    """With zeros where a parameter plays no part, as the biases of a linear network."""
    return list(torch.autograd.grad(value, list(network.parameters()), allow_unused=True, materialize_grads=True))


def test_penalties_of_a_linear_discriminator_are_those_of_its_weights():
    network = Linear()
    norm = network.e.detach()[LABELS].norm(dim=1)
    assert call(GradientPenalty(10), network, FLAT_REAL, FLAT_FAKE).item() == pytest.approx(
        10 * (norm - 1).square().mean().item(), rel=1e-12
    )
    for kind in (R1, R2):
        value = call(kind(3), network, FLAT_REAL, FLAT_FAKE)
        assert value.item() == pytest.approx(3 / 2 * norm.square().mean().item(), rel=1e-12)


def test_their_gradients_in_the_weights_are_the_closed_forms():
    network = Linear()
    e = network.e.detach()  # every class once in LABELS
    (of_r1,) = gradients(call(R1(3), network, FLAT_REAL, FLAT_FAKE), network)
    torch.testing.assert_close(of_r1, 3 * e / 3)
    (of_gp,) = gradients(call(GradientPenalty(10), network, FLAT_REAL, FLAT_FAKE), network)
    norm = e.norm(dim=1, keepdim=True)
    torch.testing.assert_close(of_gp, 10 * 2 * (norm - 1) * e / norm / 3)


def test_each_penalty_is_taken_at_its_own_images():
    network = Bowl()
    share = torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(5)).double()  # ε by pair, as `call` seeds it
    between = share * REAL + (1 - share) * FAKE
    size = {"real": REAL, "fake": FAKE, "between": between}
    size = {name: 0.7 * x.flatten(1).norm(dim=1) for name, x in size.items()}
    assert call(R1(1), network).item() == pytest.approx(size["real"].square().mean().item() / 2, rel=1e-12)
    assert call(R2(1), network).item() == pytest.approx(size["fake"].square().mean().item() / 2, rel=1e-12)
    truth = (size["between"] - 1).square().mean().item()
    assert call(GradientPenalty(1), network).item() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences_in_every_parameter(kind, normalised):
    network, penalty = Small(normalised), kind(2.0)
    computed = gradients(call(penalty, network), network)
    h = 1e-5
    for parameter, got in zip(network.parameters(), computed, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 5):
            values = []
            for shift in (h, -2 * h):
                flat[i] += shift
                values.append(call(penalty, network).item())
            flat[i] += h
            slope = (values[0] - values[1]) / (2 * h)
            # Central differences in float64: h² times a third derivative, and 1e-16/h, of values of order 1.
            assert got.flatten()[i].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norms_vectors_stay_and_the_network_is_left_as_it_was(kind):
    network = Small(normalised=True).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    assert len(before) == 8  # u and v of four layers
    call(kind(1.0), network).backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert all(part.training for part in network.modules())
    network(REAL, LABELS)  # the adversarial forward, on the other hand, advances them
    assert not all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_modes_and_attention_come_back_after_an_error_too():
    torch.manual_seed(0)
    network = nn.ModuleList([SelfAttention(16), nn.Conv2d(2, 2, 1)])
    apply_spectral_norm(network)
    network[1].eval()
    norms = [m for m in network.modules() if isinstance(m, SpectralNorm)]
    before = [m.training for m in norms]
    assert set(before) == {True, False}
    with gradients_of_gradients(network, "cpu"):
        assert not any(m.training for m in norms)
        assert not network[0].fused
    with pytest.raises(ZeroDivisionError), gradients_of_gradients(network, "cpu"):
        _ = 1 / 0
    assert [m.training for m in norms] == before
    assert network[0].fused


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_projects_discriminator_it_is_the_plain_attentions_result(kind):
    torch.manual_seed(0)
    network = Discriminator.from_preset("proposed-128", width=4, classes=3, channels=1)
    attentions = [m for m in network.modules() if isinstance(m, SelfAttention)]
    assert attentions
    for attention in attentions:
        nn.init.constant_(attention.gamma, 0.7)
    real, fake = (images(s, (2, 1, 128, 128), torch.float32).clamp(-1, 1) for s in (1, 2))
    penalty, labels = kind(10.0), LABELS[:2]
    fake.requires_grad_()
    value = call(penalty, network, real, fake, labels)
    computed = gradients(value, network)
    assert fake.grad is None
    assert all(attention.fused for attention in attentions)

    # By hand: what the definition says, on a network that is plain and still throughout.
    at = penalty.points(real, fake.detach(), torch.Generator().manual_seed(5)).requires_grad_()
    with plain_attention(network.eval()):
        (slope,) = torch.autograd.grad(network(at, labels).sum(), at, create_graph=True)
        norm = slope.flatten(1).norm(dim=1)
        truth = 10 * ((norm - 1).square() if kind is GradientPenalty else norm.square() / 2).mean()
        expected = gradients(truth, network)
    assert value.item() > 0
    torch.testing.assert_close(value, truth, rtol=1e-5, atol=0)  # float32 sums in another order
    for got, want in zip(computed, expected, strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() <= 1e-4 * want.norm() + 1e-12
    reached = {name for (name, _), g in zip(network.named_parameters(), computed, strict=True) if g.abs().sum() > 0}
    assert any("attention.query" in name for name in reached)
    assert any("embedding" in name for name in reached)


def test_one_backward_with_the_adversarial_loss_adds_the_gradients_of_both():
    network = Small(normalised=True)
    penalty = R1(2.0, every=3)
    network.eval()  # one D for the three passes below
    apart = [
        gradients(network(REAL, LABELS).mean(), network),
        gradients(call(penalty, network, step=3), network),
    ]
    (network(REAL, LABELS).mean() + call(penalty, network, step=3)).backward()
    for parameter, one, other in zip(network.parameters(), *apart, strict=True):
        torch.testing.assert_close(parameter.grad, one + other)


@pytest.mark.parametrize("kind", KINDS)
def test_lazily_it_comes_every_mth_step_and_is_m_times_as_strong(kind):
    network = Small()
    each = call(kind(2.0), network).item()
    values = [call(kind(2.0, every=4), network, step=step).item() for step in range(9)]
    assert values == pytest.approx([4 * each, 0, 0, 0, 4 * each, 0, 0, 0, 4 * each], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_between_run_no_network(kind):
    class Refusing(nn.Module):
        def forward(self, *_: Tensor) -> Tensor:
            raise AssertionError("was run")

    assert call(kind(1.0, every=2), Refusing(), step=1).item() == 0
    with pytest.raises(AssertionError, match="was run"):
        call(kind(1.0, every=2), Refusing(), step=2)


def test_the_places_between_come_from_the_generator_given_alone():
    network = Small()
    torch.manual_seed(0)
    one = call(GradientPenalty(1.0), network, seed=5)
    torch.rand(7)
    assert torch.equal(one, call(GradientPenalty(1.0), network, seed=5))
    assert not torch.equal(one, call(GradientPenalty(1.0), network, seed=6))


def test_the_shares_of_the_pairs_are_independent_and_uniform():
    ones, zeros = torch.ones(4000, 1, 1, 2), torch.zeros(4000, 1, 1, 2)
    share = GradientPenalty(1.0).points(ones, zeros, torch.Generator().manual_seed(0))
    assert torch.equal(share[..., 0], share[..., 1])  # one for all pixels of a pair
    counts = torch.histc(share[..., 0], 10, 0, 1)
    assert (counts - 400).abs().max() < 4 * 19  # four standard deviations of a binomial count, √(4000 · 0.1 · 0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_around_it_changes_no_bit(kind):
    network = Small(dtype=torch.float32)
    real, fake = REAL.float(), FAKE.float()
    plain = call(kind(2.0), network, real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.first(real).dtype == torch.bfloat16  # it does act on this network
        value = call(kind(2.0), network, real, fake)
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)
    for one, other in zip(gradients(value, network), gradients(plain, network), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_discriminator_is_run_as_it_is_without(kind):
    network = Small()
    compiled = torch.compile(network, backend="aot_eager")
    compiled(REAL, LABELS).sum().backward()  # compiled graphs have no second derivative
    value = call(kind(2.0), compiled)
    plain = call(kind(2.0), network)
    assert torch.equal(value, plain)
    for one, other in zip(gradients(value, network), gradients(plain, network), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_discriminator_without_slope_has_finite_gradients(kind):
    network = Linear()
    nn.init.zeros_(network.e)  # the norm of 0 has no derivative
    value = call(kind(1.0), network, FLAT_REAL, FLAT_FAKE)
    assert value.item() == (1 if kind is GradientPenalty else 0)
    assert gradients(value, network)[0].isfinite().all()


def test_only_the_discriminator_learns():
    network = Small()
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    for kind in KINDS:
        call(kind(1.0), network, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    assert network.first.weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_options_out_of_range_are_refused_by_name(kind):
    for weight in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight: "):
            kind(weight)
    with pytest.raises(ValueError, match="every: 0 given"):
        kind(1.0, every=0)
