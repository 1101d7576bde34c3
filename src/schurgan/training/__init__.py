"""A run from its first step to its last."""

from schurgan.core.errors import Interrupted
from schurgan.training.run import STOP, Callback, resume, train

__all__ = ["STOP", "Callback", "Interrupted", "resume", "train"]
