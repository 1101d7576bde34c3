from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from schurgan.evaluation.metrics.frechet import Gaussian, frechet_distance, frechet_per_class


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated rows, with a spectrum over four decades as those of networks have."""
    chance = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)).Q
    spread = torch.logspace(0, -2, d, dtype=torch.float64)
    turned = mix + 0.1 * torch.randn(d, d, generator=chance, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=chance, dtype=torch.float64) * spread @ turned + shift


def by_sqrtm(a: Tensor, b: Tensor) -> float:
    one, other = a.numpy(), b.numpy()
    first, second = (np.atleast_2d(np.cov(rows.T)) for rows in (one, other))
    root = np.real(scipy.linalg.sqrtm(first @ second))
    return float(np.square(one.mean(0) - other.mean(0)).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 1), (200, 300, 16), (500, 400, 64)])
def test_with_more_images_than_features_it_is_that_of_the_matrix_root(n, m, d):
    a, b = features(n, d, 1), features(m, d, 2, shift=0.1)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_it_is_that_of_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    passing = torch.nn.Identity()
    passing.num_features = 16  # type: ignore[assignment]
    oracle = fid.FrechetInceptionDistance(feature=passing, input_img_size=(16,)).set_dtype(torch.float64)
    a, b = features(300, 16, 1), features(200, 16, 2, shift=0.1)
    oracle.update(a, real=True)
    oracle.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(oracle.compute().item(), rel=1e-6)


def test_of_commuting_covariances_it_is_the_distance_of_their_roots():
    """Rows ± s e_i have the diagonal covariance s²/(n − 1)·2, whose root needs no algorithm."""
    a, b = (torch.cat([torch.diag(s), -torch.diag(s)]).double() for s in (torch.tensor([1.0, 2, 0]), torch.ones(3)))
    scale = (2 / 5) ** 0.5
    expected = scale**2 * ((1 - 1) ** 2 + (2 - 1) ** 2 + (0 - 1) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a + 3, b) == pytest.approx(expected + 27, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 400), (400, 20)])
def test_with_fewer_images_than_features_it_is_exact_as_after_a_rotation_into_their_span(n, m):
    """Both sets lie in 24 of 64 dimensions: turned into those, the same distance has covariances of full size."""
    a, b = features(n, 24, 1), features(m, 24, 2, shift=0.1)
    chance = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(64, 24, generator=chance, dtype=torch.float64)).Q
    inside = frechet_distance(a, b)
    assert frechet_distance(a @ turn.mT, b @ turn.mT) == pytest.approx(inside, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(2, 64), (40, 64), (64, 64), (65, 64), (400, 64)])
@pytest.mark.parametrize("dead", [0, 20])
def test_of_a_set_to_itself_it_is_nothing_even_where_features_are_dead(n, d, dead):
    a = features(n, d, 1, shift=5.0)
    a[:, :dead] = 0
    total = a.var(0).sum().item()
    assert 0 <= frechet_distance(a, a.flip(0)) <= 1e-8 * total


def test_constant_features_are_at_the_distance_of_their_means():
    a, b = torch.full((5, 3), 2.0), torch.full((9, 3), 4.0)
    assert frechet_distance(a, b) == 12
    assert frechet_distance(a, a) == 0


def test_features_far_from_zero_lose_nothing():
    a, b = features(300, 16, 1), features(200, 16, 2)
    assert frechet_distance(a + 1e5, b + 1e5) == pytest.approx(frechet_distance(a, b), rel=1e-5)


@pytest.mark.parametrize("n", [12, 16, 17, 100])
def test_a_fitted_gaussian_has_the_mean_and_covariance_of_its_rows_and_stands_for_them(n):
    rows, others = features(n, 16, 3, shift=2.0), features(30, 16, 4)
    fitted = Gaussian.fit(rows)
    np.testing.assert_allclose(fitted.mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.factor.mT @ fitted.factor, np.cov(rows.numpy().T), rtol=1e-9, atol=1e-12)
    assert frechet_distance(fitted, others) == frechet_distance(rows, others)
    rows.zero_()  # what went in may be overwritten afterwards
    assert frechet_distance(fitted, others) > 0


def test_half_precision_features_are_counted_in_double():
    a = features(300, 16, 1).half()
    assert frechet_distance(a, a + 0) <= 1e-8
    assert frechet_distance(a, a[:150]) == pytest.approx(by_sqrtm(a.double(), a[:150].double()), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), r"a: 1 rows given, 2 or more"),
        (torch.zeros(5, 3), torch.zeros(0, 3), r"b: 0 rows given, 2 or more"),
        (torch.zeros(5, 3), torch.zeros(5, 4), r"a, b: 3 and 4 columns"),
        (torch.zeros(5, 3, 2), torch.zeros(5, 3), r"a: shape \(5, 3, 2\) given"),
        (torch.tensor([[0.0], [torch.nan], [torch.inf]]), torch.zeros(5, 1), r"a: 2 of 3 rows hold NaN or infinite"),
    ],
)
def test_what_has_no_distance_is_refused_by_name(a, b, said):
    with pytest.raises(ValueError, match=said):
        frechet_distance(a, b)


def test_classes_with_fewer_than_two_images_have_none_and_the_others_are_right():
    real, fake = features(40, 4, 1), features(40, 4, 2, shift=0.2)
    labels = torch.tensor([0] * 30 + [1] * 9 + [2])
    each = frechet_per_class(real, labels, fake, labels, 4)
    assert each[0] == pytest.approx(by_sqrtm(real[:30], fake[:30]), rel=1e-6)
    assert each[1] == frechet_distance(real[30:39], fake[30:39])
    assert each[2:] == (None, None)
