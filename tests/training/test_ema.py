from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from schurgan.training.trainer import update_average


def network(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm2d(2))
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def test_a_constant_source_is_approached_by_the_closed_form():
    source = network(1.0).double()
    average = network(0.0).double()
    for _ in range(20):
        update_average(average, source, 0.9, step=10**9)  # far beyond the warm-up: β is the decay
    expected = 1 - 0.9**20
    assert all(torch.allclose(p, torch.full_like(p, expected), atol=1e-14) for p in average.parameters())


def test_the_decay_starts_at_a_tenth_and_grows_to_the_given_one():
    source, average = network(1.0).double(), network(0.0).double()
    left = 1.0
    for step in range(30):
        update_average(average, source, 0.5, step)
        left *= min(0.5, (1 + step) / (10 + step))
        assert next(average.parameters())[0, 0].item() == pytest.approx(1 - left, abs=1e-14)
    assert (1 + 8) / (10 + 8) == 0.5  # the step at which the warm-up is over was among them


def test_buffers_are_copied_and_not_averaged():
    source, average = network(1.0), network(0.0)
    source[1].running_mean.fill_(3.0)
    source[1].num_batches_tracked.fill_(7)
    update_average(average, source, 0.999, 10**6)
    assert average[1].running_mean.tolist() == [3.0, 3.0]
    assert average[1].num_batches_tracked.item() == 7


def test_the_source_is_left_alone():
    source = network(1.0)
    before = copy.deepcopy(source.state_dict())
    update_average(network(0.0), source, 0.9, 3)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert all(parameter.requires_grad for parameter in source.parameters())
