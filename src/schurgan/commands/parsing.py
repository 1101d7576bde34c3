"""Reading a command's arguments by the signature of its function, and saying in one sentence what is wrong with them.

A parameter before `/` is a positional argument, any other an option. The fields of a parameter that is a dataclass or a
pydantic model are options of their own: `size` is --size, and `train.steps` is --train.steps or, where no other group
has it, --steps.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
import types
import typing
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.core.terminal import COMMON

REQUIRED = inspect.Parameter.empty
"""Default of an argument that has none."""
_METAVARS = {int: "INT", float: "FLOAT", Path: "PATH", bool: ""}


@dataclass(frozen=True)
class arg:
    """What help and messages say of an argument beside its type: Annotated[int, arg(help="in Hz")]."""

    help: str = ""
    metavar: str = ""
    name: str = ""
    without: tuple[str, ...] = ()
    """Fields of a group that are no options of this command."""


Folder = Annotated[Path, arg(metavar="DIR")]
"""An option that names a folder."""


@dataclass(frozen=True, eq=False)
class Option:
    """One argument of a command."""

    path: tuple[str, ...]
    """Where its value goes: a parameter, and the fields within it."""
    name: str
    """How it is written: --train.steps, or RUN where it is positional."""
    hint: Any
    kind: Any
    """Its type, without `| None`."""
    nullable: bool
    default: Any
    help: str
    metavar: str
    group: str
    """Heading under which the whole help lists it."""
    common: bool

    @property
    def positional(self) -> bool:
        """Whether it is known by its place."""
        return not self.name.startswith("--")

    @property
    def count(self) -> int | None:
        """Number of its values: 0 of a switch, None for any number."""
        inner = get_args(self.kind) if get_origin(self.kind) is tuple else (self.kind,)
        return None if ... in inner else len(inner) - (self.kind is bool)


def parse(command: Callable[..., None], name: str, arguments: Sequence[str]) -> Callable[[], None]:
    """`command` bound to its arguments. Raises SchurganError for the first that is wrong."""
    options = read_options(command)
    given, unused = _sort(options, name, arguments)
    if unused:
        raise SchurganError(f'"{unused[0]}": one argument too many{_example(command)}')
    if missing := [option.name for option in options if option.default is REQUIRED and option not in given]:
        raise SchurganError(f"{' and '.join(missing)}: missing{_example(command)}")
    changes: dict[str, Any] = {}
    for option, words in given.items():
        place = changes
        for part in option.path[:-1]:
            place = place.setdefault(part, {})
        place[option.path[-1]] = _value(option, words)
    positional, named, hints = list[Any](), dict[str, Any](), get_type_hints(command)
    for key, parameter in inspect.signature(command).parameters.items():
        value = changes.get(key, {} if parameter.default is REQUIRED else parameter.default)
        if isinstance(value, dict):  # of a group
            value = hints[key](**value) if parameter.default is REQUIRED else _replace(parameter.default, value)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[key] = value
    return functools.partial(command, *positional, **named)


def usage(options: Sequence[Option], name: str) -> str:
    """How a command is called: its positional arguments, and the options that it needs."""
    words = ["schurgan", name]
    for option in options:
        if option.default is REQUIRED:
            words.append(option.metavar if option.positional else f"{option.name} {option.metavar}")
        elif option.positional:
            words.append(f"[{option.metavar}]")
    return " ".join([*words, *["[OPTIONS]"][: any(option.default is not REQUIRED for option in options)]])


def read_options(command: Callable[..., Any]) -> list[Option]:
    """Every argument of a command, in the order of its function's parameters."""
    arguments = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", read_doc(command).get("Args", ""), re.MULTILINE)
    texts, hints, found = dict(arguments), get_type_hints(command, include_extras=True), list[Option]()
    for name, parameter in inspect.signature(command).parameters.items():
        place = parameter.kind is parameter.POSITIONAL_ONLY
        found += _walk((name,), hints[name], parameter.default, texts.get(name, ""), positional=place)
    return found


def read_doc(command: Callable[..., Any]) -> dict[str, str]:
    """Sections of a docstring of Google's style by their titles, Args, Example and Note; what is above them by ""."""
    text, *parts = re.split(r"^(Args|Example|Note):\n", inspect.getdoc(command) or "", flags=re.MULTILINE)
    return {"": text, **dict(zip(parts[::2], parts[1::2], strict=True))}


