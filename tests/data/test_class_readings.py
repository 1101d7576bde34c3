"""What the classes of a list of paths can be, which reading is evident, and what has to be asked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schurgan.core.errors import SchurganError
from schurgan.data.sources.naming import SCHEMES, number_folds
from schurgan.data.sources.readings import NAMES, read, readings


def paths(form: str, *choices: Iterable[object]) -> list[str]:
    return [form.format(*each) for each in product(*choices)]


DRUMS, PETS, TEN = ("bd", "sd", "hh"), ("cat", "dog"), range(10)

EVIDENT = {
    "a folder a class": (paths("{}/{}.wav", PETS, TEN), "top", PETS),
    "one class": (paths("dog/{}.wav", TEN), "top", ("dog",)),
    "classes of sessions": (paths("{}/session{}/{}.wav", PETS, (1, 2), TEN), "top", PETS),
    "classes of days": (paths("{}/2024-05-{:02}/{}.wav", PETS, (1, 2), TEN), "top", PETS),
    "one class of sessions": (paths("dog/session{}/{}.wav", (1, 2), TEN), "top", ("dog",)),
    "classes of individuals": ([*paths("dog/{}/{}.wav", ("rex", "fido"), TEN), "cat/tom/1.wav"], "top", PETS),
    "classes that all have a folder raw": (paths("{}/raw/{}.wav", PETS, TEN), "top", PETS),
    "classes of two cameras": (paths("{}/{}_{}.jpg", PETS, ("IMG", "DSC"), TEN), "top", PETS),
    "classes with a few odds and ends": (
        [*paths("{}/{}.wav", PETS, TEN), *paths("{}/misc/1.wav", PETS), "loose.wav"],
        "top",
        PETS,
    ),
    "a folder around the classes": (paths("My Kit/{}/{}.wav", DRUMS, TEN), "top", ("bd", "hh", "sd")),
    "digits": (paths("{}/{}_{}.wav", TEN, ("george", "lucas"), TEN), "top", tuple(map(str, TEN))),
    "a locomotive": (paths("{}/{}.wav", ("train", "horn"), TEN), "top", ("horn", "train")),
    "kick_01, snare-3, hat7": (
        [*paths("kick_{:02}.wav", TEN), *paths("snare-{}.wav", TEN), *paths("hat{}.wav", TEN)],
        "name",
        ("hat", "kick", "snare"),
    ),
    "Kick 01, kick 02": (["Kick 01.wav", "Kick 3.wav", "kick_2.wav", "Hat1.wav", "Hat2.wav"], "name", ("Hat", "Kick")),
    "dog(2)": (["dog.wav", *paths("dog({}).wav", TEN), *paths("cat ({}).wav", TEN)], "name", PETS),
    "01_kick": ([f"{i:02}_{DRUMS[i % 3]}.wav" for i in range(24)], "name", ("bd", "hh", "sd")),
    "class5_001": (paths("class{}_{:03}.wav", "12", TEN), "name", ("class1", "class2")),
    "kick 3 soft": (paths("{} {} {}.wav", DRUMS, TEN, "AB"), "name", ("bd", "hh", "sd")),
    "f0001_0_cough": (paths("f{:04}_0_{}.wav", TEN, ("cough", "sigh")), "name", ("cough", "sigh")),
    "first words": (
        ["kick soft.wav", "kick dry.wav", "kick old.wav", "hat wet.wav", "hat big.wav", "hat new.wav"],
        "word",
        ("hat", "kick"),
    ),
    "a folder of the root's name around names": (paths("clips/{}_{}.wav", DRUMS, TEN), "name", ("bd", "hh", "sd")),
    "UrbanSound8K sorted into classes": (paths("{}/{}-3-0-{}.wav", PETS, range(100, 105), (0, 1)), "top", PETS),
}  # fmt: skip


@pytest.mark.parametrize("layout", EVIDENT)
def test_what_is_evident_is_taken(layout):
    files, name, classes = EVIDENT[layout]
    found = readings(files, "clips")
    assert found.evident is not None
    assert found.evident.name == name
    assert tuple(found.evident.counts) == classes
    assert not found.evident.folds.numbers


SPLIT = {
    "above": (paths("{}/{}/{}.wav", ("train", "val", "test"), PETS, TEN), {"train": 1, "val": 2, "test": 3}, (2, 3)),
    "below": (paths("{}/{}/{}.wav", PETS, ("Testing", "Training"), TEN), {"training": 1, "testing": 2}, (2,)),
    "dev and eval": (paths("{}/{}/{}.wav", ("dev", "eval"), PETS, TEN), {"dev": 1, "eval": 2}, (2,)),
    "numbers": (paths("fold{}/{}/{}.wav", (1, 3, 10), PETS, TEN), {"fold1": 1, "fold3": 3, "fold10": 10}, ()),
    "numbers and a test": (
        paths("{}/{}/{}.wav", ("fold1", "fold2", "test"), PETS, TEN),
        {"fold1": 1, "fold2": 2, "test": 3},
        (3,),
    ),
    "of names": (paths("{}/{}_{}.wav", ("train", "test"), PETS, TEN), {"train": 1, "test": 2}, (2,)),
}


@pytest.mark.parametrize("layout", SPLIT)
def test_parts_of_a_split_are_folds_and_no_classes(layout):
    files, numbers, held_out = SPLIT[layout]
    evident = readings(files, "clips").evident
    assert evident is not None
    assert tuple(evident.counts) == PETS
    assert evident.folds.numbers == numbers
    assert evident.folds.held_out == held_out
    for path, fold in zip(evident.paths, evident.folds.of, strict=True):
        assert numbers[next(part for part in path.lower().split("/") if part in numbers)] == fold


ASKED = {
    "packs": (paths("pack{}/{}/{}.wav", (1, 2), DRUMS, TEN), ["top", "leaf"]),
    "packs whose folders are written in other ways": (
        ["A/Kicks/1.wav", "A/Open Hats/1.wav", "B/kicks/2.wav", "B/open_hats/2.wav"],
        ["top", "leaf"],
    ),
    "packs with unlike folders": (["pack1/kicks/1.wav", "pack1/hats/1.wav", "pack2/snares/2.wav"], ["top", "leaf"]),
    "packs of makers": (paths("{}/{}/{}/{}.wav", "AB", ("x", "yy"), DRUMS, TEN), ["top", "leaf", "second"]),
    "packs of round robins": (paths("{}/{}/rr{}/{}.wav", "AB", DRUMS, (1, 2), TEN), ["top", "second"]),
    "speakers and words": (paths("{}/{}/{}.wav", ("ann", "bob"), ("yes", "no"), TEN), ["top", "leaf"]),
    "kits of names": (paths("kit{}/{}_{}.wav", (1, 2), DRUMS, TEN), ["top", "name"]),
    "one folder of names": (paths("samples/{}_{}.wav", DRUMS, TEN), ["top", "name"]),
    "digits and speakers": (paths("{}_{}_{}.wav", TEN, ("george", "lucas"), TEN), ["name", "word", "word2"]),
    "mostly outside": ([*paths("{}_{}.wav", PETS, TEN), "old/a.wav"], ["name", "top", "none"]),
    "a recordist": (paths("2023-05-{:02}_{:02}0000.wav", range(1, 11), range(6, 12)), ["none"]),
    "a recorder": (paths("ZOOM{:04}.WAV", TEN), ["none"]),
    "a recorder's tracks": (paths("ZOOM{:04}_{}.WAV", TEN, ("LR", "Tr1", "Tr2")), ["none"]),
    "hashes": ([f"{i * 7919 % 1000003:08x}{i * 104729:08x}.wav" for i in range(1, 60)], ["none"]),
}


@pytest.mark.parametrize("layout", ASKED)
def test_what_is_not_evident_is_asked(layout):
    files, names = ASKED[layout]
    found = readings(files, "clips")
    assert found.evident is None
    assert [each.name for each in found.plausible] == names


def test_classes_that_differ_in_case_and_gaps_are_one():
    found = read(ASKED["packs whose folders are written in other ways"][0], "leaf", "clips")
    assert found.counts == {"Kicks": 2, "Open Hats": 2}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("folder", ["", "audio/", "data/audio/"])
def test_the_names_of_public_data_sets_tell_class_and_fold(name, folder):
    scheme = SCHEMES[name]
    form = {"urbansound8k": folder + "fold{1}/{2}-{0}-0-1.wav", "esc50": folder + "{1}-{2}-A-{0}.wav"}[name]
    files = paths(form, range(len(scheme.classes)), (1, 2, 5), (1001, 1002))
    evident = readings(files, "clips").evident
    assert evident is not None
    assert evident.name == name
    assert evident.counts == dict.fromkeys(sorted(scheme.classes), 6)
    assert sorted(set(evident.folds.of)) == [1, 2, 5]
    flat = readings([path.rpartition("/")[2] for path in files], "clips").evident
    assert flat is not None
    assert flat.labels == evident.labels


def test_a_pattern_finds_class_and_fold_and_leaves_out_what_it_does_not_find():
    files = ["a/take-dog-1.wav", "b/take-cat-2.wav", "b/silence.wav"]
    found = read(files, r"take-(?P<class>[a-z]+)-(?P<fold>\d)", "clips")
    assert found.labels == ("dog", "cat", None)
    assert found.folds.of == (1, 2, None)
    assert read(files, r"/([^/.-]+)[-.]", "clips").labels == ("take", "take", "silence")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("(", "not a regular expression"), ("laef", 'did you mean "leaf"'), ("a+", "a pattern with a group"),
     ("(dog)", "finds no class in 1 paths such as a/cat.wav"), ("(?P<fold>a)/(?P<class>c)", 'group fold finds "a"')],
)  # fmt: skip
def test_a_pattern_that_does_not_do_is_told(pattern, told):
    with pytest.raises(SchurganError, match="class_from") as caught:
        read(["a/cat.wav"], pattern, "clips")
    assert told in str(caught.value)


NAME = st.sampled_from(["dog", "cat", "train", "test", "fold1", "pack 2", "1", "01_kick", "é", "kick (3)", "A"])
PATHS = st.lists(st.lists(NAME, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12, unique=True)


@given(PATHS, st.randoms())
def test_every_reading_is_one_of_the_files_and_not_of_their_order(files, chance):
    files = [f"{path}.wav" for path in files]
    shuffled = files.copy()
    chance.shuffle(shuffled)
    for name in NAMES:
        one, other = read(files, name, "clips"), read(shuffled, name, "clips")
        assert len(one.labels) == len(one.folds.of) == len(files)
        assert one.counts == other.counts
        assert dict(zip(files, one.folds.of, strict=True)) == dict(zip(shuffled, other.folds.of, strict=True))
    found, again = readings(files, "clips"), readings(shuffled, "clips")
    assert [each.name for each in found.plausible] == [each.name for each in again.plausible]
    assert (found.evident is None) == (again.evident is None)
    assert found.plausible
    assert all(each.counts for each in found.plausible)


@given(st.lists(st.sampled_from(["train", "Valid", "dev", "test", "fold3", "part 2", "7", None])))
def test_something_is_always_left_to_train_on(parts):
    folds = number_folds(parts)
    assert len(folds.of) == len(parts)
    assert set(folds.held_out) <= set(folds.numbers.values())
    assert not folds.numbers or set(folds.numbers.values()) - set(folds.held_out)
