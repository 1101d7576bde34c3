"""Training from Python: callbacks, runs that go on by themselves, parts and data of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import schurgan
from schurgan.core.errors import SchurganError
from schurgan.runs.folder import RunFolder
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.losses import Loss
from schurgan.training.regularizers import DiscriminatorPhase, Regularizer

OPTIONS: dict[str, Any] = {
    "architecture": "small-16",
    "width": 2,
    "steps": 6,
    "batch_size": 8,
    "checkpoint_every": 3,
    "log_every": 2,
    "threads": 1,
    "device": "cpu",
    "health": {"every": 2, "classifier": False, "images": 16, "budget": 0.0},
}


class Noted(schurgan.Callback):
    """Notes what it is told, and asks to stop at one call."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop, self.calls = stop, list[tuple[str, int]]()

    def _note(self, *call: Any) -> object:
        self.calls.append(call)
        return schurgan.STOP if call == self.stop else None

    def on_step(self, step, metrics, trainer):
        assert metrics["loss_d"].isfinite()
        assert trainer.global_step == step
        return self._note("step", step)

    def on_evaluation(self, step, scores, trainer):
        assert scores["variety"] >= 0
        return self._note("evaluation", step)

    def on_checkpoint(self, step, path, trainer):
        assert path.exists()
        return self._note("checkpoint", step)


def files(run: Path) -> dict[str, bytes]:
    names = ("generator.safetensors", "samples/step-00000006.png")
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    schurgan.train(shards, out=out, **OPTIONS)
    return out


def test_a_callback_hears_of_every_step_evaluation_and_checkpoint(shards, tmp_path, straight):
    noted = Noted()
    model = schurgan.train(shards, out=tmp_path / "run", callbacks=[noted], **OPTIONS)
    assert [step for kind, step in noted.calls if kind == "step"] == [1, 2, 3, 4, 5, 6]
    assert [step for kind, step in noted.calls if kind == "evaluation"] == [2, 4, 6]
    assert [step for kind, step in noted.calls if kind == "checkpoint"] == [3, 6]
    assert model.card.step == 6
    assert files(tmp_path / "run") == files(straight)  # whoever listens changes nothing


@pytest.mark.parametrize("stop", [("step", 2), ("evaluation", 4), ("checkpoint", 3)])
def test_a_callback_ends_the_run_which_goes_on_to_the_same_end(shards, tmp_path, straight, stop):
    run = tmp_path / "run"
    model = schurgan.train(shards, out=run, callbacks=[Noted(stop)], **OPTIONS)
    assert model.card.step == stop[1]
    assert [event.kind for event in RunFolder(run).read_records().events] == ["started", "interrupted"]
    assert Checkpoints(run).load().record.step == stop[1]
    assert schurgan.train(shards, out=run, **OPTIONS).card.step == 6
    assert files(run) == files(straight)


def test_a_stopped_run_is_resumed_by_its_folder_alone(shards, tmp_path, straight):
    schurgan.train(shards, out=tmp_path / "run", callbacks=[Noted(("step", 4))], **OPTIONS)
    assert schurgan.resume(tmp_path / "run").card.step == 6
    assert files(tmp_path / "run") == files(straight)


def test_a_finished_run_is_loaded_and_one_of_other_options_refused(shards, straight):
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert schurgan.train(shards, out=straight, **OPTIONS).card.step == 6
    with pytest.raises(SchurganError, match="lr-g"):
        schurgan.train(shards, out=straight, **OPTIONS | {"lr_g": 0.5})
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


class Relativistic(Loss):
    """Jolicoeur-Martineau 2019, pairs: only the difference of the scores counts."""

    relativistic = True

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.softplus(fake_scores - real_scores).mean()

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        assert real_scores.shape == fake_scores.shape
        assert fake_scores.requires_grad
        return F.softplus(real_scores - fake_scores).mean()


class SmallScores(Regularizer):
    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        return phase.real_scores.square().mean() + phase.fake_scores.square().mean()


def test_an_own_loss_and_regulariser_train_and_are_not_forgotten_when_a_run_goes_on(shards, tmp_path, straight):
    run, own = tmp_path / "run", {"loss": Relativistic(), "regularizers": [SmallScores()]}
    schurgan.train(shards, out=run, callbacks=[Noted(("step", 4))], **own, **OPTIONS)
    with pytest.raises(SchurganError, match="Relativistic"):
        schurgan.resume(run)
    assert schurgan.resume(run, **own).card.step == 6
    assert files(run)["generator.safetensors"] != files(straight)["generator.safetensors"]


class SmallGenerator(nn.Module):
    latent_dim, classes = 8, 3

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 8)
        self.layer = nn.Linear(8, 3 * 8 * 8)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.layer(z + self.embedding(labels)).tanh().unflatten(1, (3, 8, 8))


class SmallDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.embedding = nn.Linear(3 * 8 * 8, 8), nn.Embedding(3, 8)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return (self.layer(images.flatten(1)).relu() * self.embedding(labels)).sum(1)


def test_own_networks_train_on_an_own_dataset_and_are_loaded_again(tmp_path):
    noise = torch.Generator().manual_seed(0)
    pairs = [(torch.rand(3, 8, 8, generator=noise) * 2 - 1, number % 3) for number in range(24)]
    torch.manual_seed(0)
    own = {"generator": SmallGenerator(), "discriminator": SmallDiscriminator}
    before = own["generator"].layer.weight.clone()
    model = schurgan.train(pairs, out=tmp_path / "run", **own, **OPTIONS)
    assert model.classes == ("0", "1", "2")
    images = model.images(torch.arange(3))
    assert images.shape == (3, 3, 8, 8)
    assert torch.equal(own["generator"].layer.weight, before)  # a copy was trained
    with pytest.raises(SchurganError, match="generator"):
        schurgan.load(tmp_path / "run")
    again = schurgan.load(tmp_path / "run", generator=SmallGenerator()).to("cpu")
    assert torch.equal(again.images(torch.arange(3)), images)


def test_a_source_is_prepared_into_the_folder_of_the_run(tmp_path):
    from schurgan.data.sources import open_source

    source = open_source("soundscape", per_class=2, seconds=0.5)
    model = schurgan.train(source, out=tmp_path / "run", **OPTIONS | {"steps": 1})
    assert (tmp_path / "run" / "data" / "manifest.json").exists()
    assert model.images(torch.arange(2)).shape == (2, 1, 16, 16)