def option_names(command: Callable[..., Any]) -> dict[str, str]:
    """Names of a command's options in library code, with those by which its user knows them.

    An option of a group is known by its full name and, where no other group has it, by its own: `train.lr_g` and
    `lr_g` are `--train.lr-g`.
    """
    options = [option for option in read_options(command) if not option.positional]
    count = Counter(option.path[-1] for option in options)
    bare = {option.path[-1]: option.name for option in options if count[option.path[-1]] == 1}
    groups = {option.path[1]: f"--{_kebab(option.path[1])}" for option in options if len(option.path) > 2}
    return bare | groups | {".".join(option.path[1:] or option.path): option.name for option in options}


def name_options(message: str, options: Mapping[str, str]) -> str:
    r"""A message of the library in the words of the command line.

    `batch_size: 0 given` becomes `--train.batch-size: 0 given`, and `choose another \`out\`` becomes `choose another
    \`--out\``: names at the start and names in backquotes.
    """
    start = re.match(r"[a-z][\w.]*(?=: )", message)
    if start and start[0] in options:
        message = options[start[0]] + message[start.end() :]
    return re.sub(r"`([a-z][\w.]*)`", lambda name: f"`{options.get(name[1], name[1])}`", message)


def check_counts(**counts: int | None) -> None:
    """SchurganError naming the first option outside 1 to 65536 (None stands for a default)."""
    for name, count in counts.items():
        if count is not None and not 1 <= count <= 2**16:
            raise SchurganError(f"--{_kebab(name)}: {count} given, a whole number from 1 to {2**16} is needed")


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option that decides how the others are read: the last one, as of all options."""
    value = None
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        name, equals, given = argument.partition("=")
        if name == option:
            value = given if equals else None if _is_flag(after) else after
    return value


def _walk(
    path: tuple[str, ...], hint: Any, default: Any, text: str, group: str = "", positional: bool = False
) -> Iterator[Option]:
    kind, notes, nullable = _strip(hint)
    own = arg()
    for note in notes:
        if isinstance(note, arg):  # an outer one adds to those within
            own = arg(*(new or old for new, old in zip(vars(note).values(), vars(own).values(), strict=True)))
    if members := list(_members(kind, default)):
        if len(path) > 1:
            group = f"{_kebab(path[-1])}: {_clause(inspect.getdoc(kind) or '')}"
        for name, inner_hint, own_default, own_text in members:
            if name not in own.without:
                yield from _walk((*path, name), inner_hint, own_default, own_text, group)
        return
    inner = get_args(kind) if get_origin(kind) is tuple else (kind,)
    metavar = " ".join("..." if each is ... else _METAVARS.get(_strip(each)[0], "NAME") for each in inner)
    metavar = own.metavar or (path[-1].upper() if positional else metavar)
    shown = f"--{_kebab('.'.join([*path[1:-1], own.name or path[-1]]))}"
    yield Option(
        path=path,
        name=metavar.removesuffix(" ...") if positional else shown,
        hint=hint,
        kind=kind,
        nullable=nullable,
        default=default,
        help=_clause(own.help or text),
        metavar=metavar,
        group=group,
        common=COMMON in notes or default is REQUIRED,
    )


def _members(kind: Any, default: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """Name, type, default and help of each field of a dataclass or a pydantic model; nothing of any other type."""
    fields: list[tuple[str, Any, Any, str]] = []
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            own = REQUIRED if field.default is dataclasses.MISSING else field.default
            fields.append((field.name, hints[field.name], own, ""))
    for name, field in getattr(kind, "model_fields", {}).items():
        hint = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        fields.append((name, hint, field.get_default(), field.description or ""))
    for name, hint, own, text in fields:
        yield name, hint, own if default is REQUIRED else getattr(default, name), text


def _strip(hint: Any) -> tuple[Any, list[Any], bool]:
    """A type without notes and `| None`, the notes, and whether it was `| None`."""
    if get_origin(hint) is Annotated:
        kind, notes, nullable = _strip(hint.__origin__)
        return kind, [*notes, *hint.__metadata__], nullable
    if get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return *_strip(inner)[:2], True
    return hint, [], False


def _example(command: Callable[..., Any]) -> str:
    examples = read_doc(command).get("Example", "").strip().splitlines()
    return f"; an example: `{examples[0]}`" if examples else ""


def _sort(
    options: Sequence[Option], name: str, arguments: Sequence[str]
) -> tuple[dict[Option, list[str] | bool], list[str]]:
    """The words that each option was given, of a switch whether it is on; and the words that are nobody's."""
    given: dict[Option, list[str] | bool] = {}
    loose, rest, spellings = list[str](), deque(arguments), _spell(options)
    while rest:
        word = rest.popleft()
        if word == "--":
            loose += rest
            break
        if not _is_flag(word):
            loose.append(word)
            continue
        flag, equals, value = word.partition("=")
        option, on = _find(flag, spellings, name)
        if option.count == 0:
            if equals:
                raise SchurganError(f"{flag}: {value!r} given, it takes no value")
            if rest and rest[0].casefold() in ("true", "false", "yes", "no"):
                raise SchurganError(f"{flag}: {rest[0]!r} given, it takes no value")
            given[option] = on
            continue
        words = [value] if equals else []
        while rest and len(words) != option.count and not _is_flag(rest[0]):
            words.append(rest.popleft())
        if option.count and len(words) < option.count:
            raise SchurganError(f"{flag}: {' '.join(words) or 'nothing'} given, {option.metavar} is needed")
        given[option] = words
    for option in options:
        if option.positional and loose:
            most = len(loose) if option.count is None else 1
            given[option], loose = loose[:most], loose[most:]
    return given, loose


