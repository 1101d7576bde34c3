"""Scores of a run that carry everything that made them: `schurgan.evaluation.evaluate("runs/esc10")`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schurgan.evaluation.evaluate import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Training needs single scores alone, and evaluate all of them.
    if name == "evaluate":
        from schurgan.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module 'schurgan.evaluation' has no attribute {name!r}")
