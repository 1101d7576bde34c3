from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image
from test_scores import PROTOCOL

from schurgan.core.errors import SchurganError
from schurgan.evaluation.metric_table import METRICS
from schurgan.evaluation.scores import Evaluation, Score
from schurgan.evaluation.table import compare


def scores(fid: float, recall: float, gap: float, **more: Score) -> dict[str, Score]:
    return {
        "fid": Score(fid, 0.25, floor=2.0, higher_is_better=False),
        "recall": Score(recall, floor=0.98, higher_is_better=True),
        "departure_gap": Score(gap, floor=0.5),
    } | more


@pytest.fixture
def runs(tmp_path):
    """Two evaluated runs, the second better by FID and worse by recall."""
    for name, found in (
        ("a", scores(12.5, 0.75, 1.0, accuracy=Score(0.5, higher_is_better=True))),
        ("b", scores(8.125, 0.25, 2.0)),
    ):
        (tmp_path / name).mkdir()
        Evaluation(replace(PROTOCOL, run=name), found).save(tmp_path / name / "scores.json")
    return [tmp_path / "a", tmp_path / "b"]


def change(run, **fields) -> None:
    known = Evaluation.load(run / "scores.json")
    replace(known, protocol=replace(known.protocol, **fields)).save(run / "scores.json")


def test_the_best_of_each_column_is_bold_and_real_images_have_the_last_row(runs):
    lines = compare(runs).markdown().splitlines()
    assert lines[0] == "| run | step | FID ↓ | recall ↑ | Δ² gap |"
    assert lines[2] == f"| {runs[0]} | 100 | 12.5 ± 0.25 | **0.75** | 1 |"
    assert lines[3] == f"| {runs[1]} | 100 | **8.125 ± 0.25** | 0.25 | 2 |"
    assert lines[4] == "| real images |  | 2 | 0.98 | ±0.5 |"


def test_a_score_that_one_run_lacks_is_no_column(runs):
    assert "accuracy" not in compare(runs).markdown()


LOWER = {"fid", "kid", "frechet_audio_distance"}
HIGHER = {"inception_score", "precision", "recall", "density", "coverage", "accuracy", "augmentation_utility"}
NEITHER = {"variety", "departure_gap", "memorisation"}


@pytest.mark.parametrize("name", sorted(LOWER | HIGHER | NEITHER))
def test_the_smaller_value_is_bold_where_lower_is_better_and_the_larger_where_higher_is(runs, name):
    for value, run in enumerate(runs, 1):
        known = Evaluation.load(run / "scores.json")
        replace(known, scores={name: Score(float(value))}).save(run / "scores.json")
    compared = compare(runs)
    assert compared.head[2].endswith("↓" if name in LOWER else "↑" if name in HIGHER else compared.head[2][-1])
    assert compared.bold == ({(0, 2)} if name in LOWER else {(1, 2)} if name in HIGHER else set())


def test_every_compared_score_is_known_here():
    assert {metric.name for metric in METRICS if metric.compared} == LOWER | HIGHER | NEITHER


def test_equal_scores_have_no_best(runs):
    assert compare([runs[0], runs[0]]).bold == frozenset()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"truncation": 0.5}, "the truncation is 1 in the one and 0.5 in the other"),
        ({"n_fake": 5000}, "the number of generated images is 1000 in the one and 5000 in the other"),
        ({"extractor_digest": "f" * 64}, "the trained extractor of the one is not that of the other"),
        ({"data": "f" * 64}, "the training data of the one is not that of the other"),
        ({"batch_norm": "batch"}, "the batch-norm mode is standing in the one and batch in the other"),
        ({"truncation": None}, "the truncation is 1 in the one and none in the other"),
    ],
)
def test_runs_that_cannot_be_compared_are_named_with_both_values(refused, runs, fields, said):
    change(runs[1], **fields)
    sentence = refused("compare", *runs)
    assert sentence.startswith(f"{runs[0]} and {runs[1]} cannot be compared: {said}")


def test_the_command_writes_markdown_and_a_picture(call, runs, tmp_path):
    said = call("compare", *runs, "--out", tmp_path / "t" / "table.md", "--png", tmp_path / "t" / "table.png")
    assert said.status == 0, said
    assert (tmp_path / "t" / "table.md").read_text() == said.out
    assert re.search("1000 generated images against 320 training images .*, truncation 1", said.out)
    width, height = Image.open(tmp_path / "t" / "table.png").size
    assert width > 500
    assert height > 150


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "table.txt"], "--out: table.txt given, a name that ends in .md is needed"),
        (["--png", "table.jpg"], "--png: table.jpg given, a name that ends in .png is needed"),
    ],
)
def test_a_name_of_another_kind_is_refused(refused, runs, arguments, said):
    assert refused("compare", *runs, *arguments) == said


def test_one_run_alone_is_not_compared(runs):
    with pytest.raises(SchurganError, match="1 run given, two or more are needed"):
        compare(runs[:1])


def test_a_run_without_scores_is_named(refused, runs, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").touch()
    assert refused("compare", runs[0], tmp_path / "c") == (
        f"{tmp_path / 'c' / 'scores.json'}: no scores yet; `schurgan evaluate {tmp_path / 'c'}` takes them"
    )
