"""What the documents name is there: files, tests, options and their values, presets, commands, numbers, links."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from schurgan.commands import main as cli
from schurgan.commands.parsing import parse, read_options
from schurgan.networks import ARCHITECTURES, Discriminator, Generator, customise, find_architecture
from schurgan.runs.config import Config
from schurgan.runs.presets import preset_names

ROOT = Path(__file__).parents[1]
PAPER = (ROOT / "docs" / "paper.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(model|ddfn|condition|regularize|train|health)\.(\w+)(?:: (.+))?")
FLAG = re.compile(r"--(model|ddfn|condition|regularize|train|health)\.(?:no-)?([\w-]+)")


def spans(text: str) -> list[str]:
    """What is set in `code`, outside of blocks."""
    return re.findall(r"`([^`]+)`", FENCED.sub("", text))


def section(number: int) -> str:
    return re.split(r"^## ", PAPER, flags=re.MULTILINE)[number]


def rows(text: str) -> Iterator[list[str]]:
    """Cells of the rows of Markdown tables; \\| is no border."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a file defines: functions, classes, constants, and Class.method."""

    def of(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from of(node.body, f"{prefix}{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    yield prefix + target.id

    return frozenset(of(ast.parse(file.read_text("utf-8")).body, ""))


def is_there(named: str) -> bool:
    """file.py or file.py::name, from the root or, short, from src/schurgan."""
    path, _, name = named.partition("::")
    file = next((file for file in (ROOT / path, ROOT / "src/schurgan" / path) if file.is_file()), None)
    return file is not None and (not name or name in names_in(file))


def named_code() -> list[str]:
    """Every file.py and file.py::name; a bare test_name is one of the file of tests named before it in its row
    of a table or its paragraph."""
    found = []
    for line in re.sub(r"\n(?=[^|\n])", " ", PAPER).splitlines():
        tests = "no file of tests before it"
        for span in spans(line):
            if re.fullmatch(r"[\w/]+\.py(::[\w.]+)?", span):
                found.append(span)
                tests = span.partition("::")[0] if span.startswith("tests/") else tests
            elif span.startswith("test_"):
                found.append(f"{tests}::{span}")
    return found


def test_every_file_class_function_and_test_named_is_there():
    assert not [named for named in named_code() if not is_there(named)]


def test_a_name_that_is_not_there_is_noticed():
    assert is_there("tests/test_docs.py::test_a_name_that_is_not_there_is_noticed")
    assert is_there("networks/architectures.py::Architecture.latent_dim")
    assert not is_there("tests/test_docs.py::test_that_was_renamed")
    assert not is_there("networks/no_such_file.py")
    assert len([named for named in named_code() if "::test_" in named]) >= 75  # or the parser has gone blind


def options(text: str) -> list[tuple[str, str, str | None]]:
    """(section, key, value or None) of every `model.key`, `model.key: value` and --model.key."""
    found: list[tuple[str, str, str | None]] = []
    for span in spans(text):
        if (match := OPTION.fullmatch(span)) and not span.endswith(".py"):
            found.append(match.groups())
        found += [(part, key.replace("-", "_"), None) for part, key in FLAG.findall(span)]
    return found


def test_every_option_named_is_one_and_takes_the_value_given():
    found = options(PAPER)
    assert len({(part, key) for part, key, _ in found}) >= 30
    for part, key, value in found:
        of = Config.model_fields[part].annotation
        assert key in of.model_fields, f"{part}.{key}"
        if value is not None:
            of.model_validate({key: yaml.safe_load(value)})
    architectures = [value for part, key, value in found if (part, key) == ("model", "architecture") and value]
    assert set(architectures) <= set(ARCHITECTURES)


def test_every_preset_and_ladder_named_is_one():
    text = FENCED.sub("", PAPER)
    for word, known in (("presets?", preset_names()), ("architectures?", ARCHITECTURES)):
        lists = re.findall(rf"\b{word} ((?:`[^`]+`(?:, | and )?)+)", text)
        named = {name for each in lists for name in spans(each) if ":" not in name}
        assert named
        assert named <= set(known)
    alike = {span for span in spans(text) if re.fullmatch(r"[a-z]+(-[a-z]+)*-\d+", span)}
    assert alike <= {*preset_names(), *ARCHITECTURES}


def test_the_settings_are_those_of_the_preset():
    config, checked = Config.from_preset("proposed-128"), 0
    for part, key, value in options(section(5)):
        assert value is not None, f"{part}.{key}"
        group = getattr(config, part)
        assert getattr(group, key) == getattr(type(group).model_validate({key: yaml.safe_load(value)}), key), key
        checked += 1
    assert checked >= 20


def test_the_numbers_of_parameters_are_those_of_the_networks():
    checked = 0
    for cells in rows(section(2)):
        if len(cells) != 7 or cells[0] == "architecture":
            continue
        name, *changes = spans(cells[0])
        changed = {key: value for part, key, value in options(cells[0]) if part == "model"}
        assert len(changed) == len(changes)
        latent, *expected = (int(cell.replace(",", "")) for cell in cells[2:])
        found = []
        for width in (64, 96):
            with torch.device("meta"):
                shape = {"classes": 10, "width": width, "init": "normal", "spectral_norm": False}
                architecture = customise(find_architecture(name), **changed)
                networks = (Generator(architecture, **shape), Discriminator(architecture, **shape))
            assert networks[0].latent_dim == latent
            found += [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
        assert found == expected, name
        checked += 1
    assert checked >= 14


def test_every_equation_table_figure_and_reading_has_its_place():
    assert [cells[0] for cells in rows(section(1)) if cells[0].startswith("(")] == [f"({i})" for i in range(1, 14)]
    headings = re.findall(r"^### Tables? (\d)(?: and (\d))?:", section(2), re.MULTILINE)
    assert sorted(int(number) for pair in headings for number in pair if number) == [1, 2, 3, 4, 5, 6]
    assert [cells[0] for cells in rows(section(3)) if cells[0].isdigit()] == [str(i) for i in range(1, 11)]
    letters = [cells[0] for cells in rows(section(4)) if cells[0]]
    assert letters == [chr(ord("A") + i) for i in range(len(letters))]
    cited = re.findall(r"\b[Rr]eadings? ([A-Z])\b(?: (?:and|to) ([A-Z])\b)?", PAPER)
    assert {letter for pair in cited for letter in pair if letter} <= set(letters)


def commands(document: Path) -> list[str]:
    """Calls of the command line in blocks of shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("schurgan ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_block_is_understood(document):
    for line in commands(document):
        name, arguments = cli.command_of(shlex.split(line, comments=True)[1:])
        command = cli.find_command(name, arguments)
        parse(command, name, arguments)  # raises SchurganError for what it does not know; nothing is run


def option_names(call: str) -> set[str]:
    return {option.name for option in read_options(cli.find_command(call, []))}


def test_every_command_in_a_sentence_is_one_and_has_the_options_named():
    for document in DOCUMENTS:
        for span in spans(document.read_text("utf-8")):
            if not re.match(r"schurgan [a-z]", span):
                continue
            calls = [name for name in cli.COMMANDS if name.startswith("prepare ")]  # `schurgan prepare` speaks of all
            if not re.match(r"schurgan prepare(?! [a-z])", span):
                calls = [cli.command_of(span.split()[1:])[0]]
            known = {"--help", "--help-all"}.union(*map(option_names, calls))
            named = {word for word in span.split() if word.startswith("--") and not FLAG.match(word)}
            assert named <= known, span


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_points_to_a_file(document):
    text = re.sub(r"`[^`]*`", "", FENCED.sub("", document.read_text("utf-8")))
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (document.parent / target.partition("#")[0]).exists(), target
