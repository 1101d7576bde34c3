"""Self-attention: the fused path against the plain one, and both against sums written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from schurgan.networks import Discriminator, SelfAttention, plain_attention
from schurgan.networks.attention import attention, fused_attention


def layer(channels: int = 16) -> SelfAttention:
    torch.manual_seed(0)
    made = SelfAttention(channels)
    with torch.no_grad():
        made.gamma.fill_(0.7)
        for weight in list(made.parameters())[1:]:
            weight.mul_(3)  # sharp enough for the softmax to matter
    return made


def written_out(made: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """SA-GAN's equations, one pixel at a time."""

    def project(conv, x):
        return torch.einsum("oc,bcn->bon", conv.weight[:, :, 0, 0], x.flatten(2))

    height, width = x.shape[2:]
    theta = project(made.query, x)
    phi, g = (
        F.max_pool2d(project(conv, x).unflatten(2, (height, width)), 2).flatten(2) for conv in (made.key, made.value)
    )
    seen = torch.zeros(len(x), g.shape[1], height * width, dtype=x.dtype)
    for n in range(height * width):
        weights = torch.softmax(torch.einsum("bc,bcm->bm", theta[:, :, n], phi), 1)
        seen[:, :, n] = torch.einsum("bm,bcm->bc", weights, g)
    return x + made.gamma * project(made.output, seen).unflatten(2, (height, width))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_sa_gans_equations_without_a_scale(fused):
    made = layer().double()
    made.fused = fused
    x = torch.randn(2, 16, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(made(x), written_out(made, x), rtol=0, atol=1e-12)


def test_padded_fused_attention_equals_plain_attention_in_value_and_gradients():
    torch.manual_seed(0)
    inputs = [torch.randn(2, n, d, requires_grad=True) for n, d in ((64, 4), (16, 4), (16, 16))]
    results = []
    for path in (attention, fused_attention):
        out = path(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for plain, fused in zip(*results, strict=True):
        # Both sum in float32 in different orders; 64 terms of a relative error of 6e-8 each.
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_attention_is_the_identity_at_the_start():
    made, x = SelfAttention(16), torch.randn(2, 16, 8, 8)
    assert torch.equal(made(x), x)


@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_attention_works_below_eight_channels(channels):
    made = layer(channels).double()
    x = torch.randn(2, channels, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(made(x), written_out(made, x), rtol=0, atol=1e-12)


def test_plain_attention_can_be_differentiated_twice_and_comes_to_its_end():
    made = layer().double()
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    with plain_attention(made):
        assert not made.fused
        assert torch.autograd.gradgradcheck(made, (x,))
    assert made.fused


def test_gradient_penalty_of_a_discriminator_with_attention_has_the_right_slope():
    torch.manual_seed(0)
    network = Discriminator.from_preset("cifar-32", width=2, channels=1, spectral_norm=False).double()
    attended = next(module for module in network.modules() if isinstance(module, SelfAttention))
    torch.nn.init.constant_(attended.gamma, 0.5)
    images, labels = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.long)

    def penalty():
        with plain_attention(network):
            (slope,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
        return slope.square().sum()

    weight, step = attended.query.weight, 1e-5
    (found,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        ends.append(penalty().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    truth = (ends[0] - ends[1]) / (2 * step)
    # A central difference of step 1e-5: its own error is about 1e-10 of the third derivative, and 1e-11 by rounding.
    assert (found * direction).sum().item() == pytest.approx(truth, rel=1e-4, abs=1e-8)
