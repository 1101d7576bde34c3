"""The complex Morlet wavelet transform as a painless frame: every scale at its own rate, with an exact inverse.

Balazs, Dörfler, Jaillet, Holighaus, Velasco, "Theory, implementation and applications of nonstationary Gabor frames",
2011. A filter whose spectrum is zero outside M bins loses nothing when its output is kept at M samples a period only:
folding those M bins onto themselves and one inverse FFT of length M give exact samples of the full-rate transform, and
because no bins overlap in the fold, dividing by Σ_k |ψ̂_k|² inverts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count, groupby

import torch
from torch import Tensor

from schurgan.audio.interpolation import Cubic, reflect
from schurgan.audio.transform import Coefficients, check_clips
from schurgan.core.isolation import isolated, own_settings

_PAD_FRAMES = 8  # hops of reflected sound before the clip, and at least as many after it


def default_w0(n_scales: int) -> float:
    """Cycles under the Morlet envelope with which filters log-spaced over 40-7600 Hz overlap alike at any number."""
    return min(max(n_scales / 8, 6.0), 48.0)


@dataclass(frozen=True)
class _Group:
    """Rows k0 .. k1-1, all kept at `length` samples a padded clip; `low` is the first bin of each row's band."""

    k0: int
    k1: int
    length: int
    low: tuple[int, ...]

    def fold(self, low: int) -> tuple[slice, slice]:
        """The bins low .. low + length − 1 in the order of their remainders by `length`, where folding puts them."""
        turn = low - low % self.length + self.length
        return slice(turn, low + self.length), slice(low, turn)


