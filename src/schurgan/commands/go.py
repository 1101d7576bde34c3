"""The command `go`: prepare, train, sample and report as a file says, each step where it is missing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from schurgan.commands import parsing
from schurgan.commands.init import FILE, go_command
from schurgan.commands.main import COMMANDS, find_command
from schurgan.core.documents import Unreadable, parse, read_bytes
from schurgan.core.errors import Interrupted, SchurganError, Undecided, did_you_mean, writing
from schurgan.core.files import sha256, write_json
from schurgan.runs.config import Config, read_yaml_lines
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted

_SECTIONS = "prepare", "train", "sample", "report"
_OURS = {"out", "run", "data", "overwrite"}
"""Options that `go` gives the commands itself."""


@dataclass(frozen=True)
class Plan:
    """What to do: a section of options for each step, and where."""

    out: Path
    sections: dict[str, dict[str, Any]]
    command: str  # what goes on
    file: str = "options"  # where the sections are
    home: Path = Path()  # what paths in them are relative to
    lines: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Read a file as `schurgan init` writes them. Raises SchurganError with the line."""
        if not file.exists():
            raise SchurganError(f"{file}: no such file; `schurgan init CLIPS` writes one for your folder of clips")
        content, lines = read_yaml_lines(file)
        content = json.loads(json.dumps(content, default=str))  # a date is a text here
        for name, value in content.items():
            where = f"{file}, line {lines[name]}: {name}"
            if name not in ("out", *_SECTIONS):
                hint = did_you_mean(name, ("out", *_SECTIONS)) or f"; there are out, {', '.join(_SECTIONS)}"
                raise SchurganError(f"{where}: no such section{hint}")
            if name != "out" and not isinstance(value, dict | None):
                raise SchurganError(f"{where}: {value!r} given, options are needed")
        if not isinstance(out := content.get("out"), str) or not out:
            raise SchurganError(f"{file}: out: {out!r} given, a folder for all that is made is needed")
        sections = {name: dict(content.get(name) or {}) for name in _SECTIONS}
        return cls(file.parent / out, sections, go_command(file), str(file), file.parent, lines)

    def bound(self, section: str, name: str, *places: str, **ours: object) -> Callable[[], None]:
        """The command `name` with the options of a section, ready to be called. Raises SchurganError with the line."""
        options = {key: value for key, value in self.sections[section].items() if key not in ("root", "source")}
        arguments = [*places, *itertools.chain.from_iterable(_argument(*each) for each in (options | ours).items())]
        command = find_command(name, arguments)
        with self.located(section):
            call = parsing.parse(command, name, arguments)

        def run() -> None:
            with self.located(section):
                try:
                    call()
                except Undecided as error:
                    raise SchurganError(f"{self.file}: {section}: {error}") from None
                except SchurganError as error:
                    error.args = (parsing.name_options(str(error), parsing.option_names(command)),)
                    raise

        return run

    @contextlib.contextmanager
    def located(self, section: str) -> Iterator[None]:
        """Name the file, the line and the key in errors that begin with an option's name."""
        try:
            yield
        except SchurganError as error:
            text = str(error).removeprefix("options: ")
            if start := re.match(r"(?:--)?([a-z][\w.-]*): ", text):
                key = start[1].replace("-", "_")
                places = (f"{section}.{name}" for name in (key, key.rpartition(".")[2]))
                if place := next((name for name in places if name in self.lines), None):
                    rest = re.sub(r"--([a-z][\w.-]*)", lambda name: name[1].replace("-", "_"), text[start.end() :])
                    error.args = (f"{self.file}, line {self.lines[place]}: {place}: {rest}",)
            raise

    def check(self) -> Config:
        """The options of the training; every section is checked before anything is done."""
        for section, options in self.sections.items():
            for key in _OURS & set(options):
                where = f"{self.file}, line {self.lines[f'{section}.{key}']}: {section}.{key}"
                raise SchurganError(f"{where}: is not to be given here; `out` at the top says where")
        self.prepare(overwrite=False)
        self.bound("sample", "sample", str(self.out))
        self.bound("report", "report", str(self.out))
        train = self.sections["train"]
        with self.located("train"):
            options = {key: value for key, value in train.items() if key != "preset"}
            config = Config.from_preset(train.get("preset"), None, **options)
        return config.model_copy(update={"data": RunFolder(self.out).data.resolve()})

    def prepare(self, overwrite: bool) -> Callable[[], None]:
        """The command that prepares the data."""
        options = self.sections["prepare"]
        source, root = str(options.get("source", "folder")), options.get("root")
        if (name := f"prepare {source}") not in COMMANDS:
            known = [each.partition(" ")[2] for each in COMMANDS if each.startswith("prepare ")]
            hint = did_you_mean(source, known) or f"; there are {', '.join(known)}"
            raise SchurganError(f"{self.file}: prepare.source: {source!r} given, no such source{hint}")
        if source != "soundscape" and not (isinstance(root, str) and root):
            raise SchurganError(f"{self.file}: prepare.root: {root!r} given, the folder of the recordings is needed")
        places = [] if root is None else [os.path.join(self.home, os.path.expanduser(str(root)))]
        if places and Path(places[0]).resolve() in (self.out.resolve(), *self.out.resolve().parents):
            raise SchurganError(f"{self.file}: out: {self.out} is inside {root}, a folder elsewhere is needed")
        ours = {"out": RunFolder(self.out).data} | ({"overwrite": True} if overwrite else {})
        return self.bound("prepare", name, *places, **ours)


