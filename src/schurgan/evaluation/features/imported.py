"""The user's own extractor, by import path: "package.module:attribute".

    # my/features.py
    def embed(images):                 # (N, C, H, W) float32 in [-1, 1]
        return features                # (N, d); or (features, probabilities), or (features, logits), both (N, K)

The attribute is a function, a torch.nn.Module or another object that can be called, or what makes one: a class, or a
function that takes no argument. It is trusted as any code that the user runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from schurgan.core.errors import SchurganError, did_you_mean, one_line
from schurgan.core.files import sha256
from schurgan.core.tensors import state_digest
from schurgan.evaluation.features.extractor import Extracted, checked

_CHUNK = 64  # unknown networks may be large
_SUM = 1e-3  # that a row of probabilities may be off 1 by, in half precision


class ImportedExtractor:
    """What `name`, "package.module:attribute", points to, as an extractor.

    Its digest covers its source file, the name, and its weights where it is a module. It does not cover code elsewhere
    and weights outside a module: rename the extractor when those change.
    Raises SchurganError where it cannot be imported or called.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        self.name, self.resize = name, "its own"
        self.device = torch.device(device)
        self.function = _callable(name, _imported(name))
        state: dict[str, Tensor] = {}
        if isinstance(self.function, nn.Module):
            self.function = self.function.to(self.device).eval()
            state = self.function.state_dict()
        self.digest = state_digest(state, name, self.resize, _source(self.function))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Raises ValueError for results that are no features."""
        features, classes = zip(*(self._part(part) for part in torch.split(images, _CHUNK)), strict=True)
        known = [each for each in classes if each is not None]
        probabilities = self._probabilities(torch.cat(known), len(images)) if known else None
        return checked(self.name, len(images), torch.cat(features), probabilities)

    def _part(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        result = self.function(images.float().to(self.device))
        results = result if isinstance(result, tuple | list) else (result, None)
        if len(results) != 2:
            raise ValueError(
                f'extractor "{self.name}": returned {len(results)} things; features, or features and probabilities, '
                "are needed"
            )
        features, classes = results
        rows = self._rows("features", features, len(images))
        return rows, None if classes is None else self._rows("probabilities", classes, len(images))

    def _rows(self, what: str, values: object, count: int) -> Tensor:
        if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != count:
            kind = tuple(values.shape) if isinstance(values, Tensor) else f"of type {type(values).__name__}"
            raise ValueError(f'extractor "{self.name}": {what} {kind} from an input of {count}; (N, d) are needed')
        return values.detach().double().cpu()

    def _probabilities(self, values: Tensor, count: int) -> Tensor:
        """(N, K) probabilities as they are, logits through a softmax: by all rows, since one may look like either."""
        if len(values) != count or not values.isfinite().all():
            raise ValueError(f'extractor "{self.name}": some probabilities or logits are missing or not finite')
        total = values.sum(1, keepdim=True)
        if (values >= 0).all() and ((total - 1).abs() <= _SUM).all():
            return values / total
        return values.softmax(1)


def _imported(name: str) -> object:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise SchurganError(f'extractor "{name}": package.module:attribute is needed')
    try:
        value = importlib.import_module(module)
    except Exception as error:  # whatever the user's module does when it is run
        where = "; is its folder in PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise SchurganError(
            f'extractor "{name}": module {module} cannot be imported ({one_line(error)}){where}'
        ) from error
    try:
        return attrgetter(attribute)(value)
    except AttributeError:
        near = did_you_mean(attribute, [known for known in vars(value) if not known.startswith("_")])
        raise SchurganError(f'extractor "{name}": {module} has no {attribute}{near}') from None


def _callable(name: str, value: object) -> Callable[..., Any]:
    """`value` itself, or what it makes."""
    if isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module) and _needs_nothing(value)):
        try:
            value = value()
        except Exception as error:
            raise SchurganError(f'extractor "{name}": making it failed ({one_line(error)})') from error
    if not callable(value):
        raise SchurganError(f'extractor "{name}": {type(value).__name__} cannot be called with images')
    return value


def _needs_nothing(function: Callable[..., Any]) -> bool:
    """Whether it takes no images: a factory."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return True
    except ValueError:  # some functions written in C do not say what they take
        return False
    return False


def _source(function: object) -> str:
    """Hex SHA-256 of the file that `function`, or its type, is defined in; "" where there is none."""
    code = function if inspect.isroutine(function) else type(function)
    try:
        return sha256(inspect.getfile(inspect.unwrap(code)))
    except (TypeError, OSError):
        return ""
