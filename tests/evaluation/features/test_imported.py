from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from schurgan.core.errors import SchurganError
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.features.registry import open_extractor

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(8.).view(2, 4) + seed)
            self.layer.bias.zero_()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.layer(images.flatten(1)))

class Kept:
    net = Net()

def factory():
    return Net()

def broken():
    raise OSError("no weights")

def means(images):
    return images.mean((2, 3))

def logits(images):
    return images.mean((2, 3)), torch.stack([images.sum((1, 2, 3)), -images.sum((1, 2, 3))], 1)

def probabilities(images):
    return images.mean((2, 3)), torch.full((len(images), 4), 0.25)

def flat(images):
    return images.mean((1, 2, 3))

def lists(images):
    return images.tolist(), None

def triple(images):
    return images, images, images

def infinite(images):
    return images.mean((2, 3)) / 0

def few(images):
    return torch.zeros(1, 3)

number = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Extractor]:
    name = f"own_{tmp_path.name.replace('-', '_')}"  # modules stay imported: each test needs its own
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda attribute: open_extractor(f"{name}:{attribute}")


IMAGES = torch.rand(130, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_function_a_module_a_class_and_a_factory_will_do(own):
    assert torch.equal(own("means")(IMAGES).features, IMAGES.mean((2, 3)).double())
    expected = IMAGES.flatten(1) @ torch.arange(8.0).view(2, 4).T
    for attribute in ("Kept.net", "Net", "factory"):
        features, probabilities = own(attribute)(IMAGES)
        assert (features - expected).abs().max() < 1e-5  # float32; dropout is off
        assert probabilities is None


def test_logits_go_through_a_softmax_and_probabilities_stay(own):
    total = IMAGES.sum((1, 2, 3)).double()
    found = own("logits")(IMAGES).probabilities
    assert (found[:, 0] - 1 / (1 + torch.exp(-2 * total))).abs().max() < 1e-6
    assert torch.equal(own("probabilities")(IMAGES).probabilities, torch.full((130, 4), 0.25).double())


def test_the_digest_follows_weights_name_and_source(own, tmp_path):
    nets = [own("Net"), own("Net"), own("factory"), own("means")]
    digests = [net.digest for net in nets]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    (file,) = tmp_path.glob("own_*.py")
    file.write_text(SOURCE + "\n# changed\n")
    assert own("means").digest != digests[3]


def test_a_shared_module_with_other_weights_has_another_digest(own):
    before = own("Kept.net")
    with torch.no_grad():
        before.function.layer.weight[0, 0] += 1
    assert own("Kept.net").digest != before.digest


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("flat", r"\(N, d\) are needed"),
        ("lists", "type list"),
        ("triple", "3 things"),
        ("infinite", "not finite"),
        ("few", r"\(1, 3\)"),
    ],
)
def test_what_is_no_features_is_refused(own, attribute, sentence):
    with pytest.raises(ValueError, match=sentence):
        own(attribute)(IMAGES)


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("meens", 'did you mean "means"'),
        ("number", "int cannot be called"),
        ("broken", "no weights"),
        ("", "is needed"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(own, attribute, sentence):
    with pytest.raises(SchurganError, match=sentence) as caught:
        own(attribute)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_or_does_not_load_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SchurganError, match="cannot be imported"):
        open_extractor("no_such_module_here:embed")
    (tmp_path / "bad_module_here.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SchurganError, match="division by zero"):
        open_extractor("bad_module_here:embed")