def go(
    file: Annotated[Path, parsing.arg(metavar="FILE", help="what `schurgan init` wrote")] = FILE,
    /,
    *,
    anew: Annotated[bool, parsing.arg(help="put the folder of an earlier go aside, as DIR-1, and begin anew")] = False,
) -> None:
    """Prepare, train, sample and report as a file says; stopped at any moment, it goes on where it was.

    Example:
        schurgan go
        schurgan go drums.yaml
    """
    carry_out(Plan.read(file), anew)


def carry_out(plan: Plan, anew: bool = False) -> None:
    """Do what is missing of a plan, or with `anew` all of it; say where the sounds and the page are.

    Raises:
        SchurganError: something does not fit, or a trained run would be lost.
        Interrupted: it was stopped; the same call goes on.
    """
    from schurgan.core.distributed import World
    from schurgan.core.launch import find_placement
    from schurgan.core.terminal import duration

    if (placement := find_placement(os.environ)) and placement.size > 1:
        raise SchurganError(f"`{plan.command}` is for one process; torchrun takes `schurgan train`")
    config, folder, began = plan.check(), RunFolder(plan.out), time.monotonic()
    if anew and plan.out.exists():
        numbered = (plan.out.with_name(f"{plan.out.name}-{number}") for number in itertools.count(1))
        aside = next(path for path in numbered if not path.exists())
        with World().lock(plan.out), writing(aside):
            plan.out.rename(aside)
        print(f"{plan.out} is {aside} now")
    with World().lock(plan.out):
        try:
            record = _Record(plan)
            worked = [_prepare(plan, folder, record), _train(plan, config, folder)]
            weights = sha256(folder.generator)
            made_of = {"sample": [weights], "report": [weights, sha256(folder.metrics), _digest_of(folder.scores)]}
            places = {"sample": folder.sounds, "report": folder.report}
            for number, name in enumerate(made_of, 3):
                key = hashlib.sha256(json.dumps([plan.sections[name], made_of[name]]).encode()).hexdigest()
                worked.append(not places[name].exists() or record.content.get(name) != key)
                print(f"{number}/4 {name}" + f": done, {places[name]}" * (not worked[-1]), flush=True)
                if worked[-1]:
                    plan.bound(name, name, str(plan.out))()
                    record.note(name, key)
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(f"{str(stop).partition(';')[0] or 'stopped'}; `{plan.command}` goes on") from None
    took = duration(time.monotonic() - began)
    print(f"open {folder.report.resolve().as_uri()}")
    print(f"all done in {took}" if any(worked) else f"nothing to do: all was done before ({took})")


