from __future__ import annotations

import json

import pytest
from folded_set import OWN, make_run, varied
from PIL import Image

import schurgan.evaluation
from schurgan.core.errors import SchurganError
from schurgan.evaluation import evaluate as score_run
from schurgan.evaluation.figures import save_sweep_figure
from schurgan.evaluation.scores import Score
from schurgan.evaluation.sweep import SWEPT, TRUNCATIONS, sweep


@pytest.fixture(scope="module")
def run(folded, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("swept") / "run", folded.folder, varied())


def test_more_truncation_means_less_variety_and_fewer_kinds_in_a_batch(run):
    points = sweep(run, (0.05, 0.5, 2.0), extractor=OWN, images=60, figures=False).points
    for name in ("variety", "vendi_score"):
        assert points[0][name].value < points[1][name].value < points[2][name].value, name


def test_a_point_of_a_sweep_is_what_evaluate_finds_at_that_truncation(run, monkeypatch):
    monkeypatch.setattr(score_run, "score_sounds", lambda *_: {})
    point = sweep(run, (0.5, 1.0), extractor=OWN, images=60, figures=False).points[0]
    whole = schurgan.evaluate(run, extractor=OWN, images=60, runs=1, truncation=0.5).scores
    assert {name: score.value for name, score in point.items()} == {
        metric.name: whole[metric.name].value for metric in SWEPT
    }


def test_the_command_writes_table_figure_and_json_of_the_truncations_given(call, run):
    said = call("sweep", run, "--extractor", OWN, "--images", "60", "--truncations", "0.25,1")
    assert said.status == 0, said
    folder = run / "evaluation"
    lines = said.out.splitlines()
    assert lines[0].startswith("| truncation α | Inception Score | FID |")
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["0.25", "1", "real images"]
    assert (folder / "sweep.md").read_text() == "\n".join(lines[:5]) + "\n"
    known = json.loads((folder / "sweep.json").read_text())
    assert [point["truncation"] for point in known["points"]] == [0.25, 1]
    assert known["protocol"]["n_fake"] == 60
    assert known["points"][0]["scores"]["fid"]["floor"] > 0
    assert Image.open(folder / "sweep.png").width > 1000
    assert "<svg" in (folder / "sweep.svg").read_text()


def test_the_paper_s_range_is_the_default():
    assert (TRUNCATIONS[0], TRUNCATIONS[-1]) == (0.05, 2.0)


@pytest.mark.parametrize(
    ("truncations", "said"),
    [
        ("0.5,x", '--truncations: "0.5,x" given, numbers with commas between are needed'),
        ("0.5,", '--truncations: "0.5," given, numbers with commas between are needed'),
        ("0.5,0", "truncation: 0.0 given, a finite number above 0 is needed"),
        ("nan", "truncation: nan given, a finite number above 0 is needed"),
        ("1,1.0", "--truncations: 1, 1 given, each once is needed"),
    ],
)
def test_truncations_that_cannot_be_are_one_sentence(refused, run, truncations, said):
    assert refused("sweep", run, "--extractor", OWN, "--truncations", truncations) == said


def test_none_at_all_is_refused(run):
    with pytest.raises(SchurganError, match="truncations: none given"):
        sweep(run, ())


def test_a_figure_leaves_out_what_is_not_known_and_is_the_same_every_time(tmp_path):
    points = [{name: Score(v) for name in ("fid", "variety")} for v in (1.0, None, 3.0)]
    for name in ("a", "b"):
        save_sweep_figure((0.5, 1.0, 2.0), points, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_sweep_s_scores_have_what_real_images_reach(run):
    for name, score in sweep(run, (1.0,), extractor=OWN, images=60, figures=False).points[0].items():
        assert isinstance(score, Score)
        assert score.floor is not None, name
