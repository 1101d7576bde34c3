"""`schurgan go`: each step where it is missing, whatever stopped it, and no trained run lost."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from schurgan.commands import go as module
from schurgan.commands.go import Plan
from schurgan.commands.main import main
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, writer
from schurgan.evaluation.features import classifier
from schurgan.model import Model, load
from schurgan.report import page
from schurgan.runs.folder import RunFolder
from schurgan.studies import estimate
from schurgan.training.trainer import Trainer

TRAIN = {"model": {"architecture": "small-16", "width": 4}, "steps": 4, "batch_size": 4, "threads": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of its own takes two seconds."""
    monkeypatch.setattr(page, "write_report", lambda run: RunFolder(run).report.write_text("page"))
    monkeypatch.setattr(estimate, "step_seconds", lambda *_: 0.5)


@pytest.fixture
def project(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with clips and a schurgan.yaml, which is the current one."""
    shutil.copytree(recordings, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    write()
    return tmp_path


@pytest.fixture(scope="module")
def finished(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that went the whole way, with a real page, and what it said. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copytree(recordings, place / "clips")
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(io.StringIO()) as said:
        patched.chdir(place)
        patched.setattr(classifier, "QUICK", {"epochs": 1, "least_steps": 0, "most_steps": 2})
        patched.setattr(page, "_JUDGED", 1)
        patched.setattr(page, "_SHOWN", 1)
        write()
        main(["go"])
    (place / "said").write_text(said.getvalue())
    return place


@pytest.fixture
def done(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in another place, which is the current folder."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "moved"))
    return tmp_path / "moved"


def write(**sections: Any) -> None:
    """schurgan.yaml with some options of its sections changed."""
    content: dict[str, Any] = {
        "out": "run",
        "prepare": {"root": "clips", "seconds": 0.5, "size": 16},
        "train": TRAIN | {"health": {"every": 0}, "checkpoint_every": 2},
        "sample": {"count": 1, "refine": 0},
    }
    for name, options in sections.items():
        content[name] = content.get(name, {}) | options if isinstance(options, dict) else options
    Path("schurgan.yaml").write_text(yaml.safe_dump(content))


def files(folder: Path) -> dict[str, int]:
    """Every file but locks, with the time at which it was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_go_makes_data_run_sounds_and_page_and_going_again_touches_nothing(call, finished, monkeypatch):
    run = RunFolder(finished / "run")
    assert len(Shards(run.data)) == 8
    assert load(run.path).card.step == 4
    assert sorted(path.name for path in run.sounds.glob("*.wav")) == ["bell-000.wav", "drum-000.wav"]
    assert "<audio" in run.report.read_text()
    assert f"open {run.report.as_uri()}" in (finished / "said").read_text()
    before = files(finished)
    monkeypatch.chdir(finished)
    again = call("go")
    assert again.status == 0
    assert "nothing to do" in again.out
    assert f"open {run.report.as_uri()}" in again.out
    assert files(finished) == before


def test_a_project_that_was_moved_has_nothing_to_train(call, done):
    weights = (done / "run/generator.safetensors").stat().st_mtime_ns
    assert call("go").status == 0
    assert (done / "run/generator.safetensors").stat().st_mtime_ns == weights


def interrupted(*_: object, **__: object) -> Any:
    raise KeyboardInterrupt


def third_step(self: Trainer, batches: Any, step: Any = Trainer.training_step) -> Any:
    if self.global_step == 2:
        raise KeyboardInterrupt
    return step(self, batches)


STOPS = [
    (writer.OutputFolder, "write", interrupted),
    (writer.OutputFolder, "complete", interrupted),
    (module, "write_json", interrupted),
    (Trainer, "training_step", third_step),
    (Model, "sample", interrupted),
    (page, "write_report", interrupted),
]


def test_stopped_in_every_step_and_between_them_it_goes_on_to_the_same_generator(call, project, finished):
    for where, what, stop in STOPS:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(where, what, stop)
            said = call("go")
        assert said.status == 1, what
        assert "`schurgan go` goes on" in said.err
        assert not (project / "run/report.html").exists()
    assert call("go").status == 0
    assert "nothing to do" in call("go").out
    one, other = (load(place / "run").generator.state_dict() for place in (project, finished))
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_more_steps_are_a_longer_run_with_sounds_and_page_anew(call, done):
    before = files(done / "run")
    write(train={"steps": 6})
    said = call("go")
    assert said.status == 0
    assert "train.steps 6 (was 4)" in said.out
    assert "goes on at step 4" in said.out
    after = files(done / "run")
    data = {path for path in before if "/run/data/" in path}
    assert {path for path in data if before[path] != after[path]} == set()
    for name in ("sounds/bell-000.wav", "report.html", "generator.safetensors"):
        assert before[str(done / "run" / name)] != after[str(done / "run" / name)]
    assert load(done / "run").card.step == 6


def test_other_sounds_are_made_without_training_again(call, done):
    before = files(done / "run")
    write(sample={"count": 2})
    assert call("go").status == 0
    after = files(done / "run")
    assert str(done / "run/sounds/bell-001.wav") in after
    for name in ("report.html", "generator.safetensors", "data/manifest.json"):
        assert before[str(done / "run" / name)] == after[str(done / "run" / name)]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"train": {"lr_g": 0.5}}, "train.lr-g 0.5 (was 0.001)"),
        ({"prepare": {"seconds": 0.4}}, "prepare.seconds was 0.5 and is 0.4"),
    ],
)
def test_a_trained_run_is_put_aside_where_that_is_asked_for_and_never_lost(changed, named, call, done):
    weights = (done / "run/generator.safetensors").read_bytes()
    write(**changed)
    said = call("go")
    assert said.status == 2
    assert named in said.err
    assert "--anew" in said.err
    assert (done / "run/generator.safetensors").read_bytes() == weights
    said = call("go", "--anew")
    assert said.status == 0, said.err
    assert (done / "run-1/generator.safetensors").read_bytes() == weights
    assert (done / "run/generator.safetensors").read_bytes() != weights


