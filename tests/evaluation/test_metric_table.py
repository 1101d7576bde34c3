from __future__ import annotations

from schurgan.evaluation.metric_table import BY_NAME, METRICS, Metric, take_scores, title
from schurgan.evaluation.scores import Score


def test_names_and_titles_are_each_of_one_metric():
    assert len(BY_NAME) == len({metric.title for metric in METRICS}) == len(METRICS)


def test_the_table_decides_direction_and_references():
    def take(value: float) -> Score:
        return Score(value, floor=1.0, matched=2.0, held_out=3.0)

    metrics = (
        Metric("all", "all", take, higher_is_better=True, floor="halves", matched=True, held_out=True),
        Metric("none", "none", take),
        Metric("absent", "absent", lambda value: None),
    )
    scores = take_scores(metrics, 5.0)
    assert scores == {
        "all": Score(5.0, floor=1.0, matched=2.0, held_out=3.0, higher_is_better=True),
        "none": Score(5.0),
    }


def test_every_reference_of_the_table_is_in_the_scores_of_a_run(score):
    scores = score().scores
    for name, each in scores.items():
        metric = BY_NAME[name]
        assert (each.floor is not None) == (metric.floor is not None), name
        assert (each.matched is not None) == metric.matched, name
        assert (each.held_out is not None) == metric.held_out or name == "accuracy", name  # an extractor of one's own
        assert each.higher_is_better == metric.higher_is_better, name


def test_an_unknown_score_has_its_name_as_title():
    assert (title("fid"), title("mine")) == ("FID", "mine")
