"""The file of scores, RUN/scores.json: numbers with everything that made them.

A number without its protocol cannot be reproduced, nor compared with another. So a score carries what real images reach
by the same measure, how many images it was taken from, and what is to be doubted about it; and the file holds the data,
extractor, images and settings of its scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import AliasChoices, ConfigDict, Field

from schurgan.core.documents import Unreadable, parse, read_bytes, write_sealed
from schurgan.core.errors import SchurganError

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_RENAMED = {"kinds_per_batch": "vendi_score", "usefulness_gain": "augmentation_utility"}
"""Scores by their names in files of the version before."""


class Counts(TypedDict, total=False):
    """What many scores have in common."""

    n_real: int
    n_fake: int
    extractor: str


@dataclass(frozen=True)
class Score:
    """A number with its references. None stands for what is not known; `flags` say why, or what is to be doubted."""

    __pydantic_config__ = _STRICT
    value: float | None
    sd: float | None = None  # over runs of generated images, or over what `details` name
    floor: float | None = None
    """The same of real images against real ones, mean over random halves of the training images: the best there is."""
    held_out: float | None = None  # the same of held-out real images in place of generated ones
    matched: float | None = None
    """The value at as many images as `floor` was taken from, where their number changes it: compare it with that."""
    n_real: int | None = None
    n_fake: int | None = None
    extractor: str | None = None
    higher_is_better: bool | None = None
    """None where neither is: the nearer to what real images have, the better."""
    flags: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


@dataclass(frozen=True)
class Protocol:
    """What made the scores. Two files are comparable where all of `COMPARED` is equal."""

    __pydantic_config__ = _STRICT
    run: str
    step: int
    data: str  # fingerprint of the training clips that are the real side
    held_out_data: str | None
    """Fingerprint of the clips that the run left out; None where it left none out."""
    val_folds: Annotated[tuple[int, ...], Field(validation_alias=AliasChoices("val_folds", "excluded_folds"))]
    classes: int
    extractor: str
    extractor_digest: str
    extractor_accuracy: float | None
    """Share of real clips, which it had not seen, whose class the classifier knows."""
    resize: str
    n_real: int
    n_held_out: int
    n_fake: int  # generated images of a run
    runs: int
    truncation: float | None
    """Variance of the noise; None of a uniform one, which has no truncation."""
    batch_norm: str
    """"standing": fixed statistics; "batch": those of each batch of generated images."""
    weights: str
    seed: int
    version: str
    torch: str
    device: str
    date: str  # UTC
    held_out: str = ""
    """What the run held out and why, in words; not known of files of the version before."""


COMPARED = {
    "data": "the training data",
    "held_out_data": "the held-out data",
    "extractor": "the extractor",
    "extractor_digest": "the trained extractor",
    "resize": "the resize",
    "n_real": "the number of real images",
    "n_fake": "the number of generated images",
    "truncation": "the truncation",
    "batch_norm": "the batch-norm mode",
}
"""Fields of a protocol that decide whether scores are comparable, and what they are called."""
_FINGERPRINTS = {"data", "held_out_data", "extractor_digest"}
"""Fields that say nothing to a person."""


@dataclass(frozen=True)
class Evaluation:
    """Scores by name, how they were taken, and what there is to say about them."""

    __pydantic_config__ = _STRICT
    protocol: Protocol
    scores: dict[str, Score]
    notes: tuple[str, ...] = ()
    format: Literal["schurgan-scores/1"] = "schurgan-scores/1"

    def as_json(self) -> dict[str, Any]:
        """What `save` writes."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def save(self, path: str | Path) -> None:
        """Write the file atomically, sealed by its checksum."""
        write_sealed(path, self.as_json())

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a file, of the version before too. Raises SchurganError when it is missing or something else."""
        path = Path(path)
        try:
            known = parse(cls, read_bytes(path))
        except FileNotFoundError:
            raise SchurganError(f"{path}: no scores yet; `schurgan evaluate {path.parent}` takes them") from None
        except (OSError, Unreadable) as error:
            raise SchurganError(f"{path}: damaged, or not scores ({error}); evaluate the run again") from None
        return replace(known, scores={_RENAMED.get(name, name): score for name, score in known.scores.items()})


def difference(a: Protocol, b: Protocol) -> str | None:
    """The first difference that forbids comparing, in words. None where they are comparable."""
    for name, called in COMPARED.items():
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs:
            if name in _FINGERPRINTS and None not in (ours, theirs):
                return f"{called} of the one is not that of the other"
            ours, theirs = ("some" if name in _FINGERPRINTS and each else _short(each) for each in (ours, theirs))
            return f"{called} is {ours} in the one and {theirs} in the other"
    return None


def _short(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
