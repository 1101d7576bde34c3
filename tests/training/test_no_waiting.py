"""A step never reads a number back from the device: it would make the CPU wait for a GPU at each one.

What is read inside `schurgan.normality` is left out: it reads on a CPU alone, where that saves work (`x.is_cuda or`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from schurgan.data import Shards
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.logger import Means

EVERYTHING: dict[str, Any] = {
    "model": {
        "architecture": "small-16",
        "width": 4,
        "spectral_norm_g": True,
        "spectral_norm_d": True,
        "attention_g": (8,),
    },
    "ddfn": {"per_class": True, "relative_epsilon": 0.0, "decay": 0.9, "estimator": "hybrid"},
    "moment_matching": {"descriptor": "gram"},
    "regularize": {
        "augment": "colour,translation,cutout",
        "r1": 1.0,
        "r2": 1.0,
        "penalty_every": 2,
        "lecam": 0.1,
        "lecam_start": 1,
        "orthogonal_g": 1e-3,
        "orthogonal_d": 1e-3,
    },
}


def in_normality() -> bool:
    frame = sys._getframe(2)
    while frame is not None and "/schurgan/normality/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


class Reads(TorchDispatchMode):
    """Notes what waits for a device: a number read from a tensor, and operations whose shape depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_dim", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITING) and not in_normality():
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def refused(patched: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading by Python, which a dispatcher need not see on a CPU, is an error inside."""

    def refuse(name: str) -> Any:
        read = getattr(torch.Tensor, name)

        def reading(*given: Any, **options: Any) -> Any:
            assert in_normality(), f"a step read a tensor's value by {name}"
            return read(*given, **options)

        return reading

    with patched.context() as inside:
        for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy"):
            inside.setattr(torch.Tensor, name, refuse(name))
        yield


@pytest.mark.parametrize(
    "train", [{}, {"gradient_accumulation_steps": 2}, {"precision": "bf16"}, {"precision": "fp16"}]
)
@pytest.mark.parametrize("loss", ["hinge", "non_saturating"])
def test_no_step_waits_for_its_device_with_every_option_on(shards, monkeypatch, train, loss):
    if loss != "hinge":
        train = train | {"d_steps": 2}
    values = {"batch_size": 8, "eps": 1e-6, "loss": loss} | train
    trainer = build_trainer(Config.model_validate(EVERYTHING | {"train": values}), 8)
    data = Shards(shards)
    for part in trainer.conditions.values():
        part.fit_real(data.batches(64))
    batches = [(data.images(range(i, 48, 6)), torch.from_numpy(data.labels[i:48:6])) for i in range(2)]
    trainer.training_step(batches[: train.get("d_steps", 1)])  # the first step may set things up
    reads, means = Reads(), Means()
    for _ in range(3):  # with and without the gradient penalties, before and after LeCam's start
        with refused(monkeypatch), reads:
            means.add(trainer.training_step(batches[: train.get("d_steps", 1)]))
    assert reads.found == []
    assert trainer.global_step == 4


def test_reading_a_value_would_be_noticed(monkeypatch):
    reads = Reads()
    with reads:
        torch.ones(3).sum().item()
    assert reads.found == ["_local_scalar_dense"]
    with refused(monkeypatch), pytest.raises(AssertionError, match="read"):
        bool(torch.ones(()) > 0)
