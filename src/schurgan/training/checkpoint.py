"""Saving a run's whole state so that it can go on exactly, and reading it back from files that nobody vouches for."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from schurgan.errors import UserError
from schurgan.files import atomic_write

FORMAT = "schurgan-checkpoint/1"


class Checkpoints:
    """The files RUN/checkpoints/step-00000500.pt, of which the newest `keep` stay."""

    def __init__(self, run: str | Path, keep: int = 2) -> None:
        self.folder = Path(run) / "checkpoints"
        self.keep = keep

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, state: dict[str, Any], step: int, identity: str) -> Path:
        """Write atomically, then drop the oldest. `identity` says which data and networks the state belongs to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_write(path) as file:
            torch.save({"format": FORMAT, "identity": identity, "state": state}, file)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def load(self, identity: str) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is no checkpoint at all.

        A damaged file is named in a warning and the one before it taken. Raises UserError when all are damaged, or when
        the data or the networks are not those of the run.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                content = read(path)
            except UserError as error:
                warnings.warn(f"{error}; the checkpoint before it is used", stacklevel=2)
                continue
            if content["identity"] != identity:
                raise UserError(f"{path}: belongs to other data or networks than this run's config.yaml and data folder")
            return content["state"]
        if paths:
            raise UserError(f"{self.folder}: none of {len(paths)} checkpoints can be read; train again in a new folder")
        return None


def read(path: Path) -> dict[str, Any]:
    """One checkpoint file; it can build nothing but tensors and plain values. Raises UserError naming it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("state"), dict):
        raise UserError(f"{path}: not a checkpoint of this program's format {FORMAT}")
    return content
