"""What a run is taken up with that its checkpoint was not made with: named, and refused unless it is meant."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from schurgan.core.errors import UserError, did_you_mean
from schurgan.runs.config import Config

_DATA = "data"
_LONGEST = 60


class Identity(BaseModel):
    """What a state was made with."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    options: dict[str, Any]
    """Of the run, as `Config.model_dump(mode="json")` gives them."""
    data: str
    """Fingerprint of what was trained on."""


class Absent(Enum):
    """The value of an option in a version of the program that does not have it."""

    ABSENT = "no such option"


class Change(NamedTuple):
    """An option by its dotted name ("train.lr_g"), or "data"."""

    path: str
    before: object
    now: object

    def __str__(self) -> str:
        if self.now is Absent.ABSENT:
            return f"{_shown(self.path)} was {_short(self.before)} and is no option any more"
        before = "no option yet" if self.before is Absent.ABSENT else _short(self.before)
        return f"{_shown(self.path)} was {before} and is {_short(self.now)}"


def changed_options(before: Identity, now: Identity) -> list[Change]:
    """What differs, in the order of the options; nothing where both mean the same.

    Versions of the program have different options. One that is new since `before` stands there for its default, which
    therefore must do what was done before it came: only another value is a change. One that is no more is a change,
    because nobody knows what it did. The folder that the option "data" names may be another: its fingerprint counts.
    """
    old, new = ({**identity.options, _DATA: identity.data} for identity in (before, now))
    return list(_differences(old, new, _defaults(), ""))


def check_changes(
    changes: Collection[Change], free: Collection[str], allowed: Collection[str], run: str | Path
) -> list[Change]:
    """Those changes that were allowed. Raises UserError naming all that were not, and how to allow them.

    free: names of options that never matter to a state; their changes are neither refused nor returned. Other data
    always matter.
    allowed: names that the user gave, "train.lr-g" or "train.lr_g". In both, a group ("train") stands for all in it.
    """
    names = [name.replace("-", "_") for name in allowed]
    known = {*_names(_defaults()), *(change.path for change in changes)}
    for name in names:
        if name not in known:
            near = did_you_mean(_shown(name), sorted(map(_shown, known)))
            raise UserError(f'--allow: "{_shown(name)}" given, no such option{near}')
    weighty = [change for change in changes if change.path == _DATA or not _covers(free, change.path)]
    if refused := [change for change in weighty if not _covers(names, change.path)]:
        what = "; ".join(map(str, refused))
        needed = " ".join(_shown(change.path) for change in refused)
        then = f"set it back, or go on all the same by --allow {' '.join([*map(_shown, names), needed])}"
        raise UserError(f"{run}: its checkpoint was made otherwise ({what}); {then}")
    return weighty


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str
) -> Iterator[Change]:
    for name in {**now, **before}:
        default = defaults.get(name, Absent.ABSENT)
        was, given = before.get(name, default), now.get(name, Absent.ABSENT)
        if isinstance(was, Mapping) and isinstance(given, Mapping):
            yield from _differences(was, given, default if isinstance(default, Mapping) else {}, f"{prefix}{name}.")
        elif was != given:
            yield Change(prefix + name, was, given)


def _defaults() -> dict[str, Any]:
    return Config().model_dump(mode="json")


def _names(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")


def _covers(names: Collection[str], path: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _shown(path: str) -> str:
    """As the command line spells it."""
    return path.replace("_", "-")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
