"""The folder of a run, in which every file has its name here and nowhere else; and what another place is instead.

A user who names a wrong place reads what it is, what is needed and what to type: `wrong_place(path, "run")`.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from schurgan.core.documents import read_bytes
from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.core.files import open_regular
from schurgan.core.suffixes import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from schurgan.runs.config import Config
from schurgan.runs.records import Records, read_records

MANIFEST = "manifest.json"
"""Of prepared data; `UNFINISHED` has its place until it is whole."""
UNFINISHED = "unfinished.json"
_USED_BY = "used-by.txt"
"""In the folder of prepared data: the folders of the runs that learn from it, a line each."""
Needed = Literal["run", "data", "model", "recordings"]

_NEEDED: dict[Needed, tuple[str, str]] = {
    "run": ("a run", "`schurgan train` makes one"),
    "data": ("prepared data", "`schurgan prepare` makes it"),
    "model": ("a run or its generator.safetensors", "`schurgan train` makes one"),
    "recordings": ("recordings", "one folder of files for each class is needed"),
}
_LOOKED_AT = 1000  # entries of a folder, which is enough to know what it holds
_STEP = re.compile(r"step-(\d{8,})(?:-a([1-9]\d*))?")


class StepFile(NamedTuple):
    """A file of one step. They sort in the order in which the run wrote them."""

    attempt: int  # rollbacks before it
    step: int
    path: Path


class RunFolder:
    """The paths of a run's files, whether or not they exist yet, and readers that need no torch."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.data = self.path / "data"  # shards of a source that was given to `schurgan.train` as it is
        self.config = self.path / "config.yaml"  # every option, as `Config.save` writes it
        self.metrics = self.path / "metrics.jsonl"  # means, evaluations of health and events, a JSON object a line
        self.checkpoints = self.path / "checkpoints"  # folder of the states from which the run can go on
        self.generator = self.path / "generator.safetensors"  # the newest generator, all that sampling needs
        self.samples = self.path / "samples"  # folder of images and sounds of fixed latents, made while the run trains
        self.sounds = self.path / "sounds"  # folder of the sounds that `schurgan sample` makes
        self.tensorboard = self.path / "tensorboard"  # folder of TensorBoard's files, one folder in it for each attempt
        self.scores = self.path / "scores.json"  # what `schurgan evaluate` measured
        self.evaluation = self.path / "evaluation"  # folder of tables and figures
        self.nearest = self.evaluation / "nearest.png"  # generated images beside the real ones nearest to them
        self.sweep = self.evaluation / "sweep.json"  # scores over truncations; sweep.md, .png and .svg show them
        self.report = self.path / "report.html"  # the page that `schurgan report` writes
        self.classifier = self.path / "classifier.json"  # what the report's classifier takes the generated sounds for
        self.go = self.path / "go.json"  # what `schurgan go` made it of
        self.animation = self.path / "samples.gif"  # the film that `schurgan animate` makes
        self.outcome = self.path / "outcome.json"  # what became of the run as a trial of a study
        self.log = self.path / "trial.log"  # what the process of a trial printed

    def checkpoint(self, step: int, attempt: int = 0) -> Path:
        """The state after `step` steps, `attempt` rollbacks into the run."""
        return self.checkpoints / f"{_name(step, attempt)}.pt"

    def checkpoint_files(self, suffix: str = ".pt") -> list[StepFile]:
        """The states that there are, oldest first, damaged ones too; ".json" gives their sidecars."""
        return _step_files(self.checkpoints, suffix)

    def grid(self, step: int, attempt: int = 0) -> Path:
        """The grid of sample images of a step; the sounds are in the folder of that name without its suffix."""
        return self.samples / f"{_name(step, attempt)}.png"

    def grids(self) -> list[StepFile]:
        """The grids that there are, oldest first."""
        return _step_files(self.samples, ".png")

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.config.is_file() or self.begun()

    def begun(self) -> bool:
        """Whether it holds what a run alone writes, where a config.yaml may be of any other program."""
        return self.metrics.is_file() or self.generator.is_file() or self.checkpoints.is_dir()

    def holds(self, path: Path) -> bool:
        """Whether `path` is one of the files and folders of a run in this folder, or in one of them."""
        return any(path.is_relative_to(own) for name, own in vars(self).items() if name != "path")

    def require(self) -> None:
        """Raise SchurganError unless the folder holds a run."""
        if not self.exists():
            raise wrong_place(self.path, "run")

    def read_config(self) -> Config:
        """The options of the run.

        Raises:
            SchurganError: this is no run, or the file is damaged or of another version.
        """
        self.require()
        return Config.load(self.config)

    def read_records(self) -> Records:
        """The lines of metrics.jsonl, also while the run writes it; no lines where there is no file."""
        return read_records(self.metrics)


def _name(step: int, attempt: int) -> str:
    return f"step-{step:08d}" + (f"-a{attempt}" if attempt else "")


def _step_files(folder: Path, suffix: str) -> list[StepFile]:
    names = ((path, _STEP.fullmatch(path.stem)) for path in folder.glob(f"step-*{suffix}"))
    return sorted(StepFile(int(name[2] or 0), int(name[1]), path) for path, name in names if name)


def note_use(data: Path, run: Path) -> None:
    """Let a folder of prepared data know of a run that learns from it; one that cannot be written does without."""
    if data.resolve().is_relative_to(run.resolve()):  # its own, which goes where it goes
        return
    line = f"{run.absolute()}\n"
    with suppress(OSError), open_regular(data / _USED_BY, "a+", encoding="utf-8", errors="surrogateescape") as file:
        file.seek(0)
        if line not in file:
            file.write(line)


