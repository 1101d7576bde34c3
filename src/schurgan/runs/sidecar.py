"""The JSON file beside each checkpoint: what is known of a saved state without reading it, and without torch.

step-00000500.json seals step-00000500.pt by its size and SHA-256. The sidecar is written first and the state is renamed
into place last, so a state with a name is a whole one with a sidecar. A sidecar alone is what a kill left: nobody reads
it, and the next save removes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schurgan.core.documents import Unreadable, parse, read_bytes, write_sealed
from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.runs.config import Config, flatten

_OLD = "schurgan-checkpoint/4"
_DATA = "data"
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


class CheckpointRecord(_Strict):
    """The facts by which checkpoints are chosen and kept."""

    step: _Whole
    attempt: _Whole = 0  # rollbacks before it
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Score of its samples, lower is better; None where they were not scored."""
    healthy: bool = True  # whether no sign of a collapse was seen when it was saved
    identity: Identity


class OtherOptions(SchurganError):
    """A run's state was made with other options, and nobody allowed the change."""


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


def changed_options(before: Identity, now: Identity) -> dict[str, str]:
    """Describe what differs between two identities, by the option's dotted name ("train.lr_g"), or "data".

    An option that is new since `before` counts there as its default, which must therefore do what the program did
    before. An option that no longer exists is a change, because nobody knows what it did. The option "data" may name
    another folder: the fingerprint counts.
    """
    old, new = ({**flatten(identity.options), _DATA: identity.data} for identity in (before, now))
    old = flatten(Config().model_dump(mode="json")) | old
    return {
        name: f"{_kebab(name)} was {_short(old, name, 'yet')} and is {_short(new, name, 'any more')}"
        for name in {**new, **old}
        if (name in old, old.get(name)) != (name in new, new.get(name))
    }


def check_changes(
    changes: Mapping[str, str], free: Collection[str], allowed: Collection[str], run: str | Path
) -> list[str]:
    """Refuse changes that nobody allowed.

    Args:
        changes: what `changed_options` returned.
        free: options that never matter to a state; other data always matter.
        allowed: options or whole groups that the user allows: "train.lr-g", "train.lr_g", "train".
        run: folder of the run, for the error.

    Returns:
        Descriptions of the allowed changes, without those that are free.
    """
    names = [name.replace("-", "_") for name in allowed]
    options = {*flatten(Config().model_dump()), *changes}
    known = {*options, *(option.partition(".")[0] for option in options)}
    for name in names:
        if name not in known:
            near = did_you_mean(_kebab(name), sorted(map(_kebab, known)))
            raise SchurganError(f'allow: "{_kebab(name)}" given, no such option{near}')
    weighty = [name for name in changes if name == _DATA or not _covers(free, name)]
    if refused := [name for name in weighty if not _covers(names, name)]:
        what = "; ".join(changes[name] for name in refused)
        needed = " ".join(map(_kebab, [*names, *refused]))
        raise OtherOptions(
            f"{run}: its checkpoint was made with other options ({what}); set them back, or allow the change by "
            f"--allow {needed}"
        )
    return [changes[name] for name in weighty]


def _covers(names: Collection[str], path: str) -> bool:
    return path in names or path.partition(".")[0] in names


def _kebab(path: str) -> str:
    """An option's name as the command line spells it."""
    return path.replace("_", "-")


def _short(options: Mapping[str, Any], name: str, absent: str) -> str:
    if name not in options:
        return f"no option {absent}"
    text = json.dumps(options[name], ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
