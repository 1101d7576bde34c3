"""Self-attention: the fused path against the plain one, and both against sums written out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from schurgan.networks import Discriminator, SelfAttention, plain_attention


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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(16, 8), (64, 32), (4, 6), (1, 4)])
def test_fused_attention_equals_plain_attention_in_value_and_gradients(channels, side, channels_last):
    made = layer(channels)
    torch.manual_seed(1)
    x = torch.randn(2, channels, side, side)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    results = []
    for made.fused in (False, True):
        image = x.clone().requires_grad_()
        out = made(image)
        results.append([out, *torch.autograd.grad(out.square().mean(), [image, *made.parameters()])])
    # Both sum in float32 in different orders; up to 256 terms of a relative error of 6e-8 each.
    (plain, *plain_gradients), (fused, *fused_gradients) = results
    assert (fused - plain).abs().max() <= 1e-5 * plain.abs().max()
    for here, there in zip(fused_gradients, plain_gradients, strict=True):
        assert (here - there).norm() <= 1e-4 * there.norm()


MEMORY = """
import pathlib, sys, torch
from schurgan.networks import SelfAttention

def step(side):
    x = torch.randn(1, 64, side, side, requires_grad=True)
    x = x.contiguous(memory_format=getattr(torch, sys.argv[1]))
    made(x).square().mean().backward()
    # Of this program alone: getrusage begins with what the process that started it had.
    (line,) = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])  # KiB

torch.set_num_threads(1)
made = SelfAttention(64)
torch.nn.init.ones_(made.gamma)
made.fused = sys.argv[2] == "fused"
before = step(16)  # what the libraries load at their first use is not attention's
print(step(128) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is given in other units elsewhere")
@pytest.mark.parametrize(
    ("memory_format", "path", "least", "most"),
    [
        ("contiguous_format", "fused", 0, 64),
        ("channels_last", "fused", 0, 64),
        ("channels_last", "plain", 256, 2048),  # so the measure would have seen it
    ],
)
def test_a_step_of_attention_at_128_pixels_needs_under_64_mib_a_sample_where_the_map_alone_is_256(
    memory_format, path, least, most
):
    command = [sys.executable, "-c", MEMORY, memory_format, path]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024
    assert least <= peak < most


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
