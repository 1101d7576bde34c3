"""Small faults in Python source, for `mutation.py`: an operator, a number, a condition, a call, a value changed."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SWAPPED = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "==", "In": "not in", "NotIn": "in"}
SWAPPED |= {"Is": "is not", "IsNot": "is", "Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "/"}
SWAPPED |= {"Mod": "*", "Pow": "*", "MatMult": "*"}
UNSEEN = {"device", "non_blocking", "memory_format", "stacklevel", "cpu", "contiguous"}  # without effect on a CPU
Mutant = dict[str, Any]


def mutants(package: Path) -> Iterator[Mutant]:
    """Every mutant of every file; its place in offsets of bytes."""
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        starts, parsed = [0], ast.parse(source)
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        imports = [each for each in ast.walk(parsed) if isinstance(each, ast.Import | ast.ImportFrom)]
        modules = {name.asname or name.name for each in imports for name in each.names} | {"self", "super()"}
        for node, statement, condition in nodes(parsed):
            if (line := getattr(node, "lineno", None)) is None:
                continue
            start, end = starts[line - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            place = {"file": str(path.relative_to(package)), "line": line, "statement": statement}
            place |= {"start": start, "end": end, "before": source[start:end].decode()}
            for after in [f"(not ({ast.unparse(node)}))"] if condition else mutations(node, modules):
                yield place | {"after": after}


def nodes(node: ast.AST, statement: int = 1) -> Iterator[tuple[ast.AST, int, bool]]:
    """(node, line of its statement, whether it is a condition), without types, messages and `__repr__`."""
    name = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else getattr(node, "name", "")
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr) or name in ("print", "warn", "cast", "__repr__"):
        return
    statement = node.lineno if isinstance(node, ast.stmt) else statement
    yield node, statement, False
    for condition in (getattr(node, "test", None), *getattr(node, "ifs", ())):
        if condition is not None:
            yield condition, statement, True
    typed = isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Annotated", "Literal", "Callable")
    skipped = {"annotation", "returns", "decorator_list", "exc" if isinstance(node, ast.Raise) else "msg"}
    for field, value in ast.iter_fields(node):
        if field not in skipped and not (typed and field == "slice"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from nodes(child, statement)


def mutations(node: ast.AST, modules: set[str]) -> Iterator[str]:
    """Source that may stand in the place of a node."""
    u = ast.unparse
    match node:
        case ast.Compare(left, [op], [right]):
            yield f"({u(left)} {SWAPPED[type(op).__name__]} {u(right)})"
        case ast.BinOp(left, op, right) if type(op).__name__ in SWAPPED and not (is_text(left) or is_text(right)):
            yield f"({u(left)} {SWAPPED[type(op).__name__]} {u(right)})"
        case ast.BoolOp(op, values):
            yield "(" + (" or " if isinstance(op, ast.And) else " and ").join(f"({u(value)})" for value in values) + ")"
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield f"({u(operand)})"
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield from (f"({value + 1})", f"({value - 1})", "0" if value else "2")
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield {ast.Break: "continue", ast.Continue: "break"}.get(type(node), "pass")
        case ast.Return(ast.expr() as value) if u(value) != "None":
            yield "return None"
        case ast.IfExp(test, body, orelse):
            yield f"({u(orelse)} if {u(test)} else {u(body)})"
        case ast.Call(function, positional, keywords):
            for each in keywords:
                if each.arg and each.arg not in UNSEEN:
                    yield u(ast.Call(function, positional, [other for other in keywords if other is not each]))
            if isinstance(function, ast.Attribute) and not {u(function.value), function.attr} & (modules | UNSEEN):
                yield f"({u(function.value)})"


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def show(found: list[Mutant]) -> None:
    """Print those that were not killed, and how many were in each package."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for each in found:
        for room in (each["file"].split("/")[0], "all"):
            rooms[room][each["result"]] += 1
        if each["result"] != "killed":
            print(f"{each['result']} {each['file']}:{each['line']}  {each['before']} → {each['after']}  ({each['by']})")
    print("\n| package | killed | survived | equivalent | killed of those not equivalent |\n|---|---|---|---|---|")
    for room, number in sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])):
        killed, survived = number["killed"], number["survived"]
        print(f"| {room} | {killed} | {survived} | {number['equivalent']} | {killed / max(1, killed + survived):.0%} |")
