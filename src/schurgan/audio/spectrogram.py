"""Sound to square image and back: the paper's three magnitude scales on a wavelet or an STFT lattice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from schurgan.audio import colormap as colours
from schurgan.audio.interpolation import cubic_weights, resize_weights
from schurgan.audio.phase import PHASES, Columns, Points, from_noise, griffin_lim, with_carrier
from schurgan.audio.stft import STFT
from schurgan.audio.transform import Coefficients, Transform
from schurgan.audio.wavelet import MorletCWT
from schurgan.core.isolation import isolated, own_settings

TRANSFORMS = ("wavelet", "stft")
SCALES = ("linear", "log", "log_real")
FRAMES = ("paper", "native")
# A clip of which no cell reaches this, 160 dB under full scale, is silence: its image is all floor.
_SILENCE = 1e-8


@dataclass(frozen=True)
class Aux:
    """What an image leaves out of its clip."""

    reference: Tensor
    """Magnitude of the top of the scale (B,)."""
    carrier: Tensor | None = None
    """Sound whose phase to use (B, L): the clip itself when it comes from `encode`."""


class Spectrogram:
    """Square images (B, channels, size, size) in [−1, 1], rows ascending in frequency, of clips (B, n_samples).

    Everything that decoding needs is in `config`; `Spectrogram(**config)` is the same transform.

    Args:
        transform: "wavelet", `size` Morlet scales from f_min to f_max; "stft", rows averaged from the STFT's.
        size: rows and columns, pixels.
        scale: "linear", the rms modulus of a cell; "log", the same in dB under the clip's maximum down to −floor_db;
            "log_real", of wavelets alone, |Re c| in dB at the point of time in the middle of each column.
        frame: "paper", wavelet frames of 50 ms every 25 ms and STFT of 2,048 / 1,024 samples, resized to `size`
            columns; "native", one frame a column, nothing resized in time. "log_real" has no frames: "point".
        channels: 1 to 4 equal channels, or 3 of a colour map.
        colormap: viridis, magma, turbo or jet.
        sample_rate: Hz.
        n_samples: length of a clip, samples.
        floor_db: range of the logarithmic scales, dB.
        f_min: frequency of the lowest wavelet scale, Hz.
        f_max: frequency of the highest, Hz; 95 % of half the sample rate by default.
        w0: cycles of the wavelet, see `MorletCWT`.
        reference: magnitude of the top of the scale for images that come without an Aux: generated ones.
    """

    kind: Literal["audio"] = "audio"

    @isolated
    def __init__(
        self,
        transform: str = "wavelet",
        size: int = 128,
        scale: str = "log",
        *,
        frame: str = "paper",
        channels: int = 3,
        colormap: str | None = None,
        sample_rate: int = 16000,
        n_samples: int = 80000,
        floor_db: float = 80.0,
        f_min: float = 40.0,
        f_max: float | None = None,
        w0: float | None = None,
        reference: float = 1.0,
    ) -> None:
        if scale == "log_real":
            frame = "point"
        self.config: dict[str, Any] = {name: value for name, value in locals().items() if name != "self"}
        for name, value, known in (
            ("transform", transform, TRANSFORMS),
            ("scale", scale, SCALES),
            ("frame", frame, ("point",) if scale == "log_real" else FRAMES),
            ("colormap", colormap, (None, *colours.COLORMAPS)),
        ):
            if value not in known:
                raise ValueError(f'{name} "{value}": one of {", ".join(str(k) for k in known)} is needed')
        if not 8 <= size <= 1024:
            raise ValueError(f"size {size}: 8 to 1024 is needed")
        if not 1 <= channels <= 4 or (colormap and channels != 3):
            raise ValueError(f"channels {channels}: 1 to 4 are needed, and 3 with a colour map")
        if not 10 <= floor_db <= 200:
            raise ValueError(f"floor_db {floor_db}: 10 to 200 dB is needed")
        if not reference > 0:
            raise ValueError(f"reference {reference}: a magnitude above 0 is needed")
        if scale == "log_real" and transform != "wavelet":
            raise ValueError('scale "log_real": it is the real part of wavelets; choose transform "wavelet"')
        if n_samples < size:
            raise ValueError(f"n_samples {n_samples}: at least one for each of {size} columns is needed")
        self.size, self.scale, self.channels, self.colormap = size, scale, channels, colormap
        self.n_samples, self.sample_rate, self.floor_db, self.reference = n_samples, sample_rate, floor_db, reference
        self.config["f_max"] = f_max = 0.475 * sample_rate if f_max is None else f_max
        self.transform: Transform
        if transform == "wavelet":
            hop = round(0.025 * sample_rate) if frame == "paper" else -(-n_samples // size)
            n_frames = size if scale == "log_real" else None
            band = (f_min, f_max, w0)
            self.transform = cwt = MorletCWT(n_samples, sample_rate, size, *band, hop=hop, n_frames=n_frames)
            self.config["w0"] = cwt.w0  # a later default must not change what a saved image means
        elif frame == "paper":
            self.transform = STFT(n_samples, 2048, 1024)
        else:
            hop = n_samples // size
            # 2 (size − 1) samples give `size` bins exactly. A window under 1.5 hops would leave gaps between its
            # neighbours, where the inverse amplifies every error; it is two hops then.
            n_fft = 2 * (size - 1) if 2 * (size - 1) >= 1.5 * hop else 2 * hop
            self.transform = STFT(n_samples, n_fft, hop, n_frames=size)
        self._columns = Columns(self.transform, self._pool, self._spread)
        if scale == "log_real" and isinstance(self.transform, MorletCWT):
            self._columns = Points(self.transform, self._pool, self._spread)

    @own_settings(keep_grad=True)
    def encode(self, x: Tensor) -> tuple[Tensor, Aux]:
        """Clips (B, n_samples) -> image (B, channels, size, size) in [−1, 1] and its Aux.

        Differentiable but for a colormap; the reference counts as a constant.
        """
        magnitude = self._columns.shown(self.transform.analyze(x))
        reference = magnitude.detach().amax((-2, -1)).clamp_min(_SILENCE)
        relative = magnitude / reference[:, None, None]
        if self.scale == "linear":
            level = 2 * relative - 1
        else:
            floor = 10 ** (-self.floor_db / 20)
            level = (20 * torch.log10(relative.clamp_min(floor)) / self.floor_db) * 2 + 1
        return self.apply_colormap(level[:, None]), Aux(reference, x)

    @own_settings(keep_grad=True)
    def decode(
        self,
        image: Tensor,
        aux: Aux | None = None,
        *,
        phase: str = "carrier",
        refine: int | None = None,
        hold_phase: bool = True,
        seed: int = 0,
    ) -> Tensor:
        """Image (B, channels, size, size) -> sound (B, n_samples).

        Args:
            image: in [−1, 1].
            aux: their references, and the carrier for phase="carrier".
            phase: "carrier", that of aux.carrier; "noise", estimated by envelope projection from seeded noise;
                "griffin-lim", estimated by fast Griffin-Lim.
            refine: iterations of the projection; by default 0 with a carrier (image times phase, as in the paper),
                else 32.
            hold_phase: keep the carrier's phase while refining (a recording's own image), or only start from it.
            seed: of the noise.
        """
        if phase not in PHASES:
            raise ValueError(f'phase "{phase}": one of {", ".join(PHASES)} is needed')
        if refine is not None and refine < 0:
            raise ValueError(f"refine {refine}: 0 or more iterations are needed")
        reference = image.new_full((len(image),), self.reference) if aux is None else aux.reference.to(image)
        magnitude = self.magnitude(image) * reference[:, None, None]
        if phase == "carrier":
            if aux is None or aux.carrier is None:
                raise ValueError('phase "carrier": aux.carrier, a sound whose phase to use, is needed')
            return with_carrier(self._columns, magnitude, aux.carrier.to(image), refine or 0, hold_phase)
        find = from_noise if phase == "noise" else griffin_lim
        return find(self._columns, magnitude, 32 if refine is None else refine, seed)

    def magnitude(self, image: Tensor) -> Tensor:
        """Image -> magnitudes (B, size, size) relative to the top of the scale, in [0, 1]; the floor is exactly 0."""
        level = self.invert_colormap(image)[:, 0].clamp(-1, 1)
        if self.scale == "linear":
            return (level + 1) / 2
        amplitude = torch.pow(10.0, (level - 1) * (self.floor_db / 40))
        return torch.where(level <= -1 + 1e-6, torch.zeros_like(amplitude), amplitude)

    def apply_colormap(self, level: Tensor) -> Tensor:
        """Levels (B, 1, H, W) in [−1, 1] -> (B, channels, H, W)."""
        if self.colormap:
            return colours.apply_colormap(level, self.colormap)
        return level.expand(-1, self.channels, -1, -1)

    def invert_colormap(self, image: Tensor) -> Tensor:
        """Image (B, channels, H, W) -> levels (B, 1, H, W): inverts `apply_colormap`, or averages equal channels."""
        if image.ndim != 4 or image.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(f"image {tuple(image.shape)}: (B, {self.channels}, {self.size}, {self.size}) is needed")
        return colours.invert_colormap(image, self.colormap) if self.colormap else image.mean(1, keepdim=True)

    def recolored(self, channels: int, colormap: str | None) -> Spectrogram:
        """The same transform with other channels or another colour map."""
        return Spectrogram(**(self.config | {"channels": channels, "colormap": colormap}))

    def _pool(self, c: Coefficients) -> Tensor:
        """Coefficients -> (B, size, size): rms modulus in each cell."""
        energy = self.transform.frames(c)
        if energy.shape[-1] != self.size:
            energy = energy @ _matrix(resize_weights, energy.shape[-1], self.size, energy.device, energy.dtype)
        if energy.shape[-2] != self.size:
            rows = _matrix(resize_weights, energy.shape[-2], self.size, energy.device, energy.dtype)
            energy = (energy.mT @ rows).mT
        return energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt()  # the square root of zero has no gradient

    def _spread(self, magnitude: Tensor) -> Coefficients:
        if magnitude.shape[-2] != self.transform.n_rows:
            rows = _matrix(cubic_weights, self.size, self.transform.n_rows, magnitude.device, magnitude.dtype)
            magnitude = (magnitude.mT @ rows).mT.clamp_min(0)
        return self.transform.spread(magnitude)


@cache
@own_settings()
def _matrix(
    weights: Callable[[int, int], Tensor], n_in: int, n_out: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    return weights(n_in, n_out).to(device, dtype)
