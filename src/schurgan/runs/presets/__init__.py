"""The shipped presets, a YAML file each."""

from __future__ import annotations

from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any

import yaml


@cache
def preset_names() -> tuple[str, ...]:
    """Names of the shipped presets, sorted."""
    files = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


def preset_list() -> str:
    """The presets in a line, those of a kind together: "demo; small-32, -64"."""
    kinds = groupby(preset_names(), key=lambda name: name.partition("-")[0])
    return "; ".join(", ".join(names).replace(f", {kind}", ", ") for kind, names in kinds)


def preset_summary(name: str) -> str:
    """What a preset is for: the first line of its file."""
    return _text(name).partition("\n")[0].lstrip("# ")


def preset_options(name: str) -> dict[str, Any]:
    """The options that a preset sets, by group."""
    return yaml.safe_load(_text(name)) or {}


def _text(name: str) -> str:
    return (resources.files(__name__) / f"{name}.yaml").read_text("utf-8")
