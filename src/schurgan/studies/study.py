"""What a study is, read from `studies/NAME.yaml`: rows, the parts they are made of, and what each part is at a scale.

A row names parts ("proposed", "batch-512", "ddfn"); a scale says which options each part stands for. So the same row is
the paper's network on a large machine and a narrow one on a laptop, and what differs between two rows is to be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.runs.config import Config, explain, merge_options
from schurgan.runs.options import Count, Options

ScaleName = Literal["laptop", "gpu", "paper"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Kind = Literal["table", "gap", "sweep", "waveform", "panels"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
_FOLDER = resources.files("schurgan.studies")


class Printed(Options):
    """A number as the paper prints it, and by how much it says that other images differ (in the order of variants)."""

    value: float
    sd: float | None = None
    deviations: tuple[float | None, ...] = ()


class Row(Options):
    """One line of a table, one panel or model of a figure."""

    name: Name
    label: str
    group: str
    """Rows of a group are of one data set, and compared with each other."""
    data: Name
    parts: tuple[str, ...]
    """Each on top of those before."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Truncation that the row's model is shown at."""
    paper: dict[str, Printed] = Field(default_factory=dict)
    """By column; none of a row that the paper lacks."""


class ScaleOptions(Options):
    """What the study is at a size of machine."""

    about: str
    seeds: Count = 1
    """Runs of each row, by default; a variant of it has one."""
    images: Annotated[int, Field(ge=2)]
    """Generated images that scores are taken of ..."""
    runs: Count
    """... and how many times so many."""
    extractor: str = "classifier"
    precision: Precision = "fp32"
    options: dict[str, Any] = Field(default_factory=dict)
    """Of all rows, on top of the preset."""
    parts: dict[str, dict[str, Any]]
    """Options by part. "part@variant" stands in for "part" in that variant."""
    leave_out: tuple[str, ...] = ()
    """Parts that are not to be had at this scale: rows with one of them are left out."""


class SetAtScale(Options):
    """A data set at a scale."""

    prepare: str
    """The command that makes it, without --out; ROOT is where the recordings are."""
    classes: Count
    size: Count
    options: dict[str, Any] = Field(default_factory=dict)


class DataSet(Options):
    """What `--data NAME=FOLDER` has to be."""

    about: str
    laptop: SetAtScale
    gpu: SetAtScale
    paper: SetAtScale


class Variant(Options):
    """Other images of the same sounds."""

    about: str
    prepare: str
    """Options of `schurgan prepare` on top of the data set's own."""


