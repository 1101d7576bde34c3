"""Scores of whole runs: an untrained model, or one that makes what a test needs, of a small folded set."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from folded_set import OWN, looks, make_run, spectrogram

import schurgan.evaluation
from schurgan.core.errors import SchurganError
from schurgan.evaluation import evaluate as score_run
from schurgan.evaluation import score_sounds as sound_scores
from schurgan.evaluation import target
from schurgan.evaluation.metric_table import ABOUT
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.scores import Evaluation
from schurgan.evaluation.target import Sampling, open_subject
from schurgan.evaluation.usefulness import score_usefulness
from schurgan.model import Model
from schurgan.report.page import score_table

EVERY = {
    "inception_score",
    "fid",
    "fid_per_class",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
    "variety",
    "vendi_score",
    "departure_gap",
    "nearest_training",
    "memorisation",
    "near_copies",
}
OF_SOUND = {"snr_db", "image_distance_db", "frechet_audio_distance", "louder_lu", "clipped"}


def test_every_score_is_there_and_what_is_written_is_what_is_returned(score, run):
    found = score()
    assert set(found.scores) == EVERY
    assert all(each.value is not None for each in found.scores.values())
    assert Evaluation.load(run / "scores.json").as_json() == found.as_json()
    assert (run / "evaluation" / "nearest.png").stat().st_size > 1000


def test_fid_is_that_of_the_model_s_own_images_to_the_training_clips(score, run, folded):
    fid = score(runs=1).scores["fid"]
    subject = open_subject(run)
    made = subject.model.images(subject.labels(60, 0), seed=0)
    training = folded.select(exclude_folds=[2])
    real = training.images(range(len(training)))
    assert (fid.n_real, fid.n_fake, fid.extractor) == (len(training), 60, OWN)
    truth = frechet_distance(looks(real)[0], looks(made)[0])
    assert fid.value == pytest.approx(truth, rel=1e-4)  # float32 images, made in batches of another size


def test_real_images_reach_less_than_an_untrained_model_does(score):
    for name in ("fid", "kid", "fid_per_class"):
        each = score().scores[name]
        assert each.value > 2 * (each.floor if each.floor is not None else each.held_out), name


def test_generated_classes_are_as_frequent_as_those_of_the_training_clips(run):
    subject = open_subject(run)
    labels = subject.labels(61, seed=0)
    counts = torch.bincount(labels, minlength=3).tolist()
    assert sorted(counts) == [20, 20, 21]
    assert not torch.equal(labels, labels.sort().values)  # or batches would be of one class


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(score):
    one, again, other = (
        {name: each.as_json() for name, each in score(seed=seed, runs=1).scores.items()} for seed in (3, 3, 4)
    )
    assert one == again
    assert one["fid"]["value"] != other["fid"]["value"]


def test_the_protocol_says_what_the_numbers_depend_on(score, folded):
    protocol = score(truncation=0.5, batch_norm="batch", seed=9).protocol
    assert (protocol.truncation, protocol.batch_norm, protocol.seed) == (0.5, "batch", 9)
    assert (protocol.n_real, protocol.n_held_out, protocol.n_fake, protocol.runs) == (12, 12, 60, 2)
    assert protocol.data == folded.select(exclude_folds=[2]).fingerprint
    assert protocol.held_out_data == folded.select(folds=[2]).fingerprint
    assert protocol.resize == "its own"
    assert len(protocol.extractor_digest) == 64
    assert score().protocol.truncation == 1


def test_truncation_and_batch_norm_change_the_images(score):
    plain, narrow, batch = (score(runs=1, **o).scores for o in ({}, {"truncation": 0.05}, {"batch_norm": "batch"}))
    assert narrow["variety"].value < plain["variety"].value
    assert batch["fid"].value != plain["fid"].value


def test_batch_statistics_leave_the_model_as_it_was(run):
    subject = open_subject(run)
    before = {name: value.clone() for name, value in subject.model.generator.state_dict().items()}
    _, make = subject.generator(Sampling(8, batch_norm="batch"), 0)
    make(slice(0, 8))
    after = subject.model.generator.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not subject.model.generator.training


def test_without_held_out_clips_it_says_so_and_scores_the_rest(folded, model, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError("all of them are silent")

    monkeypatch.setattr(score_run, "score_sounds", refuse)
    run = make_run(tmp_path / "all", folded.folder, model, exclude=())
    found = schurgan.evaluate(run, extractor=OWN, images=60, runs=1)
    assert "sounds were not scored: all of them are silent" in found.notes
    assert any("held out none of 24 clips (--train.val-fraction 0)" in note for note in found.notes)
    assert found.protocol.held_out == "none of 24 clips (--train.val-fraction 0)"
    assert found.protocol.held_out_data is None
    assert found.scores["memorisation"].value is None
    assert "no clips were held out" in found.scores["memorisation"].flags[0]
    known = EVERY - {"memorisation", "near_copies"}
    assert all(found.scores[name].value is not None for name in known)
    assert found.scores["fid"].held_out is None


def test_a_run_of_default_options_has_what_held_out_clips_tell(shards, finished_run, tmp_path):
    run = make_run(tmp_path / "run", shards, schurgan.load(finished_run), exclude=(), share=None)
    found = schurgan.evaluate(run, extractor=OWN, images=60, runs=1, quick=True)
    assert found.protocol.held_out == "8 of 48 clips, a tenth of each class"
    assert (found.protocol.n_real, found.protocol.n_held_out) == (40, 8)
    assert found.scores["memorisation"].value is not None
    assert found.scores["near_copies"].value is not None
    assert found.scores["fid"].held_out is not None
    assert not found.notes
    assert "accuracy" not in found.scores  # of eight classes, where the extractor knows three


def test_usefulness_without_held_out_clips_is_refused_before_any_work(folded, model, tmp_path):
    run = make_run(tmp_path / "all", folded.folder, model, exclude=())
    with pytest.raises(SchurganError, match=r"usefulness: .* held out none of 24 clips"):
        schurgan.evaluate(run, usefulness=True)


def test_usefulness_is_a_score_with_all_that_was_measured(score, monkeypatch):
    monkeypatch.setattr(score_run, "score_usefulness", partial(score_usefulness, steps=2, seeds=2))
    gain = score(usefulness=True, runs=1).scores["augmentation_utility"]
    assert gain.details["real"]["n_train"] == gain.n_real == 12
    assert gain.value == pytest.approx(gain.details["both"]["mean"] - gain.details["real"]["mean"])


def test_a_quick_look_cuts_every_part(run, monkeypatch):
    amounts = []

    def useful(*sets, **options):
        amounts.append((options["seeds"], options["steps"]))
        return score_usefulness(*sets, **(options | {"seeds": 2, "steps": 2}))

    monkeypatch.setattr(score_run, "score_usefulness", useful)
    monkeypatch.setattr(score_run, "measure_sounds", lambda *_, **__: pytest.fail("sounds"))
    monkeypatch.setattr(target, "QUICK_REAL", 5)
    found = schurgan.evaluate(run, extractor=OWN, images=60, runs=1, usefulness=True, quick=True)
    assert amounts == [(2, 100)]
    assert found.protocol.n_real == found.protocol.n_held_out == 5


@pytest.mark.parametrize("exclude", [(2,), ()])
def test_sounds_are_scored_with_held_out_clips_and_without(folded, model, tmp_path, few_sounds, exclude):
    run = make_run(tmp_path / "sound", folded.folder, model, exclude=exclude)
    found = schurgan.evaluate(run, extractor=OWN, images=60, runs=1)
    assert set(found.scores) == EVERY | OF_SOUND
    assert all(found.scores[name].value is not None for name in OF_SOUND)
    distance = found.scores["frechet_audio_distance"]
    assert distance.value > 0
    assert distance.floor > 0
    assert any("for 77 features" in flag for flag in distance.flags)
    assert (found.scores["snr_db"].held_out is None) == (not exclude)


def test_the_command_prints_a_plain_table_and_the_report_shows_the_scores(call, run):
    said = call("evaluate", run, "--extractor", OWN, "--quick")
    assert said.status == 0, said
    assert "\x1b" not in said.out
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{run}, step 0: 256 generated images against ")
    fid = Evaluation.load(run / "scores.json").scores["fid"]
    assert any(line.startswith("FID ↓") and f"{fid.value:.4g}" in line for line in lines)
    page = score_table(run)
    for name in Evaluation.load(run / "scores.json").scores:
        assert ABOUT[name] in said.out
        assert ABOUT[name][1:] in page


def test_the_classifier_is_trained_without_the_held_out_fold_and_its_accuracy_is_in_the_record(run, short_training):
    found = schurgan.evaluate(run, images=60, runs=1, quick=True)
    assert found.protocol.extractor == "classifier"
    assert found.protocol.extractor_accuracy == found.scores["accuracy"].held_out
    right = found.protocol.extractor_accuracy * 12  # clips of the held-out fold
    assert right == pytest.approx(round(right))


def _process(rank: int, port: int, run: str, folder: str) -> None:
    import os

    from schurgan.core.distributed import join

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sound_scores._WANTED, sound_scores._REFINE = 6, 2
    with join("cpu", timeout=120) as world:
        found = schurgan.evaluate(run, extractor=OWN, images=150, runs=2, world=world)
    Path(folder, f"{rank}.json").write_text(json.dumps(found.as_json()["scores"]))


@pytest.mark.slow
def test_two_processes_share_the_work_and_find_what_one_does(run, tmp_path, few_sounds):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_process, (port, str(run), str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    written = Evaluation.load(run / "scores.json").as_json()["scores"]
    alone = schurgan.evaluate(run, extractor=OWN, images=150, runs=2).as_json()["scores"]
    assert found[0] == found[1] == written
    assert found[0] == json.loads(json.dumps(alone))


def test_images_painted_by_a_run_are_compared_as_the_levels_that_the_shards_hold(folded, model, tmp_path):
    transform = spectrogram(channels=3, colormap="magma")
    painted = Model(model.generator, replace(model.card, transform=transform.config))
    subject = open_subject(make_run(tmp_path / "painted", folded.folder, painted))
    images = folded.images([0, 5])
    back = subject.prepared(transform.apply_colormap(images))
    assert back.shape == (2, 1, 16, 16)
    torch.testing.assert_close(back, images, atol=0.02, rtol=0)  # the colours are a table of 256
