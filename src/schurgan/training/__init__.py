"""A run from its first step to its last."""

from schurgan.core.errors import Interrupted
from schurgan.training.start import resume, train

__all__ = ["Interrupted", "resume", "train"]
