"""Every command given every wrong kind of place: the sentence says what it is, and what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schurgan.runs.config import Config

COMMANDS = {
    "status": "run",
    "resume": "run",
    "report": "run",
    "animate": "run",
    "evaluate": "run",
    "sweep": "run",
    "compare PLACE": "run",
    "sample": "model",
    "export --out NEW.pt2": "model",
    "train --out NEW --data": "data",
    "data verify": "data",
    "data export --out NEW": "data",
    "prepare folder --out NEW": "recordings",
}
TRAIN, PREPARE = "`schurgan train --data PLACE --out runs/", "`schurgan prepare folder PLACE --out data/clips`"
GIVE = {"run": "give HERE/run", "model": "give HERE/run", "data": "its data is /elsewhere"}
ALL = ("run", "model", "data", "recordings")
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "run": ("a run", {"data": "its data is /elsewhere", "recordings": "`schurgan resume PLACE`"}),
    "run/samples": ("a part of the run HERE/run", GIVE),
    "run/checkpoints": ("a part of the run HERE/run", GIVE),
    "run/metrics.jsonl": ("a part of the run HERE/run", GIVE),
    "set": ("prepared data", {"run": TRAIN, "model": TRAIN, "recordings": TRAIN}),
    "set/images-00000.npy": ("a file of the prepared data HERE/set", {"data": "give HERE/set"}),
    "half": ("prepared data that is not finished", dict.fromkeys(ALL, "`schurgan prepare`")),
    "clips": ("recordings that are not prepared yet", {"run": PREPARE, "model": PREPARE, "data": PREPARE}),
    "study": ("a study", dict.fromkeys(ALL, "HERE/study/trials/one")),
    "runs": ("a folder of runs", {"run": "such as HERE/runs/one", "model": "such as HERE/runs/one"}),
    "sets": (
        "a folder of prepared data",
        {"data": "such as HERE/sets/one", "run": "`schurgan train --data HERE/sets/one"},
    ),
    ".": ("a folder of runs and prepared data", {"run": "such as HERE/run", "data": "such as HERE/set"}),
    "sent.safetensors": ("the file of a generator", {"run": "`schurgan sample PLACE`"}),
    "sent.onnx": ("a generator for other programs", {"model": "give the run"}),
    "empty": ("an empty folder", {}),
    "notes.txt": ("a file", {}),
    "clisp": ("no such file or folder", dict.fromkeys(ALL, 'did you mean "HERE/clips"?')),
}
RIGHT = {
    (".", "recordings"),
    ("run", "run"),
    ("run", "model"),
    ("sent.safetensors", "model"),
    ("set", "data"),
    ("clips", "recordings"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one place of each kind, of files that nothing has to read."""
    here = tmp_path_factory.mktemp("here")
    for name in ("run/samples", "run/checkpoints", "study/trials/one", "runs/one", "runs/two", "empty"):
        (here / name).mkdir(parents=True)
    for name in ("set", "sets/one", "half", "clips/bell"):
        (here / name).mkdir(parents=True)
    for name in ("run", "study/trials/one", "runs/one", "runs/two"):
        Config(data=Path("/elsewhere")).save(here / name / "config.yaml")
    for name in ("run/metrics.jsonl", "clips/bell/1.wav", "set/images-00000.npy", "sent.safetensors", "sent.onnx"):
        (here / name).touch()
    for name in ("set/manifest.json", "sets/one/manifest.json", "half/unfinished.json", "notes.txt"):
        (here / name).write_text("{}")
    return here


@pytest.mark.parametrize(
    ("command", "place"),
    [(command, place) for command, needed in COMMANDS.items() for place in PLACES if (place, needed) not in RIGHT],
)
def test_a_place_of_another_kind_is_named_with_what_to_type_and_left_alone(
    refused: Callable[..., str], here: Path, tmp_path: Path, command: str, place: str
):
    needed, (what, hints) = COMMANDS[command], PLACES[place]
    before = sorted(here.rglob("*"))
    words = command.replace("NEW", str(tmp_path / "new")).replace("PLACE", str(here / place)).split(" ")
    said = refused(*words, here / place)
    assert said.startswith(f"{here / place}: {what}".replace("HERE", str(here)))
    assert hints.get(needed, "; ").replace("PLACE", str(here / place)).replace("HERE", str(here)) in said
    assert sorted(here.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_a_folder_of_recordings_that_holds_prepared_data_too_can_be_prepared_again(call, recordings, tmp_path):
    quick = ("--size", 16, "--seconds", 0.5, "--workers", 1)
    (tmp_path / "clips").symlink_to(recordings)
    assert call("prepare", "folder", tmp_path / "clips", "--out", tmp_path / "both", *quick).status == 0
    (tmp_path / "both" / "bell").symlink_to(recordings / "bell")
    (tmp_path / "both" / "config.yaml").write_text("of another program")
    assert call("prepare", "folder", tmp_path / "both", "--out", tmp_path / "new", *quick).status == 0


def test_neither_prepare_nor_train_mixes_a_run_with_prepared_data(refused, here, recordings):
    before = sorted(here.rglob("*"))
    assert refused("prepare", "folder", recordings, "--out", here / "run").startswith(f"{here / 'run'}: a run")
    said = refused("train", "--data", here / "sets" / "one", "--out", here / "set")
    assert said.startswith(f"{here / 'set'}: prepared data")
    assert said.endswith("`--out`")
    assert sorted(here.rglob("*")) == before
