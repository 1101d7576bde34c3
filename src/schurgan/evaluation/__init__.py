"""Scores of runs and of one's own images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schurgan.evaluation.evaluate import score as score

__all__ = ["score"]


def __getattr__(name: str) -> Any:
    if name == "score":  # imported when it is first used: it needs torch
        return import_module("schurgan.evaluation.evaluate").score
    raise AttributeError(f"module 'schurgan.evaluation' has no attribute {name!r}")
