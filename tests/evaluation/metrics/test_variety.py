from __future__ import annotations

import itertools
import math

import pytest
import torch

from schurgan.evaluation.metrics.variety import variety, vendi_score


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_variety_is_the_mean_distance_of_pairs_of_a_class_with_equal_weight_for_each_class():
    given, labels = images(9), torch.tensor([0, 0, 0, 0, 0, 0, 2, 2, 5])

    def of_class(c: int) -> float:
        members = [image for image, label in zip(given, labels, strict=True) if label == c]
        pairs = [float((a.double() - b.double()).square().sum().sqrt()) for a, b in itertools.combinations(members, 2)]
        return sum(pairs) / len(pairs)

    assert variety(given, labels) == pytest.approx((of_class(0) + of_class(2)) / 2, rel=1e-12)  # class 5 has one image


def test_classes_that_differ_do_not_hide_that_each_is_one_image():
    one_each = images(3).repeat(5, 1, 1, 1)
    assert variety(one_each, torch.arange(3).repeat(5)) == 0
    assert variety(one_each, torch.zeros(15).long()) > 0.5


def test_variety_of_what_has_no_pairs_is_refused():
    with pytest.raises(ValueError, match="labels: no class has two of the 3 images"):
        variety(images(3), torch.arange(3))
    with pytest.raises(ValueError, match="images: 0 rows given"):
        variety(images(0), torch.zeros(0).long())
    with pytest.raises(ValueError, match="images: 1 of 2 rows hold NaN"):
        variety(torch.stack([images(1)[0], images(1)[0] * torch.nan]), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"labels: shape \(2,\) given"):
        variety(images(3), torch.zeros(2).long())


@pytest.mark.parametrize(("kinds", "copies"), [(1, 8), (2, 4), (4, 1), (4, 16)])
def test_equal_groups_of_copies_count_as_so_many_kinds(kinds, copies):
    far = 100 * torch.arange(kinds).double()[:, None].repeat(copies, 1)
    assert vendi_score(far, scale=1.0) == pytest.approx(kinds, rel=1e-9)


def test_unequal_groups_count_as_the_exponential_of_their_entropy():
    far = torch.tensor([[0.0]] * 6 + [[100.0]] * 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert vendi_score(far, scale=1.0) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_two_images_count_by_their_distance_over_the_scale():
    """Eigenvalues of [[1, s], [s, 1]]/2 are (1 ± s)/2, with s = e⁻² where the distance is the scale."""
    for distance, similarity in ((0.0, 1.0), (3.0, math.exp(-2)), (1.5, math.exp(-0.5))):
        shares = [(1 + similarity) / 2, (1 - similarity) / 2]
        expected = math.exp(-sum(p * math.log(p) for p in shares if p))
        assert vendi_score(torch.tensor([[0.0], [distance]]), scale=3.0) == pytest.approx(expected, rel=1e-9)


def test_kinds_lie_between_one_and_the_batch():
    assert vendi_score(images(1), scale=1.0) == 1
    assert 1 <= vendi_score(images(16), scale=1e-3) <= 16
    assert vendi_score(images(16), scale=1e-3) == pytest.approx(16)
    assert vendi_score(images(16), scale=1e6) == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale: .* a finite number above 0"):
        vendi_score(images(3), scale)


def test_no_images_and_nan_are_refused():
    with pytest.raises(ValueError, match="images: 0 rows"):
        vendi_score(images(0), 1.0)
    with pytest.raises(ValueError, match="images: 2 of 2 rows hold NaN"):
        vendi_score(images(2) / 0 * 0, 1.0)