def _is_flag(word: str) -> bool:
    """-0.5 is a value, and so is a dash alone."""
    return bool(re.match(r"--|-[A-Za-z]", word))


def _spell(options: Sequence[Option]) -> dict[str, list[tuple[Option, bool]]]:
    """The options that each spelling may stand for, and whether it turns a switch on."""
    full: dict[str, list[tuple[Option, bool]]] = {}
    bare: dict[str, list[tuple[Option, bool]]] = {}
    for option in options:
        group, _, last = option.name.removeprefix("--").rpartition(".")
        for no in ("", "no-") if option.kind is bool else ("",):
            if not option.positional:
                full[f"--{group}{'.' * bool(group)}{no}{last}"] = [(option, not no)]
                bare.setdefault(f"--{no}{last}", []).append((option, not no))
    return bare | full


def _find(flag: str, spellings: Mapping[str, list[tuple[Option, bool]]], name: str) -> tuple[Option, bool]:
    found = spellings.get(_kebab(flag), [])
    if len(found) > 1:
        names = " or ".join(option.name for option, _ in found)
        raise SchurganError(f"{flag}: an option of several groups; write {names}")
    if not found:
        known = [spelling for spelling in spellings if ("." in spelling) == ("." in flag)]
        near = did_you_mean(flag, known) or f"; `schurgan {name} --help-all` lists them all"
        raise SchurganError(f"{flag}: no such option of `schurgan {name}`{near}")
    return found[0]


def _value(option: Option, words: list[str] | bool) -> Any:
    """What the words of an option stand for."""
    from pydantic import TypeAdapter, ValidationError

    from schurgan.core.documents import needed

    if isinstance(words, bool):
        return words
    if option.nullable and words == ["None"] and option.kind is not str:
        return None
    try:
        return TypeAdapter(option.hint).validate_python(words[0] if option.count == 1 else words)
    except ValidationError as error:
        text = " ".join(words)
        shown = text if re.match(r"[-+]?\.?\d", text) else repr(text)
        raise SchurganError(f"{option.name}: {shown} given, {needed(error.errors()[0])} is needed") from None


def _replace(group: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass or a model with other values, each of which was checked already."""
    new = {
        name: _replace(getattr(group, name), each) if isinstance(each, dict) else each for name, each in changes.items()
    }
    return group.model_copy(update=new) if hasattr(group, "model_copy") else type(group)(**vars(group) | new)


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _clause(text: str) -> str:
    """A help text as part of a line: "Learning rate ..." begins small, "D steps ..." and "TensorBoard ..." do not."""
    text = " ".join(text.split()).removesuffix(".")
    return text[:1].lower() + text[1:] if re.match(r"[A-Z][a-z]+\b(?!')", text) else text
