"""Every option of a run: defaults < preset < a YAML file < the command line; a run saves what came of it."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ValidationError

from schurgan.core.documents import first_problem, read_bytes
from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.core.files import atomic_write
from schurgan.core.terminal import COMMON
from schurgan.runs.options import (
    DDFNOptions,
    HealthOptions,
    ModelOptions,
    MomentMatchingOptions,
    Options,
    RegularizeOptions,
    TrainOptions,
)
from schurgan.runs.presets import preset_names, preset_options

DEFAULT_PRESET = "small-32"
_MOST_YAML = 2**16  # bytes of options; all of them with their comments are a tenth
_LONGEST = 3500  # letters of a value: of a number, more than Python would print
_OLD_NAMES = {
    "model.ladder": "model.architecture",
    "train.exclude_folds": "train.val_folds",
    "train.held_out": "train.val_fraction",
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.ema": "train.ema_decay",
    "health.rollbacks": "health.max_rollbacks",
    "condition": "moment_matching",
}
"""Options as the version before called them. Its runs and files hold these names."""
BEFORE = {"train": {"val_fraction": 0.0}}
"""What a run did whose options do not say, where the default does something else now."""

_INTERVALS = "log_every sample_every checkpoint_every keep_checkpoints"
FREE = {"preset", "data", *(f"train.{name}" for name in f"steps {_INTERVALS} threads prefetch device".split())}
FREE |= {"train.tensorboard", "train.compile"}
"""Options that change no state of a run; the folder of its data may be another, what is in it may not."""
_KEPT = ("model.", "own.", "train.val_")
"""Beginnings of options that a run keeps: what its networks are, and what is held out to judge it by."""


class Config(Options):
    """All options of a run. `Config(preset="small-64", ...)` starts from that preset, `Config()` from the defaults."""

    preset: Annotated[str | None, COMMON] = None
    """Preset that the options start from."""
    data: Annotated[Path | None, COMMON] = None
    """Folder made by `schurgan prepare`."""
    model: ModelOptions = ModelOptions()
    ddfn: DDFNOptions = DDFNOptions()
    moment_matching: MomentMatchingOptions = MomentMatchingOptions()
    regularize: RegularizeOptions = RegularizeOptions()
    train: TrainOptions = TrainOptions()
    health: HealthOptions = HealthOptions()

    def __init__(self, **options: Any) -> None:
        if isinstance(preset := options.get("preset"), str):
            _check_preset(preset)
            options = merge_options(preset_options(preset), options)
        super().__init__(**options)

    @classmethod
    def from_preset(cls, name: str | None = None, file: str | Path | None = None, /, **overrides: Any) -> Config:
        """Take the options of a preset and override some.

            Config.from_preset("small-64", steps=1000, ddfn={"weight": 0})

        Args:
            name: the preset; by default the one that the file names, else "small-32".
            file: YAML of options, which override the preset's.
            overrides: options, which override the file's: groups as mappings, or options that one group alone has.

        Raises:
            SchurganError: a preset, an option or a value is wrong; the sentence names it.
        """
        options = {} if file is None else _rename(read_yaml(file), str(file))
        options |= {"preset": name or options.get("preset") or DEFAULT_PRESET}
        _check_preset(options["preset"])
        return _validate(options, str(file or f"preset {options['preset']}")).override(**overrides)

    def override(self, **options: Any) -> Config:
        """These options with some others, given as in `from_preset`; SchurganError as there."""
        if not options:
            return self
        merged = merge_options(self.model_dump(exclude={"preset"}), _group(options))  # of another version, perhaps
        return _validate(merged, "options").model_copy(update={"preset": options.get("preset", self.preset)})

    def changes(self) -> dict[str, Any]:
        """The options of groups whose values are not the defaults, by their dotted names."""
        defaults, own = (flatten(config.model_dump(mode="json")) for config in (Config(), self))
        return {name: value for name, value in own.items() if "." in name and value != defaults[name]}

    def save(self, path: str | Path) -> None:
        """Write all options as YAML, atomically."""
        with atomic_write(path, "w") as file:
            yaml.safe_dump(self.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read options that `save` wrote. One that the file lacks is what it was before there was such an option."""
        options = merge_options(BEFORE, _rename(read_yaml(path), str(path)))
        preset = options.pop("preset", None)  # a name, which may be of another version's presets
        if not isinstance(preset, str | None):
            raise SchurganError(f"{path}: preset: {preset!r} given, a name is needed")
        return _validate(options, str(path)).model_copy(update={"preset": preset})


class _PlainLoader(yaml.SafeLoader):
    """No tag can build an object, and no alias can make of a few lines a value that nobody can hold."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        problem = "an alias, which options have no use for" if isinstance(event, yaml.AliasEvent) else ""
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST:
            problem = f"more than {_LONGEST} letters"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values, of 64 KiB at most. Raises SchurganError with file and line."""
    return read_yaml_lines(path)[0]


