"""Files that this format's first version wrote: as long as a format's number stays, they load.

`python tests/training/test_formats.py` writes them anew, for a new number.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

import schurgan
from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources import open_source
from schurgan.runs.config import Config
from schurgan.runs.options import DDFNOptions, ModelOptions, RegularizeOptions, TrainOptions
from schurgan.training import train
from schurgan.training.build import build_trainer
from schurgan.training.checkpoint import read

RUN = Path(__file__).parents[1] / "fixtures" / "run"


def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        source = open_source("soundscape", per_class=2, seconds=0.5)
        prepare(source, data, Spectrogram(size=16, channels=1, n_samples=8000), workers=1)
        config = Config(
            data=data,
            model=ModelOptions(architecture="small-16", width=1, spectral_norm_g=True),
            ddfn=DDFNOptions(per_class=True, penalty="augmented", relative_epsilon=0.1),
            regularize=RegularizeOptions(lecam=0.1, lecam_start=0),
            train=TrainOptions(steps=2, batch_size=8, log_every=1, threads=1, device="cpu"),
        )
        shutil.rmtree(RUN)
        train(config, RUN)
    shutil.rmtree(RUN / "samples")
    (RUN / "metrics.jsonl").unlink()
    config.model_copy(update={"data": None}).save(RUN / "config.yaml")
    torch.save(schurgan.load(RUN).images(torch.arange(8), seed=0), RUN / "images.pt")


def test_checkpoint_of_an_earlier_version_goes_on():
    config = Config.load(RUN / "config.yaml")
    (path,) = (RUN / "checkpoints").glob("*.pt")
    trainer = build_trainer(config, 8)
    trainer.load_state_dict(read(path).state["trainer"])  # with weights_only=True
    assert trainer.global_step == 2
    images = 1.8 * torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.9
    metrics = trainer.training_step([(images, torch.arange(8))])
    assert all(value.isfinite() for value in metrics.values())
    assert trainer.conditions["ddfn"].steps == 3
    assert trainer.state_dict()["regularizers.0.LeCam"]["_extra_state"]["updates"] == 3


def test_generator_of_an_earlier_version_makes_the_images_that_it_made():
    model = schurgan.load(RUN)
    images = model.images(torch.arange(8), seed=0)
    expected = torch.load(RUN / "images.pt", weights_only=True)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)  # another machine's convolutions round otherwise


if __name__ == "__main__":
    write()
