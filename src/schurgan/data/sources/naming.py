"""What names alone tell: the parts of a split, the class in a file's name, and the schemes of public data sets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

_PART = re.compile(
    r"(train(?:ing)?)|(val(?:id(?:ation)?)?|dev(?:elopment)?)|(test(?:ing)?|eval(?:uation)?)"
    r"|(?:fold|split|part)[-_ ]?(\d{1,9})|(\d{1,9})"
)
_TRAIN, _NUMBER, _PLAIN = 1, 4, 5  # groups of it
_NUMBERED = re.compile(r"(.*?)[\s_.#-]*\d+(?:[\s_.:-]*\d+)*")
_COUNTED = re.compile(
    r"(?:[\s_.#(\[-]*(?:(?<![a-z])(?:v|take|copy|no|rr))?[\s_.#(\[-]*\d+[)\]]*|[\s_-]+copy)+$", re.IGNORECASE
)
_GAPS = re.compile(r"[\s_.-]+")


class Folds(NamedTuple):
    """The fold of each file, the numbers of the folds by their names, and those that are held out."""

    of: tuple[int | None, ...]
    numbers: dict[str, int]
    held_out: tuple[int, ...]


def is_part(name: str) -> bool:
    """Whether a folder of this name can be a part of a split: train, validation, test, fold1."""
    match = _PART.fullmatch(name.casefold())
    return match is not None and match.lastindex != _PLAIN


def is_fold(text: str) -> bool:
    """Whether a text names a fold: a plain number, or a part of a split."""
    return bool(_PART.fullmatch(_plain(text)))


def number_folds(parts: Sequence[str | None]) -> Folds:
    """The folds of files by the names of the parts that they are in, or by plain numbers.

    Numbers stay as they are; train, validation and test get the next ones in this order. Validation and test are held
    out; where nothing is called train and nothing has a number, the first of them is trained on.

    Raises:
        ValueError: the first name that is neither.
    """
    words: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for part in sorted({_plain(part) for part in parts if part is not None}):
        match = _PART.fullmatch(part)
        if match is None or match.lastindex is None:
            raise ValueError(part)
        if match.lastindex < _NUMBER:
            words[part] = match.lastindex
        else:
            numbers[part] = int(match[match.lastindex])
    trained_on = [part for part, rank in words.items() if rank == _TRAIN]
    ordered = sorted(words, key=lambda part: (words[part], part))
    first = max(numbers.values(), default=0) + 1
    trained_on = trained_on or ([] if numbers else ordered[:1])
    held_out = tuple(number for number, part in enumerate(ordered, first) if part not in trained_on)
    numbers |= {part: number for number, part in enumerate(ordered, first)}
    return Folds(tuple(None if part is None else numbers[_plain(part)] for part in parts), numbers, held_out)


def _plain(part: str) -> str:
    return part.strip().casefold()


def is_series(names: Collection[str]) -> bool:
    """Whether folders are called as a series is, one beginning and a number or a letter: they are hardly classes."""
    stems = Counter(stem_of(name) for name in names)
    return max(stems.values()) >= 0.8 * len(names) and stems.most_common(1)[0][0] is not None


def stem_of(name: str) -> str | None:
    """What is before the number that ends a name, "" for a number or a single letter, None where no number ends it."""
    match = _NUMBERED.fullmatch(name.casefold())
    return match[1] if match else "" if len(name) == 1 else None


_BEGINNINGS: tuple[Callable[[str], str], ...] = (
    # kick_01, Kick 01, dog(2), snare-3 v2, bark - copy: what is before the numbers that end a name
    lambda stem: _COUNTED.sub("", stem),
    # class5_001: what is before the last number
    lambda stem: re.sub(r"[\s_.#(\[-]*\d+[)\]]*$", "", stem),
    # 01_kick, kick 3 soft: what is between the numbers that begin a name and the next one
    lambda stem: re.split(r"\d", re.sub(r"^[\W\d_]+", "", stem))[0],
    # f0001_0_cough: what is behind the last number and a gap, unless it is a track's, as in ZOOM0001_LR
    lambda stem: stem if re.search(r"\d[\s_.-]+[^\W\d_]{1,2}\d*$", stem) else re.split(r"\d[\s_.-]+", stem)[-1],
)


def beginnings(stems: Sequence[str]) -> tuple[str | None, ...]:
    """A class for each name of a file without its ending: the words in it that no number counts.

    Numbers are taken off the end; where that leaves no classes worth the name, what lies between the numbers is tried.
    None: a name has no such words. Names that differ in case, gaps and dashes alone are one class.
    """
    tried = [merged([_words(cut(stem)) for stem in stems]) for cut in _BEGINNINGS]
    return next(filter(are_classes, tried), tried[0])


def nth_words(labels: Sequence[str | None], nth: int) -> tuple[str | None, ...]:
    """The first (0), second (1), … word of each label, None where it has fewer."""
    words = [_GAPS.split(label) if label else [] for label in labels]
    return merged([each[nth] if len(each) > nth else None for each in words])


def _words(text: str) -> str | None:
    text = text.strip(" _.-#()[]+,~")
    return text if re.search(r"[^\W\d_]{2}", text) and not re.search(r"\d{4}", text) else None


def merged(labels: Sequence[str | None]) -> tuple[str | None, ...]:
    """The labels with those made one that differ in case, gaps and dashes alone: the most frequent is written."""
    counts = Counter(label for label in labels if label is not None)
    chosen: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        chosen.setdefault(_GAPS.sub(" ", label.casefold()), label)
    return tuple(None if label is None else chosen[_GAPS.sub(" ", label.casefold())] for label in labels)


def are_classes(labels: Sequence[str | None]) -> bool:
    """Whether labels found in names look like classes: two or more, of nearly all files, few of them of one file."""
    counts = Counter(label for label in labels if label is not None)
    alone = sum(count == 1 for count in counts.values())
    return (
        len(counts) > 1
        and counts.total() >= 0.9 * len(labels)
        and alone <= 0.25 * len(labels)
        and (2 * len(counts) <= len(labels))
    )


class Scheme(NamedTuple):
    """How a data set names its files: a pattern with the groups `recording`, `number` of the class and maybe `fold`."""

    title: str
    pattern: re.Pattern[str]
    classes: tuple[str, ...]

    def read(self, name: str) -> tuple[str | None, str | None]:
        """Class and fold in a file's name; None, None for a name of another kind."""
        match = self.pattern.fullmatch(name)
        if match is None or int(match["number"]) >= len(self.classes):
            return None, None
        return self.classes[int(match["number"])], match.groupdict().get("fold")

    def recording(self, name: str) -> str | None:
        """The recording that a file was cut from, by its name."""
        match = self.pattern.fullmatch(name)
        return match["recording"] if match else None


SCHEMES = {
    "urbansound8k": Scheme(
        "UrbanSound8K",
        re.compile(r"(?P<recording>\d+)-(?P<number>\d)-\d+-\d+"),
        (
            *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
            *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
        ),
    ),
    "esc50": Scheme(
        "ESC-50",
        re.compile(r"(?P<fold>[1-5])-(?P<recording>\d+)-[A-Z]-(?P<number>\d\d?)"),
        (
            *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
            *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
            *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
            *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
            *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
            *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
            *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
            *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
            *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
        ),
    ),
}
ESC10 = (
    *("dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby"),
    *("sneezing", "clock_tick", "helicopter", "chainsaw"),
)
"""The classes of ESC-50's subset of ten."""
