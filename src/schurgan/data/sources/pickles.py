"""Pickles of numbers, texts and arrays, read without building anything else: nothing in the file is ever called.

A pickle is a program for a small stack machine, and the one in the standard library runs it with every function that
the file names. Here the instructions are only listed (`pickletools.genops`) and carried out by a machine that knows
data: numbers, bytes, str, None, lists, dicts, tuples, and arrays of integers whose bytes are taken as they are. Names
of functions stay names; the few that stand for an array or bytes are understood, every other one is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Instructions that push their argument."""
STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
"""Texts of Python 2, which are bytes."""
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CORES = ("numpy.core.", "numpy._core.")
INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
MARK = object()


class PickleError(ValueError):
    """A pickle that is damaged, or holds more than data. The message is a reason without a file's name."""


class _Name(NamedTuple):
    module: str
    name: str

    def is_core(self, rest: str) -> bool:
        """Whether it is `rest` of numpy's core, which has moved."""
        return f"{self.module}.{self.name}" in {core + rest for core in CORES}


def _text(value: object) -> object:
    """Bytes as str: what Python 2 wrote of a type is bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _DType:
    """An integer type; its byte order comes with its state."""

    def __init__(self, code: object) -> None:
        code = _text(code)
        if not isinstance(code, str) or code not in INTEGERS:
            raise PickleError(f'an array of "{_short(code)}" where integers are needed')
        self.dtype = np.dtype(code)

    def build(self, state: object) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise PickleError("a damaged type of an array")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that its state is still to fill."""

    value: np.ndarray | None = None

    def build(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise PickleError("a damaged array")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def load_pickle(data: bytes) -> Any:
    """What a pickle of any protocol holds, if it is data and nothing else. Raises PickleError otherwise."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return _finished(stack.pop())
            _step(opcode.name, argument, stack, memo)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleError(f"a damaged pickle ({_short(error)})") from None
    except RecursionError:
        raise PickleError("a pickle nested too deeply") from None
    raise PickleError("a pickle cut short")


def _step(code: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Carry out one instruction."""
    if code in PUSHED:
        stack.append(argument)
    elif code in STRINGS:
        stack.append(argument.encode("latin-1"))
    elif code in CONSTANTS:
        stack.append(CONSTANTS[code])
    elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif code == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif code in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif code == "MARK":
        stack.append(MARK)
    elif code in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
        stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[code]())
    elif code in ("LIST", "TUPLE"):
        stack.append((list if code == "LIST" else tuple)(_to_mark(stack)))
    elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(code[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif code == "DICT":
        stack.append(dict(_pairs(_to_mark(stack))))
    elif code in ("APPEND", "APPENDS"):
        values = _to_mark(stack) if code == "APPENDS" else [stack.pop()]
        _of(list, stack[-1]).extend(values)
    elif code in ("SETITEM", "SETITEMS"):
        values = _to_mark(stack) if code == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
        _of(dict, stack[-1]).update(_pairs(values))
    elif code == "GLOBAL":
        stack.append(_Name(*argument.split(" ", 1)))
    elif code == "STACK_GLOBAL":
        name, module = stack.pop(), stack.pop()
        stack.append(_Name(str(module), str(name)))
    elif code == "REDUCE":
        arguments, name = stack.pop(), stack.pop()
        stack.append(_reduce(name, arguments))
    elif code == "BUILD":
        state = stack.pop()
        if not isinstance(stack[-1], (_Array, _DType)):
            raise PickleError("an object that is built, where only data can be read")
        stack[-1].build(state)
    elif code not in ("PROTO", "FRAME"):
        raise PickleError(f"the instruction {code}, which data do not need")


def _reduce(name: object, arguments: Any) -> Any:
    """The array, type or bytes that a call stands for. No function is called but those of this file."""
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise PickleError("a call of something that is no name")
    if name.is_core("multiarray._reconstruct"):
        return _Array()
    if name.is_core("numeric._frombuffer") and len(arguments) == 4:
        array = _Array()
        array.value = _array(*arguments)
        return array
    if name == ("numpy", "dtype") and arguments:
        return _DType(arguments[0])
    if name == ("_codecs", "encode") and arguments[1:] == ("latin1",) and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")  # how Python 3 writes bytes in the protocols of Python 2
    if name in (("__builtin__", "bytes"), ("builtins", "bytes")) and arguments == ():
        return b""
    raise PickleError(f"calls {_short('.'.join(name))}, and a data set has nothing to call")


def _array(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise PickleError("a damaged array")
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or not all(type(n) is int and n >= 0 for n in shape):
        raise PickleError("an array without its bytes")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise PickleError(f"an array of {_short(shape)} in {len(data)} bytes")
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)


def _finished(value: Any) -> Any:
    """`value`, a list or dict of data or data itself, with its arrays in the place of what stood for them."""
    if isinstance(value, dict):
        return {key: _leaf(inner) for key, inner in value.items()}
    return [_leaf(inner) for inner in value] if isinstance(value, list) else _leaf(value)


def _leaf(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise PickleError("an array without its bytes")
        return value.value
    if isinstance(value, _Name | _DType):
        raise PickleError(f"the name {_short(value)} where data are needed")
    return value


def _to_mark(stack: list[Any]) -> list[Any]:
    start = len(stack) - 1
    while stack[start] is not MARK:
        start -= 1
        if start < 0:
            raise PickleError("a damaged pickle (no mark)")
    values = stack[start + 1 :]
    del stack[start:]
    return values


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        raise PickleError("a damaged pickle (a key without a value)")
    keys = values[::2]
    if not all(isinstance(key, str | bytes | int) for key in keys):  # hashing nested tuples may overflow the C stack
        raise PickleError("a damaged pickle (a key that is no name)")
    return zip(keys, values[1::2], strict=True)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise PickleError(f"a damaged pickle (no {kind.__name__} to fill)")
    return value


def _short(value: object) -> str:
    return " ".join(str(value).split())[:80]
