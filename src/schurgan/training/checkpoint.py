"""Saving a run's whole state so that it can go on exactly, and reading it back from files that nobody vouches for."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from schurgan.errors import UserError
from schurgan.files import atomic_write

FORMAT = "schurgan-checkpoint/2"
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, zlib.error)


class Checkpoints:
    """The files RUN/checkpoints/step-00000500.pt, of which the newest `keep` stay."""

    def __init__(self, run: str | Path, keep: int = 2) -> None:
        self.folder = Path(run) / "checkpoints"
        self.keep = keep

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, state: dict[str, Any], step: int, identity: str) -> Path:
        """Write atomically, then drop the oldest. `identity` says which run the state belongs to.

        Later ones, which a run that took up an earlier state must have found damaged, are dropped as well.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_write(path) as file:
            torch.save({"format": FORMAT, "identity": identity, "state": state}, file)
        kept = [other for other in self.paths() if other <= path][-self.keep :]
        for other in self.paths():
            if other not in kept:
                other.unlink(missing_ok=True)
        return path

    def load(self, identity: str) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is no checkpoint at all.

        A damaged file is named in a warning and the one before it taken. Raises UserError when all are damaged, or when
        the state is another run's.
        """
        paths, damaged = self.paths(), []
        for path in reversed(paths):
            try:
                content = read(path)
            except UserError as error:
                damaged.append(error)
                continue
            for problem in damaged:
                warnings.warn(f"{problem}; the checkpoint before it is used", stacklevel=2)
            if content["identity"] != identity:
                raise UserError(f"{path}: belongs to other data, networks or training than the run's config.yaml says")
            return content["state"]
        if paths:
            raise UserError(f"{self.folder}: none of {len(paths)} checkpoints can be read; train again in a new folder")
        return None


def read(path: Path) -> dict[str, Any]:
    """One checkpoint file; it can build nothing but tensors and plain values. Raises UserError naming it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums of what it reads
        if damaged:
            raise UserError(f"{path}: damaged (the checksum of {damaged} is wrong)")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGE, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("state"), dict):
        raise UserError(f"{path}: not a checkpoint of this program's format {FORMAT}")
    return content
