from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from schurgan.evaluation.metrics.inception_score import class_accuracy, inception_score, inception_score_of_runs
from schurgan.evaluation.metrics.intervals import MeanSd


def logits(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Metric:UserWarning")  # that it keeps features
def test_it_is_that_of_torchmetrics_in_the_same_order():
    oracle = pytest.importorskip("torchmetrics.image.inception")
    passing = torch.nn.Identity()
    given = logits(200, 10)
    metric = oracle.InceptionScore(feature=passing, splits=10).set_dtype(torch.float64)
    metric.update(given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        mean, sd = metric.compute()
    ours = inception_score(given.softmax(1), splits=10, seed=4)
    assert ours.mean == pytest.approx(mean.item(), rel=1e-6)
    assert ours.sd == pytest.approx(sd.item(), rel=1e-6)


def test_of_one_part_it_is_the_exponential_of_scipys_mean_divergence_without_a_deviation():
    given = logits(50, 7).softmax(1)
    truth = math.exp(np.mean([entropy(row, given.numpy().mean(0)) for row in given.numpy()]))
    score = inception_score(given, splits=1)
    assert score.mean == pytest.approx(truth, rel=1e-12)
    assert score.sd is None


def test_sure_answers_score_the_number_of_classes_met_and_unsure_ones_1():
    sure = torch.eye(5).repeat(20, 1)  # the logarithm of 0 must not appear
    assert inception_score(sure, splits=1) == MeanSd(pytest.approx(5.0, rel=1e-12), None)
    assert inception_score(torch.full((50, 5), 0.2), splits=5) == MeanSd(pytest.approx(1.0), pytest.approx(0.0))
    assert inception_score(torch.eye(5)[:1].repeat(20, 1), splits=2).mean == 1.0
    assert inception_score(torch.ones(4, 1), splits=2).mean == 1.0


def test_images_sorted_by_class_score_as_mixed_ones():
    """Parts cut in the order given would hold one class each, and score 1."""
    sorted_by_class = torch.eye(10).repeat_interleave(100, 0)
    assert inception_score(sorted_by_class, splits=10).mean > 9.4  # a part of 100 misses 10 equal shares by little


def test_images_that_are_no_multiple_of_the_parts_are_all_counted():
    given = logits(23, 4).softmax(1)
    score = inception_score(given, splits=23)
    assert score == MeanSd(pytest.approx(1.0, rel=1e-12), pytest.approx(0.0, abs=1e-12))


def test_over_runs_it_is_mean_and_deviation_of_each_runs_own_score():
    runs = [logits(60, 5, seed).softmax(1) for seed in range(4)]
    each = [inception_score(run, splits=1).mean for run in runs]
    score = inception_score_of_runs(runs)
    assert score.mean == pytest.approx(np.mean(each), rel=1e-12)
    assert score.sd == pytest.approx(np.std(each, ddof=1), rel=1e-9)
    assert inception_score_of_runs(runs[:1]).sd is None


def test_accuracy_counts_the_most_probable_class_and_flags_classes_without_images():
    given = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0]])
    accuracy = class_accuracy(given, torch.tensor([0, 1, 1, 1]))
    assert accuracy.overall == 0.75
    assert accuracy.per_class == (1.0, pytest.approx(2 / 3), None)


@pytest.mark.parametrize(
    ("given", "splits", "said"),
    [
        (torch.full((5, 2), 0.5), 10, "probabilities: 5 rows given, 10 or more"),
        (torch.full((5, 2), 0.7), 1, "5 of 5 rows are negative somewhere or do not sum to 1"),
        (torch.tensor([[1.5, -0.5], [0.5, 0.5]]), 1, "1 of 2 rows are negative"),
        (torch.tensor([[torch.nan, 1.0], [0.5, 0.5]]), 1, "1 of 2 rows hold NaN"),
        (torch.ones(5), 1, r"shape \(5,\) given"),
    ],
)
def test_what_are_no_probabilities_is_refused(given, splits, said):
    with pytest.raises(ValueError, match=said):
        inception_score(given, splits)


def test_wrong_runs_and_labels_are_named():
    with pytest.raises(ValueError, match=r"runs\[1\]: 3 of 3 rows"):
        inception_score_of_runs([torch.full((5, 2), 0.5), torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="labels: 0 to 2 given, 0 to 1"):
        class_accuracy(torch.full((2, 2), 0.5), torch.tensor([0, 2]))
