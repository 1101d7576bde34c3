from __future__ import annotations

from pathlib import Path

from schurgan.evaluation.metric_table import ABOUT, BY_NAME, METRICS, Metric, take_scores, title
from schurgan.evaluation.scores import Score


def test_names_and_titles_are_each_of_one_metric():
    assert len(BY_NAME) == len({metric.title for metric in METRICS}) == len(METRICS)


def test_the_table_decides_direction_and_what_does_not_apply_is_left_out():
    metrics = (
        Metric("all", "all", lambda value: Score(value, floor=1.0), higher_is_better=True),
        Metric("absent", "absent", lambda value: None),
    )
    assert take_scores(metrics, 5.0) == {"all": Score(5.0, floor=1.0, higher_is_better=True)}


def test_scores_of_a_run_have_the_direction_and_references_that_docs_promise(score):
    scores = score().scores
    assert all(each.higher_is_better == BY_NAME[name].higher_is_better for name, each in scores.items())
    without = {
        which: {name for name, each in scores.items() if getattr(each, which) is None}
        for which in ("floor", "held_out", "matched")
    }
    assert without["floor"] == {"fid_per_class", "accuracy", "memorisation", "near_copies"}
    assert without["held_out"] == {"vendi_score", "accuracy"}  # the accuracy of an extractor of one's own is not known
    assert scores.keys() - without["matched"] == {"fid", "precision", "recall", "density", "coverage"}


def test_an_unknown_score_has_its_name_as_title():
    assert (title("fid"), title("mine")) == ("FID", "mine")


def test_the_glossary_has_every_score_and_docs_hold_its_words():
    assert list(ABOUT) == list(BY_NAME)
    docs = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    assert [name for name, text in ABOUT.items() if f"| `{name}` | {text} |" not in docs] == []
