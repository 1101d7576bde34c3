"""Figures of a trial that was trained for seconds: what is drawn and written, and that it is the same each time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_study import small_study

from schurgan.audio import STFT, Spectrogram, read_audio
from schurgan.core.errors import SchurganError
from schurgan.core.files import sha256
from schurgan.data.shards import Shards
from schurgan.evaluation import evaluate as scoring
from schurgan.evaluation.sweep import Sweep
from schurgan.model import Model, load
from schurgan.runs.folder import RunFolder
from schurgan.runs.options import HealthOptions
from schurgan.studies import figures
from schurgan.studies.figures import save_figures
from schurgan.studies.listening import borrow, choose_clips, phase_picture
from schurgan.studies.runner import run_trials
from schurgan.studies.study import Study, Trial, read_study
from schurgan.studies.trial import Outcome


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def trials(shards: Path, out: Path) -> tuple[Trial, ...]:
    """Two trials on recordings, whose sounds nobody scores. Not to be changed."""
    content = small_study()
    content["scales"]["laptop"]["options"]["health"]["layer"] = "blocks.0.norm2"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "score_sounds", lambda *_: {})
        found = read_study("small", content).trials("laptop", 1, {"set": shards}, out)
        run_trials(found)
    return found


def drawn(kind: str, **more: object) -> Study:
    return read_study("small", small_study() | {"kind": kind, "alphas": [0.5, 1.0]} | more)


@pytest.fixture
def model(trials: tuple[Trial, ...]) -> Model:
    return load(trials[0].folder)


def test_gaps_are_drawn_with_an_arrow_at_the_onset(trials, tmp_path):
    study = drawn("gap")
    calm, _ = save_figures(study, "laptop", trials, tmp_path)[0], sha256(tmp_path / "small-laptop.svg")
    text = calm.with_suffix(".svg").read_text()
    for words in ("(a) with", "(b) without", "step (arrow: onset of collapse)"):
        assert words in text
    patches = text.count('id="patch_')
    outcome = Outcome("collapsed", "why", onset=4, scored_step=4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "read_outcome", lambda _: outcome)
        save_figures(study, "laptop", trials, tmp_path)
    assert calm.with_suffix(".svg").read_text().count('id="patch_') > patches


def test_the_gaps_of_a_layer_of_g_are_a_sheet_of_their_own(trials, tmp_path):
    images, layer = save_figures(drawn("gap"), "laptop", trials, tmp_path)
    assert (images.name, layer.name) == ("small-laptop.png", "small-laptop-layer.png")
    sheets = [path.with_suffix(".svg").read_text() for path in (images, layer)]
    assert ["blocks.0.norm2 of G" in sheet for sheet in sheets] == [False, True]
    for trial in trials:
        scores = [each.scores for each in RunFolder(trial.folder).read_records().health]
        assert all(each["layer_gap"] != each["gap"] for each in scores)
    plain = [replace(t, config=t.config.model_copy(update={"health": HealthOptions()})) for t in trials]
    assert save_figures(drawn("gap"), "laptop", plain, tmp_path) == [images]


def test_the_same_runs_give_the_same_figure(trials, tmp_path):
    for name in ("one", "two"):
        save_figures(drawn("gap"), "laptop", trials, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    names = [f"small-laptop{sheet}.{kind}" for sheet in ("-layer", "") for kind in ("png", "svg")]
    assert [path.name for path in first] == names
    assert [sha256(path) for path in first] == [sha256(path) for path in second]


def test_truncations_are_shown_with_gap_and_kinds_of_the_sweep(trials, tmp_path, monkeypatch):
    found: list[Sweep] = []
    sweep = figures.sweep

    def kept(*arguments: object, **options: object) -> Sweep:
        found.append(sweep(*arguments, **options))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(figures, "sweep", kept)
    save_figures(drawn("sweep"), "laptop", trials, tmp_path)
    text = (tmp_path / "small-laptop.svg").read_text()
    at = found[0].points[0]
    assert [each.truncations for each in found] == [(0.5,), (1.0,)]
    assert f"k = {at['vendi_score'].value:.4g}" in text
    assert "truncation α" in (tmp_path / "small-laptop.md").read_text()


def paired(trials: tuple[Trial, ...], kind: str) -> tuple[Study, list[Trial]]:
    """A row of another model at each truncation, one with a printed ε and one with a share."""
    content = small_study()
    rows = [row | {"alpha": alpha} for row, alpha in zip(content["rows"], (1.0, 0.5), strict=True)]
    options = {"epsilon": 34.53, "relative_epsilon": None}, {"relative_epsilon": 0.039}
    configs = [
        t.config.model_copy(update={"ddfn": t.config.ddfn.model_copy(update=o)})
        for t, o in zip(trials, options, strict=True)
    ]
    return drawn(kind, rows=rows), [replace(t, config=config) for t, config in zip(trials, configs, strict=True)]


def test_each_truncation_of_a_sweep_is_of_its_own_model(trials, tmp_path, monkeypatch):
    runs = []
    sweep = figures.sweep
    monkeypatch.setattr(figures, "sweep", lambda run, *a, **o: runs.append((run, *a)) or sweep(run, *a, **o))
    study, pairs = paired(trials, "sweep")
    save_figures(study, "laptop", pairs, tmp_path)
    assert runs == [(trials[0].folder, [1.0]), (trials[1].folder, [0.5])]
    text = (tmp_path / "small-laptop.svg").read_text()
    assert "α = 1, ε = 34.53" in text
    assert "α = 0.5, ε = 0.039 E Δ²(x)" in text


def test_each_sound_of_a_set_is_of_its_own_model_with_its_epsilon(trials, tmp_path):
    study, pairs = paired(trials, "waveform")
    save_figures(study, "laptop", pairs, tmp_path)
    made = json.loads((tmp_path / "small-laptop-sounds" / "set-1" / "about.json").read_text())["synthesized"]
    assert [(each["truncation"], each["epsilon"], each["relative_epsilon"]) for each in made] == [
        (1.0, 34.53, None),
        (0.5, None, 0.039),
    ]
    same = replace(trials[1], folder=trials[0].folder)
    study, pairs = paired((trials[0], same), "waveform")
    save_figures(study, "laptop", pairs, tmp_path / "same")
    sounds = [folder / "small-laptop-sounds" / "set-1" for folder in (tmp_path, tmp_path / "same")]
    assert sha256(sounds[0] / "synthesized-1.wav") == sha256(sounds[1] / "synthesized-1.wav")
    assert sha256(sounds[0] / "synthesized-2.wav") != sha256(sounds[1] / "synthesized-2.wav")


def test_waveforms_come_with_two_sets_to_hear_and_their_pictures(trials, tmp_path):
    save_figures(drawn("waveform"), "laptop", trials, tmp_path)
    picture = (tmp_path / "small-laptop.svg").read_text()
    assert "original, " in picture
    names = {"original", "synthesized-1", "synthesized-2", "approximated-noise", "approximated-griffin-lim"}
    for folder in (tmp_path / "small-laptop-sounds").iterdir():
        assert {path.stem for path in folder.glob("*.wav")} == names
        assert {path.stem for path in folder.glob("*.png")} == names
        about = json.loads((folder / "about.json").read_text())
        assert [each["truncation"] for each in about["synthesized"]] == [0.5, 1.0]
        if folder.name == "set-1":  # the one that is drawn
            readings = [each["snr_db"] for each in about["synthesized"]]
            assert all(f"(SNR {value:.1f} dB ({2 * value:.1f}))" in picture for value in readings)
        assert len(read_audio(folder / "original.wav", 16000)) == 8000


def test_panels_show_two_signals_for_each_row(trials, tmp_path):
    study = drawn("panels", alphas=[0.25, 0.5, 1.0, 2.0])
    paths = save_figures(study, "laptop", trials, tmp_path)
    assert [path.name for path in paths] == [f"figure{n}-laptop.png" for n in (5, 6, 7, 8)]
    first, second = (path.with_suffix(".svg").read_text() for path in paths[:2])
    assert first.count("generated, α") == 4
    assert second.count("generated, α") == 2
    assert "original phase" in first


def test_a_trial_without_a_generator_cannot_be_drawn(trials, tmp_path):
    missing = read_study("small", small_study()).trials("laptop", 1, {}, tmp_path)
    with pytest.raises(SchurganError, match="trial a-laptop-0 "):
        save_figures(drawn("waveform"), "laptop", missing, tmp_path)


def test_clips_are_recordings_of_different_classes(shards):
    everything = Shards(shards)
    clips = choose_clips(everything, 2, seed=0)
    assert clips == choose_clips(everything, 2, seed=0)
    assert len({int(everything.labels[clip]) for clip in clips}) == 2
    assert len(set(choose_clips(everything, 20, seed=0))) == 20
    with pytest.raises(SchurganError, match=r"48 .* 49 "):
        choose_clips(everything, 49, seed=0)


def test_a_borrowed_phase_is_the_recordings(model, shards):
    everything = Shards(shards)
    found = borrow(model, everything, 3, (0.5, 1.0), seed=0)
    assert found.sounds.shape == (2, 8000)
    transform = model.spectrogram.transform
    own, theirs = (transform.analyze(sound[None]) for sound in (found.original, found.sounds[1]))
    # Image times phase is no consistent set of coefficients: the phase comes back on the whole.
    along = sum(float((a.conj() * b).real.sum()) for a, b in zip(own, theirs, strict=True))
    across = sum(float((a.conj() * b).abs().sum()) for a, b in zip(own, theirs, strict=True))
    assert along > 0.5 * across


def test_the_phase_of_a_tone_advances_by_its_frequency(model):
    """At the scale nearest to a tone the phase is 2π f t, t the middle of the column."""
    size, rate = 16, 16000
    frequency = 500.0
    tone = torch.cos(2 * math.pi * frequency * torch.arange(8000) / rate)
    picture = phase_picture(model, tone)
    row = int((model.spectrogram.transform.full_rate(tone[None])[0].abs().mean(1)).argmax())
    middles = ((torch.arange(size) + 0.5) * (8000 / size)).long()
    expected = 2 * math.pi * frequency * middles / rate
    off = torch.remainder(picture[row] - expected + math.pi, 2 * math.pi) - math.pi
    assert off[2:-2].abs().max() < 0.05  # the ends see the edge of the clip


def test_phases_are_of_wavelets(model, monkeypatch):
    other = Spectrogram(transform="stft", size=16, channels=1, n_samples=8000)
    assert isinstance(other.transform, STFT)
    monkeypatch.setattr(model, "codec", other)
    with pytest.raises(SchurganError, match="wavelet"):
        phase_picture(model, torch.zeros(8000))
