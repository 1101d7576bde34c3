"""Files that nobody vouches for: of bounded size and depth, sealed by their checksum, and checked at the door.

write_sealed("scores.json", {"format": "schurgan-scores/1", ...})
evaluation = parse(Evaluation, read_bytes("scores.json"))
"""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from schurgan.core.files import atomic_write, open_regular

Kind = TypeVar("Kind")
LARGEST = 2**31  # bytes of a file with an entry for each clip or step; a manifest of ten million clips has less
_MOST = 2**24  # bytes of any other: a sparse file takes no room on a disk, but all of its size in memory
_SHOWN = 30  # letters of a value in a sentence; a checksum, which says nothing to anybody, has more
_DEEPEST = 64  # values within values of a pickle
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}
_NEEDED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "too_long": "{max_length} values or fewer",
    "string_too_short": "text",
    "path": "the name of a file or folder",
}
"""What would do, by the start of the kind of error that pydantic names."""
_SEAL = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",')


class Unreadable(ValueError):
    """Why a file does not hold what it should."""


def read_bytes(path: str | Path, most: int = _MOST) -> bytes:
    """All of a regular file. Raises OSError as the file system does, and for a file of more than `most` bytes."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(f"too large to be what it should, over {most / 1e6:.2g} MB")
        content: bytes = file.read(size)
    return content


def seal(text: str) -> str:
    """The text of a JSON object of one entry or more, with the SHA-256 of the text as its first entry."""
    return f'{{\n "checksum": "{hashlib.sha256(text.encode()).hexdigest()}",{text[1:]}'


def write_sealed(path: str | Path, value: dict[str, Any]) -> None:
    """`value` as sealed, indented UTF-8 JSON, written atomically. ValueError for NaN, infinity and what is no JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(seal(text + "\n"))


def parse(kind: type[Kind], content: bytes) -> Kind:
    """The value of a class, with fields of pydantic's or of plain dataclasses, that sealed or older JSON holds.

    Raises:
        Unreadable: a checksum is wrong, or the content is not JSON of this class.
    """
    if content.lstrip(b"{ \n").startswith(b'"checksum"'):  # older files have none
        found = _SEAL.match(content)
        content = b"{" + content[found.end() :] if found else b""
        if not found or hashlib.sha256(content).hexdigest().encode() != found[1]:
            raise Unreadable("its checksum is wrong: it was changed since it was written")
    try:
        if kind not in _ADAPTERS:
            _ADAPTERS[kind] = TypeAdapter(kind)
        value: Kind = _ADAPTERS[kind].validate_json(content, strict=True)
        return value
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None


def check_pickle(data: bytes) -> None:
    """Refuse a pickle whose values nest so deep that to hash one would end the process. Nothing of it is made.

    Raises:
        Unreadable: it does, or is no pickle.
    """
    stack: list[int] = []  # depths of the values that the unpickler would hold
    marks, memo = [], dict[int, int]()
    try:
        argument: Any
        for code, argument, _ in pickletools.genops(data):
            before = code.stack_before
            if code.name == "MARK":
                marks.append(len(stack))
            elif "PUT" in code.name or code.name == "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif "GET" in code.name:
                stack.append(memo[argument])
            else:
                marked = pickletools.markobject in before
                start = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
                taken = stack[start:]
                del stack[start:]
                if code.name in _FILLS:  # a list or a dict is as deep as the deepest that it was ever given
                    depth = max([taken[0], *(1 + each for each in taken[1:])])
                else:
                    depth = 1 + max(taken, default=-1)
                if depth > _DEEPEST:
                    raise Unreadable(f"a pickle with more than {_DEEPEST} values within each other")
                stack += [depth] * len(code.stack_after)
    except (ValueError, LookupError, TypeError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(f"a damaged pickle ({error})") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation as a sentence: where, what was given, what would do."""
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda each: each["loc"][:1] not in (("format",), ("version",)))  # it explains the others
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("missing", "extra_forbidden", "unexpected_keyword_argument", "json_invalid", "value_error"):
        text = first["msg"].removeprefix("Value error, ")
        return f"{where}: {text}" if where else text
    given = first["input"]
    shown = "something else" if isinstance(given, str) and len(given) > _SHOWN else reprlib.repr(given)
    return f"{where or 'content'}: {shown} given, {needed(first)} is needed"


def needed(problem: Mapping[str, Any]) -> str:
    """What would do in place of a value, of an entry of `ValidationError.errors()`: "a whole number", "1 or more"."""
    kind = problem["type"]
    limits = {key: f"{each:g}" if isinstance(each, float) else each for key, each in problem.get("ctx", {}).items()}
    for start, words in _NEEDED.items():
        if kind.startswith(start):
            return words.format(**limits)
    return str(problem["msg"]).removeprefix("Input should be ")
