"""`schurgan presets`, and the settings of the paper's networks."""

from __future__ import annotations

import pytest

from schurgan.config import preset_names, preset_summary, resolve
from schurgan.networks import LADDERS
from schurgan.networks.costs import step_costs

SIZES = ("--width", 2, "--batch-size", 3, "--classes", 4, "--channels", 1)


def test_presets_and_then_ladders_with_their_costs_are_listed_a_line_each(call, monkeypatch):
    few = {name: LADDERS[name] for name in ("small-16", "sagan-64")}
    monkeypatch.setattr("schurgan.networks.costs.LADDERS", few)
    said = call("presets", *SIZES)
    assert (said.status, said.err) == (0, "")
    presets, ladders = said.out.split("\n\n")
    assert [line.split(maxsplit=1) for line in presets.splitlines()] == [[n, preset_summary(n)] for n in preset_names()]
    assert "batch 3, channels 1, classes 4" in ladders
    rows = {line.split()[0]: line.split()[1:] for line in ladders.splitlines()[3:]}
    assert list(rows) == list(few)
    costs = step_costs(LADDERS["sagan-64"], width=2, batch_size=3, classes=4, channels=1)
    assert rows["sagan-64"][:4] == ["64×64", "2", f"{costs.generator:,}", f"{costs.discriminator:,}"]


@pytest.mark.slow
def test_every_ladder_is_in_the_list(call):
    lines = call("presets", *SIZES).out.splitlines()
    assert [line.split()[0] for line in lines[-len(LADDERS) :]] == list(LADDERS)


@pytest.mark.parametrize("option", ["--batch-size", "--width", "--classes", "--channels"])
def test_sizes_below_one_are_refused_by_their_option_before_anything_is_said(refused, option):
    assert refused("presets", option, 0) == f"{option}: 0 given, a whole number of 1 or more is needed"


PAPER = ["sagan-128", "biggan-128", "proposed-128", "proposed-256", "cifar-32"]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_are_trained_as_the_paper_says(name):
    """Appendix C: Adam with β = (0, 0.9), rates of 2·10⁻⁴ (D) and 3·10⁻⁵ (G); batches of 256 or, on CIFAR-10, 512."""
    train = resolve(name).train
    assert (train.betas, train.lr_d, train.lr_g) == ((0.0, 0.9), 2e-4, 3e-5)
    assert (train.d_steps, train.eps) == (2, 1e-6)
    assert train.batch_size == (512 if name == "cifar-32" else 256)
    assert resolve(name).model.channels == 3


@pytest.mark.parametrize("name", PAPER)
def test_the_discriminator_of_every_paper_network_and_the_generator_of_sa_gan_alone_are_normalised(name):
    model = resolve(name).model
    assert model.spectral_norm_d
    assert model.spectral_norm_g == (name == "sagan-128")


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_baselines_are_trained_without_the_condition(name):
    assert (resolve(name).ddfn.weight == 0) == (name in ("sagan-128", "biggan-128"))
    assert resolve(name).ddfn.epsilon == 37.16
