"""The whole way, from sounds that the program makes itself to a page that plays what a GAN learned of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schurgan.commands.go import Plan, carry_out
from schurgan.commands.parsing import Folder

SECTIONS: dict[str, dict[str, Any]] = {
    "prepare": {"source": "soundscape", "seconds": 2.0},
    "train": {"preset": "demo"},
    "sample": {"count": 6},
    "report": {},
}


def demo(*, out: Folder = Path("runs/demo")) -> None:
    """Make soundscapes, train on them, sample every class and write a page, in a few minutes.

    Example:
        schurgan demo

    Args:
        out: folder of the run; a demo that was stopped continues there
    """
    carry_out(Plan(out, SECTIONS, f"schurgan demo --out {out}"))
