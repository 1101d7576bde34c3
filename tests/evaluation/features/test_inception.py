from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor, nn

from schurgan.core.errors import SchurganError
from schurgan.evaluation.features.registry import open_extractor

LIBRARY = "torch_fidelity.feature_extractor_inceptionv3"


class FeatureExtractorInceptionV3(nn.Module):
    """The library's interface, with the channels' means for features."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None) -> None:
        super().__init__()
        assert name == "inception-v3-compat"
        self.features_list = features_list
        self.fc = nn.Linear(2048, 1008)
        nn.init.constant_(self.fc.bias, 5.0)
        nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        pool = torch.zeros(len(x), 2048)
        pool[:, :3] = x.float().mean((2, 3))
        values = {"2048": pool, "logits_unbiased": pool @ self.fc.weight.T, "logits": self.fc(pool)}
        return tuple(values[name] for name in self.features_list)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType(LIBRARY)
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    return module


def test_pixels_come_as_the_levels_of_8_bits_and_outside_ones_are_clipped(library):
    levels = torch.tensor([0.0, 1.0, 127.0, 254.0, 255.0, 300.0, -10.0])
    images = (levels / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    features, probabilities = open_extractor("inception")(images)
    assert features.shape == (7, 2048)
    assert features.dtype == torch.float64
    assert features[:, 0].tolist() == [0, 1, 127, 254, 255, 255, 0]
    assert torch.equal(features[:, 0], features[:, 1])  # grey is three equal channels
    assert torch.equal(features[:, 0], features[:, 2])
    assert probabilities.shape == (7, 1008)


def test_probabilities_are_the_softmax_of_the_logits_without_bias(library):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.02 - 1  # small logits
    extractor = open_extractor("inception")
    features, probabilities = extractor(images)
    logits = features @ extractor.network.fc.weight.detach().double().T
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert (probabilities - expected).abs().max() < 1e-5  # the network is float32


def test_the_digest_follows_the_weights(library):
    one, again = open_extractor("inception"), open_extractor("inception")
    assert one.digest == again.digest
    with torch.no_grad():
        again.network.fc.weight[3, 5] += 1e-3
    assert type(one)(again.network).digest != one.digest


@pytest.mark.parametrize(
    "error", [ImportError("No module named x"), OSError("libx.so"), RuntimeError("torchvision::nms")]
)
def test_where_it_cannot_be_loaded_one_sentence_says_what_to_install(monkeypatch, error):
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("schurgan.evaluation.features.inception.importlib.import_module", fail)
    with pytest.raises(SchurganError, match="pip install torch-fidelity") as caught:
        open_extractor("inception")
    assert str(error) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_weights_one_sentence_says_so(library):
    def offline(*arguments: object) -> None:
        raise OSError("<urlopen error>")

    library.FeatureExtractorInceptionV3 = offline
    with pytest.raises(SchurganError, match="cannot get its weights"):
        open_extractor("inception")


def test_other_channels_and_pixels_that_are_not_finite_are_refused(library):
    extractor = open_extractor("inception")
    with pytest.raises(ValueError, match="1 or 3 channels"):
        extractor(torch.zeros(2, 2, 8, 8))
    with pytest.raises(ValueError, match="not finite"):
        extractor(torch.full((2, 3, 8, 8), torch.nan))