def test_another_clip_is_other_data(call, done):
    shutil.copy(done / "clips/bell/0.wav", done / "clips/bell/9.wav")
    said = call("go")
    assert said.status == 2
    assert "recordings" in said.err
    assert "--anew" in said.err


def test_before_a_step_is_trained_other_options_of_the_data_are_taken(call, project, monkeypatch):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "training_step", interrupted)
        assert call("go").status == 1
    write(prepare={"seconds": 0.4})
    said = call("go")
    assert said.status == 0, said.err
    assert "prepare.seconds was 0.5 and is 0.4" in said.out
    assert Shards(project / "run/data").codec.config["n_samples"] == 6400


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"trian": {}}, ': trian: no such section; did you mean "train"?'),
        ({"train": [1]}, "train: [1] given"),
        ({"out": 3}, "out: 3 given"),
        ({"out": "clips/made"}, "clips/made is inside clips"),
        ({"out": "clips"}, "clips is inside clips"),
        ({"prepare": {"root": None}}, "prepare.root: None given"),
        ({"prepare": {"root": "none"}}, "none: no such file or folder"),
        ({"prepare": {"source": "esc5"}}, 'no such source; did you mean "esc50"?'),
        (
            {"prepare": {"secnds": 1}},
            'line 4: prepare.secnds: no such option of `schurgan prepare folder`; did you mean "seconds"?',
        ),
        ({"prepare": {"size": "big"}}, "line 5: prepare.size: "),
        ({"prepare": {"size": {"a": 1}}}, "prepare.size: "),
        ({"prepare": {"seconds": 1e9}}, "prepare.seconds: 1e+09 given"),
        ({"prepare": {"out": "elsewhere"}}, "prepare.out: is not to be given here"),
        ({"prepare": {"workers": "--overwrite"}}, "prepare.workers: "),
        ({"train": {"stpes": 3}}, 'train.stpes: no such option; did you mean "steps"?'),
        ({"train": {"steps": 0}}, "train.steps: 0 given"),
        ({"train": {"ddfn": {"weight": -1}}}, "train.ddfn.weight: -1 given"),
        ({"train": {"preset": "smal-64"}}, 'preset "smal-64": no such preset'),
        ({"train": {"data": "elsewhere"}}, "train.data: is not to be given here"),
        ({"sample": {"count": "many"}}, "sample.count: "),
        ({"report": {"colour": "red"}}, "report.colour: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named_before_anything_is_made(sections, named, refused, project):
    write(**({"report": {}} | sections))
    said = refused("go")
    assert named in said
    assert not (project / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("out: run\nout: other\n", "line 2: not YAML (out is there twice)"),
        ("out: !!python/object/apply:os.mkdir [made]\n", "line 1: not YAML"),
        ("out: &a run\nprepare: {root: *a}\n", "an alias"),
        ("[1, 2]\n", "a mapping of options is needed"),
        ("", "a mapping of options is needed"),
        ("out: run\nprepare:\n\troot: x\n", "line 3: not YAML"),
    ],
)
def test_hostile_and_broken_files_are_one_sentence(text, named, refused, project):
    Path("schurgan.yaml").write_text(text)
    assert named in refused("go")
    assert not Path("made").exists()


def test_without_a_file_init_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "`schurgan init CLIPS`" in refused("go")


def test_paths_are_those_of_the_files_place_and_dates_are_texts(project, monkeypatch):
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    plan = Plan.read(Path("../schurgan.yaml"))
    assert plan.check().data == project / "run/data"
    assert plan.command == "schurgan go ../schurgan.yaml"
    Path("../schurgan.yaml").write_text("out: 2026-01-01\nprepare: {root: clips}\nsample: {class: 2026-01-02}\n")
    plan = Plan.read(Path("../schurgan.yaml"))
    assert plan.out.name == "2026-01-01"
    assert json.dumps(plan.sections["sample"]) == '{"class": "2026-01-02"}'


@pytest.mark.parametrize(
    ("options", "named"), [({"model": {"architecture": "small-32"}}, "small-32"), ({"augment": "cutuot"}, "cutuot")]
)
def test_options_that_do_not_fit_are_one_sentence_of_training(options, named, call, project):
    write(train=options)
    said = call("go")
    assert said.status == 2
    assert named in said.err


def test_several_processes_are_refused(project, monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SchurganError, match="one process"):
        module.go()