class MorletCWT:
    """Continuous wavelet transform with analytic Morlet wavelets ψ̂_k(f) = 2 exp(−½ ((f − f_k) w0 / f_k)²), f > 0.

    A sine of amplitude A and frequency f_k gives |c_k| = A. The frequencies f_k are log-spaced; the first and the last
    filter go on flat to 0 Hz and to half the sample rate, so that the inverse is exact. Works in the dtype (float32 or
    float64) and on the device of its input; differentiable.

    Args:
        n_samples: length L of every clip, samples.
        sample_rate: Hz.
        n_scales: number K of frequencies.
        f_min: lowest frequency, Hz.
        f_max: highest frequency, Hz.
        w0: cycles: time spread w0 / (2π f), frequency spread f / w0; default by `default_w0`.
        hop: samples between frames of `frames`; the window of a frame is two hops.
        n_frames: divide the clip into so many frames instead; every row then has a sample in the middle of each.
    """

    tolerance = 1e-4  # share of a filter's peak below which it is cut

    @isolated
    def __init__(
        self,
        n_samples: int,
        sample_rate: float = 16000,
        n_scales: int = 128,
        f_min: float = 40.0,
        f_max: float = 7600.0,
        w0: float | None = None,
        *,
        hop: int = 400,
        n_frames: int | None = None,
    ) -> None:
        if n_samples < 1 or hop < 1 or n_scales < 2:
            raise ValueError(f"n_samples {n_samples}, hop {hop}, n_scales {n_scales}: at least 1, 1 and 2 are needed")
        if not 0 < f_min < f_max < sample_rate / 2:
            raise ValueError(f"f_min {f_min:g}, f_max {f_max:g}: 0 < f_min < f_max < {sample_rate / 2:g} Hz is needed")
        self.frequencies = torch.logspace(math.log10(f_min), math.log10(f_max), n_scales, dtype=torch.float64)
        self.w0 = default_w0(n_scales) if w0 is None else float(w0)
        if not self.w0 >= 1:
            raise ValueError(f"w0 {w0}: 1 or more is needed")
        self.n_samples, self.sample_rate, self.n_rows = n_samples, sample_rate, n_scales
        self.n_frames = -(-n_samples // hop) if n_frames is None else n_frames
        length = hop if n_frames is None else n_samples / n_frames  # of a frame, samples
        self.padded_frames = _next_smooth(self.n_frames + 2 * _PAD_FRAMES)
        self.n_padded = round(self.padded_frames * length)
        self.start = round(_PAD_FRAMES * length)  # of the clip within its padding, samples
        self._filters, self._groups = self._plan(even=n_frames is not None)
        self._tables: dict[tuple[torch.device, torch.dtype], _Tables] = {}

    @own_settings(keep_grad=True)
    def analyze(self, x: Tensor) -> Coefficients:
        """Clips (B, L) -> (B, K_g, M_g): exact samples of `full_rate`, every n_padded / M_g of the padded clip."""
        spectrum = self._spectrum(x)
        groups = []
        for group, filters in zip(self._groups, self._tables_for(x).filters, strict=True):
            folded = torch.cat([spectrum[:, piece] for low in group.low for piece in group.fold(low)], -1)
            bands = folded.view(len(x), len(group.low), group.length)
            groups.append(torch.fft.ifft(_scale_(bands, filters), norm="forward"))
        return Coefficients(tuple(groups))

    @own_settings(keep_grad=True)
    def synthesize(self, c: Coefficients) -> Tensor:
        """Coefficients -> (B, L): the canonical dual frame, Σ_k ψ̂_k ĉ_k / Σ_k |ψ̂_k|², inverse of `analyze`."""
        first = c.groups[0]
        spectrum = first.new_zeros(len(first), self._spectrum_length)
        for group, values, duals in zip(self._groups, c, self._tables_for(first.real).duals, strict=True):
            bands = _scale_(torch.fft.fft(values), duals)
            for low, band in zip(group.low, bands.unbind(1), strict=True):
                wrapped, rest = group.fold(low)
                turn = low % group.length
                spectrum[:, wrapped].add_(band[:, :turn])
                spectrum[:, rest].add_(band[:, turn:])
        padded: Tensor = torch.fft.irfft(spectrum[:, : self.n_padded // 2 + 1], n=self.n_padded)
        return padded[:, self.start : self.start + self.n_samples]

    @own_settings(keep_grad=True)
    def full_rate(self, x: Tensor) -> Tensor:
        """Clips (B, L) -> (B, K, L) complex: all scales at the sound's rate, for plots and tests (88 MB a 5 s clip)."""
        spectrum = self._spectrum(x)
        rows = []
        for low, band in self._filters:
            full = spectrum.new_zeros(spectrum.shape[0], self.n_padded)
            full[:, low : low + len(band)] = spectrum[:, low : low + len(band)] * band.to(x)
            rows.append(torch.fft.ifft(full))
        return torch.stack(rows, 1)[..., self.start : self.start + self.n_samples]

    @own_settings(keep_grad=True)
    def frames(self, c: Coefficients) -> Tensor:
        """Average |c|² under Hann windows of two hops round (m + ½) hop: -> (B, K, n_frames)."""
        tables = self._tables_for(c.groups[0].real)
        rows = []
        for group, values, window in zip(self._groups, c, tables.windows, strict=True):
            r = group.length // self.padded_frames
            start = _PAD_FRAMES * r - r // 2
            # |c|² is the sum of two squares, which the product with the window takes along.
            used = torch.view_as_real(values[..., start : start + (self.n_frames + 1) * r])
            window = window.repeat_interleave(2, -1)
            # The long operand on the right: five times faster than (..., r) @ (r, 2)
            halves = window @ used.square().reshape(-1, window.shape[-1]).mT
            first, second = halves.view(2, *values.shape[:2], self.n_frames + 1)
            rows.append(first[..., :-1] + second[..., 1:])
        return torch.cat(rows, 1)

    def middles(self, c: Coefficients) -> Tensor:
        """Coefficients in the middles of frames, where `n_frames` was given: -> (B, K, n_frames) complex."""
        rows = []
        for values in c:
            r = values.shape[-1] // self.padded_frames
            rows.append(values[..., _PAD_FRAMES * r + r // 2 :: r][..., : self.n_frames])
        return torch.cat(rows, 1)

    @own_settings(keep_grad=True)
    def spread(self, magnitude: Tensor) -> Coefficients:
        """Columns (B, K, R) that divide the frames evenly -> real (B, K_g, M_g), Catmull-Rom, never negative."""
        interpolations = self._tables_for(magnitude).interpolations(magnitude.shape[-1])
        return Coefficients(
            tuple(
                interpolate(magnitude[:, group.k0 : group.k1]).clamp_min(0)
                for group, interpolate in zip(self._groups, interpolations, strict=True)
            )
        )

    def _plan(self, even: bool) -> tuple[list[tuple[int, Tensor]], list[_Group]]:
        """The filters as (first bin, values), and the rows grouped by the smallest length that holds their band.

        With `even` a frame holds an even number of samples, so that one lies in its middle.
        """
        bin_width = self.sample_rate / self.n_padded
        last_bin = self.n_padded // 2
        # |f − f_k| / f_k at which the filter has fallen to its tolerance
        reach = math.sqrt(-2 * math.log(self.tolerance)) / self.w0
        filters, lengths = [], []
        for k, f in enumerate(self.frequencies.tolist()):
            first, last = k == 0, k == self.n_rows - 1
            low = 0 if first else max(math.ceil(f * (1 - reach) / bin_width), 1)
            high = last_bin if last else min(math.floor(f * (1 + reach) / bin_width), last_bin)
            nearest = min(round(f / bin_width), last_bin)
            low, high = min(low, nearest), max(high, nearest)  # a band narrower than a bin keeps the nearest one
            offset = torch.arange(low, high + 1, dtype=torch.float64) * bin_width - f
            if first or last:
                offset.clamp_(min=0 if first else None, max=None if first else 0)
            filters.append((low, 2 * torch.exp(-0.5 * (offset * self.w0 / f).square())))
            # The smallest padded_frames · {1, 3} · 2^j that holds them: frames then hold whole numbers of samples.
            candidates = (self.padded_frames * factor << j for j in range(even, 40) for factor in (1, 3))
            lengths.append(min(length for length in candidates if length >= high - low + 1))
        groups = []
        for length, run in groupby(range(self.n_rows), lengths.__getitem__):
            rows = list(run)
            groups.append(_Group(rows[0], rows[-1] + 1, length, tuple(filters[k][0] for k in rows)))
        return filters, groups

    @property
    def _spectrum_length(self) -> int:
        """Bins of the spectrum with zeros after it, so that every band's slice of `length` bins exists."""
        return max(max(low + group.length for low in group.low) for group in self._groups)

    def _spectrum(self, x: Tensor) -> Tensor:
        check_clips(x, self.n_samples)
        spectrum = torch.fft.rfft(x.index_select(-1, self._tables_for(x).padding))
        return torch.nn.functional.pad(spectrum, (0, max(0, self._spectrum_length - spectrum.shape[-1])))

    def _tables_for(self, like: Tensor) -> _Tables:
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = _Tables(self, *key)
        return self._tables[key]


class _Tables:
    """What the transform multiplies by, in one dtype on one device; computed in float64."""

    @own_settings()
    def __init__(self, cwt: MorletCWT, device: torch.device, dtype: torch.dtype) -> None:
        n, r0 = cwt.n_padded, cwt.padded_frames
        self._cwt, self._device, self._dtype = cwt, device, dtype
        self.padding = reflect(torch.arange(n) - cwt.start, cwt.n_samples).to(device)
        energy = torch.zeros(cwt._spectrum_length, dtype=torch.float64)  # Σ_k |ψ̂_k(f)|²
        for low, band in cwt._filters:
            energy[low : low + len(band)] += band.square()
        # Outside every band nothing is known of the sound; there the dual is zero.
        inverse = torch.where(energy > 1e-6 * energy.max(), 1 / energy.clamp_min(1e-12), torch.zeros_like(energy))
        self.filters, self.duals, self.windows = [], [], []
        for group in cwt._groups:
            rows = range(group.k0, group.k1)
            filters = torch.zeros(len(rows), group.length, dtype=torch.float64)
            duals = torch.zeros_like(filters)
            for row, k in enumerate(rows):
                low, band = cwt._filters[k]
                places = torch.arange(low, low + len(band)) % group.length
                filters[row, places] = band / n  # an inverse FFT of the padded clip divides by its length
                duals[row, places] = band * inverse[low : low + len(band)] * (n / group.length)
            self.filters.append(torch.stack((filters, filters), -1).to(device, dtype))
            self.duals.append(torch.stack((duals, duals), -1).to(device, dtype))
            self.windows.append(_hann_halves(group.length // r0).to(device, dtype))
        self._interpolations: dict[int, list[Cubic]] = {}

    @own_settings()
    def interpolations(self, columns: int) -> list[Cubic]:
        """For each group, from `columns` columns of the clip to where its samples lie among them."""
        if columns not in self._interpolations:
            cwt = self._cwt
            self._interpolations[columns] = []
            for group in cwt._groups:
                frame = torch.arange(group.length, dtype=torch.float64) * (cwt.padded_frames / group.length)
                position = (frame - _PAD_FRAMES) * columns / cwt.n_frames - 0.5
                self._interpolations[columns].append(Cubic(position, columns, self._device, self._dtype))
        return self._interpolations[columns]


def _scale_(c: Tensor, weights: Tensor) -> Tensor:
    """Complex (B, K, M) times real weights, (K, M, 2) for both parts, in place: half of a complex product's work."""
    torch.view_as_real(c).mul_(weights)
    return c


def _hann_halves(r: int) -> Tensor:
    """(2, r): a Hann window of two frames of r samples each, split where the second frame starts; sums to one.

    Sample i of the window lies (i + ceil(−r/2)) / r − ½ hops from its centre, one hop being half the window.
    """
    offset = (torch.arange(2 * r, dtype=torch.float64) - r // 2) / r - 0.5
    window = torch.cos(math.pi / 2 * offset.clamp(-1, 1)).square()
    return (window / window.sum()).view(2, r)


def _next_smooth(n: int) -> int:
    """The smallest number of at least n without a prime factor above 5, which FFTs are fast at."""
    return next(m for m in count(n) if 30 ** m.bit_length() % m == 0)
