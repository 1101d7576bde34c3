"""Is this GAN collapsing? A library of its own, which needs the standard library alone."""

from schurgan.health.monitor import Monitor, Verdict
from schurgan.health.rules import RULES, Rule, Signals

__all__ = ["RULES", "Monitor", "Rule", "Signals", "Verdict"]
