"""Errors that are a user's to mend: one clear sentence, shown without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was given cannot be used. The message is one sentence: what, where, what was given, what would do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """'; did you mean "proposed-128"?' for the nearest known name, or '' when nothing is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""
