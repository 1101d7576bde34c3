"""A cache of trained classifiers: one file each, named by what it was trained on and how.

A file is trusted when it holds the same key and the checksum of its weights. Else the classifier is trained again and
the file replaced. Where nothing can be written it is trained every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from schurgan.core.documents import Unreadable
from schurgan.core.files import clear_leftovers
from schurgan.core.tensors import load_tensors, save_tensors


def cache_folder() -> Path | None:
    """Return $SCHURGAN_CACHE, $XDG_CACHE_HOME/schurgan or ~/.cache/schurgan; None for a user who has no home."""
    if own := os.environ.get("SCHURGAN_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if Path(shared).is_absolute():  # its specification has others ignored
        return Path(shared) / "schurgan"
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "schurgan"
    return None


@dataclass(frozen=True)
class _Card:
    key: dict[str, Any]
    about: dict[str, Any]


def load(key: dict[str, Any], network: nn.Module) -> dict[str, Any] | None:
    """Fill `network` with what `save` kept under this key, and return what was kept beside it; None if nothing was."""
    path = _path(key)
    if path is None:
        return None
    with contextlib.suppress(OSError, Unreadable):
        card, state = load_tensors(path, _Card, lambda _: network.state_dict())
        if card.key == key:
            network.load_state_dict(state)
            return card.about
    return None


def holds(key: dict[str, Any]) -> bool:
    """Whether something is kept under this key, if only damaged."""
    path = _path(key)
    return path is not None and path.exists()


def save(key: dict[str, Any], network: nn.Module, about: dict[str, Any]) -> None:
    """Keep the weights of `network` and `about`, a dict of JSON, under `key`, where the disk allows it."""
    path = _path(key)
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        save_tensors(path, network.state_dict(), {"key": key, "about": about})


def _path(key: dict[str, Any]) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"classifier-{name[:32]}.safetensors" if folder else None
