from __future__ import annotations

import pytest
import torch
from torch import Tensor

from schurgan.evaluation.metrics import neighbours
from schurgan.evaluation.metrics.neighbours import memorisation, nearest, prdc


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def whole(n: int, seed: int) -> Tensor:
    """Points of a small grid: full of ties and copies, with squared distances that are exact either way."""
    return torch.randint(0, 4, (n, 2), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("kind", ["scattered", "apart", "tied"])
def test_the_numbers_are_exactly_those_of_prdc(k, kind, capsys):
    oracle = pytest.importorskip("prdc")
    real, fake = {
        "scattered": (rows(60, 4, 1), rows(80, 4, 2, shift=0.5)),
        "apart": (rows(60, 4, 1), rows(80, 4, 2, shift=9.0)),
        "tied": (whole(60, 1), whole(80, 2)),
    }[kind]
    truth = oracle.compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
    ours = prdc(real, fake, k=k)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name) == pytest.approx(truth[name], rel=1e-12), name


def test_a_perfect_copy_of_the_real_images_scores_1_in_everything():
    """Each neighbourhood holds its own centre and k − 1 others; the k-th lies on its edge, a tie to the last bit."""
    real = rows(50, 8, 1, shift=100.0)  # far from 0, where expanded squares would round
    ours = prdc(real, real.clone(), k=5)
    assert (ours.precision, ours.recall, ours.density, ours.coverage) == (1, 1, 1, 1)


def test_rows_at_a_time_change_nothing(monkeypatch):
    real, fake = rows(50, 4, 1), rows(31, 4, 2)
    before, found = prdc(real, fake), nearest(real, fake, 3)
    monkeypatch.setattr(neighbours, "_ENTRIES", 100)  # two or three rows
    assert prdc(real, fake) == before
    assert torch.equal(nearest(real, fake, 3).indices, found.indices)


def test_a_generator_of_one_image_is_precise_and_recalls_nothing():
    real = rows(50, 4, 1)
    ours = prdc(real, real[:1].repeat(30, 1), k=3)
    assert ours.precision == 1
    assert ours.recall == 0
    assert ours.coverage < 0.3  # few neighbourhoods hold any one point


@pytest.mark.parametrize(
    ("real", "fake", "said"),
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), "real: 5 rows given, 6 or more"),
        (torch.zeros(9, 2), torch.zeros(5, 2), "fake: 5 rows given, 6 or more"),
        (torch.zeros(9, 2), torch.zeros(9, 2), "real: every row has 5 or more equal to it"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "2 and 3 columns"),
        (torch.full((9, 2), torch.inf), torch.zeros(9, 2), "real: 9 of 9 rows hold NaN or infinite"),
    ],
)
def test_what_has_no_neighbourhoods_is_refused(real, fake, said):
    with pytest.raises(ValueError, match=said):
        prdc(real, fake, k=5)


def test_the_nearest_come_first_and_of_equals_the_first():
    real = torch.tensor([[5.0], [1.0], [1.0], [0.0]])
    found = nearest(real, torch.tensor([[0.9], [4.0]]), 3)
    assert found.indices.tolist() == [[1, 2, 3], [0, 1, 2]]
    torch.testing.assert_close(found.distances, torch.tensor([[0.1, 0.1, 0.9], [1.0, 3.0, 3.0]]).double())


def test_the_nearest_of_pixels_is_that_of_flattened_images():
    real, fake = rows(20, 12, 1), rows(5, 12, 2)
    images = nearest(real.view(20, 3, 2, 2), fake.view(5, 3, 2, 2))
    by_hand = [min(range(20), key=lambda i, f=f: float((real[i] - f).norm())) for f in fake]
    assert images.indices[:, 0].tolist() == by_hand
    with pytest.raises(ValueError, match="real: 20 rows given, 21 or more"):
        nearest(real, fake, 21)


