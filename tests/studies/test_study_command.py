from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_study import small_study

from schurgan.commands import study as study_commands
from schurgan.core.files import lock
from schurgan.studies import study as module
from schurgan.studies.trial import is_main


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`table1` is the small study."""
    monkeypatch.setattr(module, "_raw", lambda name: small_study())


def test_a_study_by_one_command_prints_its_table_and_where_it_is(call, images, tmp_path):
    said = call("study", "table1", "--data", f"set={images}", "--out", tmp_path)
    assert said.status == 0, said.err
    assert "| with |" in said.out
    assert said.out.endswith(f"table: {tmp_path / 'table1-laptop.md'}\n")
    assert (tmp_path / "trials" / "a-laptop-0" / "scores.json").exists()


def test_two_studies_in_one_folder_are_one_too_many(call, images, tmp_path):
    with ThreadPoolExecutor(1) as other:  # which is to this thread as another process is
        held = lock(tmp_path)
        other.submit(held.__enter__).result()
        said = call("study", "table1", "--data", f"set={images}", "--out", tmp_path)
        other.submit(held.__exit__, None, None, None).result()
    assert said.status == 2
    assert f"{tmp_path}: in use by process {os.getpid()} " in said.err
    assert not (tmp_path / "trials").exists()


def test_a_dry_run_trains_nothing_and_lists_each_trial_and_data_set(call, tmp_path):
    said = call("study", "table1", "--out", tmp_path / "out", "--seeds", 2, "--dry-run", "--jobs", 2)
    assert said.status == 0, said.err
    assert (
        "--data set-linear=DIR  soundscapes, linear magnitude: `schurgan prepare soundscape --scale linear" in said.out
    )
    for name in ("a-laptop-0", "b-laptop-0", "a-laptop-1", "b-laptop-1"):
        assert f"\n{name} " in said.out
    assert "4 trials" in said.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table9"], 'study "table9": '),
        (["table1"], "--data set=DIR: "),
        (["table1", "--data", "set"], "--data: 'set' "),
        (["table1", "--data", "sett=."], '--data: "sett" '),
        (["table1", "--data", "set=.", "set=."], "--data: set "),
        (["table1", "--data", "set=nowhere"], "--data set: nowhere: "),
        (["table1", "--scale", "gpu"], "--scale: gpu "),
        (["table1", "--jobs", "0"], "--jobs: 0 "),
        (["table1", "--slurm", "partition"], "--slurm: 'partition' "),
        (["table1", "--slurm", "cluster=debug", "--cluster", "tcp://x:1"], "--cluster and --slurm: "),
        (["table1", "--seeds", "0"], "--seeds: 0 "),
    ],
)
def test_wrong_input_is_told_in_one_sentence(refused, arguments, sentence):
    assert sentence in refused("study", *arguments)


def test_images_of_another_size_are_refused_before_anything_is_trained(refused, images, tmp_path, monkeypatch):
    content = small_study()
    content["data"]["set"]["laptop"] = {"prepare": "schurgan prepare soundscape", "classes": 8, "size": 32}
    monkeypatch.setattr(module, "_raw", lambda name: content)
    said = refused("study", "table1", "--data", f"set={images}", "--out", tmp_path / "out")
    assert said.startswith("--data set: ")
    assert "16x16" in said
    assert "32x32" in said
    assert not (tmp_path / "out").exists()


def test_cost_is_told_and_what_scores_need_is_looked_for_before_anything_is_trained(
    call, refused, images, tmp_path, monkeypatch
):
    told = list[str]()
    monkeypatch.setattr("schurgan.studies.runner.run_trials", lambda *_, **__: told.append("started"))
    said = call("study", "table1", "--data", f"set={images}", "--out", tmp_path / "a", "--jobs", 2)
    assert "2 trials to run, " in said.err
    assert "PFLOP, about " in said.err
    assert told == ["started"]
    content = small_study()
    content["scales"]["laptop"]["extractor"] = "inception"
    monkeypatch.setattr(module, "_raw", lambda name: content)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    assert "torch-fidelity" in refused("study", "table1", "--data", f"set={images}", "--out", tmp_path / "b")
    assert told == ["started"]


def test_another_process_of_a_launcher_lays_nothing_out(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    assert not is_main()


def test_the_data_folder_is_kept_as_a_whole_path(images, monkeypatch):
    study = module.load_study("table1")
    monkeypatch.chdir(images.parent)
    assert study_commands._folders(study, "laptop", [f"set={images.name}"]) == {"set": Path(images).resolve()}
