from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from schurgan.core.errors import SchurganError
from schurgan.evaluation.scores import COMPARED, Evaluation, Protocol, Score, difference

PROTOCOL = Protocol(
    run="runs/a",
    step=100,
    data="a" * 64,
    held_out_data=None,
    val_folds=(5,),
    classes=10,
    extractor="classifier",
    extractor_digest="b" * 64,
    extractor_accuracy=0.8,
    resize="none",
    n_real=320,
    n_held_out=80,
    n_fake=1000,
    runs=3,
    truncation=1.0,
    batch_norm="standing",
    weights="moving average",
    seed=0,
    version="1",
    torch="2",
    device="cpu",
    date="2026-01-01T00:00:00Z",
)
SCORES = {
    "fid": Score(12.5, 0.5, floor=2.0, n_real=320, n_fake=1000, extractor="classifier", flags=("few",)),
    "recall": Score(None, flags=("too few images",)),
}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    evaluation = Evaluation(PROTOCOL, SCORES, ("a note",))
    evaluation.save(tmp_path / "scores.json")
    assert Evaluation.load(tmp_path / "scores.json") == evaluation


def test_every_score_is_an_object_with_a_value_and_fid_with_what_made_it(tmp_path):
    Evaluation(PROTOCOL, SCORES).save(tmp_path / "scores.json")
    known = json.loads((tmp_path / "scores.json").read_text())
    assert all("value" in score for score in known["scores"].values())
    assert {"floor", "n_real", "n_fake", "extractor", "higher_is_better", "flags", "sd"} <= set(known["scores"]["fid"])
    assert set(known["protocol"]) == {each.name for each in fields(Protocol)}


def test_what_is_not_finite_is_null_wherever_it_stands():
    said = Score(float("nan"), floor=float("inf"), details={"per_class": {"a": float("nan")}, "list": [1.0, -1e400]})
    known = said.as_json()
    assert (known["value"], known["floor"], known["details"]) == (
        None,
        None,
        {"per_class": {"a": None}, "list": [1, None]},
    )


OTHERS = {
    "data": "c" * 64,
    "held_out_data": "c" * 64,
    "extractor": "inception",
    "extractor_digest": "c" * 64,
    "resize": "299x299",
    "n_real": 319,
    "n_fake": 5000,
    "truncation": 0.5,
    "batch_norm": "batch",
}


@pytest.mark.parametrize("name", COMPARED)
def test_each_field_that_changes_scores_forbids_to_compare(name):
    said = difference(PROTOCOL, replace(PROTOCOL, **{name: OTHERS[name]}))
    assert said is not None
    assert said.startswith(f"{COMPARED[name]} ")


def test_runs_that_differ_in_what_does_not_change_scores_compare():
    assert difference(PROTOCOL, replace(PROTOCOL, run="runs/b", step=7, seed=3, date="", runs=10)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "damaged, or not scores"),
        ("[]", "damaged, or not scores"),
        (
            '{"protocol": {}, "scores": {}, "format": "other/9"}',
            "format: 'other/9' given",
        ),
        ('{"format": "schurgan-scores/1"}', "damaged, or not scores"),
        ('{"format": "schurgan-scores/1", "protocol": {"val_folds": []}, "scores": {}}', "damaged, or not scores"),
        ("[" * 100_000, "damaged, or not scores"),
    ],
)
def test_a_file_of_something_else_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(SchurganError) as caught:
        Evaluation.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", [3, {"sd": 1}, {"value": "high"}, {"value": []}, None])
def test_a_score_that_is_none_is_refused(tmp_path, score):
    known = Evaluation(PROTOCOL, SCORES).as_json()
    known["scores"]["fid"] = score
    (tmp_path / "scores.json").write_text(json.dumps(known))
    with pytest.raises(SchurganError, match="damaged, or not scores"):
        Evaluation.load(tmp_path / "scores.json")


def test_a_flipped_bit_anywhere_is_noticed_and_a_file_without_its_checksum_is_of_an_older_version(tmp_path):
    path = tmp_path / "scores.json"
    Evaluation(PROTOCOL, SCORES).save(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(SchurganError, match=r"scores.json: "):
            Evaluation.load(path)
    known = json.loads(whole)
    del known["checksum"]
    path.write_text(json.dumps(known))
    assert Evaluation.load(path) == Evaluation(PROTOCOL, SCORES)


def test_a_run_without_scores_is_told_what_makes_them(tmp_path):
    with pytest.raises(SchurganError, match=f"no scores yet; `schurgan evaluate {tmp_path}` takes them"):
        Evaluation.load(tmp_path / "scores.json")


def test_a_file_of_the_version_before_is_read_under_todays_names(tmp_path):
    known = Evaluation(PROTOCOL, SCORES | {"vendi_score": Score(3.0), "augmentation_utility": Score(0.1)}).as_json()
    for new, old in (("vendi_score", "kinds_per_batch"), ("augmentation_utility", "usefulness_gain")):
        known["scores"][old] = known["scores"].pop(new)
    known["protocol"]["excluded_folds"] = known["protocol"].pop("val_folds")
    (tmp_path / "scores.json").write_text(json.dumps(known))
    evaluation = Evaluation.load(tmp_path / "scores.json")
    assert evaluation.protocol == PROTOCOL
    assert evaluation.scores["vendi_score"].value == 3
    assert evaluation.scores["augmentation_utility"].value == 0.1