def users(data: Path) -> list[Path]:
    """The runs that still learn from a folder of prepared data, as `note_use` was told of them."""
    found = list[Path]()
    with suppress(OSError):
        lines = read_bytes(data / _USED_BY).decode("utf-8", "surrogateescape").splitlines()
        for run in map(RunFolder, filter(None, lines)):
            with suppress(OSError, SchurganError, ValueError):
                source = run.read_config().data
                if source is not None and source.samefile(data):
                    found.append(from_here(run.path))
    return found


def from_here(path: Path) -> Path:
    """A path as one would type it, where it is below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def forget_users(data: Path) -> None:
    """What they learned from is about to be replaced."""
    (data / _USED_BY).unlink(missing_ok=True)


def wrong_place(path: str | Path, needed: Needed, otherwise: str = "") -> SchurganError:
    """The error to raise for a folder or file that is not what is needed: what it is, and what to type.

    `otherwise` is what to say where the place itself tells nothing.
    """
    path = from_here(Path(path))
    thing, usual = _NEEDED[needed]
    usual = otherwise or usual
    if not os.path.lexists(path):
        first = next(each for each in (*reversed(path.parents), path) if not each.exists())
        near = did_you_mean(first.name, (each.name for each in _entries(first.parent)))
        near = near.replace('"', f'"{first.parent}/', 1) if first.parent.name else near
        return SchurganError(f"{path}: no such file or folder{near or f'; {usual}'}")
    what, hints = _recognise(path)
    other = "" if thing in what else f", not {thing}"
    return SchurganError(f"{path}: {what}{other}; {hints.get(needed, usual)}")


def check_recordings(path: Path, otherwise: str) -> None:
    """Raise SchurganError for a folder that this program made, unless somebody's recordings are in it too."""
    if not path.is_dir() or not os.listdir(path):
        raise wrong_place(path, "recordings", otherwise)
    inside = any(each.is_dir() for each in _entries(path)) and not RunFolder(path).begun()
    own = inside and ((path / MANIFEST).is_file() or RunFolder(path).config.is_file())
    if "recordings" in _recognise(path)[1] and not own:
        raise wrong_place(path, "recordings", otherwise)


def _recognise(path: Path) -> tuple[str, dict[Needed, str]]:
    """What a place is in words, and what helps who needed another. Without torch, and no large file is read."""
    here, name = shlex.quote(str(path)), shlex.quote(path.absolute().name)
    if (run := RunFolder(path)).exists():
        return "a run", {"data": _data_of(run), "recordings": f"`schurgan resume {here}` goes on with it"}
    for folder in path.parents[:3]:
        if (run := RunFolder(folder)).exists() and run.holds(path):
            give = f"give {folder}"
            return f"a part of the run {folder}", {"run": give, "model": give, "data": _data_of(run)}
    for folder in (path, path.parent):
        if (folder / MANIFEST).is_file():
            what = "prepared data" if folder == path else f"a file of the prepared data {folder}"
            run_of = f"{runs[0]} learned from it" if (runs := users(folder)) else _train_on(folder)
            return what, {"run": run_of, "model": run_of, "recordings": _train_on(folder), "data": f"give {folder}"}
        if (folder / UNFINISHED).is_file():
            return "prepared data that is not finished", dict.fromkeys(_NEEDED, "start `schurgan prepare` again")
    if path.suffix == ".safetensors":
        return "the file of a generator", {"run": f"`schurgan sample {here}` makes sounds of it"}
    if path.suffix in (".pt2", ".onnx"):
        return "a generator for other programs", {"model": "give the run that it was exported from"}
    if not path.is_dir():
        return "a file", {}
    if not (inside := _entries(path)):
        return "an empty folder", {}
    if trials := [each for each in _entries(path / "trials") if RunFolder(each).exists()]:
        return "a study", dict.fromkeys(_NEEDED, f"its runs are in {path / 'trials'}, such as {trials[0]}")
    folders = [each for each in inside if each.is_dir() and not each.name.startswith(".")]
    below = [*folders, *(each for folder in folders for each in _entries(folder) if each.is_dir())]
    runs = [each for each in below if RunFolder(each).exists()]
    sets = [each for each in below if (each / MANIFEST).is_file()]
    if runs or sets:
        one = f"name one, such as {runs[0]}" if runs else _train_on(sets[0])
        hints: dict[Needed, str] = {"run": one, "model": one}
        hints |= {"data": f"name one, such as {sets[0]}"} if sets else {}
        hints |= {"recordings": "name a folder of those"} if {*folders} <= {*runs, *sets} else {}
        return f"a folder of {' and '.join(['runs'] * bool(runs) + ['prepared data'] * bool(sets))}", hints
    names = [each.name.lower() for each in itertools.islice(path.rglob("*"), _LOOKED_AT)]
    for suffixes, what in ((AUDIO_SUFFIXES, "recordings"), (IMAGE_SUFFIXES, "pictures")):
        if any(each.endswith(suffixes) for each in names):
            prepare = f"`schurgan prepare folder {here} --out data/{name}` prepares them"
            return f"{what} that are not prepared yet", {"run": prepare, "model": prepare, "data": prepare}
    return "a folder that Schurgan did not make", {}


def _train_on(data: Path) -> str:
    out = Path("runs", data.absolute().name)
    return f"`schurgan train --data {shlex.quote(str(data))} --out {shlex.quote(str(out))}` makes a run of it"


def _data_of(run: RunFolder) -> str:
    """Where the data of a run is."""
    with suppress(SchurganError):
        if (data := run.read_config().data) is not None:
            return f"its data is {data}"
    return "its data is elsewhere"


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name; nothing of what cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in itertools.islice(entries, _LOOKED_AT))
    return []
