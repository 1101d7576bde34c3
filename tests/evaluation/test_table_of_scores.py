"""How scores are written in tables."""

from __future__ import annotations

import pytest

from schurgan.evaluation.table import figure_and_spread


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
