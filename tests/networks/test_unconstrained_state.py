"""The state of a constrained network for one without constraints."""

from __future__ import annotations

import pytest
import torch

from schurgan.networks import Generator, Latent, apply_spectral_clamp, apply_spectral_norm, unconstrained_state


@pytest.mark.parametrize(
    "constrain", [apply_spectral_norm, lambda network, keep: apply_spectral_clamp(network, 0.3, keep=keep)]
)
def test_unconstrained_state_makes_the_same_images_without_constraints(constrain):
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4, init="normal")
    constrain(network, network.embeddings())
    z, labels = Latent(network.latent_dim).sample(6, torch.Generator().manual_seed(1)), torch.arange(6)
    network.train()(z, labels)  # moves the vectors and the running statistics
    plain = Generator.from_preset("small-16", width=4)
    before = network.eval()(z, labels)
    plain.load_state_dict(unconstrained_state(network))
    assert torch.equal(plain.eval()(z, labels), before)
    assert torch.equal(network(z, labels), before)  # which is as it was


def test_unconstrained_state_of_a_network_without_constraints_is_its_own():
    network = Generator.from_preset("small-16", width=2)
    own, state = network.state_dict(), unconstrained_state(network)
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
