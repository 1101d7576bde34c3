"""What the classes of a folder can be: readings of a list of paths by their folders, their names, or a pattern.

Pure functions of the paths, which are relative to the folder and have '/' between their parts. Nothing is opened.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.data.sources.naming import (
    SCHEMES,
    Folds,
    are_classes,
    beginnings,
    is_part,
    is_series,
    merged,
    nth_words,
    number_folds,
    stem_of,
)

NAMES = {
    "top": "top folders",
    "second": "second folders",
    "leaf": "innermost folders",
    "name": "names of the files without their numbers",
    "word": "first words of the files' names",
    "word2": "second words of the files' names",
    **{name: f"names of the files as {scheme.title} has them" for name, scheme in SCHEMES.items()},
    "none": "all one class",
}
"""The readings that have a name, and what they take for classes. Anything else is a pattern."""

Folders = list[tuple[str, ...]]
Labels = tuple[str | None, ...]


@dataclass(frozen=True)
class Reading:
    """One way to read the classes.

    Attributes:
        name: what `class_from` takes for it.
        what: what is taken for classes, in words.
        paths: the files.
        labels: the class of each, None where it has none.
        folds: the fold of each, and which are held out.
        no_class: why a file has no class.
    """

    name: str
    what: str
    paths: tuple[str, ...]
    labels: Labels
    folds: Folds
    no_class: str = "lies outside the class folders"

    @cached_property
    def counts(self) -> dict[str, int]:
        """Files of each class, in the order of names."""
        return dict(sorted(Counter(label for label in self.labels if label is not None).items()))

    @property
    def recordings(self) -> list[str | None]:
        """The recording that each file was cut from, where the files are named as a public data set names them."""
        scheme = SCHEMES.get(self.name)
        return [scheme and scheme.recording(PurePosixPath(path).stem) for path in self.paths]

    @property
    def example(self) -> str:
        """A path and its class."""
        used = [(path, label) for path, label in zip(self.paths, self.labels, strict=True) if label is not None]
        return "{} is {}".format(*used[len(used) // 2]) if used else ""

    def said(self, most: int = 8) -> str:
        """The classes with their counts, what they are, and the folds, in a few words."""
        counted = [f"{name} {count}" for name, count in self.counts.items()]
        more = f", … and {len(counted) - most} more" if len(counted) > most else ""
        text = f"{', '.join(counted[:most])}{more} ({self.what})"
        in_fold = Counter(fold for fold, label in zip(self.folds.of, self.labels, strict=True) if label is not None)
        numbers = sorted(self.folds.numbers.items(), key=lambda each: each[1])
        used = [(f"fold {part}" if part.isdecimal() else part, number) for part, number in numbers if in_fold[number]]
        if used:
            held = [part for part, number in used if number in self.folds.held_out]
            text += f"; folds: {', '.join(f'{part}: {in_fold[number]}' for part, number in used)}"
            text += f"; held out: {', '.join(held)}" * bool(held)
        return text


class Readings(NamedTuple):
    """The evident reading of a folder, or None and those to choose from; and one that is worth a word beside it."""

    evident: Reading | None
    plausible: tuple[Reading, ...]
    beside: Reading | None = None


def read(paths: Sequence[str], class_from: str, root: str) -> Reading:
    """The reading of this name, or by this pattern.

    Args:
        paths: the files, relative to the folder.
        class_from: one of `NAMES`, or a regular expression that is searched in each path: its group `class`, else its
            first, is the class, and its group `fold`, if there is one, the fold.
        root: name of the folder.

    Raises:
        SchurganError: there is no such reading, or the pattern is none, has no group, or finds nothing.
    """
    return _Paths(tuple(paths), root).read(class_from)


def readings(paths: Sequence[str], root: str) -> Readings:
    """What the classes of these paths, in a folder called `root`, can be, and which reading is evident.

    Top folders are, unless folders of one name lie in several of them, or they are numbered, or there is but one. Then
    the folders inside may be the classes as well, and nothing is evident. Where all files lie side by side their names
    are, if they have words that repeat; if a second word repeats across the first ones, either may be meant.
    """
    return _Paths(tuple(paths), root).choose()


class _Paths:
    """Paths whose levels of folders are told apart: parts of a split, folders around everything, and the others."""

    def __init__(self, paths: tuple[str, ...], root: str) -> None:
        self.paths, self.root = paths, root
        parts = [PurePosixPath(path) for path in paths]
        self.stems = [part.stem for part in parts]
        folders = [part.parts[:-1] for part in parts]
        splits = _split_levels(folders)
        self.folds = number_folds([f[splits[0]] if splits and f else None for f in folders])
        folders = [tuple(name for level, name in enumerate(f) if level not in splits) for f in folders]
        around = _levels_around(folders, root)
        self.folders = [f[around:] for f in folders]

    def read(self, name: str) -> Reading:
        if name in SCHEMES:
            return self._scheme(name)
        nth = {"word": 0, "word2": 1}
        match name:
            case "top":
                return self._of(name, [f[0] if f else None for f in self.folders])
            case "second":
                return self._of(name, merged([f[min(1, len(f) - 1)] if f else None for f in self.folders]))
            case "leaf":
                return self._of(name, merged([f[-1] if f else None for f in self.folders]))
            case "name":
                return self._of(name, self.beginnings, "has a name without words")
            case "word" | "word2":
                return self._of(name, nth_words(self.beginnings, nth[name]), "has a name of fewer words")
            case "none":
                return self._of(name, [self.root] * len(self.paths))
        return self._pattern(name)

    @cached_property
    def beginnings(self) -> Labels:
        return beginnings(self.stems)

    def _of(self, name: str, labels: Sequence[str | None], *no_class: str) -> Reading:
        normal = tuple(label and unicodedata.normalize("NFC", label) for label in labels)
        return Reading(name, NAMES.get(name, "by the pattern"), self.paths, normal, self.folds, *no_class)

    def _scheme(self, name: str) -> Reading:
        scheme = SCHEMES[name]
        found = [scheme.read(stem) for stem in self.stems]
        folds = self.folds if self.folds.numbers else number_folds([fold for _, fold in found])
        no_class = f"is not named as {scheme.title} names its files"
        return replace(self._of(name, [label for label, _ in found], no_class), folds=folds)

    def _pattern(self, text: str) -> Reading:
        given = f'class_from: "{text}" given'
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise SchurganError(f"{given}, not a regular expression ({error})") from None
        if not pattern.groups:
            near = did_you_mean(text, NAMES) or f"; {', '.join(NAMES)} would do"
            raise SchurganError(f'{given}, no such reading{near}, or a pattern with a group, such as "([^/]+)/"')
        group = "class" if "class" in pattern.groupindex else 1
        found = [pattern.search(path) for path in self.paths]
        labels = [((match[group] or "").strip() or None) if match else None for match in found]
        if not any(labels):
            raise SchurganError(f"{given}, which finds no class in {len(found)} paths such as {self.paths[0]}")
        reading = self._of(text, labels, "has no class by the pattern")
        if "fold" not in pattern.groupindex:
            return reading
        try:
            return replace(reading, folds=number_folds([match["fold"] if match else None for match in found]))
        except ValueError as error:
            needed = "a number, or train, val or test is needed"
            raise SchurganError(f'{given}, its group fold finds "{error}", {needed}') from None

    def choose(self) -> Readings:
        loose = sum(not f for f in self.folders)
        by_name = self._by_names()
        if loose == len(self.paths):
            return by_name
        names = tuple(each for each in by_name.plausible if each.name != "none")
        top = self.read("top")
        if 2 * loose > len(self.paths):
            return Readings(None, (*names, top, self.read("none")))
        numbered = is_series(top.counts) and any(stem_of(name) for name in top.counts)
        inner = [each for each in (self.read("leaf"), self.read("second")) if _differs(each, top)]
        classes = [each for each in inner if not is_series(each.counts)]
        if classes and (len(top.counts) == 1 or numbered or _crosses(classes[0], top)):
            distinct = [each for each in classes if each is classes[0] or each.labels != classes[0].labels]
            return Readings(None, (top, *distinct))
        if names and names[0].name in SCHEMES:
            if len(top.counts) == 1:
                return Readings(names[0], (names[0],))
            if len(names[0].counts) > 1 and _crosses(names[0], top):
                return Readings(None, (top, names[0]))
        elif names and (len(top.counts) == 1 or (numbered and _crosses(names[0], top))):
            return Readings(None, (top, *names))
        return Readings(top, (top,), self._beside(top, inner, classes))

    def _beside(self, top: Reading, inner: list[Reading], classes: list[Reading]) -> Reading | None:
        """The inner folders, where most files lie in some and a class each is not out of the question."""
        if 2 * sum(len(f) > 1 for f in self.folders) < len(self.folders):
            return None
        alone = len(top.counts) == 1
        digits = [each for each in inner if alone or (_crosses(each, top) and all(map(str.isdecimal, each.counts)))]
        return next(iter(classes or digits), None)

    def _by_names(self) -> Readings:
        """Readings of the names of files, or one class of all."""
        for scheme in SCHEMES:
            reading = self._scheme(scheme)
            if sum(label is not None for label in reading.labels) >= 0.95 * len(self.paths):
                return Readings(reading, (reading,))
        name, word, word2 = self.read("name"), self.read("word"), self.read("word2")
        if are_classes(word.labels) and are_classes(word2.labels) and _crosses(word2, word):
            return Readings(None, (*([name] if are_classes(name.labels) else []), word, word2))
        if are_classes(name.labels):
            other = are_classes(word.labels) and len(word.counts) < len(name.counts)
            return Readings(name, (name,), word if other else None)
        if are_classes(word.labels) and not any(label.isdecimal() for label in word.counts):
            return Readings(word, (word,))
        return Readings(None, (self.read("none"),))


def _split_levels(folders: Folders) -> list[int]:
    """The levels of folders all of which are parts of a split; that of train and test before one of numbers."""
    deep = [f for f in folders if f]
    levels = []
    for level in range(min(map(len, deep), default=0)):
        names = {f[level] for f in deep}
        further = all(len(f) > level + 1 for f in deep)
        if all(map(is_part, names)) and (len(names) > 1 or further or any(map(stem_of, names))):
            levels.append(level)
    return sorted(levels, key=lambda level: any(map(stem_of, {f[level] for f in deep})))


def _levels_around(folders: Folders, root: str) -> int:
    """How many folders are around all the others: one alone at its level, and none of a series in it."""
    deep = [f for f in folders if f]
    level = 0
    while deep and len({f[level] for f in deep}) == 1:
        further = [f for f in deep if len(f) > level + 1]
        if len(further) < 0.9 * len(deep):
            return int(deep[0][0].casefold() == root.casefold())
        deep, level = further, level + 1
    return level if deep and level and not is_series({f[level] for f in deep}) else 0


def _differs(inner: Reading, outer: Reading) -> bool:
    """Whether the inner classes are several, and not the outer ones under other names."""
    pairs = {(one, other) for one, other in zip(inner.labels, outer.labels, strict=True) if one and other}
    return len(inner.counts) > 1 and not len(pairs) == len(inner.counts) == len(outer.counts)


def _crosses(inner: Reading, outer: Reading) -> bool:
    """Whether half of the files are in an inner class that several outer ones have."""
    across = defaultdict[str, set[str]](set)
    both = [(one, other) for one, other in zip(inner.labels, outer.labels, strict=True) if one and other]
    for one, other in both:
        across[one].add(other)
    return 2 * sum(len(across[one]) > 1 for one, _ in both) >= len(both)
