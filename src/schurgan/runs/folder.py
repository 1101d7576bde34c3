"""The folder of a run: every file in it has its name here, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from schurgan.core.errors import SchurganError
from schurgan.runs.config import Config
from schurgan.runs.records import Records, read_records

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

    def require(self) -> None:
        """Raise SchurganError unless this is the folder of a run."""
        if not self.path.is_dir():
            raise SchurganError(f"{self.path}: no such run folder")
        if not self.config.is_file():
            raise SchurganError(f"{self.path}: no run here (no {self.config.name}); `schurgan train` makes one")

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
