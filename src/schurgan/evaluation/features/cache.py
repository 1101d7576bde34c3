"""A cache of trained classifiers: one file each, named by what it was trained on and how.

A file is trusted when it holds the same key and the checksum of its weights. Else the classifier is trained again and
the file replaced. Where nothing can be written it is trained every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from schurgan.core.files import atomic_write, clear_leftovers


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


def state_digest(state: dict[str, Tensor], *about: object) -> str:
    """Hex SHA-256 of tensors, by name, shape and bytes, and of `about`, as JSON."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # reshape, since a tensor without dimensions has no view as bytes
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(key: dict[str, Any], network: nn.Module) -> dict[str, Any] | None:
    """Fill `network` with what `save` kept under this key, and return what was kept beside it; None if nothing was."""
    path = _path(key)
    if path is None:
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["card"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        about: dict[str, Any] = card["about"]
        if card["key"] != key or card["sha256"] != state_digest(state, key, about):
            return None
        network.load_state_dict(state)
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
        return None
    return about


def save(key: dict[str, Any], network: nn.Module, about: dict[str, Any]) -> None:
    """Keep the weights of `network` and `about`, a dict of JSON, under `key`, where the disk allows it."""
    path = _path(key)
    if path is None:
        return
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    card = {"key": key, "about": about, "sha256": state_digest(state, key, about)}
    content = safetensors.torch.save(state, {"card": json.dumps(card)})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        with atomic_write(path) as file:
            file.write(content)


def _path(key: dict[str, Any]) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"classifier-{name[:32]}.safetensors" if folder else None
