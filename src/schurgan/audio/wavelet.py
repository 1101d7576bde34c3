"""The complex Morlet wavelet transform as a painless frame: every scale at its own rate, with an exact inverse.

Balazs, Dörfler, Jaillet, Holighaus, Velasco, "Theory, implementation and applications of nonstationary Gabor frames",
2011. A filter whose spectrum is zero outside M bins loses nothing when its output is kept at M samples a period only:
folding those M bins onto themselves and one inverse FFT of length M give exact samples of the full-rate transform, and
because no bins overlap in the fold, dividing by Σ_k |ψ̂_k|² inverts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schurgan.audio.coefficients import Coefficients, squared_modulus
from schurgan.audio.grid import cubic_taps, reflect


def default_w0(n_scales: int) -> float:
    """Cycles under the Morlet envelope so that filters log-spaced over 40-7600 Hz overlap alike: 16 at 128 scales or more,
    6 at 48 or fewer."""
    return min(max(n_scales / 8, 6.0), 48.0)


@dataclass(frozen=True)
class _Group:
    """Rows k0 .. k1-1, all kept at `length` samples a padded clip; `low` is the first bin of each row's band."""

    k0: int
    k1: int
    length: int
    low: tuple[int, ...]


class MorletCWT:
    """Continuous wavelet transform with analytic Morlet wavelets ψ̂_k(f) = 2 exp(−½ ((f − f_k) w0 / f_k)²), f > 0.

    A sine of amplitude A and frequency f_k gives |c_k| = A. The filters are cut where they fall under `tol` of their peak.
    By default `n_scales` frequencies are log-spaced from `f_min` to `f_max`, and the first and last filter go on flat to
    0 Hz and to half the sample rate, so that the inverse is exact. An explicit list of `frequencies` gets plain Morlet
    filters (`shelves=True` asks for the flat ends), and `synthesize` then returns the part of the sound in their bands.

    n_samples    length L of every clip, samples
    sample_rate  Hz
    w0           cycles: time spread w0 / (2π f), frequency spread f / w0; default by `default_w0`
    hop          samples between frames of `frames`; the window of a frame is two hops
    pad_frames   hops of reflected sound before the clip (and at least as many after it)

    Works in the dtype (float32 or float64) and on the device of its input; differentiable. Raises ValueError for
    frequencies that are not positive, ascending and below half the sample rate, and for input of another length.
    """

    def __init__(
        self,
        n_samples: int,
        sample_rate: float = 16000,
        n_scales: int = 128,
        f_min: float = 40.0,
        f_max: float = 7600.0,
        w0: float | None = None,
        frequencies: Sequence[float] | Tensor | None = None,
        *,
        hop: int = 400,
        tol: float = 1e-4,
        pad_frames: int = 8,
        shelves: bool | None = None,
    ) -> None:
        if n_samples < 1 or hop < 1 or pad_frames < 0:
            raise ValueError(f"n_samples {n_samples}, hop {hop}, pad_frames {pad_frames}: 1 or more, 1 or more, 0 or more are needed")
        if not 0 < tol < 0.5:
            raise ValueError(f"tol {tol}: a number between 0 and 0.5 is needed")
        if frequencies is None:
            if n_scales < 2:
                raise ValueError(f"n_scales {n_scales}: 2 or more are needed")
            if not 0 < f_min < f_max:
                raise ValueError(f"f_min {f_min:g}, f_max {f_max:g}: 0 < f_min < f_max is needed")
            self.frequencies = torch.logspace(math.log10(f_min), math.log10(f_max), n_scales, dtype=torch.float64)
        else:
            self.frequencies = torch.as_tensor(frequencies, dtype=torch.float64).flatten()
        f = self.frequencies
        if not (f.numel() and f.isfinite().all() and f[0] > 0 and f[-1] < sample_rate / 2 and (f.diff() > 0).all()):
            raise ValueError(
                f"frequencies {[round(v, 3) for v in f.tolist()[:4]]}...: ascending values between 0 and {sample_rate / 2:g} Hz are needed"
            )
        self.w0 = default_w0(len(f)) if w0 is None else float(w0)
        if not self.w0 >= 1:
            raise ValueError(f"w0 {w0}: 1 or more is needed")
        self.n_samples, self.sample_rate, self.hop, self.tol = n_samples, sample_rate, hop, tol
        self.pad_frames = pad_frames
        self.n_frames = -(-n_samples // hop)
        self.padded_frames = _next_smooth(self.n_frames + 2 * pad_frames)
        self.n_padded = self.padded_frames * hop
        self.shelves = frequencies is None if shelves is None else shelves
        self._filters, self._groups = self._plan()
        self._tables: dict[tuple[torch.device, torch.dtype], _Tables] = {}

    @property
    def n_rows(self) -> int:
        return len(self.frequencies)

    @property
    def rates(self) -> list[float]:
        """Samples a second at which each group of rows is kept."""
        return [group.length * self.sample_rate / self.n_padded for group in self._groups]

    @property
    def frame_bounds(self) -> tuple[float, float]:
        """Least and greatest Σ_k |ψ̂_k(f)|² over the covered band: the frame bounds A, B."""
        covered = self._energy()[self._energy() > 0]
        return covered.min().item(), covered.max().item()

    def analyze(self, x: Tensor) -> Coefficients:
        """(B, L) -> coefficients (B, K_g, M_g): exact samples of `full_rate` every n_padded / M_g samples of the padded clip."""
        spectrum = self._spectrum(x)
        tables = self._tables_for(x)
        return Coefficients(tuple(self._band(spectrum, tables, g) * tables.ramps[g] for g in range(len(self._groups))))

    def energy_frames(self, x: Tensor) -> Tensor:
        """`frames(analyze(x))`, (B, L) -> (B, K, n_frames), without placing each band's phase, which a modulus forgets."""
        spectrum = self._spectrum(x)
        tables = self._tables_for(x)
        return self.frames(Coefficients(tuple(self._band(spectrum, tables, g) for g in range(len(self._groups)))))

    def synthesize(self, c: Coefficients) -> Tensor:
        """Coefficients -> (B, L): the canonical dual frame, Σ_k ψ̂_k ĉ_k / Σ_k |ψ̂_k|², inverse of `analyze`.

        Coefficients that no sound has (an edited set) are projected onto the nearest that one has.
        """
        first = c.groups[0]
        tables = self._tables_for(first.real)
        spectrum = first.new_zeros(first.shape[0], self._spectrum_length)
        for g, (group, values) in enumerate(zip(self._groups, c, strict=True)):
            bands = torch.fft.fft(values * tables.ramps[g].conj()) * tables.duals[g]
            for row, low in enumerate(group.low):
                spectrum[:, low : low + group.length] += bands[:, row]
        padded = torch.fft.irfft(spectrum[:, : self.n_padded // 2 + 1], n=self.n_padded)
        start = self.pad_frames * self.hop
        return padded[:, start : start + self.n_samples]

    def full_rate(self, x: Tensor) -> Tensor:
        """(B, L) -> (B, K, L) complex: every scale at the rate of the sound, for plots and tests (88 MB a 5 s clip)."""
        spectrum = self._spectrum(x)
        rows = []
        for low, band in self._filters:
            full = spectrum.new_zeros(spectrum.shape[0], self.n_padded)
            full[:, low : low + len(band)] = spectrum[:, low : low + len(band)] * band.to(x)
            rows.append(torch.fft.ifft(full))
        start = self.pad_frames * self.hop
        return torch.stack(rows, 1)[..., start : start + self.n_samples]

    def frames(self, c: Coefficients) -> Tensor:
        """Mean of |c|² (of c² for real input) under a Hann window of two hops: -> (B, K, n_frames).

        Frame m is centred on sample (m + ½) hop of the clip.
        """
        tables = self._tables_for(c.groups[0].real)
        rows = []
        for group, values, window in zip(self._groups, c, tables.windows, strict=True):
            r = group.length // self.padded_frames
            start = self.pad_frames * r - r // 2
            power = squared_modulus(values[..., start : start + (self.n_frames + 1) * r])
            halves = power.unflatten(-1, (self.n_frames + 1, r)) @ window  # (B, K_g, n_frames + 1, 2)
            rows.append(halves[..., :-1, 0] + halves[..., 1:, 1])
        return torch.cat(rows, 1)

    def spread(self, magnitude: Tensor) -> Coefficients:
        """(B, K, R) columns that divide the n_frames frames evenly -> real (B, K_g, M_g), Catmull-Rom, never negative."""
        columns = magnitude.shape[-1]
        taps = self._tables_for(magnitude).taps(columns)
        groups = []
        for group, (indices, weights) in zip(self._groups, taps, strict=True):
            rows = magnitude[:, group.k0 : group.k1]
            value = rows.index_select(-1, indices[0]) * weights[0]
            for index, weight in zip(indices[1:], weights[1:], strict=True):
                value = torch.addcmul(value, rows.index_select(-1, index), weight)
            groups.append(value.clamp_min(0))
        return Coefficients(tuple(groups))

    def _plan(self) -> tuple[list[tuple[int, Tensor]], list[_Group]]:
        """The filters as (first bin, values), and the rows grouped by the smallest length that holds their band."""
        bin_width = self.sample_rate / self.n_padded
        last_bin = self.n_padded // 2
        reach = math.sqrt(-2 * math.log(self.tol)) / self.w0  # |f − f_k| / f_k at which the filter has fallen to tol
        filters, lengths = [], []
        for k, f in enumerate(self.frequencies.tolist()):
            low = max(math.ceil(f * (1 - reach) / bin_width), 1)
            high = min(math.floor(f * (1 + reach) / bin_width), last_bin)
            if self.shelves and k == 0:
                low = 0
            if self.shelves and k == self.n_rows - 1:
                high = last_bin
            nearest = round(f / bin_width)
            low, high = min(low, nearest), max(high, min(nearest, last_bin))  # a band narrower than a bin keeps that one
            offset = torch.arange(low, high + 1, dtype=torch.float64) * bin_width - f
            if self.shelves and k == 0:
                offset.clamp_(min=0)
            if self.shelves and k == self.n_rows - 1:
                offset.clamp_(max=0)
            filters.append((low, 2 * torch.exp(-0.5 * (offset * self.w0 / f).square())))
            lengths.append(self._length(high - low + 1))
        groups = []
        k0 = 0
        for k in range(1, self.n_rows + 1):
            if k == self.n_rows or lengths[k] != lengths[k0]:
                groups.append(_Group(k0, k, lengths[k0], tuple(low for low, _ in filters[k0:k])))
                k0 = k
        return filters, groups

    def _length(self, bins: int) -> int:
        """The smallest padded_frames · {1, 2, 3} · 2^j that holds `bins`, so that frames hold whole numbers of samples."""
        candidates = [self.padded_frames * factor * 2**j for j in range(40) for factor in (1, 3)]
        return min(length for length in candidates if length >= bins)

    @property
    def _spectrum_length(self) -> int:
        """Bins of the spectrum with zeros after it, so that every band's slice of `length` bins exists."""
        return max(max(low + group.length for low in group.low) for group in self._groups)

    def _energy(self) -> Tensor:
        """Σ_k |ψ̂_k(f)|² (bins,), float64."""
        energy = torch.zeros(self._spectrum_length, dtype=torch.float64)
        for low, band in self._filters:
            energy[low : low + len(band)] += band.square()
        return energy

    def _spectrum(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[-1] != self.n_samples or not x.is_floating_point():
            raise ValueError(f"input {tuple(x.shape)} {x.dtype}: real clips (B, {self.n_samples}) are needed")
        spectrum = torch.fft.rfft(x.index_select(-1, self._tables_for(x).padding))
        return torch.nn.functional.pad(spectrum, (0, max(0, self._spectrum_length - spectrum.shape[-1])))

    def _band(self, spectrum: Tensor, tables: _Tables, g: int) -> Tensor:
        """Group g's coefficients (B, K_g, M_g) but for the phase ramp of starting its band at bin 0."""
        group = self._groups[g]
        bands = torch.stack([spectrum[:, low : low + group.length] for low in group.low], 1)
        return torch.fft.ifft(bands * tables.filters[g])

    def _tables_for(self, like: Tensor) -> _Tables:
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = _Tables(self, *key)
        return self._tables[key]


class _Tables:
    """What the transform multiplies by, in one dtype on one device; computed in float64."""

    def __init__(self, cwt: MorletCWT, device: torch.device, dtype: torch.dtype) -> None:
        n, r0 = cwt.n_padded, cwt.padded_frames
        self._cwt, self._device, self._dtype = cwt, device, dtype
        start = torch.arange(n) - cwt.pad_frames * cwt.hop
        self.padding = reflect(start, cwt.n_samples).to(device)
        energy = cwt._energy()
        # Outside every band nothing is known of the sound; there the dual is zero.
        inverse = torch.where(energy > 1e-6 * energy.max(), 1 / energy.clamp_min(1e-12), torch.zeros_like(energy))
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        self.filters, self.duals, self.ramps, self.windows = [], [], [], []
        for group in cwt._groups:
            rows = range(group.k0, group.k1)
            filters = torch.zeros(len(rows), group.length, dtype=torch.float64)
            duals = torch.zeros_like(filters)
            for row, k in enumerate(rows):
                low, band = cwt._filters[k]
                filters[row, : len(band)] = band
                duals[row, : len(band)] = band * inverse[low : low + len(band)]
            self.filters.append((filters * (group.length / n)).to(device, dtype))  # ifft divides by M, the transform by N
            self.duals.append((duals * (n / group.length)).to(device, dtype))
            # exp(2πi low t / M), its angle reduced in whole numbers so that it stays exact for long clips
            turns = (torch.tensor(group.low)[:, None] * torch.arange(group.length)) % group.length
            angle = turns.to(torch.float64) * (2 * math.pi / group.length)
            self.ramps.append(torch.polar(torch.ones_like(angle), angle).to(device, complex_dtype))
            self.windows.append(_hann_halves(group.length // r0).to(device, dtype))
        self._taps: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def taps(self, columns: int) -> list[tuple[Tensor, Tensor]]:
        """For each group, where its samples lie among `columns` columns of the clip: indices and weights (4, M_g)."""
        if columns not in self._taps:
            cwt = self._cwt
            self._taps[columns] = []
            for group in cwt._groups:
                frame = torch.arange(group.length, dtype=torch.float64) * cwt.padded_frames / group.length - cwt.pad_frames
                indices, weights = cubic_taps(frame * columns / cwt.n_frames - 0.5, columns)
                self._taps[columns].append((indices.to(self._device), weights.to(self._device, self._dtype)))
        return self._taps[columns]


def _hann_halves(r: int) -> Tensor:
    """(r, 2): a Hann window of two frames of r samples each, split where the second frame starts; sums to one.

    Sample i of the window lies (i + ceil(−r/2)) / r − ½ hops from its centre, one hop being half the window.
    """
    offset = (torch.arange(2 * r, dtype=torch.float64) - r // 2) / r - 0.5
    window = torch.cos(math.pi / 2 * offset.clamp(-1, 1)).square()
    return (window / window.sum()).view(2, r).mT.contiguous()


def _next_smooth(n: int) -> int:
    """The smallest number of at least n without a prime factor above 5, which FFTs are fast at."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