def three_sets(classes: int = 3, per_class: int = 40) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(classes).repeat(per_class)
    return [(rows(len(labels), 16, seed) + 4 * labels[:, None], labels) for seed in range(3)]


def test_new_images_of_the_same_kind_show_no_memory():
    fake, train, held_out = three_sets()
    found = memorisation(*fake, *train, *held_out)
    assert found.ratio == pytest.approx(1, abs=0.06)  # 120 ratios that scatter by 0.2: five standard errors of a median
    assert found.reference_ratio == pytest.approx(1, abs=0.06)
    assert found.near_copies == 0
    assert found.reference_near_copies == 0
    assert found.count == 120


def test_copies_of_training_images_are_all_found_though_the_held_out_set_is_small():
    _, train, held_out = three_sets()
    images, labels = held_out
    copies = (train[0] + 1e-4, train[1])
    found = memorisation(*copies, *train, images[:30], labels[:30])  # ten a class against forty
    assert found.near_copies == 1
    assert found.reference_near_copies == 0
    equal = memorisation(*copies, *train, *held_out)
    assert equal.ratio is not None
    assert equal.ratio < 1e-3


def test_a_larger_training_set_does_not_look_like_memory():
    fake, train, _ = three_sets(per_class=400)
    held_out = (rows(24, 16, 7) + 4 * (torch.arange(24) % 3)[:, None], torch.arange(24) % 3)
    found = memorisation(*fake, *train, *held_out)
    # Eight held-out images a class: their luck moves all ratios together. The nearest of 400 would lie at 0.72.
    assert found.ratio == pytest.approx(1, abs=0.12)
    everything = nearest(train[0], fake[0]).distances / nearest(held_out[0], fake[0]).distances
    assert everything.median() < 0.8


def test_only_images_of_the_same_class_are_compared():
    train, labels = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
    held_out = torch.tensor([[4.0], [12.0]])
    fake, asked = torch.tensor([[10.0], [3.0], [3.0]]), torch.tensor([0, 0, 2])
    found = memorisation(fake, asked, train, labels, held_out, labels)
    assert found.ratio == pytest.approx((10 / 6 + 3 / 1) / 2)
    assert found.count == 2  # nothing is known of class 2
    assert found.reference_ratio is None  # one held-out image a class has no others
    assert found.reference_near_copies is None


def test_silence_in_every_set_is_no_copy_and_copies_of_held_out_images_have_no_ratio():
    silence, labels = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    found = memorisation(silence, labels, silence, labels, silence, labels)
    assert (found.ratio, found.near_copies, found.reference_ratio) == (1, 0, 1)
    held_out = rows(4, 3, 1)
    found = memorisation(held_out, labels, rows(4, 3, 2), labels, held_out, labels)
    assert found.ratio is None
    assert found.near_copies == 0


def test_sets_that_share_no_class_or_shape_are_refused():
    images = torch.zeros(2, 1, 4, 4)
    zero, one = torch.zeros(2).long(), torch.ones(2).long()
    with pytest.raises(ValueError, match="fake_labels: no class has training and held-out images"):
        memorisation(images, zero, images, zero, images, one)
    with pytest.raises(ValueError, match="fake, held_out: 16 and 9 columns"):
        memorisation(images, zero, images, zero, torch.zeros(2, 1, 3, 3), zero)
    with pytest.raises(ValueError, match=r"train_labels: shape \(3,\) given"):
        memorisation(images, zero, images, torch.zeros(3).long(), images, zero)


def test_held_out_images_are_judged_against_all_the_others_of_their_class():
    held_out, train = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[10.0], [20.0]])
    labels = torch.zeros(3, dtype=torch.long)
    found = [memorisation(held_out, labels, train, labels[:2], held_out, labels, seed=seed) for seed in range(8)]
    assert [each.reference_ratio for each in found] == [pytest.approx(9)] * 8  # of 10 / 1, 9 / 1 and 5 / 4
