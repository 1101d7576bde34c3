from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from small_study import small_study

from schurgan.core.errors import SchurganError
from schurgan.studies.study import Study, load_study, read_study, study_names

SHIPPED = [(name, scale) for name in study_names() for scale in load_study(name).scales]


def test_tables_and_figures_of_the_paper_are_there():
    figures = ["figure1", "figure2", "figure3", "figures5-10"]
    assert study_names() == [*figures, "table1", "table2", "table3", "table4"]


@pytest.mark.parametrize(("name", "scale"), SHIPPED)
def test_options_of_every_trial_are_valid_at_every_scale(name, scale):
    study = load_study(name)
    folders = {each: Path(each) for each in study.known_data(scale)}
    trials = study.trials(scale, 1, folders, Path("out"))
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.config.health.reaction == "warn"  # a rollback would hide the extreme onset
        assert trial.config.health.budget == 0  # by the clock, evaluations would come at other steps each time
        assert trial.config.train.steps % trial.config.train.checkpoint_every == 0
        assert trial.config.train.val_fraction is not None  # held out is what the study says, and not by default


def test_trials_of_the_same_name_are_the_same_in_all_studies():
    known = {}
    for name, scale in SHIPPED:
        for trial in load_study(name).trials(scale, 1, {}, Path("out")):
            assert known.setdefault(trial.name, trial) == trial


def test_every_study_has_the_three_scales():
    assert list(product(study_names(), ("laptop", "gpu", "paper"))) == SHIPPED


def test_a_variant_may_have_another_option_for_a_part():
    study = load_study("table1")
    row = next(row for row in study.rows if row.name == "us8k-256-96-orthogonal")
    assert study.config(row, "paper", 0, None).regularize.orthogonal_d == 5e-5
    assert study.config(row, "paper", 0, None, "log-real").regularize.orthogonal_d == 1e-4


def test_later_parts_override_scale_and_preset():
    content = small_study()
    content["rows"][0]["parts"] = ["with", "without"]
    study = read_study("small", content)
    config = study.config(study.rows[0], "laptop", 3, None)
    assert (config.ddfn.weight, config.train.seed, config.model.architecture, config.train.lr_g) == (
        0,
        3,
        "small-16",
        1e-3,
    )


def test_variants_are_trials_only_where_their_data_is_given_and_for_rows_of_the_paper(tmp_path):
    study = read_study("small", small_study())
    names = [trial.name for trial in study.trials("laptop", 2, {"set": tmp_path}, tmp_path)]
    assert names == ["a-laptop-0", "b-laptop-0", "a-laptop-1", "b-laptop-1"]
    both = {"set": tmp_path, "set-linear": tmp_path / "linear"}
    trials = study.trials("laptop", 2, both, tmp_path)
    assert [trial.name for trial in trials[4:]] == ["a.linear-laptop-0"]
    assert trials[4].config.data == tmp_path / "linear"


def test_rows_with_a_part_that_is_left_out_are_not_there():
    content = small_study()
    content["rows"][1]["parts"] = ["without", "huge"]
    content["scales"]["laptop"]["leave_out"] = ["huge"]
    study = read_study("small", content)
    assert [row.name for row in study.rows_at("laptop")] == ["a"]


def _with(content: dict, change: str, value: object) -> dict:
    copied = json.loads(json.dumps(content))
    place = copied
    *path, last = change.split("/")
    for key in path:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    return copied


@pytest.mark.parametrize(
    ("change", "value", "said"),
    [
        ("rows/1/name", "a", 'row "a" '),
        ("rows/1/data", "nothing", 'row "b": '),
        ("rows/1/parts", ["withh"], '"withh"'),
        ("rows/0/paper", {"is": {"value": 1}}, 'row "a": '),
        ("rows/0/colour", "red", "rows.0.colour"),
    ],
)
def test_a_mistake_in_a_study_is_named(change, value, said):
    with pytest.raises(SchurganError, match="study small: ") as caught:
        read_study("small", _with(small_study(), change, value))
    assert said in str(caught.value)


def test_an_option_that_cannot_be_is_named_with_study_row_and_scale():
    study = read_study("small", _with(small_study(), "scales/laptop/parts/with", {"ddfn": {"weight": -1}}))
    with pytest.raises(SchurganError, match=r"study small, row a, scale laptop: ddfn\.weight: -1 "):
        study.config(study.rows[0], "laptop", 0, None)


def test_the_nearest_name_is_offered_for_an_unknown_study():
    with pytest.raises(SchurganError, match=r'study "tabel1": .*"table1"'):
        load_study("tabel1")


def test_a_scale_that_a_study_has_not_is_refused():
    with pytest.raises(SchurganError, match=r"^scale: gpu "):
        read_study("small", small_study()).scale("gpu")


def test_a_study_like_another_has_its_rows_and_may_choose_some():
    four, two = load_study("table4"), load_study("table2")
    assert isinstance(two, Study)
    assert two.scales == four.scales
    assert all(row in four.rows for row in two.rows)
    with pytest.raises(SchurganError, match='"nothing"'):
        read_study("two", {"like": "table4", "only": ["nothing"]})


def test_precision_is_the_scales_unless_another_is_asked_for(tmp_path):
    study = load_study("table1")
    for asked, expected in ((None, "bf16"), ("tf32", "tf32")):
        assert {t.config.train.precision for t in study.trials("gpu", 1, {}, tmp_path, asked)} == {expected}
    assert {t.config.train.precision for t in study.trials("paper", 1, {}, tmp_path)} == {"fp32"}


def test_seeds_are_runs_of_every_row_all_rows_of_the_first_seed_first(tmp_path):
    trials = load_study("table1").trials("gpu", 3, {}, tmp_path)
    rows = len(trials) // 3
    assert [trial.seed for trial in trials] == [0] * rows + [1] * rows + [2] * rows
    assert [trial.config.train.seed for trial in trials] == [trial.seed for trial in trials]


@pytest.mark.parametrize("name", ["figure2", "figure3"])
def test_figures_2_and_3_have_a_model_for_each_printed_pair(name, tmp_path):
    study = load_study(name)
    alphas = {row.name: row.alpha for row in study.rows}
    pairs = {(alphas[t.row], t.config.ddfn.epsilon) for t in study.trials("paper", 1, {}, tmp_path)}
    assert pairs == {(0.25, 34.53), (0.5, 47.05), (1.0, 56.37), (2.0, 78.145)}
    for scale in ("laptop", "gpu"):
        shares = {alphas[t.row]: t.config.ddfn.relative_epsilon for t in study.trials(scale, 1, {}, tmp_path)}
        assert shares == {0.25: 0.017, 0.5: 0.023, 1.0: 0.028, 2.0: 0.039}  # of 2,025, ESC-10's mean at 128²
