"""Descriptors of images against their definitions, written out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schurgan.normality import departure_from_normality
from schurgan.normality.descriptors import DESCRIPTORS, find_descriptor

SQUARE = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OBLONG = torch.rand(3, 2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(name: str, image: np.ndarray) -> np.ndarray:
    """The descriptor of one channel (H, W)."""
    height, width = image.shape
    if name == "variance":
        return np.array([((image - image.mean()) ** 2).mean()])
    if name == "frobenius":
        return np.array([np.linalg.norm(image, "fro") ** 2])
    if name == "gram":
        rows = [image[i] @ image[j] / width for i in range(height) for j in range(i, height)]
        return np.array(rows + [image[:, i] @ image[:, j] / height for i in range(width) for j in range(i, width)])
    if name == "profile":
        return np.concatenate([image.mean(1), image.var(1), image.mean(0), image.var(0)])
    blocks = [(slice(i, i + 2), slice(j, j + 2)) for i in range(0, height, 2) for j in range(0, width, 2)]
    return np.array([image[block].mean() for block in blocks])


@pytest.mark.parametrize("images", [SQUARE, OBLONG], ids=["square", "oblong"])
@pytest.mark.parametrize("name", ["variance", "frobenius", "gram", "profile", "pixels"])
def test_descriptor_holds_the_numbers_of_its_definition_for_every_channel(name, images):
    rows = DESCRIPTORS[name](images)
    for row, image in zip(rows.numpy(), images.numpy(), strict=True):
        channels = [by_hand(name, channel) for channel in image]
        # A single number is the mean of the channels', of longer ones each channel has its own part.
        expected = np.mean(channels, 0) if len(channels[0]) == 1 else np.concatenate(channels)
        np.testing.assert_allclose(np.sort(row), np.sort(expected), rtol=1e-12)  # in whatever order


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_gradient_of_a_descriptor_is_that_of_finite_differences(name):
    x = SQUARE[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(DESCRIPTORS[name], x, atol=1e-6, rtol=1e-4)


def test_dfn_is_the_mean_of_the_channels_departures_by_the_estimator_given():
    for estimator in ("exact", "hybrid", "perron"):
        expected = departure_from_normality(SQUARE, estimator).mean(1, keepdim=True)
        torch.testing.assert_close(find_descriptor("dfn", estimator)(SQUARE), expected)


def test_commutator_is_linear_in_the_gram_descriptor():
    # xᵀx and xxᵀ are there entry by entry: of xᵀx − xxᵀ nothing is lost.
    x = SQUARE[:1, :1]
    rows, columns = DESCRIPTORS["gram"](x)[0].chunk(2)
    upper = tuple(torch.triu_indices(6, 6))
    commutator = (x.mT @ x - x @ x.mT)[0, 0][upper]
    torch.testing.assert_close(6 * (columns - rows), commutator)


def test_gram_of_large_images_is_that_of_their_means_over_blocks():
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    blocks = x.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((3, 5))
    torch.testing.assert_close(DESCRIPTORS["gram"](x), DESCRIPTORS["gram"](blocks))
    assert DESCRIPTORS["gram"](x).shape == (2, 32 * 33)


def test_dfn_says_that_it_needs_square_images():
    with pytest.raises(ValueError, match="square"):
        DESCRIPTORS["dfn"](OBLONG)


@pytest.mark.parametrize(
    ("name", "estimator", "message"),
    [
        ("gramm", None, "gram"),
        ("gram", "exact", '"dfn" alone'),
        ("dfn", "exakt", '"exakt" does not exist'),
    ],
)
def test_unknown_names_are_refused(name, estimator, message):
    with pytest.raises(ValueError, match=message):
        find_descriptor(name, estimator)
