"""A run from its first step to its last."""

from schurgan.training.loop import Interrupted, resume, train

__all__ = ["Interrupted", "resume", "train"]
