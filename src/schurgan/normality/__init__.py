"""The departure from normality of square images, DDFN, which constrains a generator by it, and moment matching.

Needs torch alone: this folder may be copied into another project as it stands.
"""

from __future__ import annotations

from .bounds import departure_bounds
from .condition import Condition
from .ddfn import DDFN, DDFNStats
from .estimators import departure_from_normality
from .matrices import departure_counters, reset_departure_counters
from .moments import MomentMatching, MomentStats

__all__ = [
    "DDFN",
    "Condition",
    "DDFNStats",
    "MomentMatching",
    "MomentStats",
    "departure_bounds",
    "departure_counters",
    "departure_from_normality",
    "reset_departure_counters",
]
