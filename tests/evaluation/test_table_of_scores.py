"""How scores are written in tables."""

from __future__ import annotations

import pytest

from schurgan.evaluation.scores import Score
from schurgan.evaluation.table import figure_and_spread, real_figure, score_figure


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [
        (3.4951, 0.3319, "3.50 ± 0.33"),
        (44.57, 12.3, "45 ± 12"),
        (1.00312, 0.004777, "1.0031 ± 0.0048"),
        (1.5, 1e-9, "1.5000 ± 0.0000"),
        (2.0, 0.0, "2.0000 ± 0.0000"),
        (850.0, 250.0, "850 ± 250"),
    ],
)
def test_a_mean_has_the_decimals_of_its_spread(value, spread, said):
    assert figure_and_spread(value, spread) == said


def test_another_reading_of_the_snr_stands_in_brackets_and_no_other_score_has_one():
    assert (score_figure("snr_db", 1.25), score_figure("fid", 1.25)) == ("1.25 (2.5)", "1.25")
    assert real_figure("snr_db", Score(1.0, held_out=0.5)) == "0.5 (1)"
