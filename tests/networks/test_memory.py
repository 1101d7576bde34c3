"""The peak of a step, counted on tensors without memory, against sums done by hand and a process's growth."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from memory import Live, step_peak
from schurgan.networks import find_architecture
from schurgan.networks.costs import step_costs


def test_the_peak_counts_what_is_alive_at_once_and_not_what_was_made():
    x = torch.ones(256, 256)  # 256 KiB, made outside
    with Live() as live:
        a = x @ x
        b = a + 1
        del a
        c = b.t() * 2  # a view of b takes nothing
        del b, c
        assert live.alive == 0
    assert live.peak == 2 * 256 * 1024


def test_the_peak_of_a_linear_layers_step_is_the_sum_of_what_its_passes_hold():
    layer, x = torch.nn.Linear(100, 50), torch.ones(10, 100)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)  # made outside, and added to
    with Live() as live:
        layer(x).square().sum().backward()
    output, gradients = 4 * 10 * 50, 4 * (100 * 50 + 50)
    # What is added to the gradients; and of outputs of 2 kB, itself, its square and their gradients.
    assert 4 * 100 * 50 <= live.peak <= gradients + 5 * output


def test_a_step_in_parts_needs_less_and_one_part_of_as_many_images_as_a_small_batch():
    architecture = find_architecture("small-32")
    whole, halves, quarters = (
        step_peak(architecture, batch_size=64, gradient_accumulation_steps=parts) for parts in (1, 2, 4)
    )
    assert whole.held == halves.held == quarters.held
    assert whole.batch == halves.batch == (1 + 4) * 4 * 64 * 3 * 32 * 32
    # Undivided, both networks are held at once.
    assert whole.part > 2 * halves.part
    assert 1.7 < halves.part / quarters.part < 2.1
    twice = step_peak(architecture, batch_size=128, gradient_accumulation_steps=8)
    assert twice.part == pytest.approx(
        step_peak(architecture, batch_size=64, gradient_accumulation_steps=4).part, rel=1e-6
    )


def test_the_peak_is_over_what_is_kept_and_half_precision_halves_the_part_of_a_batch():
    architecture = find_architecture("small-32")
    costs, peak = step_costs(architecture, batch_size=256), step_peak(architecture, batch_size=256)
    assert peak.held == costs.state
    assert costs.activations < peak.part < 3 * costs.activations
    half = step_peak(architecture, batch_size=256, half=True)
    assert 0.45 < half.part / peak.part < 0.65
    assert half.held == peak.held


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size: 10 given, a multiple of 4 parts is needed"):
        step_peak(find_architecture("small-16"), batch_size=10, gradient_accumulation_steps=4)


@pytest.mark.slow
def test_the_peak_is_what_a_process_grows_by():
    """In a process of its own, whose growth is what the system says; glibc rounds, so within a fifth."""
    script = """
import resource, torch
from schurgan.runs.config import Config
from schurgan.training.build import build_trainer
from schurgan.training.trainer import Trainer
from schurgan.networks import find_architecture
from memory import step_peak
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = Config.from_preset("small-32")
train = config.train.model_copy(update={"batch_size": 1536})
model = config.model.model_copy(update={"channels": 3})
ddfn = config.ddfn.model_copy(update={"every": 1000})
trainer = build_trainer(config.model_copy(update={"train": train, "model": model, "ddfn": ddfn}), 10)
images, labels = torch.rand(1536, 3, 32, 32) * 2 - 1, torch.arange(1536) % 10
trainer.conditions["ddfn"].fit_real([images[:4]])
trainer.training_step([(images, labels)])
grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(grown, step_peak(find_architecture("small-32"), batch_size=1536).total)
"""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    grown, expected = (int(number) for number in done.stdout.split())
    assert grown == pytest.approx(expected, rel=0.2)
