"""How close a rebuilt sound is to the original: three readings of "signal to noise", named apart.

The paper's footnote 2 prints 20 log10 of signal power over *reconstruction* power, which is 0 dB for a perfect copy;
the range of its results fits 20 log10 of signal over *residual* power. All three are reported.
"""

from __future__ import annotations

import torch
from torch import Tensor


def snr_db(original: Tensor, rebuilt: Tensor) -> Tensor:
    """10 log10 Σ x² / Σ (x − y)², dB, over the last axis; infinite for an exact copy."""
    return 10 * torch.log10(_power(original) / _power(original - rebuilt))


def snr_paper_db(original: Tensor, rebuilt: Tensor) -> Tensor:
    """20 log10 Σ x² / Σ (x − y)², dB: twice `snr_db`, the reading that the paper's figures fit."""
    return 2 * snr_db(original, rebuilt)


def power_ratio_db(original: Tensor, rebuilt: Tensor) -> Tensor:
    """20 log10 Σ x² / Σ y², dB: the paper's footnote 2 to the letter. 0 for a perfect copy and for much else."""
    return 20 * torch.log10(_power(original) / _power(rebuilt))


def _power(x: Tensor) -> Tensor:
    return x.double().square().sum(-1)
