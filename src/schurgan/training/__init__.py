"""A run from its first step to its last."""

from schurgan.training.run import resume, train

__all__ = ["resume", "train"]
