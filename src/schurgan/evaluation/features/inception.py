"""The Inception network of published figures, where the user has torch-fidelity.

Its weights are those of Szegedy et al. (2015) as Heusel et al. (2017) use them; torch-fidelity fetches them once. They
know photographs: of spectrograms its numbers are what papers print, and little else.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from schurgan.core.errors import SchurganError, one_line
from schurgan.core.tensors import state_digest
from schurgan.evaluation.features.extractor import Extracted, checked

_CHUNK = 64  # images of 299 by 299 inside, whatever their size here
_OUTPUTS = ("2048", "logits_unbiased")


class InceptionExtractor:
    """Pool features (N, 2048), and the softmax of the 1,008 logits without their bias, as inception scores take them.

    Grey images become three equal channels; pixels become the 256 levels of 8 bits, x -> round(127.5·(x + 1)). The
    network resizes to 299 by 299 itself, bilinearly as TensorFlow 1 did.
    """

    name, resize = "inception", "299x299 bilinear, TensorFlow 1"

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self.digest = state_digest(network.state_dict(), self.name, self.resize)
        first = next(network.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Raises ValueError for other than 1 or 3 channels, and for pixels that are not finite."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images {tuple(images.shape)}: Inception needs (N, C, H, W) with 1 or 3 channels")
        if not images.isfinite().all():
            raise ValueError("images: some pixels are not finite, which 8 bits cannot say")
        features, probabilities = [], []
        for part in torch.split(images, _CHUNK):
            levels = ((part.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            pool, logits = self.network(levels.expand(-1, 3, -1, -1).to(self._device))
            features.append(pool.double().cpu())
            probabilities.append(logits.double().softmax(1).cpu())
        return checked(self.name, len(images), torch.cat(features), torch.cat(probabilities))


def load_library() -> ModuleType:
    """Import torch-fidelity's part with the network. Raises SchurganError that says what to install."""
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision of another torch raises any of them
        raise SchurganError(
            f'extractor "inception": torch-fidelity cannot be loaded ({one_line(error)}); `pip install torch-fidelity` '
            'with a torchvision built for this torch, or choose "classifier"'
        ) from error


def open_inception(device: str | torch.device = "cpu") -> InceptionExtractor:
    """Open torch-fidelity's network. Raises SchurganError that says what to install, where something is missing."""
    library = load_library()
    try:
        # Its own class: the one that torchmetrics derives from it returns the first of several outputs alone.
        network: nn.Module = library.FeatureExtractorInceptionV3("inception-v3-compat", list(_OUTPUTS))
    except (OSError, RuntimeError) as error:
        raise SchurganError(
            f'extractor "inception": torch-fidelity cannot get its weights ({one_line(error)}); use it once where '
            'there is a connection, or choose "classifier"'
        ) from error
    return InceptionExtractor(network.to(device))
