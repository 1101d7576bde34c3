"""Schurgan: class-conditional GANs that learn short sounds, kept from collapsing by the departure from normality."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from schurgan.version import __version__

if TYPE_CHECKING:
    from schurgan.core.errors import SchurganError
    from schurgan.data.prepare import prepare_data as prepare
    from schurgan.evaluation.evaluate import evaluate
    from schurgan.model import Model, Sounds, load
    from schurgan.runs.config import Config
    from schurgan.training.loop import STOP, Callback
    from schurgan.training.run import resume_model as resume
    from schurgan.training.run import train_model as train

# Imported when they are first used: torch takes seconds, and `schurgan --help` must not wait for it.
_HOMES = {
    "STOP": "training.loop",
    "Callback": "training.loop",
    "Config": "runs.config",
    "Model": "model",
    "SchurganError": "core.errors",
    "Sounds": "model",
    "load": "model",
    "evaluate": "evaluation.evaluate",
    "prepare": "data.prepare:prepare_data",
    "resume": "training.run:resume_model",
    "train": "training.run:train_model",
}

__all__ = [
    "STOP",
    "Callback",
    "Config",
    "Model",
    "SchurganError",
    "Sounds",
    "__version__",
    "evaluate",
    "load",
    "prepare",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(f"schurgan.{module}"), attribute or name)
    raise AttributeError(f"module 'schurgan' has no attribute {name!r}")
