"""Schurgan: class-conditional GANs that learn short sounds, kept from collapsing by the departure from normality."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from schurgan.version import __version__

if TYPE_CHECKING:
    from schurgan.data.prepare import prepare_data as prepare
    from schurgan.evaluation.evaluate import evaluate
    from schurgan.model import Model, Sounds, load

# Imported when they are first used: torch takes seconds, and `schurgan --help` must not wait for it.
_HOMES = {
    "Model": "model",
    "Sounds": "model",
    "load": "model",
    "evaluate": "evaluation.evaluate",
    "prepare": "data.prepare:prepare_data",
}

__all__ = ["Model", "Sounds", "__version__", "evaluate", "load", "prepare"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(f"schurgan.{module}"), attribute or name)
    raise AttributeError(f"module 'schurgan' has no attribute {name!r}")
