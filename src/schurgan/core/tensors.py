"""Files of tensors with a card beside them, sealed together: a safetensors file whose metadata are one JSON object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from schurgan.core.documents import Unreadable, parse
from schurgan.core.files import atomic_write, open_regular

Card = TypeVar("Card")


def save_tensors(path: Path, state: Mapping[str, Tensor], card: dict[str, Any]) -> None:
    """Write tensors and a card, atomically; the same ones give the same bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    sealed = card | {"sha256": state_digest(state, *card.values())}
    # One entry: several are written in any order.
    content = safetensors.torch.save(state, {"card": json.dumps(sealed)})
    with atomic_write(path) as file:
        file.write(content)


def load_tensors(
    path: Path, kind: type[Card], like: Callable[[Card], Mapping[str, Tensor]]
) -> tuple[Card, dict[str, Tensor]]:
    """Read what `save_tensors` wrote.

    Args:
        path: the file.
        kind: class of the card, see `documents.parse`.
        like: tensors of the shapes that the card's must have, on the meta device for example; compared before any of
            the file's is read.

    Raises:
        Unreadable: the file is damaged, or of something else.
        OSError: as the file system does.
    """
    open_regular(path).close()  # safetensors would wait for a FIFO
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {}).get("card", "{}"))
            seal = known.pop("sha256", None)
            card = parse(kind, json.dumps(known).encode())
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
            if shapes != {name: list(value.shape) for name, value in like(card).items()}:
                raise Unreadable("its tensors have other names or shapes than its card says")
            state = {name: file.get_tensor(name) for name in shapes}
    except (safetensors.SafetensorError, AttributeError, RecursionError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(" ".join(str(error).split())[:120]) from None
    if seal not in (state_digest(state, *known.values()), _old_digest(state, known)):
        raise Unreadable("its checksum is wrong: it was changed since it was written")
    return card, state


def state_digest(state: Mapping[str, Tensor], *about: object) -> str:
    """Hex SHA-256 of tensors, by name, shape and bytes, and of `about`, as JSON."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # reshape, since a tensor without dimensions has no view as bytes
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _old_digest(state: Mapping[str, Tensor], card: Mapping[str, Any]) -> str | None:
    """That of a generator of the version before, which sealed its weights alone."""
    if card.get("format") != "schurgan-generator/2":
        return None
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
