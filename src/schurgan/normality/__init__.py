"""The departure from normality of square images, and DDFN, the constraint on a generator made of it.

Needs torch alone: this folder may be copied into another project as it stands.
"""

from __future__ import annotations

from .ddfn import DDFN, DDFNStats
from .departure import departure_counters, reset_departure_counters
from .estimators import departure_from_normality

__all__ = ["DDFN", "DDFNStats", "departure_counters", "departure_from_normality", "reset_departure_counters"]
