from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import clip, esc50
from tones import SMALL, Tones
from torch.utils.data import TensorDataset

from schurgan.core.errors import SchurganError
from schurgan.data import Manifest, Shards, prepare
from schurgan.data.dataset import DatasetImages, LabelledImages
from schurgan.data.shards import describe_split, held_out_folds, split
from schurgan.data.sources import open_source
from schurgan.data.sources.base import Item


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


def sizes(labels: str) -> LabelledImages:
    """Images without folds whose classes are as large as a text like "a" * 7 + "b" * 3 says."""
    names = sorted(set(labels))
    pairs = TensorDataset(torch.zeros(len(labels), 1, 8, 8), torch.tensor([names.index(label) for label in labels]))
    return DatasetImages(pairs, names)


def test_a_tenth_of_each_class_is_held_out_where_nothing_is_said(shards):
    training, held_out = split(sizes("a" * 4 + "b" * 5 + "c" * 14 + "d" * 40))
    assert np.bincount(held_out.labels, minlength=4).tolist() == [0, 1, 1, 4]
    assert not set(training.origins) & set(held_out.origins)
    assert len(training) + len(held_out) == 63
    _, of_six = split(Shards(shards))
    assert np.bincount(of_six.labels).tolist() == [1] * 8


@pytest.mark.parametrize("labels", ["a", "aaaa", "abcd" * 4])
def test_small_classes_are_trained_on_wholly(labels):
    training, held_out = split(sizes(labels))
    assert len(training) == len(labels)
    assert held_out is None


def test_zero_holds_nothing_out(shards):
    assert split(Shards(shards), val_fraction=0.0)[1] is None
    named = with_folds(shards, (2,))
    assert split(named, val_fraction=0.0)[1] is None


def with_folds(folder, val_folds) -> Shards:
    """The set as if its clips lay in folds 1 to 3, of which it holds some out."""
    whole = Shards(folder)
    whole._folds, whole._val_folds = [1 + clip % 3 for clip in range(len(whole))], val_folds
    return whole


def test_the_folds_that_the_data_names_are_held_out_unless_an_option_says_otherwise(shards):
    named = with_folds(shards, (2, 3))
    training, held_out = split(named)
    assert (set(training.folds), set(held_out.folds)) == ({1}, {2, 3})
    assert set(split(named, val_folds=[1])[1].folds) == {1}
    assert np.bincount(split(named, val_fraction=0.34)[1].labels).tolist() == [2] * 8
    only_such = named.select(folds=[2])
    assert held_out_folds(only_such) == ()  # nothing would be left to train on


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "8 of 48 clips, a tenth of each class"),
        ({"val_fraction": 0.34}, "16 of 48 clips, a share of 0.34 of each class"),
        ({"val_fraction": 0.0}, "none of 48 clips (--train.val-fraction 0)"),
        ({"val_folds": (3,)}, "16 of 48 clips, fold 3"),
    ],
)
def test_what_is_held_out_is_said_in_words(shards, given, said):
    whole = with_folds(shards, ())
    assert describe_split(whole, split(whole, **given)[1], **given) == said


def test_what_is_held_out_of_small_classes_or_by_the_data_is_said_in_words(shards):
    mixed, small, named = sizes("a" * 4 + "b" * 5), sizes("aaabb"), with_folds(shards, (1, 2))
    assert describe_split(mixed, split(mixed)[1]) == "1 of 9 clips, a tenth of each class of 5 or more"
    assert describe_split(small, None) == "none of 5 clips, as no class has 5"
    assert describe_split(named, split(named)[1]) == "32 of 48 clips, folds 1, 2, as the data says"


def test_folds_and_a_share_at_once_are_refused(shards):
    with pytest.raises(SchurganError, match=r"--train.val-fraction: 0.2 given beside --train.val-folds"):
        split(Shards(shards), val_folds=[1], val_fraction=0.2)


def test_a_class_of_one_recording_cannot_be_held_out(shards):
    lonely = Shards(shards).take(np.array([0, 6, 12]))
    with pytest.raises(SchurganError, match=r"no class in .* has two recordings"):
        split(lonely, val_fraction=0.5)


def cut(folder, recordings, labels: str) -> Shards:
    """The first clips of a set as if they had these classes and were cut from these recordings."""
    whole = Shards(folder).take(np.arange(len(labels)))
    whole._recordings = recordings
    whole.labels = np.array(["abc".index(label) for label in labels])
    return whole


@given(
    labels=st.text("abc", min_size=1, max_size=40),
    names=st.lists(st.sampled_from("uvwxyz"), min_size=40, max_size=40),
    share=st.sampled_from([None, 0.1, 0.5, 0.9]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_recording_is_both_trained_on_and_held_out(shards, labels, names, share):
    whole = cut(shards, names, labels)
    with contextlib.suppress(SchurganError):  # no class has two recordings
        training, held_out = split(whole, val_fraction=share)
        assert set(training.labels) == set(whole.labels)
        if held_out is not None:
            assert not set(training.recordings) & set(held_out.recordings)
            assert len(training) + len(held_out) == len(whole)
            most = np.bincount(whole.labels, minlength=3) * max(share or 0.1, 0.5)
            assert (np.bincount(held_out.labels, minlength=3) <= np.ceil(most)).all()


def test_long_recordings_are_passed_over_where_short_ones_make_up_the_tenth(shards):
    names = ["one"] * 15 + ["two"] * 13 + ["three", "four"]
    _, held_out = split(cut(shards, names, "a" * 30))
    assert set(held_out.recordings) == {"three", "four"}
    _, held_out = split(cut(shards, ["one"] * 20 + ["two"] * 10, "a" * 30))
    assert set(held_out.recordings) == {"two"}  # of both too long ones the shorter
    assert split(cut(shards, ["one"] * 30, "a" * 30))[1] is None


def test_the_same_sound_under_two_names_is_one_recording(tmp_path):
    prepare(Twice(), tmp_path / "twice", SMALL, workers=1)
    whole = Shards(tmp_path / "twice")
    assert whole.recordings[:4] == ("00", "01", "02", "00")
    prepare(Tones(), tmp_path / "once", SMALL, workers=1)
    assert "recording" not in json.loads((tmp_path / "once" / "manifest.json").read_text())["clips"]
    assert whole.record(3).recording == "00"


class Twice(Tones):
    """Of two of its tones one is the other."""

    def load(self, item: Item, sample_rate: int) -> torch.Tensor:
        return super().load(replace(item, origin="00") if item.origin == "03" else item, sample_rate)


def test_clips_that_esc50_cut_from_one_recording_have_its_name(tmp_path):
    rows = ["1-7-A-0.wav,1,0,dog,True,7,A", "1-7-B-0.wav,1,0,dog,True,7,B", "2-8-A-0.wav,2,0,dog,True,8,A"]
    root = esc50(tmp_path / "esc50", rows)
    for number, row in enumerate(rows):
        clip(root / "audio" / row.split(",")[0], 300 + 100 * number)
    prepare(open_source("esc50", root), tmp_path / "out", SMALL, workers=1)
    whole = Shards(tmp_path / "out")
    assert whole.recordings == ("7", "7", "8")
    assert Manifest.load(tmp_path / "out").clips.recording == ("7", "7", "8")
    assert whole.take(np.array([2, 0])).recordings == ("8", "7")
