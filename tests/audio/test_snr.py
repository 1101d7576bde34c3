"""Three signal-to-noise ratios against hand formulas."""

from __future__ import annotations

import math

import pytest
import torch

from schurgan.audio import power_ratio_db, snr_db, snr_paper_db


@pytest.fixture
def sounds() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(3, 5000, generator=generator)
    return original, original + 0.1 * torch.randn(3, 5000, generator=generator)


def test_snr_is_ten_decades_of_signal_energy_over_residual_energy(sounds):
    original, rebuilt = sounds
    for x, y, got in zip(original.tolist(), rebuilt.tolist(), snr_db(original, rebuilt).tolist(), strict=True):
        residual = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        # the difference of float32 samples is rounded to 1e-7 of them
        assert got == pytest.approx(10 * math.log10(sum(a * a for a in x) / residual), abs=1e-5)


def test_the_papers_snr_is_twice_the_usual_one(sounds):
    assert torch.allclose(snr_paper_db(*sounds), 2 * snr_db(*sounds), rtol=1e-12)


def test_halving_a_sound_leaves_six_db_of_it_and_twelve_of_power_ratio():
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(1))
    assert snr_db(x, x / 2).tolist() == pytest.approx([20 * math.log10(2)] * 2, abs=1e-9)
    assert power_ratio_db(x, x / 2).tolist() == pytest.approx([40 * math.log10(2)] * 2, abs=1e-9)


def test_a_perfect_copy_has_infinite_snr_and_a_power_ratio_of_zero(sounds):
    original, _ = sounds
    assert snr_db(original, original).tolist() == [math.inf] * 3
    assert snr_paper_db(original, original).tolist() == [math.inf] * 3
    assert power_ratio_db(original, original).tolist() == [0.0] * 3


def test_the_power_ratio_does_not_see_the_sign_of_a_sound():
    x = torch.randn(1, 1000, generator=torch.Generator().manual_seed(2))
    assert power_ratio_db(x, -x).item() == 0.0
    assert snr_db(x, -x).item() == pytest.approx(-20 * math.log10(2), abs=1e-9)
