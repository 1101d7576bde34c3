from __future__ import annotations

import numpy as np
import pytest

from schurgan.core.errors import UserError
from schurgan.data import Shards
from schurgan.data.split import split


def test_a_share_of_every_class_is_held_out_and_nothing_is_on_both_sides(shards):
    whole = Shards(shards)  # six clips of each of eight classes
    training, held_out = split(whole, val_fraction=0.34)
    assert np.bincount(training.labels).tolist() == [4] * 8
    assert np.bincount(held_out.labels).tolist() == [2] * 8
    assert set(training.origins) | set(held_out.origins) == set(whole.origins)
    assert not set(training.origins) & set(held_out.origins)


@pytest.mark.parametrize("share", [1e-6, 0.999999])
def test_every_class_keeps_a_recording_on_either_side(shards, share):
    training, held_out = split(Shards(shards), val_fraction=share)
    assert min(np.bincount(training.labels)) >= 1
    assert min(np.bincount(held_out.labels)) >= 1


def test_the_same_recordings_are_held_out_whatever_else_is_in_the_set(shards):
    _, of_all = split(Shards(shards), val_fraction=0.34)
    _, of_some = split(Shards(shards).select(classes=["rain", "bell"]), val_fraction=0.34)
    assert set(of_some.origins) <= set(of_all.origins)


def test_nothing_is_held_out_unless_asked_for(shards):
    training, held_out = split(Shards(shards))
    assert len(training) == 48
    assert held_out is None


def test_folds_and_a_share_at_once_are_refused(shards):
    with pytest.raises(UserError, match=r"--train.val-fraction: 0.2 given beside --train.val-folds"):
        split(Shards(shards), val_folds=[1], val_fraction=0.2)


def test_a_class_of_one_recording_cannot_be_held_out(shards):
    lonely = Shards(shards).take(np.array([0, 6, 12]))
    with pytest.raises(UserError, match=r"no class in .* has two recordings"):
        split(lonely, val_fraction=0.5)


def test_a_class_chosen_twice_is_refused(shards):
    with pytest.raises(UserError, match="each can be chosen once"):
        Shards(shards).select(classes=["rain", "rain"])