class _Record:
    """With which options the data were made, and of what the sounds and the page were."""

    def __init__(self, plan: Plan) -> None:
        self.path, self.content = RunFolder(plan.out).go, dict[str, Any]()
        with contextlib.suppress(OSError, Unreadable):  # then sounds and page are made again
            self.content = parse(dict, read_bytes(self.path))

    def note(self, name: str, value: object) -> None:
        """Note that a step is done."""
        if self.content.get(name) != value:
            self.content[name] = value
            with writing(self.path):
                write_json(self.path, self.content)


def _refusal(plan: Plan, changed: str) -> SchurganError:
    """Why a trained run is not trained over."""
    return SchurganError(
        f"{plan.file}: {changed}, and {plan.out} holds a run that was trained before that; name another `out`, "
        f"set it back, or `{plan.command} --anew` puts {plan.out} aside and begins anew"
    )


def _prepare(plan: Plan, folder: RunFolder, record: _Record) -> bool:
    """Prepare the data unless they are there; return whether there was something to do."""
    from schurgan.data.writer import OtherData
    from schurgan.runs.folder import MANIFEST

    manifest, heard, now = folder.data / MANIFEST, io.StringIO(), plan.sections["prepare"]
    known = record.content.get("prepare")
    other = {key: (known.get(key), now.get(key)) for key in {**known, **now}} if isinstance(known, dict) else {}
    changed = ", ".join(f"prepare.{key} was {old} and is {new}" for key, (old, new) in other.items() if old != new)
    changed = changed or "the recordings or their options are others than they were"
    before = manifest.stat().st_mtime_ns if manifest.exists() else 0
    try:
        with contextlib.redirect_stdout(heard):
            plan.prepare(overwrite=False)()
    except OtherData:
        if folder.generator.exists() or folder.checkpoint_files():
            raise _refusal(plan, changed) from None
        print(f"1/4 prepare: again, {changed}", flush=True)
        with contextlib.redirect_stdout(heard):
            plan.prepare(overwrite=True)()
    record.note("prepare", now)
    done = manifest.stat().st_mtime_ns == before
    told = heard.getvalue().splitlines()
    print(f"1/4 prepare: done, {told[-1]}" if done else "\n".join([*told[:-1], f"1/4 prepare: {told[-1]}"]), flush=True)
    return not done


def _train(plan: Plan, config: Config, folder: RunFolder) -> bool:
    """Train unless the run is finished; return whether there was something to do."""
    from schurgan.core.terminal import duration
    from schurgan.data.manifest import Manifest
    from schurgan.runs.sidecar import Identity, OtherOptions, changed_options
    from schurgan.runs.status import read_status
    from schurgan.studies.estimate import step_seconds
    from schurgan.training import train

    changed, steps, step = "", config.train.steps, 0
    if folder.config.exists():
        status, before = read_status(folder.path), folder.read_config()
        step = max((each.step for each in status.checkpoints), default=0)
        if status.state in ("finished", "stopped") and folder.generator.exists() and before == config:
            print(f"2/4 train: done, {status.step} of {counted(steps, 'step')}")
            return False
        was, now = (Identity(options=each.model_dump(mode="json"), data="") for each in (before, config))
        changed = ", ".join(map(str, changed_options(was, now)))
    with plan.located("train"):
        left = max(0, steps - step)
        try:
            time_left = duration(left * step_seconds(config, len(Manifest.load(folder.data).classes)))
        except ValueError as error:  # options that do not fit each other
            raise SchurganError(str(error)) from None
        told = f"; goes on at step {step}" * bool(step) + f"; {changed}" * bool(changed)
        print(
            f"2/4 train: {counted(left, 'step')}, about {time_left}{told}; Ctrl-C stops, `{plan.command}` goes on",
            flush=True,
        )
        try:
            train(config, folder.path, go_on=True)
        except OtherOptions:
            raise _refusal(plan, changed) from None
    return True


def _digest_of(file: Path) -> str:
    return sha256(file) if file.exists() else ""


def _argument(key: str, value: Any) -> list[str]:
    """An option as the command line takes it."""
    name = f"--{key.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [name if value else f"--no-{name[2:]}"]
    return [name, *map(str, value)] if isinstance(value, list | tuple) else [f"{name}={value}"]
