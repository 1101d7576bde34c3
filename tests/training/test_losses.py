from __future__ import annotations

import pytest
import torch

from schurgan.training.losses import LOSSES, Hinge


def test_hinge_of_scores_worked_out_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.5])
    # max(0, 1 − D(x)): 0, 0.5, 2; max(0, 1 + D(G)): 0, 1, 2.5
    assert Hinge().discriminator(real, fake).item() == pytest.approx(2.5 / 3 + 3.5 / 3)
    assert Hinge().generator(fake).item() == pytest.approx(1.5 / 3)


def test_hinge_moves_only_the_scores_inside_its_margin():
    real = torch.tensor([2.0, 0.5], requires_grad=True)
    fake = torch.tensor([-3.0, 0.0], requires_grad=True)
    Hinge().discriminator(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0, 0.5]


def test_hinge_is_the_default_and_known_by_its_name():
    assert isinstance(LOSSES["hinge"], Hinge)