def read_yaml_lines(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """As `read_yaml`, and the line of each key by its dotted name: {"train.steps": 12}."""
    try:
        loader = _PlainLoader(read_bytes(path, _MOST_YAML).decode())
        node = loader.get_single_node()
        lines = {} if node is None else dict(_lines(node))
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SchurganError(f"{path}{where}: not YAML ({getattr(error, 'problem', None) or 'damaged'})") from None
    except UnicodeDecodeError:
        raise SchurganError(f"{path}: cannot be read (it is not UTF-8 text)") from None
    except OSError as error:
        raise SchurganError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # of a date or a number that is none
        raise SchurganError(f"{path}: not options ({error})") from None
    except RecursionError:
        raise SchurganError(f"{path}: nested too deeply to be options") from None
    if not isinstance(value, dict):
        raise SchurganError(f"{path}: a mapping of options is needed, this is {type(value).__name__}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise SchurganError(f"{path}: names of options are text, {odd[0]!r} is not")
    return value, lines


def _lines(node: yaml.Node, inside: str = "") -> Iterator[tuple[str, int]]:
    """Dotted keys of a mapping and their lines. Raises yaml.YAMLError for one that is there twice."""
    known = set[str]()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            name = f"{inside}{key.value}"
            if name in known:
                raise yaml.composer.ComposerError(None, None, f"{name} is there twice", key.start_mark)
            known.add(name)
            yield name, key.start_mark.line + 1
            yield from _lines(value, f"{name}.")


def merge_options(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, group by group; of a model, those that were set."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merge_options(inner, value)
        merged[key] = value
    return merged


def flatten(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted names: {"train": {"steps": 5}} is {"train.steps": 5}."""
    flat: dict[str, Any] = {}
    for group, value in options.items():
        flat |= (
            {f"{group}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {group: value}
        )
    return flat


def is_kept(name: str) -> bool:
    """Whether a run keeps the option of this dotted name from its first step to its last."""
    return name.startswith(_KEPT)


def command_line(options: Mapping[str, Any]) -> str:
    """Options by dotted names as one types them: {"train.lr_g": 0.01} is "--train.lr-g 0.01"."""
    words = list[str]()
    for name, value in options.items():
        group, _, option = name.replace("_", "-").rpartition(".")
        words.append(f"--{group}{'.' * bool(group)}{'no-' * (value is False)}{option}")
        if not isinstance(value, bool):
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return shlex.join(words)


def explain(error: ValidationError) -> str:
    """The first problem of a validation as a sentence: which key, what was given, what would do."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path).replace("_", "-")
    if first["type"] == "extra_forbidden":
        fields: Any = Config.model_fields
        for part in path[:-1]:
            fields = fields[part].annotation.model_fields
        return f"{key}: no such option{did_you_mean(path[-1], fields)}"
    if isinstance(cause := first.get("ctx", {}).get("error"), SchurganError):  # pydantic wrapped it, as a ValueError
        return str(cause)
    where, _, what = first_problem(error).partition(": ")
    return f"{where.replace('_', '-')}: {what}"


def _validate(options: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(options)
    except ValidationError as error:
        raise SchurganError(f"{where}: {explain(error)}") from None


def _check_preset(name: object) -> None:
    if name not in preset_names():
        known = did_you_mean(str(name), preset_names()) or f"; there are {', '.join(preset_names())}"
        raise SchurganError(f'preset "{name}": no such preset{known}')


def _group(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with single options put into their groups. Raises SchurganError for a name of none or of several."""
    groups: dict[str, Any] = {
        name: field.annotation.model_fields
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options)
    }
    grouped: dict[str, Any] = {}
    for name, value in overrides.items():
        owners = [group for group, fields in groups.items() if name in fields]
        if name in Config.model_fields:
            grouped = merge_options(grouped, {name: value})
        elif len(owners) == 1:
            grouped = merge_options(grouped, {owners[0]: {name: value}})
        elif owners:
            raise SchurganError(f"{name}: an option of {' and of '.join(owners)}; write {owners[0]}={{'{name}': ...}}")
        else:
            known = [*Config.model_fields, *(option for fields in groups.values() for option in fields)]
            raise SchurganError(f"{name}: no such option{did_you_mean(name, known)}")
    return grouped


def _rename(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Options under their new names, with a warning for each old one."""
    options = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    for old, new in _OLD_NAMES.items():
        (group, _, old_key), (new_group, _, key) = old.partition("."), new.partition(".")
        holder = options.get(group) if old_key else options
        if isinstance(holder, dict) and (old_key or group) in holder:
            target = options.setdefault(new_group, {}) if key else options
            target[key or new_group] = holder.pop(old_key or group)
            warnings.warn(f"{where}: {old} is called {new} now; the old name is read for one version", stacklevel=3)
    return options
