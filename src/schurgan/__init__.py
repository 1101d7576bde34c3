"""Schurgan: class-conditional GANs that learn short sounds, kept from collapsing by the departure from normality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schurgan.version import __version__

if TYPE_CHECKING:
    from schurgan.model import Model, Sounds, load

__all__ = ["Model", "Sounds", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; the command line's --help must not wait for it.
    if name in ("Model", "Sounds", "load"):
        from schurgan import model

        return getattr(model, name)
    raise AttributeError(f"module 'schurgan' has no attribute {name!r}")
