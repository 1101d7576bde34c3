"""The JSON file beside each checkpoint: what is known of a saved state without reading it, and without torch.

step-00000500.json seals step-00000500.pt by its size and SHA-256. The sidecar is written first and the state is renamed
into place last, so a state with a name is a whole one with a sidecar. A sidecar alone is what a kill left: nobody reads
it, and the next save removes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schurgan.core.documents import Unreadable, parse, read_bytes, write_sealed
from schurgan.core.errors import SchurganError
from schurgan.runs.config import BEFORE, Config, flatten, is_kept, merge_options

_OLD = "schurgan-checkpoint/4"
_LONGEST = 60
_Whole = Annotated[int, Field(ge=0)]


class Damaged(Exception):
    """Why a checkpoint cannot be trusted."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Identity(_Strict):
    """The options and the data that a state was made with."""

    options: dict[str, Any]  # as `Config.model_dump(mode="json")` gives them
    data: str  # fingerprint of the training data
    classes: dict[str, _Whole] | None = None  # clips of each class, and
    transform: dict[str, Any] | None = None  # what made the images; None in files of the version before


class CheckpointRecord(_Strict):
    """The facts by which checkpoints are chosen and kept."""

    step: _Whole
    attempt: _Whole = 0  # rollbacks before it
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Score of its samples, lower is better; None where they were not scored."""
    healthy: bool = True  # whether no sign of a collapse was seen when it was saved
    identity: Identity


class OtherOptions(SchurganError):
    """A folder holds a run of other options."""


class Sidecar(_Strict):
    """The content of the JSON file: the record, and the size and SHA-256 of the state that it belongs to."""

    format: Literal["schurgan-checkpoint/5", "schurgan-checkpoint/4"] = "schurgan-checkpoint/5"
    size: _Whole
    sha256: str
    record: CheckpointRecord

    def save(self, state: Path) -> None:
        """Write the sidecar of the file `state`, atomically; ValueError where the identity holds what JSON cannot."""
        try:
            write_sealed(sidecar_path(state), self.model_dump())
        except (TypeError, ValueError) as error:
            raise ValueError(f"identity: JSON cannot hold it ({error})") from None

    @classmethod
    def load(cls, state: Path) -> Sidecar:
        """Read the sidecar of the file `state`; Damaged where there is none, or it is not as it was written."""
        path = sidecar_path(state)
        try:
            return parse(cls, read_bytes(path))
        except FileNotFoundError:
            old = f"an earlier version saved it, or {path.name} was lost"
            raise Damaged(f"no {path.name} beside it ({old}); resume with that version or train anew") from None
        except Unreadable as error:
            raise Damaged(f"damaged ({path.name} is not the record of a checkpoint of this program: {error})") from None

    @model_validator(mode="before")
    @classmethod
    def _old_checksum(cls, content: Any) -> Any:
        """Check and drop that of the version before, which was of the parsed content."""
        if not isinstance(content, dict) or content.get("format") != _OLD or "checksum" not in content:
            return content
        content = dict(content)
        checksum, text = content.pop("checksum"), json.dumps(content, sort_keys=True, allow_nan=False)
        if checksum != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError("its checksum is wrong")
        return content


def sidecar_path(state: Path) -> Path:
    """The sidecar of a state."""
    return state.with_suffix(".json")


def by_score(records: Mapping[Path, CheckpointRecord]) -> list[Path]:
    """The scored checkpoints, best first; of equal scores, the last in `records` first."""
    scored = [(path, record.score) for path, record in reversed([*records.items()]) if record.score is not None]
    return [path for path, _ in sorted(scored, key=lambda each: each[1])]


class Change(NamedTuple):
    """An option whose value is another than it was, both in words."""

    name: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{_kebab(self.name)} {self.now} (was {self.was})"


def changed_options(before: Identity, now: Identity) -> list[Change]:
    """What differs between the options that a run's state was made with and those that it is to go on with.

    An option that is new since `before` counts there as what the program did before: `BEFORE`, or its default. An
    option that no longer exists is a change, because nobody knows what it did. The preset is a name, and the folder of
    the data may be another: neither counts.
    """
    default = flatten(merge_options(Config().model_dump(mode="json"), BEFORE))
    old, new = default | flatten(before.options), flatten(now.options)
    return [
        Change(name, _short(old.get(name)), _short(new.get(name)))
        for name in {**new, **old}
        if name not in ("preset", "data") and old.get(name) != new.get(name)
    ]


def check_kept(changes: Iterable[Change], run: Path) -> None:
    """Raise SchurganError for a change of an option that a run keeps."""
    for name, was, given in changes:
        if is_kept(name):
            begun = f"{given} given, {run} began with {was} and keeps it"
            raise SchurganError(f"{name.removeprefix('own.')}: {begun}; leave it out, or train a new run")


def _kebab(path: str) -> str:
    """An option's name as the command line spells it."""
    return path.replace("_", "-")


def _short(value: object) -> str:
    text = "none" if value in (None, "") else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
