"""Runs of the paper's own readings that are not the default: trained, stopped, gone on with, loaded and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schurgan.model import load
from schurgan.networks import Generator
from schurgan.networks.costs import step_costs
from schurgan.networks.export import frozen
from schurgan.runs.config import Config
from schurgan.training import resume, train
from schurgan.training.build import build_architecture, build_trainer
from schurgan.training.checkpoint import read

READINGS: dict[str, dict[str, Any]] = {
    "class beside the whole of z, each image": {
        "model": {"embedding": "linear", "skip_z": "full"},
        "ddfn": {"constraint": "image"},
        "health": {"layer": "blocks.1.norm2", "every": 2},
    },
    "separate embeddings": {"model": {"embedding": "separate"}},
}


@pytest.fixture(params=READINGS)
def config(tiny: Callable[..., Config], request: pytest.FixtureRequest) -> Config:
    changes = READINGS[request.param]
    base = tiny(steps=4, checkpoint_every=2)
    return base.model_copy(
        update={name: getattr(base, name).model_copy(update=values) for name, values in changes.items()}
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of both networks and the average after the last step."""
    trainer = read(run / "checkpoints" / "step-00000004.pt").state["trainer"]
    networks = ("generator", "discriminator", "generator_ema")
    return {f"{part}.{name}": value for part in networks for name, value in trainer[part].items()}


def test_a_run_of_a_reading_goes_on_exactly_and_its_model_is_loaded_and_exported(config, tmp_path):
    run = train(config, tmp_path / "run")
    straight = weights(run)
    (run / "checkpoints" / "step-00000004.pt").unlink()
    resume(run)
    assert [name for name, value in weights(run).items() if not torch.equal(value, straight[name])] == []
    model = load(run)
    assert model.generator.architecture == build_architecture(config.model)
    z, labels = torch.randn(3, model.generator.latent_dim), torch.arange(3)
    with torch.no_grad():
        torch.testing.assert_close(frozen(model.generator)(z, labels), model.generator(z, labels), rtol=0, atol=1e-5)
    assert model.sample("siren", 2).images.shape == (2, 1, 16, 16)


def test_costs_of_a_reading_are_those_of_its_networks(config):
    trainer = build_trainer(config, 8)
    costs = step_costs(build_architecture(config.model), width=4, classes=8, channels=1, batch_size=8)
    networks = (trainer.generator, trainer.discriminator)
    found = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert [costs.generator, costs.discriminator] == found


@pytest.mark.parametrize(
    ("options", "into_linear", "into_blocks", "embeddings"),
    [
        ({}, 16, 16 + 32, 1),
        ({"embedding": "linear"}, 16 + 32, 16 + 32, 1),
        ({"embedding": "linear", "skip_z": "full"}, 48 + 32, 48 + 32, 1),
        ({"embedding": "separate"}, 16, 16, 8),
        ({"architecture": "sagan-32", "embedding": "shared"}, 128, 128, 1),
    ],
)
def test_the_class_and_z_enter_the_generator_where_the_options_say(tiny, options, into_linear, into_blocks, embeddings):
    model = tiny().model.model_copy(update=options)
    generator = build_trainer(tiny().model_copy(update={"model": model}), 8).generator
    assert isinstance(generator, Generator)
    assert generator.linear.in_features == into_linear
    gain = generator.blocks[0].norm1.gain
    assert (gain.noise if embeddings > 1 else gain).in_features == into_blocks
    assert len(generator.embeddings()) == embeddings