class Study(Options):
    """See `load_study`."""

    name: Name
    title: str
    kind: Kind
    source: str
    """Where the paper's numbers are from."""
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    variants: dict[Name, Variant] = Field(default_factory=dict)
    """By the ending of their data sets' names; run where that data is given."""
    comparisons: tuple[tuple[str, str | None], ...] = ()
    """Parts, and what stands in their place, of which pairs of rows are compared; see `table.paired_runs`."""
    alphas: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Truncations of a figure."""
    data: dict[Name, DataSet]
    rows: tuple[Row, ...] = Field(min_length=1)
    scales: dict[ScaleName, ScaleOptions]

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        for name, count in Counter(row.name for row in self.rows).items():
            if count > 1:
                raise ValueError(f'row "{name}" is there twice')
        for row in self.rows:
            if row.data not in self.data:
                raise ValueError(f'row "{row.name}": no data set "{row.data}"')
            if odd := set(row.paper) - set(self.columns):
                raise ValueError(f'row "{row.name}": no column "{min(odd)}"')
            for scale, options in self.scales.items():
                if odd := set(row.parts) - set(options.parts) - set(options.leave_out):
                    raise ValueError(f'row "{row.name}": scale {scale} does not know the part "{min(odd)}"')
        known = {part for row in self.rows for part in row.parts}
        for comparison in self.comparisons:
            if odd := set(filter(None, comparison)) - known:
                raise ValueError(f'comparisons: no row has the part "{min(odd)}"')
        return self

    def scale(self, name: ScaleName) -> ScaleOptions:
        """Raises SchurganError for a scale that the study has not."""
        if name not in self.scales:
            raise SchurganError(f"scale: {name} given, study {self.name} has {', '.join(self.scales)}")
        return self.scales[name]

    def rows_at(self, scale: ScaleName) -> tuple[Row, ...]:
        """Rows that can be had at the scale."""
        return tuple(row for row in self.rows if not set(self.scale(scale).leave_out) & set(row.parts))

    def data_at(self, scale: ScaleName, name: str) -> SetAtScale:
        """Options of a data set, or of the one that `name` is a variant of."""
        options: SetAtScale = getattr(self.data[self._split(name)[0]], scale)
        return options

    def about_data(self, scale: ScaleName, name: str) -> str:
        """What a data set or a variant of one is, and the command that makes it."""
        base, variant = self._split(name)
        about, command = self.data[base].about, self.data_at(scale, name).prepare
        if variant:
            about, command = f"{about}, {self.variants[variant].about}", f"{command} {self.variants[variant].prepare}"
        return f"{about}: `{command} --out DIR`"

    def needed(self, scale: ScaleName) -> tuple[str, ...]:
        """Names of the data sets that the study cannot run without, in the order of the rows."""
        return tuple(dict.fromkeys(row.data for row in self.rows_at(scale)))

    def known_data(self, scale: ScaleName) -> tuple[str, ...]:
        """Names of the data sets that the study can use: those and their variants."""
        needed = self.needed(scale)
        return (*needed, *(f"{name}-{variant}" for name in needed for variant in self.variants))

    def config(
        self,
        row: Row,
        scale: ScaleName,
        seed: int,
        data: Path | None,
        variant: str = "",
        precision: Precision | None = None,
    ) -> Config:
        """Options of a run of the row. Raises SchurganError naming study and row where they do not fit."""
        at = self.scale(scale)
        parts = [at.parts.get(f"{part}@{variant}", at.parts[part]) for part in row.parts]
        whole = {"train": {"val_fraction": 0.0}}  # nothing is held out but what a study says
        own = {"data": data, "train": {"seed": seed, "precision": precision or at.precision}}
        merged = reduce(
            merge_options, (at.options, self.data_at(scale, row.data).options, *parts, own), dict[str, Any](whole)
        )
        preset = Config.from_preset(merged.pop("preset", None)).model_dump()
        try:
            return Config.model_validate(merge_options(preset, merged))
        except ValidationError as error:
            raise SchurganError(f"study {self.name}, row {row.name}, scale {scale}: {explain(error)}") from None

    def trials(
        self,
        scale: ScaleName,
        seeds: int | None,
        data: Mapping[str, Path],
        out: Path,
        precision: Precision | None = None,
    ) -> tuple[Trial, ...]:
        """List every run: all rows of the first seed, then all of the next, variants last.

        So a study that is stopped early has a result for every row.

        Args:
            scale: size of the machine.
            seeds: runs of each row, None for the scale's own number.
            data: folders by name; variants without one are left out.
            out: folder of the study.
            precision: arithmetic of the networks, None for the scale's own.
        """
        at = self.scale(scale)
        trials = []
        for variant in ("", *self.variants):
            for seed in range(1 if variant else seeds or at.seeds):
                for row in self.rows_at(scale):
                    name = f"{row.data}-{variant}" if variant else row.data
                    if variant and (name not in data or not row.paper):
                        continue
                    config = self.config(row, scale, seed, data.get(name), variant, precision)
                    trial = f"{row.name}{'.' + variant if variant else ''}-{scale}-{seed}"
                    scoring = at.images, at.runs, at.extractor
                    trials.append(Trial(trial, row.name, variant, seed, config, *scoring, out / "trials" / trial))
        return tuple(trials)

    def _split(self, name: str) -> tuple[str, str]:
        """The data set that `name` is, or is a variant of, and the variant."""
        for variant in self.variants:
            if name not in self.data and name.endswith(f"-{variant}"):
                return name.removesuffix(f"-{variant}"), variant
        return name, ""


@dataclass(frozen=True)
class Trial:
    """One run of a study, an ordinary run folder, and how it is evaluated."""

    name: str
    row: str
    variant: str
    seed: int
    config: Config
    images: int
    runs: int
    extractor: str
    folder: Path


def study_names() -> list[str]:
    """Names of the shipped studies."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def load_study(name: str) -> Study:
    """The shipped study of that name. Raises SchurganError, with the nearest name, where there is none."""
    if name not in study_names():
        near = did_you_mean(name, study_names()) or f"; there are {', '.join(study_names())}"
        raise SchurganError(f'study "{name}": no such study{near}')
    return read_study(name, _raw(name))


def read_study(name: str, content: Mapping[str, Any]) -> Study:
    """Build a study from the content of a YAML file.

    `like: OTHER` takes what is missing from another study, with the same trials, and `only: [ROW, ...]` some of its
    rows.

    Raises:
        SchurganError: naming what is wrong.
    """
    content = dict(content)
    only, like = content.pop("only", None), content.pop("like", None)
    if like is not None:
        content = {key: value for key, value in _raw(like).items() if key != "only"} | content
    if only is not None:
        rows = {row["name"]: row for row in content["rows"]}
        if missing := [row for row in only if row not in rows]:
            raise SchurganError(f'study {name}: "{missing[0]}" is no row of {like or name}')
        content["rows"] = [rows[row] for row in only]
    try:
        return Study.model_validate(content | {"name": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise SchurganError(f"study {name}: {f'{where}: ' if where else ''}{message}") from None


def _raw(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text("utf-8"))
    return content
